"""`flock(2)` on a lock file (POSIX), `LockFileEx` (Windows): a session lock that dies with its holder.

Theory of operation
-------------------
A claim has one descriptor, opened at the first attempt and kept until the claim ends; every attempt is a
non-blocking `flock` on it. Descriptors of different claims are different open file descriptions, so threads
exclude each other as processes do.

The lock is on an inode, users mean a path. After each lock won, the descriptor is compared with the path; if
somebody unlinked or replaced the file between open and lock, the claim starts over with a new descriptor. On the
uncontended path the comparison is one `fstat`: a link count of 1. It sees unlink and replace (rename over), the
two things that lock libraries and cleaners do. It does not see a rename *away* in the microsecond between open and
lock; that is the same as a rename a microsecond after, which no check prevents and `Hold.lost` reports.

Descriptors: a signal handler (KeyboardInterrupt) may run after any *call* that bytecode makes, so the result of
`fd = os.open(...)` can be lost before it is stored. CPython looks for signals after calls, at function entry and at
backward jumps; not in FOR_ITER. So `for claim.fd in opens: break`, where `opens` calls open(2) at each step, opens and
stores with no gap, and `claim.fd = None; close(fd)` has none either.

Other code may close a claim's descriptor (daemonising, `os.closerange`), and its number is then the next file's, or
another claim's. So `_ours` comes before everything that is done with a descriptor some time after it was opened: which
claim had the number last is known (`owned`), and what else it may be now is told by its status flags. Between the look
and the use another thread may still do it; nothing prevents that.

Releasing is LOCK_UN, then close. The order matters twice: whoever is woken by the close finds the lock free,
and a copy of the descriptor in a child cannot keep the lock.

Waiting: subscribe, try again, sleep (`tickets` for who is woken, `_wait` for how). A process that dies raises its
close event just *before* the kernel frees its lock (__fput: fsnotify_close, then locks_remove_file), so a try that
fails after a wake-up is repeated after short naps that grow, then after the nap cap.
"""

from __future__ import annotations

import sys
from errno import EAGAIN, EBADF, ESTALE
from itertools import repeat, starmap
from os import fsencode
from os.path import dirname
from time import monotonic, monotonic_ns

from ..._core import arbiter
from ..._errors import DeadlockError, UnsupportedError
from ..._model import Claim, Traits
from ..._wait import mounts
from . import patience, tickets

if sys.platform == "win32":
    from .windows import BRIEF, EXCLUSIVE, OPENING, UNLOCK
else:
    from .ops import BRIEF, EXCLUSIVE, OPEN, UNLOCK

    OPENING = (OPEN,)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from ..._core.arbiter import Line
    from ..._fs.choice import Choice
    from ..._model import IO, Mode, Parker, Source
    from ..._report import Party, Report

    if sys.platform == "win32":
        from .windows import Ops
    else:
        from .ops import Ops

    class Instance(Source, Protocol):
        """The process's event instance (`_wait.inotify.Instance` and its likes)."""

        CLOSED: int
        REPLACED: int

        def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int: ...
        def unwatch(self, handle: int, key: object) -> None: ...

    class Events(Protocol):
        """A module of `_wait`."""

        def shared(self) -> Instance | None: ...
        def trusts(self, directory: str) -> bool: ...

FOREVER = float("inf")
NAP = 1.0
"""First long sleep of a waiter, jittered by a quarter, on filesystems whose events can be trusted: the net. The next
ones without an event in between are twice, then always four times as long."""

BLIND_NAP = 0.05
"""Longest sleep, with full jitter, where events cannot be trusted (network filesystems, FUSE, no inotify)."""

_ECHOES = (0.00005, 0.0002, 0.001, 0.001)
"""Naps after a wake-up that did not lead to the lock: a dying holder's event comes before its lock is free."""

_COURTESY = 0.0005
"""How long a process may take a lock again and again before it looks whether others wait.
Eventual fairness, with the interval that WebKit's and parking_lot's locks use."""

PATIENCE = 0.01
"""FIFO: how long the second in line lets the first have the free lock before it looks whether that may be passed by:
see `patience`."""


class KernelClaim(Claim):
    """A stake in a lock file, and its descriptor. What only a claim that waits needs has its default on the class."""

    # Not beside a default of the same name: CPython does not speed that up. Whoever makes a claim sets these.
    __slots__ = ("depth", "fair", "fd", "instance", "line", "owner", "since")

    fd: Any  # an int, from open to close
    instance: Instance | None  # from the first wait to the end
    parker: Parker | None = None  # while it waits
    identity: tuple[int, int] | None = None  # (st_ino, st_dev) of the descriptor, found while it waits
    path = b""  # of the lock file, while it waits
    wd = 0
    ticket = 0
    front = False  # among those that a release wakes
    first = False  # may try at once when woken
    overdue = False  # has slept its full nap: may try whatever its rank
    echo = 0
    called = 0.0  # when it last called those at the back
    moves = False  # its descriptor, or what it is known by, is being changed, and is not in `owned` yet
    proof = 0.0  # what its descriptor is known by while it waits: a float of its own. Later that is `since`


class KernelEngine:
    """The engine of paths. One instance serves all lock files of the process."""

    claim_type: type[KernelClaim] = KernelClaim

    def __init__(
        self,
        ops: Ops,
        events: Events | None,
        queue: bool = sys.platform == "linux",
        choice: Choice | None = None,
    ) -> None:
        self.ops = ops
        # Of the uncontended path: found faster here than there, where the class has them too.
        self.flock, self.fstat, self.close, self.owned = ops.flock, ops.fstat, ops.close, ops.owned
        self.choice = choice
        self._events = events
        self._tickets = queue  # without one, a release wakes all waiters of the machine, and they race
        self._trusted: dict[str, tuple[int, bool]] = {}
        self._siblings: dict[str, KernelEngine] = {}
        self.traits = Traits(
            name="kernel",
            family="session",
            excludes="hosts" if choice is not None and choice.hosts == "yes" else "processes",
            fair="no starvation",
            fences=sys.platform != "win32",
            survives_crash=True,
            wait="events" if events else "naps",
            abilities=("rwlock", "semaphore") if queue else (),
        )

    def require_fair(self, key: str) -> None:
        """Raise `UnsupportedError` where processes cannot be queued in order."""
        if not self._queues(key):
            raise UnsupportedError(
                f"{key}: fair=True needs Linux and a local filesystem; leave it out, or move the lock file"
            )

    def sharing(self, mode: Mode, key: str) -> KernelEngine:
        """The engine of read-write locks in this mode; see `readwrite`."""
        self._require_ranges(key, "a read-write lock")
        if mode not in self._siblings and sys.platform != "win32":
            from .readwrite import LANES

            self._siblings.setdefault(mode, LANES[mode](self.ops, self._events))
        return self._siblings[mode]

    def counting(self, key: str) -> KernelEngine:
        """The engine of semaphores; see `slots`."""
        self._require_ranges(key, "a semaphore")
        if "semaphore" not in self._siblings and sys.platform != "win32":
            from .slots import Slots

            self._siblings.setdefault("semaphore", Slots(self.ops, self._events))
        return self._siblings["semaphore"]

    def _require_ranges(self, key: str, what: str) -> None:
        primitive = "flock" if self.choice is None else self.choice.primitive
        if not self._queues(key) or primitive not in ("flock", "local"):
            raise UnsupportedError(
                f"{key}: {what} on a path needs Linux, a local filesystem and flock(2) there (the primitive here is "
                f"{primitive}); use Lock, or move the lock file"
            )

    def claim(self, line: Line, owner: object, fair: bool) -> KernelClaim:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        claim.fair = fair
        claim.depth = 1
        claim.since = 0.0
        claim.fd = claim.instance = None
        return claim

    def try_now(self, claim: KernelClaim, timeout: float) -> bool:
        line = claim.line
        try:
            for claim.fd in line.opens or self._opens(line):  # see "Descriptors" above
                break
            fd = claim.fd
            now = monotonic()
            if timeout and (now >= line.courtesy or claim.fair):
                if self._queues(line.key) and tickets.anybody(self.ops, fd):
                    return False
                line.courtesy = now + _COURTESY
            flock, fstat = self.flock, self.fstat
            flock(fd, EXCLUSIVE)
            status = fstat(fd)
        except OSError:  # contended, or an error that the loop meets again and translates
            return False
        # One link, S_ISREG in the bits of S_IFMT, and empty: else the loop looks closer.
        if status[3] == 1 and status[0] >> 12 == 8 and not status[6]:
            self.owned[fd] = claim.since = now
            return True
        return False

    def _opens(self, line: Line) -> Iterator[int]:
        """Each step opens the lock file once more."""
        path = line.key if sys.platform == "win32" else fsencode(line.key)
        line.opens = starmap(self.ops.open, repeat((path, *OPENING)))
        return line.opens

    async def try_acquire(self, io: IO, claim: KernelClaim, deadline: float) -> bool:
        if claim.front and claim.first:
            won = self._race(claim)
            if won is not None:
                return won
        ops = self.ops
        path = claim.line.key
        stale: OSError | None = None
        for _ in range(100):
            if claim.proof and not self._ours(claim):
                self._forget(claim)
            if claim.fd is None:
                await io.call(ops.open_lock_file, claim, path)
            fd = claim.fd
            if fd is None:  # Windows: somebody deletes the file, or does not share it
                return False
            if not await io.call(self._admitted, claim, fd, io.now() >= deadline):
                return False
            try:
                if not await io.call(self._lock, claim, fd, path):
                    if await io.call(ops.current, fd, path):
                        return False
                elif await io.call(self._still, claim, fd):
                    if claim.parker is not None:
                        await io.call(self._won, claim)
                    claim.moves = True
                    claim.since = ops.owned[fd] = io.now()
                    claim.moves = False
                    return True
            except OSError as error:
                if error.errno != ESTALE:  # NFS: it was removed or replaced on the server
                    raise
                stale = error
            # The file was unlinked or replaced: what was locked or waited for is nobody's lock any more.
            await io.call(self.drop, claim)
        if stale is not None:
            raise stale
        raise BlockingIOError(EAGAIN, "the lock file is replaced faster than it can be locked", path)

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        return last or self._may_try(claim, fd)

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        return self.ops.try_lock(fd, path)

    def _race(self, claim: KernelClaim) -> bool | None:
        """The try of one that was woken in front, with nothing on the way that can wait: this is handoff latency.
        None: go the long way."""
        if sys.platform == "win32":
            return None
        ops = self.ops
        if not self._ours(claim):
            return None
        try:
            ops.flock(claim.fd, EXCLUSIVE)
            there = ops.lstat(claim.path)
        except BlockingIOError:
            return False if self._still(claim, claim.fd) else None
        except OSError:
            return None
        if there[1:3] != claim.identity:
            return None
        claim.parker = None
        if self._tickets:
            tickets.leave(ops, claim.fd)
        claim.moves = True
        claim.since = ops.owned[claim.fd] = monotonic()
        claim.moves = False
        return True

    def _still(self, claim: KernelClaim, fd: int) -> bool:
        """Is the file just locked the one at the path?"""
        if claim.identity is None:
            return self.ops.current(fd, claim.line.key)
        # Compared with what `_subscribe` found: one call less between the wake-up and the caller.
        try:
            there = self.ops.stat(claim.line.key, follow_symlinks=False)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == claim.identity

    async def wait(self, io: IO, claim: KernelClaim, until: float) -> None:
        parker = claim.parker  # a fork in a signal handler may take it away at any point below
        if parker is None:
            await io.call(self._subscribe, io, claim, until)
            return  # subscribed: now try again
        if claim.instance is not None:
            claim.instance.drain()
            if claim.front and not claim.echo and self._tickets and io.now() >= claim.called + PATIENCE:
                # Its own touch wakes it as well. Without a pause it would for ever call those who cannot come, or not
                # be seen in front: a stopped process, one that may only read the file.
                claim.called = io.now()
                await io.call(tickets.promote, self.ops, claim.fd)
        nap = self._nap(claim)
        if await io.park(parker, min(until, io.now() + nap)):
            claim.echo = 0
        else:
            claim.echo += 1
            claim.overdue = nap >= PATIENCE

    def _nap(self, claim: KernelClaim) -> float:
        if claim.instance is None:
            return _jitter() * min(BLIND_NAP, 0.001 * (1 << min(claim.echo, 10)))
        if claim.first and claim.echo < len(_ECHOES):
            return _ECHOES[claim.echo]
        if claim.front and claim.fair and not claim.first and claim.echo < patience.STEPS:
            return PATIENCE * (1 << claim.echo)
        # A hundred waiters that wake every second use 4 % of a core.
        slept = claim.echo - (len(_ECHOES) if claim.first else 0)
        return NAP * (1 << min(max(slept, 0), 2)) * (0.75 + _jitter() / 2)

    async def release(self, io: IO, claim: KernelClaim) -> None:
        self.drop(claim)

    async def withdraw(self, io: IO, claim: KernelClaim) -> None:
        self.drop(claim)

    def drop(self, claim: KernelClaim) -> None:
        # Interrupted anywhere, it goes on from there when it is called again.
        fd = claim.fd
        if fd is not None and monotonic() - claim.since > BRIEF and not self._ours(claim):
            self._forget(claim)
            fd = None
        instance = claim.instance
        if fd is not None:
            try:
                if instance is not None and claim.parker is not None and self._tickets:
                    tickets.leave(self.ops, fd)  # it gives up: the others may have counted on it
                flock = self.flock
                flock(fd, UNLOCK)
            except OSError:  # the close that follows ends the lock in any case
                pass
            close = self.close
            claim.fd = None
            try:
                close(fd)
            except OSError:
                # Linux has released the descriptor, and the lock, whatever close(2) says (EIO: NFS, bind mounts).
                pass
        if instance is not None and sys.platform != "win32":  # others may wait, as this claim did
            # The kernel likes to put whom the close woke on this very core, there to wait until we sleep.
            self.ops.yield_core()
            self._unwatch(claim)

    def _ours(self, claim: KernelClaim) -> bool:
        """Is its descriptor, if it has one, still the one that it opened?"""
        fd = claim.fd
        return fd is None or self.ops.ours(fd, 0.0 if claim.moves else claim.since or claim.proof)

    def _forget(self, claim: KernelClaim) -> None:
        """Its descriptor is somebody else's by now: nothing is done with it, and nothing of what it held is left."""
        claim.fd = None
        self._unwatch(claim)
        claim.proof = 0.0

    def _unwatch(self, claim: KernelClaim) -> None:
        if claim.instance is not None:
            claim.instance.unwatch(claim.wd, claim)
            claim.wd = 0  # it may watch another file next, and be interrupted before it knows the new handle
            claim.instance = claim.parker = claim.identity = None
        claim.proof = 0.0

    def disown(self, claim: KernelClaim) -> None:
        ours = self._ours(claim)
        fd, claim.fd = claim.fd, None
        claim.parker = claim.instance = None
        claim.proof = 0.0
        claim.front = False  # should it go on, as a contender of its own: a fork in a handler of a signal in `wait`
        if fd is not None and ours:
            try:
                self.ops.close(fd)
            except OSError:
                pass

    def lost(self, claim: KernelClaim) -> str:
        path = claim.line.key
        fd = claim.fd
        if fd is None:
            return ""
        closed = f"the descriptor that locked {path} was closed by somebody else in this process"
        if not self._ours(claim):
            return closed
        try:
            if sys.platform != "win32" and self.ops.place and (reason := self.ops.disowned(fd, path)):
                return reason
            if self.ops.current(fd, path):
                return ""
        except OSError as error:
            if error.errno == EBADF:
                return closed
            if error.errno != ESTALE:
                raise
        return f"{path} was unlinked or replaced while it was held"

    if sys.platform != "win32":

        def assign_token(self, claim: KernelClaim) -> int:
            """The fencing token of a hold, given when it is first asked for: see `tokens`."""
            from . import tokens

            return tokens.assign(claim)

    def watch_loss(self, claim: KernelClaim) -> None:
        """From now on `lost.tell` is called when it is lost."""
        from ..._wait import guard

        guard.begin(claim, self._events.shared() if self._events and self._hears(claim.line.key) else None)

    # ---- the queue

    def _queues(self, path: str) -> bool:
        """Are there tickets at this path? Linux only."""
        return self._tickets and self._hears(path)

    def _hears(self, path: str) -> bool:
        """Are there events at this path that can be trusted?"""
        if self._events is None:
            return False
        directory = dirname(path)
        now = mounts.seen
        known = self._trusted.get(directory)
        if known is None or known[0] != now:
            known = self._trusted[directory] = now, self._events.trusts(directory)
        return known[1]

    def _subscribe(self, io: IO, claim: KernelClaim, deadline: float) -> None:
        if deadline == FOREVER:
            for other in (*arbiter.turns.values(), *arbiter.granted):
                if other is claim or other.owner is not claim.owner or not self._hinders(claim, other):
                    continue
                if _same_file(claim, other, self.ops):
                    raise DeadlockError(
                        f"{claim.line.resource} is the same file as {other.line.resource}, which this "
                        "thread or task holds: it would wait for itself for ever"
                    )
        claim.echo = 0
        claim.front = claim.first = claim.overdue = False
        claim.path = fsencode(claim.line.key)
        instance = self._events.shared() if self._events and self._hears(claim.line.key) else None
        claim.parker = parker = io.parker(instance)
        self._prove(claim)
        if instance is None or sys.platform == "win32":
            return
        if self.ops.current(claim.fd, claim.line.key):
            status = self.ops.fstat(claim.fd)
            claim.identity = (status.st_ino, status.st_dev)
        claim.instance = instance
        claim.moves = True
        self.ops.lift(claim, instance.fileno())
        self._prove(claim)
        claim.moves = False
        try:
            self._enter(claim, instance, parker)
        except OSError:  # no watches left, or no byte-range locks here: nap
            instance.unwatch(claim.wd, claim)
            claim.instance = claim.identity = None

    def _prove(self, claim: KernelClaim) -> None:
        self.ops.owned[claim.fd] = claim.proof = claim.since or monotonic()

    def _hinders(self, claim: KernelClaim, other: Claim) -> bool:
        return True

    def _enter(self, claim: KernelClaim, instance: Instance, parker: Parker) -> None:
        fd = claim.fd
        if self._tickets:
            claim.wd = instance.watch(fd, instance.REPLACED, claim, parker.unpark)
            claim.ticket = tickets.enter(self.ops, fd)
            if claim.fair:
                patience.sign(self.ops, fd, claim.ticket)
        else:  # no queue: everybody is in front
            claim.front = claim.first = True
            claim.wd = instance.watch(fd, instance.REPLACED | instance.CLOSED, claim, parker.unpark)

    def _may_try(self, claim: KernelClaim, fd: int) -> bool:
        """Whose turn it is to try is decided here, who holds never is: see `tickets`."""
        line = claim.line
        if claim.parker is None:  # a newcomer
            if monotonic() < line.courtesy and not claim.fair:
                return True
            try:
                return not (self._queues(line.key) and tickets.anybody(self.ops, fd))
            except OSError:  # no byte-range locks here, so no queue either
                return True
        instance = claim.instance
        if instance is None:
            return True
        overdue, claim.overdue = claim.overdue, False
        if overdue and claim.fair:
            overdue = patience.may_pass(self.ops, claim)
        if not claim.front:
            older = tickets.rank(self.ops, fd, claim.ticket, tickets.FRONT)
            if older == tickets.FRONT:
                return overdue
            claim.front = True
            claim.first = older == 0 or not claim.fair
            claim.echo = 0
            tickets.step_forward(self.ops, fd, claim.ticket)
            instance.watch(fd, instance.CLOSED, claim, claim.parker.unpark)
            if older and tickets.rank(self.ops, fd, claim.ticket, 1) == 0:
                older = 0  # who was older acquired and released before this watch began: no event will tell
                claim.first = True
            return older == 0 or overdue
        if claim.fair and not claim.first:
            claim.first = tickets.rank(self.ops, fd, claim.ticket, 1) == 0
            return claim.first or overdue
        return True

    def _won(self, claim: KernelClaim) -> None:
        claim.parker = None
        # Its watch stays until after the release: the new holder has better things to do now.
        if claim.instance is not None and self._tickets:
            tickets.leave(self.ops, claim.fd)

    def inspect(self, line: Line) -> Report:
        from ..._fs.choice import choose

        choice = self.choice if self.choice is not None else choose(dirname(line.key))
        return choice.stamp(self._inspect(line))

    def _inspect(self, line: Line) -> Report:
        if sys.platform == "linux":
            from . import holders

            return holders.report(self.traits, line)
        from . import unseen

        return unseen.report(self.traits, line)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        if sys.platform == "linux":
            from . import holders

            return holders.blame(line)
        from . import unseen

        return unseen.blame(line)


def _jitter() -> float:
    """A number from 0 to 1 that differs between processes: enough to keep naps apart, without `random`, whose import
    at the first wait could meet a fork in another thread."""
    return (monotonic_ns() * 0x9E3779B1 & 0xFFFFFFFF) / 0x100000000


def _same_file(one: KernelClaim, other: Claim, ops: Ops) -> bool:
    """Two paths may be one file: symbolic links in directories, bind mounts, hard links."""
    mine, theirs = one.fd, getattr(other, "fd", None)
    if mine is None or theirs is None:
        return False
    try:
        first, second = ops.fstat(mine), ops.fstat(theirs)
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


_engines: dict[str, KernelEngine] = {}


def engine() -> KernelEngine:
    """The process's engine for paths on local filesystems, made for its platform at the first use."""
    if "kernel" not in _engines:
        if sys.platform == "win32":
            from .windows import Ops

            events = None
        else:
            from .ops import Ops

            events = _platform_events()
        _engines.setdefault("kernel", KernelEngine(Ops(), events))  # one step: threads may come here together
    return _engines["kernel"]


def _platform_events() -> Events | None:
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        from ..._wait import inotify

        return inotify
    if sys.platform == "darwin" or "bsd" in sys.platform:
        from ..._wait import kqueue

        return kqueue
    return None
