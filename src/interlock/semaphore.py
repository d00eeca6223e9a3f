"""`Semaphore` and `AsyncSemaphore`: so many holders at a time, each with a slot of its own."""

from __future__ import annotations

from operator import index
from time import monotonic

from ._core.acquire import acquire, run
from ._core.arbiter import Place, abandon, granted, line_for, share, turns
from ._deadline import FOREVER, seconds
from ._errors import DeadlockError, UnsupportedError
from ._hold import AsyncHold, Hold, hold_on
from ._identity import me
from ._io import running
from ._target import refuse_to_pickle, resolve, shown
from .lock import _UNSET, _BaseLock, _this_task, _this_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from types import TracebackType
    from typing import Any, Self

    from ._model import IO, Claim
    from .lock import Unset

__all__ = ["AsyncSemaphore", "AsyncSemaphoreHold", "Semaphore", "SemaphoreHold"]

MOST = 1 << 20


class SemaphoreHold(Hold):
    """A permit held."""

    __slots__ = ()

    @property
    def slot(self) -> int:
        """A number from 0 to permits - 1 that no other holder has, the same as long as this one is held. The lowest
        that was free: a GPU, a port, a licence."""
        slot = (self._claim or self._was).slot
        assert slot is not None
        return slot

    @property
    def token(self) -> None:
        """None: holders of a semaphore are beside each other, so no number can say whose write is late."""
        return

    def __enter__(self) -> Self:
        return self


class AsyncSemaphoreHold(AsyncHold):
    """`SemaphoreHold` for tasks."""

    __slots__ = ()

    @property
    def slot(self) -> int:
        """See `SemaphoreHold.slot`."""
        slot = (self._claim or self._was).slot
        assert slot is not None
        return slot

    @property
    def token(self) -> None:
        """None: holders of a semaphore are beside each other, so no number can say whose write is late."""
        return

    async def __aenter__(self) -> Self:
        return self


class _BaseSemaphore(_BaseLock):
    """The options of a semaphore. Not one by itself."""

    __slots__ = ("_permits", "_ttl")

    def __init__(
        self,
        target: str | os.PathLike[str],
        permits: int,
        *,
        timeout: float | None = None,
        fair: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Name a semaphore; nothing is opened or locked yet.

        `target` is what `Lock` takes: the path of a lock file, or an URL. On a path it needs Linux and a local
        filesystem, else `UnsupportedError`. `permits` (1 to 1,048,576): how many hold at most; all who use the
        target must say the same, else `acquire` raises `ProtocolError` for those who come later.
        `timeout` (seconds; `None`: for ever; 0: one attempt) is used where `acquire` is given none.
        `fair=True`: strictly in order of arrival. `ttl` is for leases, as in `Lock`.
        """
        if isinstance(permits, bool):
            raise TypeError("permits is a number, not a bool")
        try:
            number = index(permits)
        except TypeError:
            raise TypeError(f"permits is a number from 1 to {MOST}, not {permits!r}") from None
        if not 1 <= number <= MOST:
            raise ValueError(f"permits is a number from 1 to {MOST}, not {number}")
        self._permits = number
        self._blocks: list[Any] = []
        self._timeout = seconds(timeout)
        self._fair = fair
        self._primitive = "auto"
        self._ttl = ttl
        line = resolve(target, ttl=ttl, kind="semaphore")
        engine: Any = line.engine
        if not hasattr(engine, "counting"):
            raise UnsupportedError(f"{line.resource}: {engine.traits.name} has no semaphores; use Lock")
        counting = engine.counting(line.key)
        if fair:
            counting.require_fair(line.key)
        self._line = line_for(counting, line.key, line.resource)
        self._line.secret = line.secret
        self._resource = shown(target)

    @property
    def permits(self) -> int:
        """How many hold at most."""
        return self._permits

    @property
    def held(self) -> bool:
        """Does this process hold a permit now, by whatever object?"""
        return any(claim.line is self._line for claim in tuple(granted))

    def _claim(self, owner: object) -> Claim:
        claim: Claim = self._line.engine.claim(self._line, owner, self._fair)
        claim.permits = self._permits
        return claim

    def _refuse_own(self, claim: Claim) -> None:
        """All permits are this thread's or task's: it would wait for itself."""
        mine = [other for other in tuple(granted) if other.line is claim.line and other.owner is claim.owner]
        if len(mine) >= self._permits:
            raise DeadlockError(
                f"all {self._permits} permits of {self.resource} are held by this very thread or task: it would wait "
                "for itself for ever. Release one first, or give a timeout"
            )

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_pickle(self._line)
        target = self._resource if "://" in self._resource else self._line.key
        timeout = None if self._timeout == FOREVER else self._timeout
        return _rebuild, (type(self), target, self._permits, timeout, self._fair, self._ttl)


def _rebuild(
    kind: type[_BaseSemaphore], target: str, permits: int, timeout: float | None, fair: bool, ttl: float | None = None
) -> _BaseSemaphore:
    return kind(target, permits, timeout=timeout, fair=fair, ttl=ttl)


class Semaphore(_BaseSemaphore):
    """At most `permits` holders at a time, of threads, tasks and processes. A holder that dies gives its permit back.

    A `Lock` on the same path excludes them all. A thread may hold several permits.
    """

    __slots__ = ()

    def acquire(self, timeout: float | Unset | None = _UNSET) -> SemaphoreHold:
        """Wait for a permit and return the hold; see `Lock.acquire` for arguments and errors, and `ProtocolError` where
        others use the target with another number of permits."""
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        line = self._line
        claim = self._claim(me.token)
        try:
            if not line.queue and turns.setdefault(line, claim) is claim and line.engine.try_now(claim, limit):
                share(claim)
                return hold_on(SemaphoreHold, claim)
            hold = self._contend(claim, limit)
            if hold is not None:
                return hold
        except BaseException:
            abandon(claim)
            raise
        raise self._timed_out(monotonic() - claim.began)

    def try_acquire(self) -> SemaphoreHold | None:
        """One attempt, without waiting. `None`: all permits are held."""
        claim = self._claim(me.token)
        try:
            return self._contend(claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    def _contend(self, claim: Claim, limit: float) -> SemaphoreHold | None:
        from ._io.blocking import io

        claim.began = began = monotonic()
        if limit == FOREVER:
            self._refuse_own(claim)
            self._refuse_own_tasks(claim)
        if run(acquire(io, Place(io, claim), began + limit)):
            share(claim)
            return hold_on(SemaphoreHold, claim)
        return None

    def __enter__(self) -> SemaphoreHold:
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


class AsyncSemaphore(_BaseSemaphore):
    """`Semaphore` for tasks of asyncio and trio: the same verbs, awaited."""

    __slots__ = ()

    async def acquire(self, timeout: float | Unset | None = _UNSET) -> AsyncSemaphoreHold:
        """See `Semaphore.acquire`. Cancelled, it leaves nothing held."""
        began = monotonic()
        hold = await self._contend(running(), self._timeout if timeout is _UNSET else seconds(timeout))
        if hold is None:
            raise await self._timed_out_async(monotonic() - began)
        return hold

    async def try_acquire(self) -> AsyncSemaphoreHold | None:
        """One attempt, without waiting. `None`: all permits are held."""
        return await self._contend(running(), 0.0)

    async def _contend(self, io: IO, limit: float) -> AsyncSemaphoreHold | None:
        claim = self._claim(io.owner())
        claim.thread = me.token
        try:
            claim.began = began = monotonic()
            if limit == FOREVER:
                self._refuse_own(claim)
            if await acquire(io, Place(io, claim), began + limit):
                share(claim)
                return hold_on(AsyncSemaphoreHold, claim)
        except BaseException:
            abandon(claim)
            raise
        return None

    async def __aenter__(self) -> AsyncSemaphoreHold:
        hold = await self.acquire()
        try:
            self._blocks.append(hold)
            return hold
        except BaseException:
            hold._let_go()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block_to_leave(_this_task)._leave(kind)
