"""`Lock`, `RLock` and their async twins: shells that hold the user's options and take no decision."""

from __future__ import annotations

from os import fspath
from time import monotonic

from ._core.acquire import acquire, run
from ._core.arbiter import Place, abandon, turns, wake_first
from ._deadline import seconds
from ._errors import DeadlockError, Timeout
from ._hold import AsyncHold, Hold, hold_on
from ._identity import me
from ._io import running
from ._target import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final, Literal, TypeVar

    from ._model import IO, Claim
    from ._report import Report

    class Unset: ...

    H = TypeVar("H", Hold, AsyncHold)

__all__ = ["AsyncLock", "AsyncRLock", "Lock", "RLock"]

FOREVER = float("inf")
_UNSET: Final[Unset] = object()  # type: ignore[assignment]


class _BaseLock:
    """The options of a lock and what both worlds share. Not a lock by itself."""

    __slots__ = ("__weakref__", "_blocks", "_entered", "_fair", "_line", "_resource", "_timeout")
    _reentrant = False

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        fair: bool = False,
        ttl: float | None = None,
        primitive: Literal["auto", "flock"] = "auto",
    ) -> None:
        """Name a lock; nothing is opened or locked yet.

        `target` is the path of a lock file (made with its parent directories at the first acquire, never
        written, never deleted; a relative path is taken from the directory that is current now) or an URL:
        `file:///directory#name`, `memory://#name`.

        `timeout` (seconds; `None`: for ever; 0: one attempt) is used where `acquire` is given none.
        `fair=True`: strictly in order of arrival, at the price of throughput; raises `UnsupportedError` where
        the platform has no such queue. `ttl` is for engines that lease; a lock file is held until released, so
        there it raises `UnsupportedError`. `primitive`: how a path is locked; only `flock` today.

        Raises `TypeError` and `ValueError` for arguments of the wrong kind or range.
        """
        self._entered: Hold | None = None  # what the `with` block of a Lock has
        self._blocks: list[Any] = []  # what the other open `with` blocks have
        self._timeout = seconds(timeout)
        self._fair = fair
        self._line = resolve(target, fair=fair, ttl=ttl, primitive=primitive)
        self._resource = fspath(target)

    @property
    def resource(self) -> str:
        """What is locked, as the user named it."""
        return self._resource

    @property
    def held(self) -> bool:
        """Does this process hold the resource now, by whatever lock object?"""
        claim = turns.get(self._line)
        return claim is not None and claim.since > 0

    def inspect(self) -> Report:
        """Who holds and who waits; see `interlock.inspect`."""
        return self._line.engine.inspect(self._line)

    def _held_by(self, owner: object) -> Claim | None:
        """The claim that this thread or task holds on the line already, if any."""
        claim = turns.get(self._line)
        return claim if claim is not None and claim.owner is owner and claim.since else None

    def _leave_block(self, who: Callable[[], object]) -> None:
        """Release what the `with` block that ends has, unless its body did, or a fork took it away.

        The blocks of others may be open on this object, if their bodies released early; and a generator may end
        its block in another thread or task than it began it in. So: the caller's innermost, else one that is held.
        """
        blocks = self._blocks
        at = len(blocks) - 1
        if at:
            owner = who()
            mine = [number for number, hold in enumerate(blocks) if hold.owner is owner]
            held = [number for number, hold in enumerate(blocks) if hold.held]
            at = (mine or held or [at])[-1]
        blocks.pop(at)._let_go()

    def _self_deadlock(self) -> DeadlockError:
        return DeadlockError(
            f"{self.resource} is held by this very thread or task: it would wait for itself for ever. "
            f"Release the first hold, give a timeout, or use {'AsyncRLock' if isinstance(self, AsyncLock) else 'RLock'}"
        )

    def _timed_out(self, waited: float) -> Timeout:
        holder, hint = self._line.engine.blame(self._line)
        return Timeout(self.resource, waited, holder, hint)

    def __repr__(self) -> str:
        state = "held by this process" if self.held else "not held by this process"
        return f"<{type(self).__name__} {self.resource!r} {state}>"

    def __reduce__(self) -> tuple[object, ...]:
        # A relative path means the same file wherever it is unpickled.
        target = self._resource if "://" in self._resource else self._line.key
        timeout = None if self._timeout == FOREVER else self._timeout
        return _rebuild, (type(self), target, timeout, self._fair)


def _rebuild(kind: type[_BaseLock], target: str, timeout: float | None, fair: bool) -> _BaseLock:
    return kind(target, timeout=timeout, fair=fair)


class Lock(_BaseLock):
    """Mutual exclusion on a path or a named resource, between threads, processes and everybody who locks it.

    Not re-entrant: waiting without a timeout for what the same thread holds raises `DeadlockError`.
    One object may be shared by threads. A hold may be released by another thread than the one that acquired it.
    """

    __slots__ = ()

    def acquire(self, timeout: float | Unset | None = _UNSET) -> Hold:
        """Wait for the lock and return the hold.

        `timeout`: seconds, `None` for ever, 0 one attempt; left out, the lock's own. Raises `Timeout` (with the
        holder's name where the system knows it), `DeadlockError`, `UnsafePathError` or `UnsupportedError` for a
        path that cannot be locked, and the kernel's own `OSError`. Whatever is raised, KeyboardInterrupt
        included, nothing is held then.
        """
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        line = self._line
        claim = line.engine.claim(line, me.token, self._fair)
        try:
            if (
                not line.queue
                and turns.setdefault(line, claim) is claim
                and line.engine.try_now(claim, limit)
            ):
                return hold_on(Hold, claim)
            return self._wait(claim, limit)
        except BaseException:
            abandon(claim)
            raise

    def try_acquire(self) -> Hold | None:
        """One attempt, without waiting. `None`: somebody else holds it."""
        line = self._line
        claim = line.engine.claim(line, me.token, self._fair)
        try:
            return self._contend(claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    def _wait(self, claim: Claim, limit: float) -> Hold:
        hold = self._contend(claim, limit)
        if hold is None:
            raise self._timed_out(monotonic() - claim.began)
        return hold

    def _contend(self, claim: Claim, limit: float) -> Hold | None:
        from ._io.blocking import io

        claim.began = began = monotonic()
        mine = self._held_by(claim.owner)
        if mine is not None:
            if self._reentrant:
                return _reenter(Hold, mine)
            if limit == FOREVER:
                raise self._self_deadlock()
        if run(acquire(io, Place(io, claim), began + limit)):
            return hold_on(Hold, claim)
        return None

    def __enter__(self) -> Hold:
        # `acquire` again, and `Hold.release` in `__exit__`, with fewer calls between: everybody's hot path.
        line = self._line
        engine = line.engine
        claim = engine.claim_type()
        claim.line = line
        claim.owner = me.token
        if self._fair:
            claim.fair = True
        try:
            if not line.queue and turns.setdefault(line, claim) is claim and engine.try_now(claim, self._timeout):
                hold = Hold()
                hold._claim = claim
            else:
                hold = self._wait(claim, self._timeout)
            if self._entered is not None:  # the body of an open block has released it
                self._blocks.append(self._entered)
            self._entered = hold
            return hold
        except BaseException:
            abandon(claim)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._entered
        claim = hold._claim  # type: ignore[union-attr]
        # No claim: the body released it, and since then another thread may have entered. A depth of 0: a forked child.
        # More than 1: an RLock has re-entered, and is still held.
        if claim is None or claim.depth != 1 or (claim.line.by_hand and claim.owner is not me.token):
            if claim is not None and claim.owner is me.token:
                hold._let_go()  # type: ignore[union-attr]
            return
        line = claim.line
        try:
            line.engine.drop(claim)
            if turns.get(line) is claim:
                del turns[line]
            if line.queue:
                wake_first(line)
            hold._was = claim  # type: ignore[union-attr]
            hold._claim = None  # type: ignore[union-attr]
        except BaseException:
            hold._end(claim, 1)  # type: ignore[union-attr]
            raise


class RLock(Lock):
    """`Lock`, re-entrant per thread: who holds it may acquire it again, and must release as often.

    Any `RLock` on the same resource re-enters, not only the same object.
    """

    __slots__ = ()
    _reentrant = True

    def __enter__(self) -> Hold:
        hold = self.acquire()
        try:
            self._blocks.append(hold)
            return hold
        except BaseException:
            hold._let_go()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_block(_this_thread)


class AsyncLock(_BaseLock):
    """`Lock` for tasks of asyncio and trio: the same verbs, awaited. No thread per waiter; the two worlds exclude
    each other and threads. Cancelling an acquire leaves nothing held. The owner that `DeadlockError` speaks of
    is the task.
    """

    __slots__ = ()

    async def acquire(self, timeout: float | Unset | None = _UNSET) -> AsyncHold:
        """Wait for the lock and return the hold; see `Lock.acquire` for arguments and errors."""
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        io = running()
        line = self._line
        claim = line.engine.claim(line, io.owner(), self._fair)
        try:
            if (
                not line.queue
                and turns.setdefault(line, claim) is claim
                and line.engine.try_now(claim, limit)
            ):
                return hold_on(AsyncHold, claim)
            hold = await self._contend(io, claim, limit)
            if hold is not None:
                return hold
        except BaseException:
            abandon(claim)
            raise
        raise self._timed_out(monotonic() - claim.began)

    async def try_acquire(self) -> AsyncHold | None:
        """One attempt, without waiting. `None`: somebody else holds it."""
        io = running()
        line = self._line
        claim = line.engine.claim(line, io.owner(), self._fair)
        try:
            return await self._contend(io, claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    async def _contend(self, io: IO, claim: Claim, limit: float) -> AsyncHold | None:
        claim.began = began = monotonic()
        mine = self._held_by(claim.owner)
        if mine is not None:
            if self._reentrant:
                return _reenter(AsyncHold, mine)
            if limit == FOREVER:
                raise self._self_deadlock()
        if await acquire(io, Place(io, claim), began + limit):
            return hold_on(AsyncHold, claim)
        return None

    async def __aenter__(self) -> AsyncHold:
        hold = await self.acquire()
        self._blocks.append(hold)
        return hold

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_block(_this_task)


class AsyncRLock(AsyncLock):
    """`AsyncLock`, re-entrant per task."""

    __slots__ = ()
    _reentrant = True


def _this_thread() -> object:
    return me.token


def _this_task() -> object:
    return running().owner()


def _reenter(kind: type[H], claim: Claim) -> H:
    """One more hold on a claim. The hold gets it last, so that an interrupt in here counts nothing."""
    hold = kind()
    depth = claim.depth
    try:
        claim.depth = depth + 1
        hold._claim = claim
        return hold
    except BaseException:
        hold._was, hold._claim = claim, None
        claim.depth = depth
        raise
