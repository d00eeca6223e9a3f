"""Leases in a Redis or Valkey server: the claims of this process, and their calls of the script.

Theory of operation
-------------------
What holds is decided by the script alone (`script`). A claim has an id that nobody else has, so each call can be
repeated, and its answer can be asked for again. Who finds the lock taken enters the queue, once the listener hears the
server; then it sleeps until it is called, or until what is in the way may have ended, and calls again.

A hold's deadline is taken from this machine's clock before the call that began or renewed it, and is a tenth shorter
than what the server counts. So `lost` is true here before anybody else can enter there, and needs neither thread nor
network to be true. The keeper renews at a third of the ttl. A hold that was lost stays lost, whatever a late renewal
answers.

`claim.unknown` is true while a call is under way, and after one whose answer was lost; `claim.repeated` after one that
was made twice. Then undoing it leaves a mark with the server, since the lost call may still come.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from functools import partial
from hashlib import blake2b
from itertools import count
from json import dumps
from random import random
from threading import current_thread, main_thread
from time import monotonic

from redis import RedisError

from ... import _strangers
from ..._address import name_of
from ..._core import arbiter, fork
from ..._core.lost import tell
from ..._errors import EngineError, LostError, ProtocolError, UnprovenError
from ..._model import Claim
from ..._report import Party, Report
from ..._wait.keeping import keeping
from ..._wait.keeping import now as clock
from ..._wait.workers import workers
from ..remote import RemoteEngine
from .listener import Listener
from .promises import traits
from .server import Server, Young, unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from ..._core.arbiter import Line
    from ..._model import IO, Mode, Parker

__all__ = ["RedisClaim", "RedisCore", "RedisEngine"]

FOREVER = float("inf")
COUNTED = 0.9
"""The part of a ttl that a holder counts on; the rest is for clocks that run at different speeds."""
ALIVE = 3.0
"""Seconds for which a waiter keeps its place in the queue without being heard of."""
LOOK = 1.5
"""Seconds after which a waiter looks for itself at the latest."""
SHORTEST_LOOK = 0.8

TOGETHER = 200
"""Renewals that are sent at once."""

LETTER: dict[Mode, bytes] = {"read": b"r", "update": b"u", "write": b"w"}
NAMES = {"r": "read", "u": "update", "x": "update", "w": "write", "p": "permit"}


class RedisClaim(Claim):
    """A stake, and once won the hold, of a lock, an updater or a writer."""

    id = b""
    info = b""
    ttl = 0.0
    deadline = FOREVER
    gone = ""
    active = False  # the server may know of it
    unknown = False  # a call of it is under way, or its answer was lost
    parker: Parker | None = None
    nap = 0.0
    upgrading = False
    step = 0  # how often another mode was asked for
    wrote = 0  # which of them made it a writer
    repeated = False  # a copy of the call that won it may still come, by a connection that was given up
    trouble = 0.0  # on the clock: since when the server gives no answer


class ReadClaim(RedisClaim):
    mode: Mode = "read"


class UpdateClaim(RedisClaim):
    mode: Mode = "update"


class RedisCore:
    """What the engines of one address and ttl share."""

    def __init__(self, address: Address, server: Server, ttl: float, namespace: str, replicas: int) -> None:
        self.address = address
        self.server = server
        self.ttl = ttl
        self.namespace = namespace.encode()
        self.replicas = replicas
        self.held: dict[RedisClaim, None] = {}
        self._keys: dict[str, tuple[bytes, bytes]] = {}
        self._siblings: dict[bytes, RedisEngine] = {}
        self._begin()
        fork.in_child(self._forked)
        workers()  # its own end comes after ours
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        self.process = os.urandom(8).hex().encode()
        self._numbers = count(1)
        self.listener = Listener(self.server, self.process, self._verify)
        command = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
        self._about = {"pid": os.getpid(), "host": socket.gethostname(), "command": command[:60]}
        self._main = dumps(self._about, ensure_ascii=False).encode()

    def _at_exit(self) -> None:
        """What the program has not released would be kept from others until it runs out."""
        for claim in [*self.held, *arbiter.turns.values()]:
            if isinstance(claim, RedisClaim) and getattr(claim.line.engine, "core", None) is self:
                claim.line.engine.drop(claim)

    def _forked(self) -> None:
        self.server.forked()
        self.listener.forked()
        self.held = {}
        self._begin()

    def begin(self, claim: RedisClaim) -> None:
        """Give a claim its id."""
        claim.id = b"%s.%d" % (self.process, next(self._numbers))
        claim.ttl = self.ttl
        thread = current_thread()
        if thread is main_thread():
            claim.info = self._main
        else:
            claim.info = dumps({**self._about, "thread": thread.name[:60]}, ensure_ascii=False).encode()

    def keys(self, line: Line) -> tuple[bytes, bytes]:
        found = self._keys.get(line.key)
        if found is None:
            name = name_of(line.key).encode("utf-8", "surrogatepass")
            digest = blake2b(b"%d:%s%s" % (len(self.namespace), self.namespace, name), digest_size=16).hexdigest()
            found = f"il1:{{{digest}}}:s".encode(), f"il1:{{{digest}}}:t".encode()
            if len(self._keys) > 4096:
                self._keys.clear()
            self._keys[line.key] = found
        return found

    def sibling(self, kind: bytes) -> RedisEngine:
        """The engine of one mode of the read-write locks ("r", "u", "w"), or of semaphores ("p")."""
        found = self._siblings.get(kind)
        if found is None:
            from .siblings import RedisModes, RedisPermits

            made = RedisPermits(self) if kind == b"p" else RedisModes(self, kind)
            found = self._siblings.setdefault(kind, made)
        return found

    def _verify(self) -> None:
        """The server was away: who of us is still held, should be found out now and not at the next renewal."""
        for claim in list(self.held):
            workers().submit(partial(_renew_and_tell, claim))


def nap(milliseconds: int) -> float:
    """For how long to sleep, where what is in the way may end after so long."""
    return min(max(milliseconds / 1000 + 0.002, SHORTEST_LOOK), LOOK * (0.9 + random() / 10))


def _ms(seconds: float) -> bytes:
    return b"%d" % int(seconds * 1000)


def _renew_and_tell(claim: RedisClaim) -> None:
    engine: Any = claim.line.engine
    try:
        reason = engine.renew(claim)
    except EngineError:
        return
    if reason and claim.depth:
        tell(claim, reason)


class RedisEngine(RemoteEngine):
    """The engine of `Lock`. Those of other modes derive from it."""

    claim_type: type[RedisClaim] = RedisClaim
    kind = b"rw"
    letter = b"w"

    def __init__(self, core: RedisCore) -> None:
        super().__init__(core.address)
        self.core = core
        self.traits = traits()

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def claim(self, line: Line, owner: object, fair: bool) -> RedisClaim:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    def sharing(self, mode: Mode, key: str) -> RedisEngine:
        return self.core.sibling(LETTER[mode])

    def counting(self, key: str) -> RedisEngine:
        return self.core.sibling(b"p")

    # ---- acquire

    def try_now(self, claim: RedisClaim, timeout: float) -> bool:
        self.core.begin(claim)
        return self._attempt(claim, False)

    async def try_acquire(self, io: IO, claim: RedisClaim, deadline: float) -> bool:
        if not claim.id:
            self.core.begin(claim)
        last = io.now() >= deadline
        try:
            won = await io.work(self._attempt, claim, not last and claim.parker is not None)
        except EngineError as error:
            # Who waits bears it that the server is away for the time of a lease: it may come back, and others wait too.
            if last or claim.parker is None or not unreachable(error):
                raise
            claim.trouble = claim.trouble or clock()
            if clock() > claim.trouble + claim.ttl:
                raise
            claim.nap = 0.2
            return False
        claim.trouble = 0.0
        return won

    def _attempt(self, claim: RedisClaim, queue: bool) -> bool:
        """One call. False: it is taken; see `claim.nap`."""
        core = self.core
        claim.active = claim.unknown = True
        began = clock()
        try:
            answer, acknowledged = core.server.call(
                core.keys(claim.line), b"acquire", claim.id, self.letter, _ms(claim.ttl),
                _ms(ALIVE) if queue else b"0", self.kind, b"%d" % claim.permits, claim.info, self._name(claim),
                settled=True, replicas=core.replicas, claim=claim,
            )  # fmt: skip
        except Young as young:
            claim.unknown = False
            claim.nap = max(young.until - clock(), 0.0) + 0.01
            return False
        claim.unknown = False
        if answer[0] == 0:
            claim.active = queue
            claim.nap = nap(answer[1])
            return False
        if answer[0] < 0:
            claim.active = False
            raise self._refused(claim, *answer)
        claim.deadline = began + claim.ttl * COUNTED
        if acknowledged < core.replicas:
            self._leave(claim)
            raise EngineError(
                f"{claim.line.resource}: {acknowledged} of the {core.replicas} replicas that il_min_replicas asks for "
                "acknowledged it in time; nothing is locked"
            )
        if clock() >= claim.deadline:  # stopped in the middle
            self._leave(claim)
            claim.nap = 0.0
            return False
        self._won(claim, answer)
        return True

    @staticmethod
    def _name(claim: RedisClaim) -> bytes:
        return name_of(claim.line.key).encode("utf-8", "replace")[:200]

    def _refused(self, claim: RedisClaim, code: int, there: object) -> ProtocolError:
        if code == -2:
            return ProtocolError(
                f"{claim.line.resource} is in use as a semaphore of {there} permits, and this one is of"
                f" {claim.permits}: all who use it must name the same number, or another name"
            )
        return ProtocolError(
            f"{claim.line.resource} is in use as a {'lock' if self.kind == b'sem' else 'semaphore'}: use another name"
        )

    def _won(self, claim: RedisClaim, answer: Any) -> None:
        self._take(claim, answer)
        self._stop_waiting(claim)
        claim.since = monotonic()
        self.core.held[claim] = None
        keeping().keep(claim)

    def _take(self, claim: RedisClaim, answer: Any) -> None:
        claim.token = int(answer[1])

    async def wait(self, io: IO, claim: RedisClaim, until: float) -> None:
        """The first call only subscribes: try again."""
        if claim.parker is None:
            claim.parker = io.parker()
            await io.work(self._subscribe, claim)
            return
        await io.park(claim.parker, min(until, io.now() + claim.nap))

    def _subscribe(self, claim: RedisClaim) -> None:
        parker = claim.parker
        if parker is not None:
            try:
                self.core.listener.add(claim.id, parker)
            except (RedisError, OSError) as error:
                raise self.core.server.translated(error) from None

    def _stop_waiting(self, claim: RedisClaim) -> None:
        if claim.parker is not None:
            self.core.listener.remove(claim.id)
            claim.parker = None

    # ---- while held, and the end of it

    def renew(self, claim: RedisClaim) -> str:
        """Move the deadline. Returns why the hold is lost, or "". Raises `EngineError`; that may pass."""
        if claim.gone or not claim.active:
            return claim.gone or "it was released"
        began = clock()
        keys, args = self._renewal(claim)
        return self._renewed(claim, began, self.core.server.call(keys, *args)[0])

    def renew_all(self, claims: list[RedisClaim]) -> dict[RedisClaim, str]:
        """`renew` of many at once; only of those that the server answered for."""
        found: dict[RedisClaim, str] = {}
        for start in range(0, len(claims), TOGETHER):
            some = [claim for claim in claims[start : start + TOGETHER] if claim.active and not claim.gone]
            began = clock()
            answers = self.core.server.call_all([self._renewal(claim) for claim in some]) if some else []
            for claim, answer in zip(some, answers, strict=True):
                if not isinstance(answer, Exception):
                    found[claim] = self._renewed(claim, began, answer)
        return found

    def _renewal(self, claim: RedisClaim) -> tuple[tuple[bytes, bytes], tuple[bytes, ...]]:
        """Says what the hold is believed to be: a server that came back with an older state may take it for less."""
        mode = b"w" if claim.mode == "write" else b""
        slot = b"" if claim.slot is None else b"%d" % claim.slot
        return self.core.keys(claim.line), (b"renew", claim.id, _ms(claim.ttl), mode, b"%d" % claim.wrote, slot)

    def _renewed(self, claim: RedisClaim, began: float, answer: int) -> str:
        if not answer:
            claim.gone = (
                "the server does not know of it any more: it was broken, or it ran out there, or the server lost its "
                "memory (a restart, a failover)"
            )
        elif not self._ran_out(claim):
            claim.deadline = began + claim.ttl * COUNTED
        return claim.gone

    def _ran_out(self, claim: RedisClaim) -> str:
        if not claim.gone and clock() >= claim.deadline:
            claim.gone = (
                f"its ttl of {claim.ttl:g} s ran out before a renewal: the process or its machine stood still, or the "
                "server gave no answer"
            )
        return claim.gone

    def lost(self, claim: RedisClaim) -> str:
        if not claim.active:
            return claim.gone or "it is not held"
        return self._ran_out(claim)

    async def release(self, io: IO, claim: RedisClaim) -> None:
        self._settle(claim)
        if claim.active:
            await io.work(self._leave, claim)

    withdraw = release

    def drop(self, claim: RedisClaim) -> None:
        self._settle(claim)
        if claim.active:
            unknown, claim.active = claim.unknown or claim.repeated, False
            workers().submit(partial(self._tell_left, claim, unknown))

    def _settle(self, claim: RedisClaim) -> None:
        """Nothing of this process concerns itself with the claim any more."""
        if claim.since:
            keeping().forget(claim)
            self.core.held.pop(claim, None)
        self._stop_waiting(claim)

    def _leave(self, claim: RedisClaim) -> None:
        if claim.active:
            self._tell_left(claim, claim.unknown or claim.repeated)
            claim.active = False

    def _tell_left(self, claim: RedisClaim, unknown: bool) -> None:
        try:
            self.core.server.call(self.core.keys(claim.line), b"leave", claim.id, b"1" if unknown else b"0")
        except EngineError as error:
            if claim.since:
                import logging

                logging.getLogger("interlock").warning(
                    "%s: the release did not reach the server, where it ends with its ttl of %g s: %s",
                    claim.line.resource, claim.ttl, error,
                )  # fmt: skip

    def disown(self, claim: RedisClaim) -> None:
        claim.active = False
        claim.parker = None

    # ---- for people

    def inspect(self, line: Line) -> Report:
        kind, permits, _, holders, waiters = self._look(line)
        facts = {"key": self.core.keys(line)[0].decode(), "server": self.core.address.public}
        if kind == b"sem":
            facts["permits"] = str(permits)
        now = time.time()
        return Report(
            line.resource,
            "redis",
            tuple(_party(entry, now, None) for entry in holders),
            tuple(_party(entry, now, place) for place, entry in enumerate(waiters, 1)),
            enforced=True,
            facts=facts,
        )

    def _look(self, line: Line) -> Any:
        return self.core.server.call(self.core.keys(line), b"inspect", b"")[0]

    def blame(self, line: Line) -> tuple[Party | None, str]:
        try:
            holders = self._look(line)[3]
        except EngineError as error:
            return None, str(error)
        if not holders:
            return None, self.core.server.youth()
        return _party(holders[0], time.time(), None), f"a lease of {self.core.ttl:g} s at most without a renewal"

    # ---- breaking: what `interlock._model.Breakable` asks for

    def stale(self, line: Line) -> str:
        """A lease whose owner is gone ends by itself; until then nothing proves it."""
        return ""

    def break_stale(self, line: Line, force: bool = False) -> str:
        """With `force`: end what is held. Its owners find it lost at their next renewal.

        It names those who held when it looked: the request may be made twice, and its copy must not end the next hold.
        """
        holders = self._look(line)[3]
        if not holders:
            return ""
        if not force:
            raise UnprovenError(f"{line.resource}: nothing proves that its owner is gone: {self.blame(line)[0]}")
        self.core.server.call(self.core.keys(line), b"break", b"", *(entry[4] for entry in holders))
        return "forced"

    def close(self) -> None:
        self.core.listener.close()
        self.core.server.close()

    def _change(self, claim: RedisClaim, mode: Mode) -> None:
        """The server's note of a mode."""
        claim.step += 1
        answer, _ = self.core.server.call(
            self.core.keys(claim.line), b"mode", claim.id, LETTER[mode], b"%d" % claim.step
        )
        if not answer:
            claim.gone = claim.gone or "the server does not know of it any more"
            raise self._lost_error(claim)

    def _lost_error(self, claim: RedisClaim) -> LostError:
        return LostError(f"{claim.line.resource} is lost: {claim.gone}")


def _party(entry: Any, now: float, place: int | None) -> Party:
    mode, info, slot, age, *_ = entry
    about = _strangers.fields(info)
    return Party(
        _strangers.number(about, "pid"),
        _strangers.word(about, "command"),
        host=_strangers.word(about, "host"),
        thread=_strangers.word(about, "thread"),
        since=now - age / 1000,
        since_exact=True,
        mode=NAMES.get(mode.decode(), ""),
        position=place,
        slot=slot if mode == b"p" and place is None else None,
    )
