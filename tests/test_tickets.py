"""The queue of processes, on real byte-range locks: each descriptor here is a contender."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("open file description locks are Linux's", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from interlock.engines.kernel import tickets  # noqa: E402
from interlock.engines.kernel.tickets import BASE, FRONT  # noqa: E402

from .seam import PatchedOps  # noqa: E402

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path


class Clock(PatchedOps):
    """Each look at the clock is one nanosecond later, unless it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000

    def boottime_ns(self) -> int:
        self.now += 1
        return self.now


class Queue:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.ops = Clock()
        self.fds: list[int] = []

    def contender(self, flags: int = os.O_RDWR) -> int:
        fd = os.open(self.path, flags | os.O_CREAT | os.O_CLOEXEC)
        self.fds.append(fd)
        return fd

    def enter(self, at: int | None = None, fd: int | None = None) -> tuple[int, int]:
        if at is not None:
            self.ops.now = at - 1
        fd = self.contender() if fd is None else fd
        return fd, tickets.enter(self.ops, fd)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path / "a.lock")
    yield queue
    queue.close()


def test_an_empty_queue(queue: Queue) -> None:
    fd = queue.contender()
    assert not tickets.anybody(queue.ops, fd)
    tickets.promote(queue.ops, fd)
    tickets.leave(queue.ops, fd)
    assert queue.ops.count("utime") == 0


def test_others_see_a_ticket_and_oneself_does_not(queue: Queue) -> None:
    fd, ticket = queue.enter()
    assert ticket == BASE + 1001
    assert not tickets.anybody(queue.ops, fd)
    assert tickets.anybody(queue.ops, queue.contender())
    tickets.leave(queue.ops, fd)
    assert not tickets.anybody(queue.ops, queue.contender())


def test_a_ticket_dies_with_its_descriptor(queue: Queue) -> None:
    fd, _ = queue.enter()
    other = queue.contender()
    queue.fds.remove(fd)
    os.close(fd)
    assert not tickets.anybody(queue.ops, other)


def test_nothing_is_written(queue: Queue) -> None:
    for _ in range(3):
        fd, ticket = queue.enter()
        tickets.step_forward(queue.ops, fd, ticket)
        tickets.mark(queue.ops, fd)
    assert queue.path.stat().st_size == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**15), unique=True, min_size=1, max_size=12), st.integers(1, 6), st.randoms())
def test_the_rank_is_how_many_came_before(times: list[int], limit: int, chance: random.Random) -> None:
    """Whatever the order in which the kernel tells of them, some in front and some at the back."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        queue = Queue(Path(directory) / "a.lock")
        try:
            entered = [(*queue.enter(at), at) for at in times]
            for fd, ticket, _ in entered:
                if chance.random() < 0.4:
                    tickets.step_forward(queue.ops, fd, ticket)
            for fd, ticket, at in entered:
                older = sum(other < at for other in times)
                assert tickets.rank(queue.ops, fd, ticket, limit) == min(older, limit)
        finally:
            queue.close()


def test_looking_for_ones_rank_is_cheap(queue: Queue) -> None:
    """Who waits behind a hundred asks a few times, not a hundred."""
    for _ in range(100):
        queue.enter()
    fd, ticket = queue.enter()
    queue.ops.calls.clear()
    assert tickets.rank(queue.ops, fd, ticket, FRONT) == FRONT
    assert queue.ops.count("fcntl") <= 3 * FRONT


def test_foreign_locks_are_no_tickets(queue: Queue) -> None:
    foreign = queue.contender()
    fcntl.lockf(foreign, fcntl.LOCK_EX, 0x7FFFFFFF, 0)
    marked = queue.contender()
    tickets.mark(queue.ops, marked)
    fd, ticket = queue.enter()
    other = queue.contender()
    assert tickets.rank(queue.ops, fd, ticket, 4) == 0
    tickets.leave(queue.ops, fd)
    assert not tickets.anybody(queue.ops, other)


def test_a_mark_can_be_taken_away(queue: Queue) -> None:
    fd = queue.contender()
    tickets.mark(queue.ops, fd)
    with open("/proc/locks") as table:
        assert any(f":{queue.path.stat().st_ino} {tickets.TAKEN + 1001} " in line for line in table)
    tickets.unmark(queue.ops, fd)
    with open("/proc/locks") as table:
        assert not any(f":{queue.path.stat().st_ino} " in line for line in table)


# ---- who calls those at the back


def test_the_last_in_front_calls_the_back_when_it_leaves(queue: Queue) -> None:
    front, ticket = queue.enter()
    tickets.step_forward(queue.ops, front, ticket)
    queue.enter()
    tickets.leave(queue.ops, front)
    assert queue.ops.count("utime") == 1


def test_nobody_is_called_while_somebody_is_in_front(queue: Queue) -> None:
    front = [queue.enter() for _ in range(2)]
    for fd, ticket in front:
        tickets.step_forward(queue.ops, fd, ticket)
    queue.enter()
    tickets.leave(queue.ops, front[0][0])
    assert queue.ops.count("utime") == 0
    tickets.promote(queue.ops, front[1][0])  # it is alone in front, as far as it sees: itself it does not see
    assert queue.ops.count("utime") == 1


def test_nobody_is_called_when_nobody_waits(queue: Queue) -> None:
    fd, ticket = queue.enter()
    tickets.step_forward(queue.ops, fd, ticket)
    tickets.promote(queue.ops, fd)
    tickets.leave(queue.ops, fd)
    assert queue.ops.count("utime") == 0


def test_a_file_that_may_only_be_read_has_a_queue_too(queue: Queue) -> None:
    """Its ticket can be read locks only, so it is never counted as being in front; the others then call the back
    more often than they need."""
    queue.path.write_text("")
    reader = queue.contender(os.O_RDONLY)
    _, ticket = queue.enter(fd=reader)
    tickets.step_forward(queue.ops, reader, ticket)
    other, later = queue.enter()
    assert tickets.rank(queue.ops, other, later, 4) == 1
    assert tickets.anybody(queue.ops, other)
    tickets.leave(queue.ops, reader)
    assert tickets.rank(queue.ops, other, later, 4) == 0


def test_touching_what_may_not_be_touched_is_no_error(queue: Queue) -> None:
    queue.ops.fail("utime", errno.EPERM)
    front, ticket = queue.enter()
    tickets.step_forward(queue.ops, front, ticket)
    queue.enter()
    tickets.leave(queue.ops, front)


def test_two_that_came_in_the_same_nanosecond(queue: Queue) -> None:
    """Both have a ticket, and neither is before the other; only one can show that it is in front."""
    one = queue.enter(at=5000)
    two = queue.enter(at=5000)
    assert one[1] == two[1]
    for fd, ticket in (one, two):
        assert tickets.rank(queue.ops, fd, ticket, 4) == 0
        tickets.step_forward(queue.ops, fd, ticket)
    tickets.leave(queue.ops, one[0])
    tickets.step_forward(queue.ops, *two)
    assert tickets.anybody(queue.ops, one[0])
