"""The locks of `api` for tasks: the same coroutines, awaited instead of driven. No thread waits for a lock.

Holds and waits of the engines need no thread at all. Hooks that a subclass defines may block, so they run in an
executor unless `run_in_executor=False`; a coroutine function as a hook is awaited.
"""

from __future__ import annotations

import asyncio
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from .._io import running
from . import options, state
from .api import BaseFileLock
from .meta import FileLockMeta
from .native import UnixFileLock, WindowsFileLock

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from concurrent.futures import Executor
    from types import TracebackType
    from typing import Any, NoReturn, Self, TypeVar

    from .._model import IO
    from .state import FileLockContext

    T = TypeVar("T", bound="BaseAsyncFileLock")

__all__ = ["AsyncAcquireReturnProxy", "AsyncUnixFileLock", "AsyncWindowsFileLock", "BaseAsyncFileLock"]

_SYNC = "Use `async with`: acquire and release of this lock are coroutines."


class AsyncFileLockMeta(FileLockMeta):
    """Adds the options of tasks."""

    def __call__(  # type: ignore[misc] # the class of classes: cls is a lock class
        cls: type[T],  # noqa: N805
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = options.UNSET_MODE,
        thread_local: bool = False,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: options.ContextErrorPolicy = "chain",
        close_error_policy: options.CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        run_in_executor: bool = True,
        executor: Executor | None = None,
        **extra: Any,
    ) -> T:
        if thread_local and run_in_executor:
            raise ValueError("run_in_executor is not supported when thread_local is True")
        return FileLockMeta.__call__(
            cls, lock_file, timeout, mode, thread_local, blocking=blocking, is_singleton=is_singleton,
            poll_interval=poll_interval, lifetime=lifetime, context_error_policy=context_error_policy,
            close_error_policy=close_error_policy, fallback_to_soft=fallback_to_soft,
            preserve_lock_file=preserve_lock_file, on_acquired=on_acquired, loop=loop,
            run_in_executor=run_in_executor, executor=executor, **extra,
        )  # fmt: skip


class BaseAsyncFileLock(BaseFileLock, metaclass=AsyncFileLockMeta):
    """A lock on a path whose verbs are awaited; abstract. Its hold is shared by all tasks unless `thread_local`."""

    _holder_words = "BaseAsyncFileLock instance in this task"
    _lifetime_warning_level = 3
    _gated = True

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = options.UNSET_MODE,
        thread_local: bool = False,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: options.ContextErrorPolicy = "chain",
        close_error_policy: options.CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        run_in_executor: bool = True,
        executor: Executor | None = None,
    ) -> None:
        """See `BaseFileLock`. `run_in_executor`, `executor`: where hooks of subclasses run that are no coroutine
        functions. `loop`: where the coroutine hooks of a lock that was dropped unreleased run."""
        self._loop = loop
        self._run_in_executor = run_in_executor
        self._executor = executor
        super().__init__(
            lock_file, timeout, mode, thread_local, blocking=blocking, is_singleton=is_singleton,
            poll_interval=poll_interval, lifetime=lifetime, context_error_policy=context_error_policy,
            close_error_policy=close_error_policy, fallback_to_soft=fallback_to_soft,
            preserve_lock_file=preserve_lock_file, on_acquired=on_acquired,
        )  # fmt: skip

    @property
    def run_in_executor(self) -> bool:
        """Do blocking hooks of subclasses run in an executor?"""
        return self._run_in_executor

    @property
    def executor(self) -> Executor | None:
        """Where they run; None: the loop's own."""
        return self._executor

    @executor.setter
    def executor(self, value: Executor | None) -> None:
        self._executor = value

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop for what a dropped lock leaves to do."""
        return self._loop

    # ---- the verbs

    async def acquire(  # type: ignore[override] # awaited
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AsyncAcquireReturnProxy:
        """Wait for the lock without blocking the loop; see `BaseFileLock.acquire`. Cancelling leaves nothing held.

        Use it as `async with await lock.acquire(...):`.
        """
        if self._process is not state.process:
            self._refuse_inherited()
        context = self._holder.context
        wait, nap = self._limits(context, timeout, blocking, poll_interval)
        await self._engage(running(), context, wait, nap, cancel_check)
        return AsyncAcquireReturnProxy(self)

    async def release(self, force: bool = False) -> None:  # type: ignore[override] # awaited
        """Count one level down; at the last one, or with `force`, let go. Does nothing when not held."""
        context = self._holder.context
        if self._process is state.process and context.lock_file_fd is not None:
            await self._disengage(running(), context, force)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release_after(error)

    async def _release_after(self, error: BaseException | None) -> None:  # type: ignore[override] # awaited
        try:
            await self.release()
        except BaseException as second:
            if error is None or self._settings.context_error_policy == "chain":
                raise
            raise BaseExceptionGroup("lock body and release both failed", [error, second]) from None

    def __enter__(self) -> NoReturn:
        raise NotImplementedError(_SYNC)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> NoReturn:
        raise NotImplementedError(_SYNC)

    # ---- hooks

    async def _aside(self, io: IO, function: Callable[[], Any]) -> Any:
        if self._by_engine or not self._run_in_executor:
            return function()
        return await io.shield(self._in_executor(function))

    async def _in_executor(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def _attempt(self, io: IO) -> None:
        hook: Any = self._acquire
        if iscoroutinefunction(hook):
            self._try_break_expired_lock()
            await hook()
        else:
            await self._aside(io, self._break_and_acquire)

    def _break_and_acquire(self) -> None:
        self._try_break_expired_lock()
        self._acquire()

    async def _let_go(self, io: IO, context: FileLockContext) -> None:
        hook: Any = self._release
        if not iscoroutinefunction(hook):
            await self._aside(io, lambda: self._drop(context))
            return
        try:
            await hook()
        finally:
            if context.lock_file_fd is None:
                self._clear(context)

    def _abandon(self, context: FileLockContext) -> None:
        if not iscoroutinefunction(self._release):
            super()._abandon(context)
            return
        loop = self._loop
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            pass
        if loop is None or loop.is_closed():
            return
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(self.release(force=True), loop)
        else:
            loop.run_until_complete(self.release(force=True))

    def _extra_differences(self, given: dict[str, Any]) -> list[tuple[str, object, object]]:
        existing: dict[str, object] = {
            "loop": self._loop,
            "run_in_executor": self._run_in_executor,
            "executor": self._executor,
        }
        found = [(name, given[name], has) for name, has in existing.items() if given[name] is not has]
        return found + super()._extra_differences(given)


class AsyncAcquireReturnProxy:
    """What `acquire` of an async lock returns: as an async context manager it releases one level."""

    def __init__(self, lock: BaseAsyncFileLock) -> None:
        self.lock = lock

    async def __aenter__(self) -> BaseAsyncFileLock:
        return self.lock

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lock._release_after(error)


class AsyncUnixFileLock(UnixFileLock, BaseAsyncFileLock):
    """`UnixFileLock` for tasks."""


class AsyncWindowsFileLock(WindowsFileLock, BaseAsyncFileLock):
    """`WindowsFileLock` for tasks."""
