"""All interleavings of read-write locks and semaphores on a simulated kernel: readers, updaters that upgrade, writers.

What is proven is what the simulated kernel is like (see `simkernel`), for so many contenders and troubles.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock import rwlock, semaphore
from interlock.testing.simposix import SimOps, kernel_engine
from interlock.testing.simprocess import PATH, turns

from .scenarios import EVENTS, EVENTS_ONLY, FRONT_OF_ONE, count, kernel_world, run, share

if TYPE_CHECKING:
    from interlock.testing.sim import Script

pytestmark = pytest.mark.timeout(900)
"""The work is the same everywhere, and how long it takes is the machine's."""

SHARED = 5
UP = "update upgrade"
TASKS: dict[str, Any] = {"kind": rwlock.AsyncRWLock, "tasks": True}
LOCK = turns(kernel_engine(), patches=EVENTS_ONLY)

SHARING: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    # name: the lives of the contenders, options, fewest states that this must have seen
    "readers": (("read", "read"), {}, 30),
    "reader, writer": (("read", "write"), {}, 200),
    "writers": (("write", "write"), {}, 100),
    "updater, writer": (("update", "write"), {}, 200),
    "updaters": ((UP, UP), {}, 100),
    "upgrade beside a reader": ((UP, "read"), {}, 200),
    "upgrade before a writer": ((UP, "write"), {}, 200),
    "downgrade": (("write read", "read"), {}, 300),
    "down and up": (("write update upgrade", "read"), {}, 500),
    "up and down, writer": (("update upgrade read", "write"), {}, 400),
    "reader, writer, new file": (("read", "write"), {"world": {"exists": False}}, 300),
    "reader, writer, killed": (("read", "write"), {"patches": EVENTS, "crashes": 1}, 1_500),
    "writers, killed": (("write", "write"), {"patches": EVENTS, "crashes": 1}, 1_000),
    "upgrade, killed, reader": ((UP, "read"), {"patches": EVENTS, "crashes": 1}, 2_000),
    "upgrade, killed, writer": ((UP, "write"), {"patches": EVENTS, "crashes": 1}, 2_500),
    "upgrade, killed, upgrade": ((UP, UP), {"patches": EVENTS, "crashes": 1}, 1_000),
    "reader, writer, Ctrl-C": (("read", "write"), {"interrupts": 1}, 3_000),
    "upgrade, Ctrl-C": ((UP, "read"), {"interrupts": 1}, 4_000),
    "downgrade, Ctrl-C": (("write read", "read"), {"interrupts": 1}, 4_000),
    "reader, writer, timeout": (("read", "write"), {"timeout": 1.0, "ticks": (1.0,)}, 2_000),
    "upgrade, timeout": ((UP, "read"), {"timeout": 1.0, "ticks": (1.0,)}, 2_000),
    "reader, writer, stopped": (("read", "write"), {"stops": 1, "patches": ()}, 500),
    "upgrade, stopped": ((UP, "read"), {"stops": 1, "patches": ()}, 600),
    "reader, writer, cancelled": (("read", "write"), {**TASKS, "cancels": 2}, 300),
    "upgrade, cancelled": ((UP, "read"), {**TASKS, "cancels": 2}, 400),
    "threads: reader, writer": (("read", "write"), {"processes": (0, 0)}, 2_000),
    "threads: upgrade": ((UP, "read"), {"processes": (0, 0)}, 3_000),
    "threads: writers": (("write", "write"), {"processes": (0, 0)}, 3_000),
    "reader and a Lock": (("read",), {"others": [LOCK]}, 150),
    "upgrade and a Lock": ((UP,), {"others": [LOCK]}, 200),
    "writer and a Lock": (("write",), {"others": [LOCK]}, 150),
    "downgrade, and stay": (("write read meet", "read"), {}, 300),
    "downgrade, and update on": (("write update meet", "read"), {}, 300),
    "update no more": (("update read meet", "update"), {}, 250),
    "up, down, and stay": (("update upgrade read meet", "read"), {}, 300),
    "downgrade beside two": (("write read meet", "read", "update"), {}, 10_000),
    "readers and a writer": (("read", "read", "write"), {"world": {"heeded": True}}, 5_000),
    "reader, updater, writer": (("read", "update", "write"), {"world": {"heeded": True}}, 10_000),
    "two updaters and a reader": ((UP, UP, "read"), {}, 1_000),
}
SHARING_DEEP: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    "reader and writers": (("read", "write", "write"), {}, 20_000),
    "upgrade, reader, writer": ((UP, "read", "write"), {}, 30_000),
    "reader, writer, Lock": (("read", "write"), {"others": [LOCK]}, 20_000),
    "readers and a writer, killed": (("read", "read", "write"), {"patches": EVENTS, "crashes": 1}, 50_000),
    "two updaters and a reader, killed": ((UP, UP, "read"), {"patches": EVENTS, "crashes": 1}, 5_000),
}
SHARING_BOUNDED: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    "upgrade, reader, writer, killed": (
        (UP, "read", "write"),
        {"patches": EVENTS, "crashes": 1, "preemptions": 2},
        500_000,
    ),
}
COUNTING: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    # name: how many permits each contender believes in
    "two for one": ((1, 1), {}, 200),
    "two for two": ((2, 2), {}, 100),
    "two for one, fair": ((1, 1), {"fair": True, "world": {"fifo": True}}, 200),
    "two that disagree": ((1, 2), {}, 200),
    "two for one, killed": ((1, 1), {"patches": EVENTS, "crashes": 1}, 1_500),
    "two for one, Ctrl-C": ((1, 1), {"interrupts": 1}, 3_000),
    "two for one, timeout": ((1, 1), {"timeout": 1.0, "ticks": (1.0,)}, 1_500),
    "two for one, stopped": ((1, 1), {"stops": 1, "patches": ()}, 500),
    "two for one, cancelled": ((1, 1), {"kind": semaphore.AsyncSemaphore, "tasks": True, "cancels": 2}, 200),
    "three for two": ((2, 2, 2), {}, 4_000),
    "three for two, one in front": ((2, 2, 2), {"patches": (*EVENTS_ONLY, *FRONT_OF_ONE)}, 4_000),
    "three for two, fair": ((2, 2, 2), {"fair": True, "world": {"fifo": True}}, 4_000),
    "three, of whom one disagrees": ((2, 2, 1), {}, 1_000),
}
COUNTING_DEEP: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "three for one, fair": ((1, 1, 1), {"fair": True, "world": {"fifo": True}}, 30_000),
    "three for two, killed": ((2, 2, 2), {"patches": EVENTS, "crashes": 1}, 40_000),
    "three for two, fair, killed": ((2, 2, 2), {"patches": EVENTS, "crashes": 1, "fair": True}, 40_000),
    "three for two, stopped": ((2, 2, 2), {"stops": 1, "patches": ()}, 15_000),
}


def _hold(name: str, explore: Any, contenders: tuple[Any, ...], options: dict[str, Any], least: int) -> None:
    options = {"patches": EVENTS_ONLY, **options, "world": kernel_world(**options.get("world", {}))}
    result = run(name, explore(*contenders, **options))
    assert not result.broken, str(result)
    assert result.states >= least


@pytest.mark.parametrize("name", SHARING)
def test_all_interleavings_of_sharing(name: str) -> None:
    _hold(name, share, *SHARING[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARING_DEEP)
def test_all_interleavings_of_many_that_share(name: str) -> None:
    _hold(name, share, *SHARING_DEEP[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARING_BOUNDED)
def test_interleavings_of_sharing_with_few_preemptions(name: str) -> None:
    """Not exhaustive: at most that many times one contender goes on although the one before could.

    `python -m tests.sim.test_shared` does without that bound: 567,956 states.
    """
    _hold(name, share, *SHARING_BOUNDED[name])


@pytest.mark.parametrize("name", COUNTING)
def test_all_interleavings_of_counting(name: str) -> None:
    _hold(name, count, *COUNTING[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTING_DEEP)
def test_all_interleavings_of_many_that_count(name: str) -> None:
    _hold(name, count, *COUNTING_DEEP[name])


def _foreign_reader(script: Script) -> None:
    """`flock -s`: shared, and it knows nothing of ranges."""
    ops = SimOps(script)
    fd = ops.open(PATH, os.O_RDWR)
    try:
        ops.flock(fd, SHARED)
    except BlockingIOError:
        ops.close(fd)
        return
    script.tell("enter", None, "read")
    script.tell("leave")
    ops.flock(fd, 8)
    ops.close(fd)


@pytest.mark.parametrize("life", ["read", "write", UP])
def test_with_a_foreign_shared_flock(life: str) -> None:
    """Whose end is an event as any other; an upgrade fails against it, and stays shared."""
    result = run("foreign", share(life, patches=EVENTS_ONLY, others=[_foreign_reader]))
    assert not result.broken, str(result)
    assert result.states >= 40


if __name__ == "__main__":
    argparse.ArgumentParser(description="All interleavings of what the tests run with few.").parse_args()
    for title, (contenders, options, _) in SHARING_BOUNDED.items():
        _hold(title, share, contenders, {**options, "preemptions": None}, 500_000)
