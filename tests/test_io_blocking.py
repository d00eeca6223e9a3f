"""The descriptors by which a thread is woken from poll(2): used again, never shared, never somebody else's."""

from __future__ import annotations

import errno
import gc
import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock._io import blocking

from .sources import Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sources are descriptors that poll(2) knows")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    os.close(pipe.writer)


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def test_wake_ups_are_used_again(pipe: Pipe) -> None:
    for _ in range(20):
        blocking.io.parker(pipe)
    before = open_descriptors()
    for _ in range(100):
        parker = blocking.io.parker(pipe)
        parker.unpark()
    assert open_descriptors() < before + 50  # others' may come and go


def test_a_used_wake_up_has_no_old_wake_ups(pipe: Pipe) -> None:
    parker: Any = blocking.io.parker(pipe)
    thread = threading.Thread(target=parker.unpark)
    thread.start()
    thread.join()
    del parker
    assert not blocking_park(blocking.io.parker(pipe), 0.01)


def blocking_park(parker: Any, seconds: float) -> bool:
    result: bool = parker.sleep(seconds)
    return result


@pytest.mark.parametrize("seconds", [0.0001, 30.0])
def test_a_wait_that_the_system_refuses_is_a_nap(pipe: Pipe, seconds: float) -> None:
    parker: Any = blocking.io.parker(pipe)

    class Poor:
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    parker._poll = Poor()
    began = time.monotonic()
    assert not blocking_park(parker, seconds)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("order", [False, True])
def test_a_parker_freed_in_a_cycle_keeps_the_pool_whole(order: bool, pipe: Pipe) -> None:
    """The garbage collector finalizes all objects of a cycle; a wake-up that it closed must not be used again."""
    blocking._wake_pool.clear()
    for _ in range(4):
        parker: Any = blocking.io.parker(pipe)
        cycle: list[object] = [parker, parker._wake] if order else [parker._wake, parker]
        cycle.append(cycle)
        pipe.parkers = []
        del parker, cycle
        gc.collect()
    fillers = [os.dup(0) for _ in range(8)]  # if a descriptor was closed, it is somebody else's now
    try:
        for wake in blocking._wake_pool:
            wake.send()
            assert os.read(wake.fds[0], 8)
    finally:
        for fd in fillers:
            os.close(fd)


def test_a_descriptor_beyond_what_select_can_name(pipe: Pipe) -> None:
    if sys.platform == "win32":
        pytest.skip("has no such limits")
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("the limit of descriptors is too low to have one above 1024")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        high = fcntl.fcntl(pipe.reader, fcntl.F_DUPFD, 1500)
        pipe.reader, low = high, pipe.reader
        os.close(low)
        parker = blocking.io.parker(pipe)
        assert not blocking_park(parker, 0.0002)
        assert not blocking_park(parker, 0.01)
        pipe.tell()
        assert blocking_park(parker, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("seconds", [0.0005, 30.0])
@pytest.mark.parametrize("error", [InterruptedError("mine"), TimeoutError("mine"), OSError(errno.EIO, "mine")])
def test_what_a_handler_raises_ends_the_wait(
    pipe: Pipe, seconds: float, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out of the system call that it met, and may be an `OSError`."""
    parker: Any = blocking.io.parker(pipe)

    class Struck:
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            raise error

    def struck(*_: object) -> None:
        raise error

    parker._poll = Struck()
    monkeypatch.setattr(select, "select", struck)
    with pytest.raises(type(error), match="mine"):
        blocking_park(parker, seconds)
