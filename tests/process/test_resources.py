"""No descriptors, no disk space, no inotify: clear errors, or naps instead; and what is held stays held."""

# ruff: noqa: PT017 - pytest is not at work in a process of its own

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, Timeout
from interlock._wait import inotify
from interlock.engines.kernel import BLIND_NAP

from .workers import (
    Worker,
    descriptors,
    in_child,
    in_namespaces,
    isolated,
    locked_by_others,
    queues,
    state,
    succeeded,
    tickets,
    until,
    wait_once,
)

if TYPE_CHECKING:
    from collections.abc import Callable

assert sys.platform == "linux"


class Scarcity:
    """All descriptors but `left` are taken, in the block."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._taken: list[int] = []

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, self._limits[1]))
        try:
            while True:
                self._taken.append(os.dup(0))
        except OSError:
            for _ in range(self._left):
                os.close(self._taken.pop())

    def __exit__(self, *_: object) -> None:
        for fd in self._taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


def error_of(action: Callable[[], object]) -> OSError:
    try:
        action()
    except Timeout:
        raise
    except OSError as error:
        return error
    raise AssertionError("no error")


def files() -> set[str]:
    """What is open besides the standard streams."""
    return {target for fd, target in descriptors().items() if fd > 2 and not target.startswith("/proc/")}


@isolated
def test_without_descriptors_acquire_fails_clearly(path: str) -> None:
    wait_once(path)
    held = Lock(path + "1").acquire()
    before = files()
    with Scarcity(0):
        for action in (
            Lock(path).acquire,
            lambda: Lock(path).acquire(5),
            lambda: Lock(path).acquire(0),
            Lock(path).try_acquire,
            Lock(path).__enter__,
        ):
            error = error_of(action)
            assert (error.errno, error.filename) == (errno.EMFILE, path), repr(error)
        held.assert_held()
        assert not held.lost
    assert locked_by_others(path + "1")
    assert files() == before
    with Lock(path):
        assert locked_by_others(path)
    held.release()
    assert not locked_by_others(path + "1")


@isolated
def test_a_wait_that_runs_out_of_descriptors(path: str) -> None:
    """A wait wants up to three; with fewer it naps, or fails clearly. Whatever it does, it leaves nothing."""
    wait_once(path)
    stranger = Worker()
    stranger.ask("acquire", path)
    outcomes = []
    for left in range(6):
        before = files()
        with Scarcity(left):
            try:
                Lock(path).acquire(0.05)
            except Timeout as timeout:
                outcomes.append("timeout")
                assert 0.05 <= timeout.waited < 30
            except OSError as error:
                outcomes.append("error")
                assert (error.errno, error.filename) == (errno.EMFILE, path), repr(error)
            else:
                raise AssertionError("acquired")
        assert tickets(path) == 0
        leaked = {name for name in files() - before if "inotify" not in name and "eventfd" not in name}
        assert not leaked
    assert outcomes[0] == "error"
    assert outcomes[-1] == "timeout"
    stranger.ask("release")
    Lock(path).acquire(5).release()
    assert not locked_by_others(path)
    stranger.close()


@isolated
def test_a_first_wait_without_descriptors(path: str) -> None:
    """Modules that were not needed before cannot be loaded: that too is an EMFILE, and passes."""
    stranger = Worker()
    stranger.ask("acquire", path)

    def first_wait(left: int) -> None:
        lock = Lock(path)
        with Scarcity(left):
            try:
                lock.acquire(0.01)
            except Timeout:
                pass
            except OSError as error:
                assert error.errno == errno.EMFILE
        assert tickets(path) == 0
        try:
            lock.acquire(0.01)
        except Timeout as timeout:
            assert timeout.holder is not None
            assert timeout.holder.pid == stranger.pid

    for left in range(6):
        assert succeeded(in_child(lambda: first_wait(left)))  # noqa: B023 - called at once
    stranger.close()


@isolated
def test_a_release_needs_no_descriptor(path: str) -> None:
    hold = Lock(path).acquire()
    waiter = Worker()
    waiter.tell("acquire", path)
    waiter.waits(path)
    with Scarcity(0):
        hold.release()
    assert waiter.answer()["event"] == "acquired"
    waiter.close()


@pytest.mark.usefixtures("namespaces")
@in_namespaces
def test_on_a_full_disk_existing_lock_files_still_work(path: str) -> None:
    directory = os.path.dirname(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=4", "none", directory], check=True)
    Lock(path).acquire().release()
    taken: list[str] = []
    try:
        while True:
            taken.append(f"{path}.{len(taken)}")
            os.close(os.open(taken[-1], os.O_CREAT | os.O_WRONLY))
    except OSError as full:
        assert full.errno == errno.ENOSPC
        taken.pop()

    for name in path + ".new", os.path.join(directory, "sub", "x.lock"):
        for action in Lock(name).acquire, Lock(name).try_acquire, Lock(name).__enter__:
            error = error_of(action)
            assert error.errno == errno.ENOSPC, repr(error)
            assert error.filename in (name, os.path.dirname(name))
        assert not os.path.exists(name)

    hold = Lock(path).acquire()
    waiter = Worker()
    waiter.tell("acquire", path)
    waiter.waits(path)
    hold.release()
    assert waiter.answer()["event"] == "acquired"
    waiter.close()

    os.unlink(taken[-1])
    Lock(path + ".new").acquire().release()


def nap_until_released(path: str) -> float:
    """A thread waits while another process holds and lets go; how long the handoff took."""
    holder = Worker()
    holder.ask("acquire", path)
    acquired = []

    def wait() -> None:
        hold = Lock(path).acquire(20)
        acquired.append(time.monotonic())
        hold.release()

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: any(name == path for name in files()), "it has opened the lock file")
    until(lambda: all(state(int(task)) == "S" for task in os.listdir("/proc/self/task")[1:]), "and sleeps")
    released: float = holder.ask("release")["at"]
    thread.join()
    holder.close()
    return acquired[0] - released


@pytest.mark.usefixtures("namespaces")
@in_namespaces
def test_without_inotify_instances_waiters_nap_until_there_are_some(path: str) -> None:
    limit = "/proc/sys/user/max_inotify_instances"  # of this user namespace only
    with open(limit, "w") as file:
        file.write("0")
    assert nap_until_released(path) < BLIND_NAP + 20
    assert inotify._instance is None
    assert tickets(path) == 0
    with open(limit, "w") as file:
        file.write("10")
    assert nap_until_released(path) < 20
    assert inotify._instance is not None


@pytest.mark.usefixtures("namespaces")
@in_namespaces
def test_without_inotify_watches_waiters_nap(path: str) -> None:
    with open("/proc/sys/user/max_inotify_watches", "w") as file:
        file.write("0")
    assert nap_until_released(path) < BLIND_NAP + 20
    assert tickets(path) == 0
    assert not locked_by_others(path)


@isolated
def test_a_waiter_that_naps_and_one_that_listens_share_a_lock(path: str) -> None:
    """Where one process has no events, it still gets its turn among others that have."""
    from interlock.engines import kernel

    vars(kernel.engine())["_hears"] = lambda path: False
    holder, listener = Worker(), Worker()
    holder.ask("acquire", path)
    listener.tell("acquire", path)
    listener.waits(path)
    got = threading.Event()

    def nap() -> None:
        with Lock(path, timeout=20):
            got.set()

    thread = threading.Thread(target=nap)
    thread.start()
    holder.ask("release")
    for _ in range(3):
        if listener.silent(0):
            continue
        listener.answer()
        listener.ask("release")
        listener.tell("acquire", path)
    listener.answer()
    listener.ask("release")
    thread.join()
    assert got.is_set()
    assert not queues(os.getpid(), path)
    holder.close()
    listener.close()
