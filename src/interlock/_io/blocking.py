"""Waiting as a thread: every coroutine of the core runs to its end in one step."""

from __future__ import annotations

import os
import select
import threading
from _thread import allocate_lock, get_ident
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")

_LONGEST = min(threading.TIMEOUT_MAX, 1e6)


class _LockParker:
    """Sleeps on a primitive lock; for waits that another thread of this process ends."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def unpark(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # was set already
            pass

    def sleep(self, seconds: float) -> bool:
        return self._lock.acquire(True, seconds)


class _PollParker:
    """Sleeps on a source's descriptor and on a wake-up of its own: another thread may have read the news meant for us.

    The wake-up is an eventfd, or a pipe where the platform has none.
    """

    __slots__ = ("_poll", "_set", "_thread", "_wake")

    def __init__(self, source: Source) -> None:
        self._set = False
        self._thread = get_ident()
        self._wake = _wake_pool.pop() if _wake_pool else _Wake()
        self._poll = select.poll()
        self._poll.register(source.fileno(), select.POLLIN)
        self._poll.register(self._wake.reader, select.POLLIN)

    def unpark(self) -> None:
        self._set = True
        if get_ident() != self._thread:
            self._wake.send()

    def sleep(self, seconds: float) -> bool:
        if self._set:
            self._set = False
            self._wake.clear()
            return True
        if seconds < 0.001:  # poll(2) counts milliseconds
            sleep(seconds)
            return False
        # The news are read by the caller, after it tried the lock: every instruction before that try is
        # handoff latency.
        return bool(self._poll.poll(seconds * 1000))

    def __del__(self) -> None:
        # Two descriptors are cheap to keep, costly to make while others wait.
        wake = getattr(self, "_wake", None)
        if wake is not None and wake.pid == os.getpid() and len(_wake_pool) < 8:
            wake.clear()
            _wake_pool.append(wake)


class _Wake:
    __slots__ = ("pid", "reader", "writer")

    def __init__(self) -> None:
        self.pid = os.getpid()
        if hasattr(os, "eventfd"):
            self.reader = self.writer = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.reader, self.writer = os.pipe()
            os.set_blocking(self.reader, False)
            os.set_blocking(self.writer, False)

    def send(self) -> None:
        try:
            os.write(self.writer, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:  # already full of wake-ups
            pass

    def clear(self) -> None:
        try:
            os.read(self.reader, 4096)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        try:
            os.close(self.reader)
            if self.writer != self.reader:
                os.close(self.writer)
        except (AttributeError, OSError):
            pass


_wake_pool: list[_Wake] = []


class BlockingIO:
    """Never suspends: `run` drives it with one `send`."""

    __slots__ = ()

    def now(self) -> float:
        return monotonic()

    def owner(self) -> object:
        return get_ident()

    def parker(self, source: Source | None = None) -> Parker:
        return _LockParker() if source is None else _PollParker(source)

    async def park(self, parker: Parker, until: float) -> bool:
        seconds = min(until - monotonic(), _LONGEST)
        return parker.sleep(max(seconds, 0.0))  # type: ignore[attr-defined,no-any-return]

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return await awaitable


io = BlockingIO()
