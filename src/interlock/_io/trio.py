"""Waiting as a trio task: no thread per waiter; one system task per run and source, from first wait to run's end, or,
where the source is not here to stay, while somebody waits."""

from __future__ import annotations

from _thread import get_ident
from contextlib import contextmanager
from time import monotonic
from weakref import ref

import trio

from .._wait.workers import workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any, TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")


def is_running() -> bool:
    return trio.lowlevel.in_trio_run() and trio.lowlevel.in_trio_task()


class _EventParker:
    __slots__ = ("_event", "_set", "_thread", "_token", "source")

    def __init__(self, source: Source | None) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._thread = get_ident()
        self._set = False
        self._event: trio.Event | None = None
        self.source = source

    def unpark(self) -> None:
        self._set = True
        if get_ident() == self._thread:
            self._resolve()
        else:
            try:
                self._token.run_sync_soon(self._resolve)
            except trio.RunFinishedError:  # its tasks are gone
                pass

    def _resolve(self) -> None:
        if self._event is not None:
            self._event.set()

    async def sleep(self, until: float) -> bool:
        if self._set:
            await trio.lowlevel.checkpoint()  # who is always woken must not keep the holder, a task too, from its turn
        else:
            self._event = event = trio.Event()
            try:
                if not self._set:  # set by another thread since we looked
                    with trio.move_on_after(max(until - monotonic(), 0)):
                        await event.wait()
            finally:
                self._event = None
        was_set, self._set = self._set, False
        return was_set


async def _read(source: Source) -> None:
    while True:
        await trio.lowlevel.wait_readable(source.fileno())
        source.drain()


async def _read_once(source: Source, scope: trio.CancelScope) -> None:
    with scope:
        try:
            await trio.lowlevel.wait_readable(source.fileno())
        except (OSError, trio.ClosedResourceError):
            pass  # it was closed in between: the one who waits finds that out. Raised here, it ends the run
        source.drain()


_read_here: trio.lowlevel.RunVar[set[int]] = trio.lowlevel.RunVar("interlock_sources")


class _Scope:
    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._token = trio.lowlevel.current_trio_token()

    def cancel(self) -> None:
        try:
            self._token.run_sync_soon(self._scope.cancel)
        except trio.RunFinishedError:  # its tasks are gone
            pass


class _Job:
    """A call in a worker thread, and the event of its end."""

    def __init__(self, fn: Callable[..., Any], args: tuple[object, ...]) -> None:
        self._fn, self._args = fn, args
        self._token = trio.lowlevel.current_trio_token()
        self.done = trio.Event()
        self._answer: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._answer = self._fn(*self._args)
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self._error = error
        try:
            self._token.run_sync_soon(self.done.set)
        except trio.RunFinishedError:  # its tasks are gone
            pass

    def answer(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or it would refer to itself, through this frame
        return self._answer


class TrioIO:
    __slots__ = ()

    def now(self) -> float:
        return monotonic()

    def owner(self) -> object:
        return ref(trio.lowlevel.current_task())  # weak, as for asyncio

    def parker(self, source: Source | None = None) -> Parker:
        return _EventParker(source)

    async def park(self, parker: Parker, until: float) -> bool:
        assert isinstance(parker, _EventParker)
        source = parker.source
        if source is None:
            return await parker.sleep(until)
        if getattr(source, "passing", False):
            scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(_read_once, source, scope)
            try:
                return await parker.sleep(until)
            finally:
                scope.cancel()
        try:
            sources = _read_here.get()
        except LookupError:
            sources = set()
            _read_here.set(sources)
        fd = source.fileno()
        if fd not in sources:
            sources.add(fd)
            trio.lowlevel.spawn_system_task(_read, source)
        return await parker.sleep(until)

    @contextmanager
    def scope(self) -> Iterator[_Scope]:
        with trio.CancelScope() as scope:
            yield _Scope(scope)

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def work(self, fn: Callable[..., T], *args: object) -> T:
        """In a worker thread; a cancellation is delivered when it has ended."""
        job = _Job(fn, args)
        workers().submit(job.run)
        with trio.CancelScope(shield=True):
            await job.done.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return job.answer()  # type: ignore[no-any-return]

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        with trio.CancelScope(shield=True):
            result = await awaitable
        return result


io = TrioIO()
