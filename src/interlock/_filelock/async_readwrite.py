"""The read-write locks for tasks. Each task's hold is a claim of its own, so the kernel (or the log) arbitrates between
tasks as between processes, and nothing waits in a thread."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from .._core.acquire import acquire
from .._errors import LockError
from .._io import running
from ..engines import sqlite_ranges
from ..engines.sqlite_ranges import RangeClaim
from . import soft_readwrite as soft
from . import state
from .errors import Timeout
from .readwrite import Grant, Mode, ReadWriteLock, limit, refuse, refuse_closed
from .soft_readwrite import LogStake, Membership, SoftReadWriteLock

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable
    from concurrent.futures import Executor, ThreadPoolExecutor
    from types import TracebackType
    from typing import Any

    from ..engines.marker.members import Participant
    from .soft_lease import LeaseCompromise

__all__ = [
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy",
    "AsyncReadWriteLock",
    "AsyncSoftReadWriteLock",
]

LockT = TypeVar("LockT", bound="_TaskLock")


class _TaskHold:
    """What a task holds, and how often through which lock object."""

    def __init__(self, mode: Mode, via: object, claim: Any) -> None:
        self.mode: Mode = mode
        self.depths: dict[object, int] = {via: 1}
        self.claim = claim


_tables: WeakKeyDictionary[object, dict[asyncio.Task[Any], _TaskHold]] = WeakKeyDictionary()


class _Proxy(Generic[LockT]):
    """What `acquire_read` and `acquire_write` return: as an async context manager it releases one level."""

    def __init__(self, lock: LockT) -> None:
        self.lock: LockT = lock

    async def __aenter__(self) -> LockT:
        return self.lock

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lock.release()


class AsyncAcquireReadWriteReturnProxy(_Proxy["AsyncReadWriteLock"]):
    """See `AsyncReadWriteLock.acquire_read`."""


class AsyncAcquireSoftReadWriteReturnProxy(_Proxy["AsyncSoftReadWriteLock"]):
    """See `AsyncSoftReadWriteLock.acquire_read`."""


class _TaskLock(state.NotPickled):
    """Holds belong to tasks. A task re-enters in its own mode; a change of mode raises `RuntimeError`."""

    _backend: ReadWriteLock | SoftReadWriteLock
    _closed = False

    def _set_up(
        self,
        backend: ReadWriteLock | SoftReadWriteLock,
        loop: asyncio.AbstractEventLoop | None,
        executor: Executor | None,
    ) -> None:
        self._backend = backend
        self._process = state.process
        self._holds = _tables.setdefault(backend, {})
        self._loop = loop
        self._executor = executor

    # ---- what kinds define

    async def _enter(self, mode: Mode, deadline: float) -> Any:
        """Wait for a hold; returns what `_leave` gives back."""
        raise NotImplementedError

    async def _leave(self, claim: Any) -> None:
        raise NotImplementedError

    def _refuse_lost(self, hold: _TaskHold, mode: Mode) -> None:
        """Raise where the hold is gone although nobody released it."""

    def _closed_error(self) -> None:
        raise NotImplementedError

    # ---- acquire and release

    async def _acquire(self, mode: Mode, timeout: float | None, blocking: bool | None) -> None:
        self._refuse_unusable()
        wait = limit(self.timeout if timeout is None else timeout, self.blocking if blocking is None else blocking)
        task = _task()
        hold = self._holds.get(task)
        if hold is not None:
            if hold.mode != mode:
                way = "downgrade" if mode == "read" else "upgrade"
                raise RuntimeError(
                    f"Cannot acquire {mode} lock on {self.lock_file}: "
                    f"already holding a {hold.mode} lock ({way} not allowed)"
                )
            self._refuse_lost(hold, mode)
            hold.depths[self] = hold.depths.get(self, 0) + 1
            return
        claim = await self._enter(mode, monotonic() + wait)
        self._holds[task] = _TaskHold(mode, self, claim)
        if self._closed:  # meanwhile, by another task
            await self._end(task, self._holds[task])
            self._refuse_unusable()

    async def release(self, *, force: bool = False) -> None:
        """Give one level of this task's hold back; with `force`, every level that was taken through this object.

        Raises `RuntimeError` for what this task does not hold through this object.
        """
        if self._process is not state.process:
            return
        task = _task()
        hold = self._holds.get(task)
        if hold is None or self not in hold.depths:
            if force:
                return
            raise RuntimeError(
                f"Cannot release a lock on {self.lock_file} that is not held by this task through this wrapper"
            )
        if not force and hold.depths[self] > 1:
            hold.depths[self] -= 1
        else:
            await self._end(task, hold)

    async def _end(self, task: asyncio.Task[Any], hold: _TaskHold) -> None:
        """This object's part in a hold is over; with the last part, the hold."""
        hold.depths.pop(self, None)
        if hold.depths or self._holds.get(task) is not hold:
            return
        del self._holds[task]
        await running().shield(self._leave(hold.claim))

    async def close(self) -> None:
        """End the holds that tasks have through this object, and refuse from now on."""
        if self._process is not state.process or self._closed:
            return
        self._closed = True
        for task, hold in list(self._holds.items()):
            if self in hold.depths:
                await self._end(task, hold)

    def _refuse_unusable(self) -> None:
        if self._process is not state.process:
            raise RuntimeError(
                f"{type(self).__name__} on {self.lock_file} was invalidated by fork(); construct a new instance"
            )
        if self._closed:
            self._closed_error()

    @asynccontextmanager
    async def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncGenerator[None]:
        """`acquire_read` and `release` as a context."""
        await self._acquire("read", timeout, blocking)
        try:
            yield
        finally:
            await self.release()

    @asynccontextmanager
    async def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncGenerator[None]:
        """`acquire_write` and `release` as a context."""
        await self._acquire("write", timeout, blocking)
        try:
            yield
        finally:
            await self.release()

    # ---- properties

    @property
    def lock_file(self) -> str:
        """The path, as it was given."""
        return self._backend.lock_file

    @property
    def timeout(self) -> float:
        """Default of the acquires, in seconds."""
        return self._backend.timeout

    @property
    def blocking(self) -> bool:
        """Default of the acquires: wait, or attempt once?"""
        return self._backend.blocking

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """As given; the running loop is used in any case."""
        return self._loop


class AsyncReadWriteLock(_TaskLock):
    """`ReadWriteLock` for tasks. No task waits in a thread."""

    _own_executor: ThreadPoolExecutor | None = None

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        loop: asyncio.AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> None:
        backend = ReadWriteLock(lock_file, timeout, blocking=blocking, is_singleton=is_singleton)
        self._set_up(backend, loop, executor)

    @property
    def executor(self) -> Executor:
        """The one given. This lock needs none; who asks without having given one gets one of a single thread."""
        if self._executor is not None:
            return self._executor
        if self._own_executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._own_executor = ThreadPoolExecutor(max_workers=1)
        return self._own_executor

    async def acquire_read(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReadWriteReturnProxy:
        """Wait until no writer is in; see `ReadWriteLock.acquire_read`."""
        await self._acquire("read", timeout, blocking)
        return AsyncAcquireReadWriteReturnProxy(self)

    async def acquire_write(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReadWriteReturnProxy:
        """Wait until nobody else is in; see `ReadWriteLock.acquire_write`."""
        await self._acquire("write", timeout, blocking)
        return AsyncAcquireReadWriteReturnProxy(self)

    async def _enter(self, mode: Mode, deadline: float) -> Grant:
        io = running()
        assert isinstance(self._backend, ReadWriteLock)
        grant = Grant()
        claim = grant.claim = RangeClaim(self._backend._line, io.owner(), mode == "write")
        try:
            granted = sqlite_ranges.engine().attempt(claim) or await acquire(io, claim, deadline)
        except LockError as error:
            refuse(error, self.lock_file)
        if not granted:
            raise Timeout(self.lock_file)
        return grant

    async def _leave(self, claim: Grant) -> None:
        claim.drop()

    def _closed_error(self) -> None:
        refuse_closed()

    async def close(self) -> None:
        """End the holds that tasks have through this object, and refuse from now on."""
        await super().close()
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=True)
            self._own_executor = None


class _TaskHome:
    """Whom the membership of one task reports to."""

    def __init__(self, lock: AsyncSoftReadWriteLock) -> None:
        self.lock_file = lock.lock_file
        backend = lock._soft
        self.heartbeat_interval = backend.heartbeat_interval
        self.stale_threshold = backend.stale_threshold
        self._lock = lock
        self.membership: Membership | None = None

    def _was_lost(self, membership: Membership) -> None:
        loss = membership.lost
        self._lock._last_loss = loss
        callback = self._lock._soft._on_compromise
        if callback is not None and loss is not None:
            callback(loss)


class _TaskStake(LogStake):
    """File operations of the log run in the executor: each one waits for a disk or a server."""

    def __init__(self, participant: Participant, poll_interval: float, executor: Executor | None) -> None:
        super().__init__(participant, poll_interval)
        self._executor = executor

    async def aside(self, function: Callable[[], Any]) -> Any:
        return await running().shield(_in_executor(self._executor, function))


async def _in_executor(executor: Executor | None, function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, function)


class AsyncSoftReadWriteLock(_TaskLock):
    """`SoftReadWriteLock` for tasks; its file operations run in the executor."""

    _last_loss: LeaseCompromise | None = None

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        heartbeat_interval: float = 30.0,
        stale_threshold: float | None = None,
        poll_interval: float = 0.25,
        on_compromise: Callable[[LeaseCompromise], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> None:
        backend = SoftReadWriteLock(
            lock_file, timeout, blocking=blocking, is_singleton=is_singleton, heartbeat_interval=heartbeat_interval,
            stale_threshold=stale_threshold, poll_interval=poll_interval, on_compromise=on_compromise,
        )  # fmt: skip
        self._set_up(backend, loop, executor)

    @property
    def _soft(self) -> SoftReadWriteLock:
        assert isinstance(self._backend, SoftReadWriteLock)
        return self._backend

    @property
    def executor(self) -> Executor | None:
        """The one given; None: the loop's own."""
        return self._executor

    @property
    def generation(self) -> int | None:
        """The generation of the calling task's hold; outside of tasks, of the latest hold of any."""
        found = [hold.claim.membership.participant.generation for hold in self._visible()]
        return max((number for number in found if number is not None), default=None)

    def _visible(self) -> list[_TaskHold]:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None:
            hold = self._holds.get(task)
            return [] if hold is None else [hold]
        return list(self._holds.values())

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the last hold through this object was lost, or None."""
        return self._last_loss

    async def acquire_read(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireSoftReadWriteReturnProxy:
        """Wait until no writer is in or waits; see `SoftReadWriteLock.acquire_read`."""
        await self._acquire("read", timeout, blocking)
        return AsyncAcquireSoftReadWriteReturnProxy(self)

    async def acquire_write(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireSoftReadWriteReturnProxy:
        """Wait until nobody else is in; see `SoftReadWriteLock.acquire_write`."""
        await self._acquire("write", timeout, blocking)
        return AsyncAcquireSoftReadWriteReturnProxy(self)

    async def _enter(self, mode: Mode, deadline: float) -> _TaskHome:
        participant = self._soft._participant(mode)
        stake = _TaskStake(participant, self._soft.poll_interval, self._executor)
        try:
            granted = await acquire(running(), stake, deadline)
        except LockError as error:
            soft.refuse(error, self.lock_file)
        if not granted:
            raise Timeout(self.lock_file)
        self._last_loss = None
        home = _TaskHome(self)
        try:
            home.membership = Membership(home, participant)
        except BaseException:
            participant.leave()
            raise
        return home

    async def _leave(self, claim: _TaskHome) -> None:
        assert claim.membership is not None
        await _in_executor(self._executor, claim.membership.end)

    def _refuse_lost(self, hold: _TaskHold, mode: Mode) -> None:
        loss = hold.claim.membership.lost
        if loss is not None:
            raise RuntimeError(
                f"Cannot acquire {mode} lock on {self.lock_file}: the current hold was lost ({loss.reason}), "
                "release it before acquiring again"
            )

    def _closed_error(self) -> None:
        raise RuntimeError(f"{type(self).__name__} on {self.lock_file} has been closed")


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an async read-write lock belongs to a task: call it from one")
    return task
