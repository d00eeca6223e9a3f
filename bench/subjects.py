"""The locks that are compared: each as a pair of coroutine functions, so that one loop drives them all.

Peers run with the settings that their users get, save for the timeout. A peer that is not installed stays
in every table, as missing.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import fcntl
except ImportError as error:
    raise SystemExit("the benchmarks compare with flock(2) and fork(2): they need a POSIX system") from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    Acquire = Callable[[], Awaitable[Any]]
    Release = Callable[[Any], Awaitable[object]]

TIMEOUT = 60  # no wait here comes near it; it is there so that the waits are timed ones
OPEN = os.O_RDWR | os.O_CREAT


class Subject(NamedTuple):
    name: str
    package: str | None  # what must be installed
    make: Callable[[str], tuple[Acquire, Release]]  # of a path
    asynchronous: bool = False

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Drive work that awaits nothing but this subject's verbs."""
        if self.asynchronous:
            asyncio.run(work)
            return
        try:
            work.send(None)
        except StopIteration:
            return
        raise RuntimeError(f"{self.name} suspended")


def missing(package: str | None) -> str | None:
    """Why a package cannot take part; imports it, so that forked children have it."""
    if package is not None:
        try:
            importlib.import_module(package)
        except ImportError as error:
            return f"{package} is missing: {error}"
    return None


def present(subjects: Iterable[Subject], rows: list[dict[str, Any]]) -> list[Subject]:
    """Those that can take part; the others become rows that say why not."""
    able = []
    for subject in subjects:
        reason = missing(subject.package)
        if reason is None:
            able.append(subject)
        else:
            rows.append({"subject": subject.name, "missing": reason})
    return able


def versions() -> dict[str, str]:
    found = {}
    for package in ("interlock", "filelock", "portalocker", "fasteners"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            module = None if missing(package) else importlib.import_module(package)
            found[package] = getattr(module, "__version__", "missing")
    return found


def _plain(acquire: Callable[[], Any], release: Callable[[Any], object]) -> tuple[Acquire, Release]:
    async def acquiring() -> Any:
        return acquire()

    async def releasing(token: Any) -> None:
        release(token)

    return acquiring, releasing


def flock(path: str) -> tuple[Acquire, Release]:
    """The kernel's own queue: what a lock without a timeout can have, and the measure of the others."""

    def acquire() -> int:
        fd = os.open(path, OPEN, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def release(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    return _plain(acquire, release)


def inotify(path: str) -> tuple[Acquire, Release]:
    """The least that a timed wait by events can be in Python: one inotify instance, no line, no look at what file it
    is, no threads, nothing undone after an interrupt. It says how much of a handoff is Python's and the events'."""
    import ctypes
    import select

    libc = ctypes.CDLL(None, use_errno=True)
    instance = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(instance, select.POLLIN)
    name = os.fsencode(path)
    closed = 0x8  # IN_CLOSE_WRITE

    def acquire() -> tuple[int, int]:
        fd = os.open(path, OPEN, 0o666)
        watch = 0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd, watch
            except BlockingIOError:
                pass
            if not watch:
                watch = libc.inotify_add_watch(instance, name, closed)
                continue
            if not poll.poll(TIMEOUT * 1000):
                raise TimeoutError(path)
            try:
                os.read(instance, 4096)
            except BlockingIOError:
                pass

    def release(token: tuple[int, int]) -> None:
        fd, watch = token
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
        if watch:
            libc.inotify_rm_watch(instance, watch)

    return _plain(acquire, release)


def interrupted(path: str) -> tuple[Acquire, Release]:
    """The other timed wait that does not poll: blocked in flock(2), and a timer of the thread interrupts it by a signal
    (SIGURG) whose handler does nothing. It hears of nothing else meanwhile, and no look at what file it is here either.
    64-bit Linux."""
    import ctypes
    import signal
    import struct
    import threading

    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGURG, libc.abs)
    signal.siginterrupt(signal.SIGURG, True)
    timer = ctypes.c_ssize_t(0)
    made = -1
    after = struct.pack("qqqq", 0, 10_000_000, TIMEOUT, 0)  # then every 10 ms: one tick may be lost
    never = struct.pack("qqqq", 0, 0, 0, 0)

    def acquire() -> int:
        nonlocal made
        fd = os.open(path, OPEN, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return fd
        if made < 0:  # in the contender, not in its parent: SIGEV_THREAD_ID, CLOCK_MONOTONIC
            event = struct.pack("Piii44x", 0, signal.SIGURG, 4, threading.get_native_id())
            made = libc.timer_create(1, event, ctypes.byref(timer))
        libc.timer_settime(timer, 0, after, None)
        try:
            if libc.flock(fd, fcntl.LOCK_EX):
                raise TimeoutError(path)
        finally:
            libc.timer_settime(timer, 0, never, None)
        return fd

    def release(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    return _plain(acquire, release)


def interlock(path: str, **options: Any) -> tuple[Acquire, Release]:
    from interlock import Lock

    lock = Lock(path, **options)
    return _plain(lambda: lock.acquire(timeout=TIMEOUT), lambda hold: hold.release())


def interlock_fair(path: str) -> tuple[Acquire, Release]:
    return interlock(path, fair=True)


def interlock_lease(path: str) -> tuple[Acquire, Release]:
    return interlock(path + ".lease", primitive="marker")


def interlock_asyncio(path: str) -> tuple[Acquire, Release]:
    from interlock import AsyncLock

    lock = AsyncLock(path)

    async def release(hold: Any) -> None:
        await hold.release()

    return lambda: lock.acquire(timeout=TIMEOUT), release


def filelock(path: str) -> tuple[Acquire, Release]:
    from filelock import FileLock

    lock = FileLock(path)
    return _plain(lambda: lock.acquire(timeout=TIMEOUT), lambda _: lock.release())


def portalocker(path: str) -> tuple[Acquire, Release]:
    from portalocker import Lock

    lock = Lock(path, timeout=TIMEOUT)
    return _plain(lock.acquire, lambda _: lock.release())


def fasteners(path: str) -> tuple[Acquire, Release]:
    from fasteners import InterProcessLock

    lock = InterProcessLock(path)

    def acquire() -> None:
        if not lock.acquire(timeout=TIMEOUT):
            raise TimeoutError(path)

    return _plain(acquire, lambda _: lock.release())


FLOCK = Subject("flock(2), blocking", None, flock)
INOTIFY = Subject("inotify and flock by hand", None, inotify)
INTERRUPTED = Subject("flock and a timer's signal by hand", None, interrupted)
INTERLOCK = Subject("interlock", "interlock", interlock)
FAIR = Subject("interlock, fair=True", "interlock", interlock_fair)
LEASE = Subject("interlock, a lease on files", "interlock", interlock_lease)
ASYNCIO = Subject("interlock, asyncio", "interlock", interlock_asyncio, asynchronous=True)
FILELOCK = Subject("filelock", "filelock", filelock)
PORTALOCKER = Subject("portalocker", "portalocker", portalocker)
FASTENERS = Subject("fasteners", "fasteners", fasteners)

CONTENDERS = (FLOCK, INOTIFY, INTERRUPTED, INTERLOCK, FAIR, ASYNCIO, FILELOCK, PORTALOCKER, FASTENERS)
