"""Waiting as a thread: every coroutine of the core runs to its end in one step."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from _thread import allocate_lock, get_ident
from itertools import chain, starmap
from time import monotonic, sleep

from .._identity import me

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")

_LONGEST = 0.25 if sys.platform == "win32" else min(threading.TIMEOUT_MAX, 1e6)
"""Longest sleep in one piece. On Windows a thread that sleeps on a lock hears no Ctrl-C before it wakes."""


_NAP = 0.05
"""Seconds, in place of a wait that the system refused: then the caller tries the lock again."""
_REFUSED = (errno.ENOMEM, errno.EBADF)
"""What poll(2) and select(2) themselves say. Any other error comes from a signal's handler, and is the user's."""


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

    __slots__ = ("_fds", "_poll", "_set", "_thread", "_wake")

    def __init__(self, source: Source) -> None:
        self._set = False
        self._thread = get_ident()
        self._wake = _wake()
        self._fds = (source.fileno(), self._wake.fds[0])
        if sys.platform != "win32":  # has no poll, and no engine there has a source
            self._poll = select.poll()
            for fd in self._fds:
                self._poll.register(fd, select.POLLIN)

    def unpark(self) -> None:
        self._set = True
        if get_ident() != self._thread:
            self._wake.send()

    def sleep(self, seconds: float) -> bool:
        if sys.platform == "win32":
            return False
        if self._set:
            self._set = False
            self._wake.clear()
            return True
        if seconds < 0.001:  # poll(2) counts milliseconds
            try:
                return self._woken(select.select(self._fds, (), (), seconds)[0])
            except ValueError:  # a descriptor beyond what select(2) can name
                sleep(seconds)
                return False
            except OSError as error:  # or closed, in a child that a signal handler forked here
                if error.errno not in _REFUSED:
                    raise
                sleep(seconds)
                return False
        # The news are read by the caller, after it tried the lock: every instruction before that try is
        # handoff latency.
        try:
            ready = self._poll.poll(seconds * 1000)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            sleep(min(seconds, _NAP))
            return False
        if len(ready) == 1 and ready[0][0] == self._fds[0]:
            return True
        return self._woken([fd for fd, _ in ready])

    def _woken(self, ready: list[int]) -> bool:
        if self._fds[1] in ready:  # or the next sleep would end at once, and so on
            self._set = False
            self._wake.clear()
        return bool(ready)

    def __del__(self) -> None:
        # Two descriptors are cheap to keep, costly to make while others wait.
        wake = getattr(self, "_wake", None)
        if wake is not None and wake.fds and wake.pid == os.getpid() and len(_wake_pool) < 8:
            wake.clear()
            _wake_pool.append(wake.moved())


class _Wake:
    """`fds`: where to read, where to write; an eventfd is both."""

    __slots__ = ("fds", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.fds: list[int] = []
        # In C from the system call to the list: no signal handler runs in between and loses the descriptors.
        if sys.platform == "linux":
            self.fds.extend(map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,)))
        elif sys.platform != "win32":
            self.fds.extend(chain.from_iterable(starmap(os.pipe, ((),))))
            for fd in self.fds:
                os.set_blocking(fd, False)

    def send(self) -> None:
        try:
            os.write(self.fds[-1], b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:  # already full of wake-ups
            pass

    def clear(self) -> None:
        try:
            os.read(self.fds[0], 4096)
        except OSError:  # nothing to be read, as a rule
            pass

    def moved(self) -> _Wake:
        """The descriptors in a new object: where this one is part of a cycle, the garbage collector has decided to
        finalize it, before or after the parker, whoever refers to it by then."""
        other = _Wake.__new__(_Wake)
        other.pid = self.pid
        other.fds = []
        other.fds.extend(map(self.fds.pop, [0] * len(self.fds)))  # in C, like above
        return other

    def __del__(self) -> None:
        try:
            list(map(os.close, iter(self.fds.pop, None)))
        except (AttributeError, IndexError, OSError):
            pass


_wake_pool: list[_Wake] = []


def _wake() -> _Wake:
    """One from the pool, or a new one; never the parent's: a forked child would steal its wake-ups."""
    try:
        while (wake := _wake_pool.pop()).pid != os.getpid():
            pass
    except IndexError:
        wake = _Wake()
    return wake


class BlockingIO:
    """Never suspends: `run` drives it with one `send`."""

    __slots__ = ()

    def now(self) -> float:
        return monotonic()

    def owner(self) -> object:
        return me.token

    def parker(self, source: Source | None = None) -> Parker:
        return _LockParker() if source is None else _PollParker(source)

    async def park(self, parker: Parker, until: float) -> bool:
        seconds = min(until - monotonic(), _LONGEST)
        return parker.sleep(max(seconds, 0.0))  # type: ignore[attr-defined,no-any-return]

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def work(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return await awaitable


io = BlockingIO()
