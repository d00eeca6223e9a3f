"""A lock for filesystems whose own locks do not hold: a lease, kept by creating and rewriting files.

How it is decided who holds is in `lease_log`. This engine adds waiting, the keeper that renews, and the fence.

A hold ends by release; by the death of its process, seen at once by contenders of the same kernel, by the others when
its ttl is over; or by itself, when it is not renewed in time. Then `lost` is true before anybody else can enter: it
compares a clock, and needs no thread to run.

The holder keeps its generation open for writing. So its end raises IN_CLOSE_WRITE for those of this kernel who wait,
after the record says "released", or, should it be killed, shortly before it can be seen to be dead: a look after such
an event is repeated a few times. Elsewhere waiters nap.

Whatever interrupts an acquisition, `drop` ends it by writing "released" into the file that was made for it, whether or
not it had its public name by then. Only the descriptor that made a file writes into it; in a forked child it is
closed. `renew` and `drop` exclude each other by `claim.mutex`, as a descriptor's number is soon another file's.
"""

from __future__ import annotations

import sys
from os.path import dirname
from random import random
from time import monotonic

from ..._core import arbiter
from ..._errors import LockError, ProtocolError, UnprovenError, UnsupportedError
from ..._model import Claim, Traits
from . import lease_records as records
from .lease_log import COUNTED, FOREVER, Log
from .lease_ops import LeaseOps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ..._core.arbiter import Line
    from ..._model import IO, Parker
    from ..._report import Party, Report
    from ..kernel import Events, Instance

    class Fence(Protocol):
        """What keeps contenders of other protocols out (`lease_fence`)."""

        def stands(self, claim: LeaseClaim) -> bool:
            """Is it there? Makes it young. Raises the `OSError` where that cannot be told."""

        def put(self, claim: LeaseClaim) -> bool:
            """See to it that it stands. False: one of them holds."""

__all__ = ["DEFAULT_TTL", "LeaseClaim", "LeaseEngine", "engine"]

DEFAULT_TTL = 30.0
"""Seconds, where the user names none. Shorter: others wait less after the death of a host. Longer: bears more."""
SHORTEST_TTL = 0.1
LONGEST_TTL = 86400.0
NAP = 1.0
BLIND_NAP = 0.05
_ECHOES = (0.0001, 0.0005, 0.002, 0.005, 0.01)
_TRIES = 5
"""Before it waits: somebody who is faster each time has it by now."""
_CLOSE_WRITE = 0x8  # IN_CLOSE_WRITE: readers of the record come and go


class LeaseClaim(Claim):
    """A stake in a lease: the generation that is, or would be, ours."""

    fd: Any = None  # an int, while its file is open
    made: tuple[int, int] | None = None  # device and inode of that file
    number = 0
    follows = False  # it is known to follow its predecessor
    head = b""  # of our record; what it says of our state stands behind it
    version = 0  # of our record: one more at each renewal
    private = ""  # the name under which it is made
    deadline = FOREVER  # on `LeaseOps.clock`: from here on the hold is lost
    ttl = DEFAULT_TTL
    gone = ""  # why it is lost; for good
    due = FOREVER  # on `LeaseOps.clock`: when what is in the way may be free by having stood still
    found = 0  # the generation that is in the way
    parker: Parker | None = None
    instance: Instance | None = None
    watched = 0
    wd = 0
    echo = 0
    mutex: Any = None  # from the first attempt on
    note = ""  # the file that says that it waits
    noted = 0.0  # when that was made or touched


class LeaseEngine:
    """The engine of leases on files. There is one for each ttl in a process."""

    claim_type = LeaseClaim

    def __init__(self, ops: LeaseOps, events: Events | None, ttl: float, fence: Fence) -> None:
        self.ops = ops
        self.ttl = ttl
        self.options = {"primitive": "marker", "ttl": ttl}
        """What makes a `Lock` on a path come to this engine."""
        self._events = events
        self._fence = fence
        self._logs: dict[str, Log] = {}
        self.traits = Traits(
            name="marker lease",
            family="lease",
            excludes="hosts",
            fair="no starvation",
            fences=True,
            survives_crash=True,
            wait="events" if events else "naps",
        )

    def require_fair(self, key: str) -> None:
        raise UnsupportedError(f"{key}: a marker has no queue of waiters; leave fair out")

    def claim(self, line: Line, owner: object, fair: bool) -> LeaseClaim:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    def _trusts(self, path: str) -> bool:
        return self._events is not None and self._events.trusts(dirname(path))

    def log(self, path: str) -> Log:
        log = self._logs.get(path)
        trusted = self._trusts(path)
        if log is None or log.trusted != trusted:
            log = self._logs[path] = Log(self.ops, path, trusted)
        return log

    # ---- acquire

    def try_now(self, claim: LeaseClaim, timeout: float) -> bool:
        try:
            if not self._attempt(claim):
                return False
        except (OSError, LockError):  # the loop meets it again
            self.drop(claim)
            return False
        self._won(claim)
        claim.since = monotonic()
        return True

    async def try_acquire(self, io: IO, claim: LeaseClaim, deadline: float) -> bool:
        for _ in range(_TRIES):
            won = await io.call(self._attempt, claim)
            if won is not None:
                if won:
                    await io.call(self._won, claim)
                    claim.since = io.now()
                return won
        return False

    def _attempt(self, claim: LeaseClaim) -> bool | None:
        """False: it is held, see `claim.due`. None: somebody was faster, look again."""
        try:
            return self._judge(claim)
        except BlockingIOError:  # what the SMB client of Linux says of anything while it connects to its server again
            with claim.mutex:
                self.ops.abandon(claim)
            claim.due = self.ops.clock() + NAP
            return False

    def _judge(self, claim: LeaseClaim) -> bool | None:
        ops = self.ops
        log = self.log(claim.line.key)
        began = ops.clock()
        if claim.mutex is None:
            claim.mutex = ops.mutex()
        claim.ttl = self.ttl
        claim.found = 0
        claim.due = FOREVER
        ops.safe(log.directory)
        newest = log.newest()
        if newest is None:
            if log.empty():  # so the fence, which is put after the log was made, should not be there
                log.begin(self.ttl, suspicious=self._may_be_fenced(claim))
                log.require_generations()
            return None
        if not self._fence.put(claim):
            return False
        claim.found = newest.number
        why, claim.due = log.free(newest, began)
        if not why:
            return False
        claim.deadline = began + self.ttl * COUNTED
        if not log.publish(claim, newest, self.ttl):
            return None
        if not log.follows(claim, newest) or ops.clock() >= claim.deadline:
            self.drop(claim)
            return None
        log.sweep(claim.number)
        return True

    def _may_be_fenced(self, claim: LeaseClaim) -> bool:
        try:
            return self._fence.stands(claim)
        except OSError:
            return True

    def _won(self, claim: LeaseClaim) -> None:
        if claim.parker is not None:
            self._stop_waiting(claim)
        claim.token = claim.number
        self.ops.keep(claim)

    # ---- while held, and the end of it

    def renew(self, claim: LeaseClaim) -> str:
        """Move the deadline. Returns why the hold is lost, or "". Raises the filesystem's `OSError`; it may pass."""
        with claim.mutex:
            if claim.gone or claim.fd is None:
                return claim.gone or "it was released"
            if not self.ops.ours(claim):
                claim.gone = "its descriptor was closed by somebody else in this process, so it cannot be renewed"
                return claim.gone
            log = self.log(claim.line.key)
            began = self.ops.clock()
            claim.version += 1
            state = records.tail(records.HELD, claim.version)
            self.ops.write(claim.fd, claim.head + state, settle=not log.trusted)
            reason = self._ran_out(claim) or log.taken(claim) or self._unfenced(claim)
            if reason:
                claim.gone = reason
            else:
                claim.deadline = began + claim.ttl * COUNTED
            return reason

    def _ran_out(self, claim: LeaseClaim) -> str:
        if self.ops.clock() < claim.deadline:
            return ""
        return (
            f"its ttl of {claim.ttl:g} s ran out before a renewal: the process or its machine stood still, or the "
            "filesystem did not answer"
        )

    def _unfenced(self, claim: LeaseClaim) -> str:
        if self._fence.stands(claim):
            return ""
        return f"the file at {claim.line.key} was removed, which keeps owners of filelock's markers out"

    def lost(self, claim: LeaseClaim) -> str:
        if claim.gone or claim.fd is None:
            return claim.gone or "it is not held"
        reason = self._ran_out(claim)
        if not reason:
            try:
                reason = self.log(claim.line.key).taken(claim)
            except OSError:  # not known; the deadline tells soon enough
                pass
        if reason:
            claim.gone = reason
        return reason

    def drop(self, claim: LeaseClaim) -> None:
        self.ops.forget(claim)
        if claim.parker is not None:
            self._stop_waiting(claim)
        if claim.fd is not None or claim.private:
            with claim.mutex:
                self.ops.abandon(claim)

    async def release(self, io: IO, claim: LeaseClaim) -> None:
        await io.call(self.drop, claim)

    async def withdraw(self, io: IO, claim: LeaseClaim) -> None:
        await io.call(self.drop, claim)

    def disown(self, claim: LeaseClaim) -> None:
        claim.parker = claim.instance = None
        claim.private = claim.note = ""
        self.ops.close(claim)

    # ---- waiting

    async def wait(self, io: IO, claim: LeaseClaim, until: float) -> None:
        """Until what is in the way may be gone, at most until `until`. The first call only subscribes: try again."""
        parker = claim.parker
        if parker is None or (claim.instance is not None and claim.watched != claim.found):
            await io.call(self._subscribe, io, claim)
            return
        if claim.instance is not None:
            claim.instance.drain()
        self.ops.note(claim, self.log(claim.line.key).directory)
        due = claim.due - self.ops.clock()  # two clocks, that differ by suspensions
        if await io.park(parker, min(until, io.now() + max(min(due, self._nap(claim)), 0.0))):
            claim.echo = 0
        else:
            claim.echo += 1

    def _nap(self, claim: LeaseClaim) -> float:
        if claim.instance is None:
            return random() * min(BLIND_NAP, 0.001 * float(2 ** min(claim.echo, 10)))
        if claim.echo < len(_ECHOES):
            return _ECHOES[claim.echo]
        return NAP * (0.75 + random() / 2)

    def _subscribe(self, io: IO, claim: LeaseClaim) -> None:
        log = self.log(claim.line.key)
        if claim.instance is not None:
            self._unwatch(claim)
        instance = self._events.shared() if self._events and log.trusted else None
        if claim.parker is None:
            claim.parker = io.parker(instance)
        claim.echo = 0
        claim.watched = claim.found
        if instance is None or not claim.found:
            return
        try:
            claim.wd = self.ops.watch(instance, log.file(claim.found), _CLOSE_WRITE, claim, claim.parker.unpark)
            claim.instance = instance
        except OSError:  # no watches left, or it went: nap
            instance.unwatch(0, claim)

    def _unwatch(self, claim: LeaseClaim) -> None:
        instance, claim.instance = claim.instance, None
        if instance is not None:
            instance.unwatch(claim.wd, claim)
            claim.wd = 0

    def _stop_waiting(self, claim: LeaseClaim) -> None:
        self._unwatch(claim)
        self.ops.take_note_away(claim)
        claim.parker = None

    # ---- for people

    def inspect(self, line: Line) -> Report:
        from ..._fs.choice import choose
        from ..._report import Report
        from .people import waiters_of_lease

        holder, hint = self.blame(line)
        directory = self.log(line.key).directory
        waiters = waiters_of_lease(line, self.ops, directory)
        facts = {"log": directory}
        holders = (holder,) if holder else ()
        report = Report(line.resource, "marker lease", holders, waiters, True, hint=hint, facts=facts)
        return choose(dirname(line.key), "marker").stamp(report)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        from .people import holder_of_lease

        try:
            now = self.log(line.key).newest()
        except (OSError, ProtocolError):
            return None, ""
        if now is None or now.record is None or now.released:
            return None, "" if now is None or now.record else f"{self.log(line.key).file(now.number)} is {now.kind}"
        its = now.record.party
        hint = f"a lease of {now.record.ttl:g} s, generation {now.number} of {self.log(line.key).directory}"
        if not its.pid:
            return None, hint + ", of nobody: a log that was here was removed, so one ttl must pass"
        if self.ops.dead(its):
            hint += "; that process has died"
        return holder_of_lease(line, now.record), hint

    # ---- breaking: what `interlock._model.Breakable` asks for

    def stale(self, line: Line) -> str:
        """The proof that the hold which stands in the log is nobody's any more; "" while there is none.

        That it stands still can only be said after having watched: ask again, a ttl later.
        """
        log = self.log(line.key)
        asked = self.ops.clock()
        now = log.newest()
        if now is None or now.released or now.record is None:
            return ""
        return log.free(now, asked)[0]

    def break_stale(self, line: Line, force: bool = False) -> str:
        """End the hold that stands in the log, if `stale` or with `force`: its owner finds it lost, the next enters.

        Returns why, or "" if nobody holds. Without force raises `UnprovenError` where there is no proof, and another
        `ProtocolError` where nobody can tell who holds: nothing is changed then.
        """
        log = self.log(line.key)
        for _ in range(100):
            asked = self.ops.clock()
            now = log.newest()
            if now is None or now.released:
                return ""
            why = "forced" if force else log.free(now, asked)[0]
            if not why:
                raise UnprovenError(f"{line.resource}: nothing proves that its owner is gone: {self.blame(line)[1]}")
            claim = self.claim(line, None, False)
            if log.overrule(claim, now, self.ttl):
                return why
        raise ProtocolError(f"{line.resource}: others take it faster than it can be broken")


def _at_exit() -> None:
    for claim in [*arbiter.turns.values(), *arbiter.granted]:
        if isinstance(claim, LeaseClaim):
            claim.line.engine.drop(claim)


_engines: dict[float, LeaseEngine] = {}


def engine(ttl: float | None = None) -> LeaseEngine:
    """The process's engine for leases of this length (seconds; None: DEFAULT_TTL), made at the first use.

    Raises `ValueError` for a ttl out of range.
    """
    its = DEFAULT_TTL if ttl is None else float(ttl)
    if not SHORTEST_TTL <= its <= LONGEST_TTL:
        raise ValueError(f"ttl {ttl!r} is not between {SHORTEST_TTL:g} and {LONGEST_TTL:g} seconds")
    found = _engines.get(its)
    if found is None:
        from ..kernel import engine as kernel_engine
        from .lease_fence import MarkerFence

        if not _engines:
            import atexit

            atexit.register(_at_exit)
        kernel = kernel_engine()  # knows the platform's events
        events = kernel._events if sys.platform == "linux" else None
        found = _engines.setdefault(its, LeaseEngine(LeaseOps(), events, its, MarkerFence()))
    return found
