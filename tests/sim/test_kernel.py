"""All interleavings of the kernel engine on a simulated kernel: every system call is a place where others may run.

What is proven is what the simulated kernel is like (see `simkernel`), for so many contenders, rounds and troubles.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock import lock
from interlock.testing.simposix import SimOps
from interlock.testing.simprocess import PATH

from .scenarios import EVENTS, EVENTS_ONLY, FRONT_OF_ONE, NOBODY_STOPPED, explore, kernel, kernel_world, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.testing.sim import Script

pytestmark = pytest.mark.timeout(900)
"""The work is the same everywhere, and how long it takes is the machine's."""

EXCLUSIVE, UNLOCK = 6, 8
TASK: dict[str, Any] = {"kind": lock.AsyncLock, "tasks": True}
SCENARIOS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    # name: the process of each contender, options, fewest states that this must have seen
    "two": ((0, 1), {"patches": EVENTS_ONLY}, 80),
    "two, two rounds": ((0, 1), {"patches": EVENTS_ONLY, "rounds": 2}, 1_500),
    "two, fair": ((0, 1), {"patches": EVENTS_ONLY, "fair": True}, 80),
    "two, new file": ((0, 1), {"patches": EVENTS_ONLY, "world": {"exists": False}}, 200),
    "two, cleaner": ((0, 1), {"patches": EVENTS_ONLY, "world": {"cleanings": 1}}, 2_500),
    "two, killed": ((0, 1), {"patches": EVENTS, "crashes": 1, "jumps": 2}, 1_000),
    "two, killed, two rounds": ((0, 1), {"patches": EVENTS, "crashes": 1, "rounds": 2}, 8_000),
    "two, stopped": ((0, 1), {"stops": 1}, 200),
    "two, cancelled": ((0, 1), {**TASK, "patches": EVENTS_ONLY, "cancels": 2}, 100),
    "two, Ctrl-C": ((0, 1), {"patches": EVENTS_ONLY, "interrupts": 1}, 500),
    "two, Ctrl-C, cleaner": ((0, 1), {"patches": EVENTS_ONLY, "interrupts": 1, "world": {"cleanings": 1}}, 15_000),
    "two, timeout": ((0, 1), {"patches": EVENTS_ONLY, "timeout": 1.0, "ticks": (1.0,)}, 400),
    "two, timeout, Ctrl-C": ((0, 1), {"patches": EVENTS_ONLY, "timeout": 1.0, "ticks": (1.0,), "interrupts": 1}, 5_000),
    "two, low event descriptor": ((0, 1), {"patches": EVENTS_ONLY, "engine": {"events_fd": 7}}, 80),
    "two, naps only": ((0, 1), {"engine": {"trusted": False}, "jumps": 1}, 50),
    "two threads": ((0, 0), {"patches": EVENTS_ONLY, "rounds": 2}, 3_000),
    "two threads, Ctrl-C": ((0, 0), {"patches": EVENTS_ONLY, "interrupts": 1}, 2_000),
    "two threads, timeout, Ctrl-C": (
        (0, 20_000),
        {"patches": EVENTS_ONLY, "timeout": 1.0, "ticks": (1.0,), "interrupts": 1},
        5_000,
    ),
    "three": ((0, 1, 2), {"patches": EVENTS_ONLY}, 4_000),
    "three, fair": ((0, 1, 2), {"patches": EVENTS_ONLY, "fair": True, "world": {"fifo": True}}, 4_000),
    "three, one in front": ((0, 1, 2), {"patches": (*EVENTS_ONLY, *FRONT_OF_ONE)}, 2_500),
    "three, without tickets": ((0, 1, 2), {"patches": EVENTS_ONLY, "engine": {"queue": False}}, 250),
    "four, without tickets": ((0, 1, 2, 3), {"patches": EVENTS_ONLY, "engine": {"queue": False}}, 1_500),
    "three, naps only": ((0, 1, 2), {"engine": {"trusted": False}}, 200),
    "three, stopped": ((0, 1, 2), {"stops": 1}, 15_000),
    "three, one in front, stopped": ((0, 1, 2), {"stops": 1, "patches": FRONT_OF_ONE}, 10_000),
    "three, cancelled": ((0, 1, 2), {"kind": lock.AsyncLock, "patches": EVENTS_ONLY, "cancels": 1}, 8_000),
    "three threads": ((0, 0, 0), {"patches": EVENTS_ONLY}, 20_000),
    "two threads and a process": ((0, 0, 1), {"patches": EVENTS_ONLY}, 15_000),
    "three tasks, cancelled": ((0, 0, 0), {**TASK, "patches": EVENTS_ONLY, "cancels": 1}, 60_000),
}
DEEP: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "three, new file": ((0, 1, 2), {"patches": EVENTS_ONLY, "world": {"exists": False}}, 15_000),
    "three, killed": ((0, 1, 2), {"patches": EVENTS, "crashes": 1}, 30_000),
    "three, fair, killed": (
        (0, 1, 2),
        {"patches": (*EVENTS, *NOBODY_STOPPED), "fair": True, "crashes": 1, "world": {"fifo": True}},
        50_000,
    ),
    "three, fair, early naps": ((0, 1, 2), {"patches": EVENTS, "fair": True, "jumps": 1}, 20_000),
}
BOUNDED: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "three, two rounds": ((0, 1, 2), {"patches": EVENTS_ONLY, "rounds": 2, "preemptions": 3}, 10_000),
    "three, cleaner": ((0, 1, 2), {"patches": EVENTS_ONLY, "world": {"cleanings": 1}, "preemptions": 2}, 30_000),
    "four": ((0, 1, 2, 3), {"patches": EVENTS_ONLY, "preemptions": 2}, 4_000),
    "four, one in front": ((0, 1, 2, 3), {"patches": (*EVENTS_ONLY, *FRONT_OF_ONE), "preemptions": 2}, 2_000),
}


def _hold(name: str, processes: tuple[int, ...], options: dict[str, Any], least: int) -> None:
    options = {
        **options,
        "world": kernel_world(**options.get("world", {})),
        "engine": kernel(**options.get("engine", {})),
    }
    result = run(name, explore(processes, **options))
    assert not result.broken, str(result)
    assert result.states >= least


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_interleavings(name: str) -> None:
    _hold(name, *SCENARIOS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_all_interleavings_of_many(name: str) -> None:
    _hold(name, *DEEP[name])


@pytest.mark.parametrize("name", BOUNDED)
def test_interleavings_with_few_preemptions(name: str) -> None:
    """Not exhaustive: at most that many times one contender goes on although the one before could."""
    _hold(name, *BOUNDED[name])


# ---- in a mixed fleet


def _foreign(unlocks: bool) -> Callable[[Script], None]:
    """Somebody else's lock on the same file: flock(1), which closes it locked, or filelock, which unlocks first."""

    def program(script: Script) -> None:
        ops = SimOps(script)
        fd = ops.open(PATH, os.O_RDWR)
        try:
            ops.flock(fd, EXCLUSIVE)
        except BlockingIOError:
            ops.close(fd)
            return
        script.tell("enter", None)
        script.tell("leave")
        if unlocks:
            ops.flock(fd, UNLOCK)
        ops.close(fd)

    return program


@pytest.mark.parametrize("unlocks", [True, False], ids=["unlocks", "closes"])
@pytest.mark.parametrize("fair", [True, False], ids=["fair", "not fair"])
def test_a_foreign_holder_wakes_us_without_knowing_it(unlocks: bool, fair: bool) -> None:
    patches = EVENTS_ONLY if unlocks else EVENTS
    explorer = explore((0, 1), patches=patches, fair=fair, others=[_foreign(unlocks)], jumps=0 if unlocks else 1)
    result = run("foreign", explorer)
    assert not result.broken, str(result)
    assert result.states > 4_000


def _has_a_child(script: Script, claim: Any) -> None:
    script.tell("copy", claim.fd)


def test_a_copy_in_a_child_costs_no_more_than_a_nap() -> None:
    """Unlocked while a child has a copy of the descriptor, nothing is closed, and no event tells: hence the nap cap."""
    result = run("naps", explore((0, 1), inside=_has_a_child))
    assert not result.broken, str(result)
    silent = run("no naps", explore((0, 1), inside=_has_a_child, patches=EVENTS_ONLY))
    assert "waits for ever" in silent.broken
