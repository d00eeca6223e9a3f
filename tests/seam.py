"""The kernel engine with its system calls in the test's hand: to fail, to count, and to let the world change between
two of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from interlock import AsyncLock, Lock, RLock
from interlock._core.arbiter import turns
from interlock._target import resolve
from interlock._wait import inotify
from interlock.engines import kernel

assert sys.platform == "linux"

from interlock.engines.kernel.ops import EXCLUSIVE, Ops  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

NAMES = ("open", "close", "fstat", "stat", "flock", "fcntl", "makedirs", "utime")


class PatchedOps(Ops):
    """Records every call; a patch is called instead, with the real function before the arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._patches: dict[str, Callable[..., Any]] = {}
        for name in NAMES:
            setattr(self, name, self._wrapped(name, getattr(Ops, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, *args))
            patch = self._patches.get(name)
            return real(*args, **options) if patch is None else patch(real, *args, **options)

        return call

    def patch(self, name: str, function: Callable[..., Any]) -> None:
        self._patches[name] = function

    def heal(self) -> None:
        self._patches.clear()

    def fail(self, name: str, number: int, times: int = 10**9, when: Callable[..., bool] | None = None) -> None:
        """Let the next calls of these arguments end with this errno, instead of having an effect."""
        left = [times]

        def failing(real: Callable[..., Any], *args: Any, **options: Any) -> Any:
            if left[0] and (when is None or when(*args)):
                left[0] -= 1
                raise OSError(number, os.strerror(number), args[0] if isinstance(args[0], str | bytes) else None)
            return real(*args, **options)

        self.patch(name, failing)

    def fail_lock(self, number: int, times: int = 10**9) -> None:
        self.fail("flock", number, times, lambda fd, how: how == EXCLUSIVE)

    def before(self, name: str, act: Callable[[], None], times: int = 1) -> None:
        """Do something just before the next calls."""
        left = [times]

        def acting(real: Callable[..., Any], *args: Any, **options: Any) -> Any:
            if left[0]:
                left[0] -= 1
                act()
            return real(*args, **options)

        self.patch(name, acting)

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


def patched_engine(monkeypatch: pytest.MonkeyPatch, events: Any = inotify, **options: Any) -> PatchedOps:
    """Make all locks on paths that the test creates from here on use the patched calls that this returns."""
    ops = PatchedOps()
    monkeypatch.setitem(kernel._engines, "kernel", kernel.KernelEngine(ops, events, **options))
    return ops


def descriptors(path: str | Path) -> list[str]:
    """This process's open descriptors of the file at `path`, removed ones included."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if where.removesuffix(" (deleted)") == os.path.realpath(path):
            found.append(where)
    return found


def taken(path: Path) -> bool:
    """Is there a flock(2) on the file that is at the path now?"""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def nothing_left(path: Path) -> None:
    line = resolve(path)
    assert line not in turns
    assert not line.queue
    assert descriptors(path) == []


def acquire_async(path: Path, *timeout: Any) -> None:
    async def acquire() -> None:
        await AsyncLock(path).acquire(*timeout)

    asyncio.run(acquire())


def try_async(path: Path) -> None:
    async def attempt() -> None:
        await AsyncLock(path).try_acquire()

    asyncio.run(attempt())


WAYS: dict[str, Callable[[Path], object]] = {
    "acquire": lambda path: Lock(path).acquire(),
    "acquire(5)": lambda path: Lock(path).acquire(5),
    "acquire(0)": lambda path: Lock(path).acquire(0),
    "try_acquire": lambda path: Lock(path).try_acquire(),
    "with": lambda path: Lock(path).__enter__(),
    "with RLock": lambda path: RLock(path).__enter__(),
    "await acquire": acquire_async,
    "await acquire(0)": lambda path: acquire_async(path, 0),
    "await try_acquire": try_async,
}


def in_a_thread(fn: Callable[[], object]) -> object:
    box: list[object] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            box.append(fn())
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if errors:
        raise errors[0]
    return box[0]


def until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.001)
