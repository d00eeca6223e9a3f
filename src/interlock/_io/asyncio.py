"""Waiting as an asyncio task: no thread per waiter; one reader per event loop and source, only while somebody waits."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from time import monotonic
from weakref import WeakKeyDictionary, ref

from .._wait.workers import workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Any, TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")


class _FutureParker:
    """Refers weakly to the loop and to what the task awaits: whoever can wake a task must not keep it alive. A loop
    that is given up with tasks in it can so be collected, which ends their waiting."""

    __slots__ = ("_future", "_loop", "_set", "source")

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source | None) -> None:
        self._loop = ref(loop)
        self._set = False
        self._future: ref[asyncio.Future[None]] | None = None
        self.source = source

    def unpark(self) -> bool:
        self._set = True
        loop = self._loop()
        if loop is None or loop.is_closed():
            return False
        try:
            if _get_running_loop() is loop:  # not the thread's ident: a loop may go on in another thread
                self._resolve()
            else:
                loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:  # closed since we looked
            return False
        return True

    def _resolve(self) -> None:
        waiting = self._future
        future = None if waiting is None else waiting()
        if future is not None and not future.done():
            future.set_result(None)

    async def sleep(self, until: float) -> bool:
        if self._set:
            self._set = False
            await asyncio.sleep(0)  # who is always woken must not keep the holder, a task of this loop, from its turn
            return True
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._future = ref(future)
        timer = None
        if until != float("inf"):
            timer = loop.call_later(until - monotonic(), self._resolve)
        try:
            if not self._set:  # set by another thread since we looked
                await future
            return self._set
        finally:
            self._set = False
            self._future = None
            if timer is not None:
                timer.cancel()


class _TaskScope:
    """As `asyncio.timeout` does it, with a cancellation that comes from any thread in place of a clock."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a scope needs a task that it can cancel")
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._cancelled = False

    def __enter__(self) -> _TaskScope:
        self._before = self._task.cancelling()
        return self

    def cancel(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # the loop is closed over its tasks
            pass

    def _cancel(self) -> None:
        if self._open and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._open = False
        if not self._cancelled:
            return False
        ours = self._task.uncancel() <= self._before
        return ours and kind is asyncio.CancelledError


class AsyncioIO:
    """The io of one event loop. Keeps no reference to the loop: loops come and go, and this is keyed by them."""

    __slots__ = ("__weakref__", "_readers")

    def __init__(self) -> None:
        self._readers: dict[int, int] = {}

    def now(self) -> float:
        return monotonic()

    def owner(self) -> object:
        # Weak: a task that fails keeps its frames, so a claim that kept the task would keep the hold in them for ever.
        # `ref` gives the same reference each time, as long as anybody has it.
        task = asyncio.current_task()
        return object() if task is None else ref(task)  # a coroutine that is driven by hand is nobody else

    def parker(self, source: Source | None = None) -> Parker:
        return _FutureParker(asyncio.get_running_loop(), source)

    async def park(self, parker: Parker, until: float) -> bool:
        assert isinstance(parker, _FutureParker)
        source = parker.source
        if source is None:
            return await parker.sleep(until)
        fd = source.fileno()
        loop = asyncio.get_running_loop()
        count = self._readers.get(fd, 0)
        if not count:
            loop.add_reader(fd, source.drain)
        self._readers[fd] = count + 1
        try:
            return await parker.sleep(until)
        finally:
            self._readers[fd] -= 1
            if not self._readers[fd]:
                del self._readers[fd]
                if not loop.is_closed():
                    loop.remove_reader(fd)

    def scope(self) -> _TaskScope:
        return _TaskScope()

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def work(self, fn: Callable[..., T], *args: object) -> T:
        """In a worker thread. Cancelled meanwhile, the task waits for the answer first: not being waited for would not
        undo the request."""
        job = _Job(fn, args)
        workers().submit(job.run)
        cancelled = None
        while not job.done.done():
            try:
                await asyncio.shield(job.done)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return job.answer()  # type: ignore[no-any-return]

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """Run to the end. Inline while nothing suspends; else in a task of its own, and a cancellation that
        comes meanwhile is delivered afterwards."""
        try:
            pending = awaitable.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        task = asyncio.ensure_future(_rest(awaitable, pending))
        cancelled = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if task.cancelled():
                    break
                cancelled = error
        if cancelled is not None:
            task.exception()
            raise cancelled
        return task.result()


class _Job:
    """A call in a worker thread, and the future that is done when it has ended."""

    def __init__(self, fn: Callable[..., Any], args: tuple[object, ...]) -> None:
        self._fn, self._args = fn, args
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._answer: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._answer = self._fn(*self._args)
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self._error = error
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop is closed over its tasks
            pass

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def answer(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or it would refer to itself, through this frame
        return self._answer


class _Resumed:
    """A coroutine that has begun to wait for `pending`, to be awaited on from here."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], pending: object) -> None:
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._pending
        try:
            while True:
                try:
                    answer = yield pending
                except BaseException as error:  # noqa: BLE001 - forwarded, not handled
                    pending = self._coroutine.throw(error)
                else:
                    pending = self._coroutine.send(answer)
        except StopIteration as end:
            return end.value


async def _rest(coroutine: Coroutine[Any, Any, T], pending: object) -> T:
    result: T = await _Resumed(coroutine, pending)
    return result


_ios: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioIO] = WeakKeyDictionary()


def io_of_running_loop() -> AsyncioIO:
    loop = asyncio.get_running_loop()
    try:
        return _ios[loop]
    except KeyError:
        return _ios.setdefault(loop, AsyncioIO())
