"""Threads, asyncio tasks and trio tasks under the same verbs, so that every test of the suite is written once.

A scenario is a coroutine. In the world of threads it never suspends (as the core over the blocking io), and each
contender that it starts is a thread; in the others it is a task among tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from ... import AsyncHold, AsyncLock, AsyncRLock, Hold, Lock, RLock
from ..._core.acquire import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from ..._model import IO

T = TypeVar("T")
AnyLock = Lock | AsyncLock
AnyHold = Hold | AsyncHold

PATIENCE = 60.0
"""Seconds after which something that must happen counts as not happening. Nothing passes because they went by."""


class Job(ABC):
    """A contender that was started."""

    @abstractmethod
    def cancel(self) -> None: ...


class Group(ABC):
    """Contenders that are all waited for at the end of its block."""

    @abstractmethod
    def start(self, fn: Callable[..., Coroutine[Any, Any, object]], *args: object) -> Job: ...


class World(ABC):
    """One io and what tests need around it."""

    name: ClassVar[str]
    many: ClassVar[int]
    """How many contenders are many here."""

    def __init__(self) -> None:
        self.patience = PATIENCE

    @abstractmethod
    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T: ...
    @abstractmethod
    def io(self) -> IO: ...
    @abstractmethod
    async def pause(self, seconds: float = 0.0) -> None: ...
    @abstractmethod
    def group(self) -> AbstractAsyncContextManager[Group]: ...

    def lock(self, target: str, **options: Any) -> AnyLock:
        return AsyncLock(target, **options)

    def rlock(self, target: str, **options: Any) -> AnyLock:
        return AsyncRLock(target, **options)

    async def acquire(self, lock: AnyLock, *timeout: Any) -> AnyHold:
        return await cast("AsyncLock", lock).acquire(*timeout)

    async def try_acquire(self, lock: AnyLock) -> AnyHold | None:
        return await cast("AsyncLock", lock).try_acquire()

    async def release(self, hold: AnyHold) -> None:
        await cast("AsyncHold", hold).release()

    async def renew(self, hold: AnyHold) -> None:
        await cast("AsyncHold", hold).renew()

    def block(self, thing: AnyLock | AnyHold) -> AbstractAsyncContextManager[AnyHold]:
        """`with thing`, or `async with thing`."""
        return cast("AsyncHold", thing)

    async def until(self, true: Callable[[], object], what: str = "it") -> None:
        """Wait for a fact. Fails when it does not come."""
        limit = time.monotonic() + self.patience
        while not true():
            assert time.monotonic() < limit, f"{what} did not happen within {self.patience} s"
            await self.pause(0.001)

    async def elsewhere(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """The result (or the exception) of `fn` in another thread or task."""
        box: list[T] = []
        errors: list[Exception] = []

        async def job() -> None:
            try:
                box.append(await fn(*args))
            except Exception as error:  # noqa: BLE001 - handed to the caller
                errors.append(error)

        async with self.group() as group:
            group.start(job)
        if errors:
            raise errors[0]
        return box[0]

    async def other_gets(self, target: str) -> bool:
        """Does an attempt of another contender succeed? It lets go again."""

        async def attempt() -> bool:
            hold = await self.try_acquire(self.lock(target))
            if hold is not None:
                await self.release(hold)
            return hold is not None

        return await self.elsewhere(attempt)


class _Thread(threading.Thread, Job):
    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._coroutine = coroutine

    def run(self) -> None:
        try:
            run(self._coroutine)
        except BaseException as error:  # noqa: BLE001 - raised where the thread is waited for
            self.error = error

    def cancel(self) -> None:
        raise AssertionError("threads cannot be cancelled")


class _ThreadGroup(Group):
    def __init__(self) -> None:
        self.threads: list[_Thread] = []

    def start(self, fn: Callable[..., Coroutine[Any, Any, object]], *args: object) -> Job:
        thread = _Thread(fn(*args))
        self.threads.append(thread)
        thread.start()
        return thread


class Threads(World):
    name = "blocking"
    many = 100

    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return run(scenario(*args))

    def io(self) -> IO:
        from ..._io.blocking import io

        return io

    async def pause(self, seconds: float = 0.0) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this coroutine runs in a thread of its own

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        group = _ThreadGroup()
        yield group
        for thread in group.threads:
            thread.join(3 * self.patience)
            assert not thread.is_alive(), "a thread hangs"
        for thread in group.threads:
            if thread.error is not None:
                raise thread.error

    def lock(self, target: str, **options: Any) -> AnyLock:
        return Lock(target, **options)

    def rlock(self, target: str, **options: Any) -> AnyLock:
        return RLock(target, **options)

    async def acquire(self, lock: AnyLock, *timeout: Any) -> AnyHold:
        return cast("Lock", lock).acquire(*timeout)

    async def try_acquire(self, lock: AnyLock) -> AnyHold | None:
        return cast("Lock", lock).try_acquire()

    async def release(self, hold: AnyHold) -> None:
        cast("Hold", hold).release()

    async def renew(self, hold: AnyHold) -> None:
        cast("Hold", hold).renew()

    @asynccontextmanager
    async def block(self, thing: AnyLock | AnyHold) -> AsyncIterator[AnyHold]:
        with cast("Lock", thing) as hold:
            yield hold


class TaskWorld(World):
    """What only tasks have: cancellation, and deadlines around any code."""

    many = 300

    @abstractmethod
    def limit(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Cancel the block after these seconds and raise `TimeoutError`."""


class _AsyncioJob(Job):
    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class _AsyncioGroup(Group):
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def start(self, fn: Callable[..., Coroutine[Any, Any, object]], *args: object) -> Job:
        return _AsyncioJob(self._group.create_task(fn(*args)))


class Asyncio(TaskWorld):
    name = "asyncio"

    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return asyncio.run(scenario(*args))

    def io(self) -> IO:
        from ..._io.asyncio import io_of_running_loop

        return io_of_running_loop()

    async def pause(self, seconds: float = 0.0) -> None:
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        async with asyncio.TaskGroup() as group:
            yield _AsyncioGroup(group)

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[object]:
        async with asyncio.timeout(seconds) as scope:
            yield scope


class _TrioJob(Job):
    def __init__(self, fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        import trio

        self._scope = trio.CancelScope()
        self._fn = fn
        self._args = args

    async def run(self) -> None:
        with self._scope:
            await self._fn(*self._args)

    def cancel(self) -> None:
        self._scope.cancel()


class _TrioGroup(Group):
    def __init__(self, nursery: Any) -> None:
        self._nursery = nursery

    def start(self, fn: Callable[..., Coroutine[Any, Any, object]], *args: object) -> Job:
        job = _TrioJob(fn, args)
        self._nursery.start_soon(job.run)
        return job


class Trio(TaskWorld):
    name = "trio"

    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        import trio

        return trio.run(scenario, *args)

    def io(self) -> IO:
        from ..._io.trio import io

        return io

    async def pause(self, seconds: float = 0.0) -> None:
        import trio

        await trio.sleep(seconds)

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        import trio

        async with trio.open_nursery() as nursery:
            yield _TrioGroup(nursery)

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[object]:
        import trio

        with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
            yield scope
        if scope.cancelled_caught:
            raise TimeoutError
