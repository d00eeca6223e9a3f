"""Waiting for a lock file where the system helps nobody to wait; two names of one file; others who lock it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncLock,
    DeadlockError,
    Lock,
    RLock,
    Timeout,
    UnsupportedError,
)

if sys.platform != "linux":
    pytest.skip("looks into /proc and waits with inotify", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from interlock.engines.kernel import tickets  # noqa: E402
from interlock.engines.kernel.ops import Ops  # noqa: E402

from .seam import PatchedOps, descriptors, in_a_thread, nothing_left, patched_engine, taken, until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch) -> PatchedOps:
    return patched_engine(monkeypatch)


# ---- waiting without the help of the system


class NoEvents:
    """A platform, or a filesystem, whose events tell nothing."""

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted

    def shared(self) -> None:
        return None

    def trusts(self, directory: str) -> bool:
        return self.trusted


def wait_for_a_process(path: Path) -> float:
    """Wait with a new lock until another process lets go; returns seconds from its word to ours."""
    holder = subprocess.Popen(
        [sys.executable, "-c", BRIEF_HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            Lock(path).acquire(0.02)
        got: list[float] = []

        def wait() -> None:
            with Lock(path):
                got.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: len(descriptors(path)) == 1)
        time.sleep(0.05)
        assert not got
        told = time.monotonic()
        holder.stdin.write("\n")
        holder.stdin.flush()
        thread.join(60)
        return got[0] - told
    finally:
        holder.kill()
        holder.communicate()


BRIEF_HOLDER = """
import sys
from interlock import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("events", [None, NoEvents(True), NoEvents(False)], ids=["none", "no instance", "untrusted"])
def test_without_events_it_naps(events: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_engine(monkeypatch, events)
    assert wait_for_a_process(path) < 30
    nothing_left(path)


def test_without_a_queue_all_waiters_wake(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_engine(monkeypatch, queue=False)
    assert wait_for_a_process(path) < 30
    nothing_left(path)


def test_without_byte_range_locks_it_naps(path: Path, ops: PatchedOps) -> None:
    ops.fail("fcntl", errno.EINVAL)
    assert wait_for_a_process(path) < 30
    nothing_left(path)


def test_without_watches_it_naps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock._wait import inotify

    def watch(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(inotify.Instance, "watch", watch)
    assert wait_for_a_process(path) < 30
    nothing_left(path)


def test_fifo_needs_trustworthy_events(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_engine(monkeypatch, NoEvents(False))
    with pytest.raises(UnsupportedError, match="fair=True needs Linux and a local filesystem"):
        Lock(path, fair=True)
    Lock(path)


@pytest.mark.parametrize("wait", [lambda path: Lock(path).acquire(0.6), lambda path: wait_async(path, 0.6)])
def test_who_does_not_come_is_not_called_for_ever(wait: Callable[[Path], object], path: Path, ops: PatchedOps) -> None:
    """A stopped process at the back of the queue, or one that may only read the file, is never seen in front. The
    waiter in front of it would call it, be woken by its own call, call again, and so on, instead of sleeping."""
    fds = [os.open(path, flags) for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY)]
    try:
        fcntl.flock(fds[0], fcntl.LOCK_EX)
        tickets.enter(Ops(), fds[1])
        began = time.thread_time()
        with pytest.raises(Timeout):
            wait(path)
        assert time.thread_time() - began < 0.2
        assert 1 <= ops.count("utime") <= 5
    finally:
        for fd in fds:
            os.close(fd)
    nothing_left(path)


def wait_async(path: Path, seconds: float) -> None:
    async def main() -> None:
        await AsyncLock(path).acquire(seconds)

    asyncio.run(main())


# ---- two names of one file


def test_waiting_for_oneself_by_a_hard_link(path: Path) -> None:
    other = path.with_name("other")
    path.write_text("")
    other.hardlink_to(path)
    with Lock(path) as hold:
        with pytest.raises(DeadlockError, match="the same file as"):
            Lock(other).acquire()
        with pytest.raises(Timeout):
            Lock(other).acquire(0.02)
        assert Lock(other).try_acquire() is None
        assert hold.held
        with pytest.raises(Timeout):
            in_a_thread(lambda: Lock(other).acquire(0.02))
    nothing_left(other)
    with Lock(other):
        assert taken(path)


def test_a_task_that_waits_for_itself_by_a_hard_link(path: Path) -> None:
    other = path.with_name("other")
    path.write_text("")
    other.hardlink_to(path)

    async def main() -> None:
        async with AsyncLock(path):
            with pytest.raises(DeadlockError, match="the same file as"):
                await AsyncLock(other).acquire()

            async def somebody_else() -> None:
                await AsyncLock(other).acquire(0.02)

            with pytest.raises(Timeout):
                await asyncio.gather(somebody_else())

    asyncio.run(main())
    nothing_left(other)


def test_waiting_for_oneself_through_a_linked_directory(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path.parent)
    with Lock(path), pytest.raises(DeadlockError):
        Lock(link / "a.lock").acquire()
    with RLock(path), RLock(link / "a.lock"):
        pass
    nothing_left(path)


# ---- others who lock the same file


def test_flock_by_others_excludes_both_ways(path: Path) -> None:
    with Lock(path):
        assert taken(path)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert Lock(path).try_acquire() is None
    os.close(fd)
    with Lock(path):
        pass


LOCKF = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_foreign_byte_range_locks_do_not_matter(path: Path) -> None:
    """Whoever locks ranges of the file is nobody's contender, and disturbs no queue."""
    path.write_text("x" * 100)
    foreign = subprocess.Popen(
        [sys.executable, "-c", LOCKF, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert foreign.stdout is not None
        assert foreign.stdout.readline() == "held\n"
        with Lock(path), pytest.raises(Timeout):
            in_a_thread(lambda: Lock(path).acquire(0.02))
        assert wait_for_a_process(path) < 30
    finally:
        foreign.kill()
        foreign.communicate()
