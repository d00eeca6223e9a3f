"""All interleavings of the memory engine: alone, and behind the arbiter and the shells."""

from __future__ import annotations

from typing import Any

import pytest

from interlock import lock, rwlock, semaphore

from .planted_entries import entries
from .scenarios import EVENTS_ONLY, count, explore, memory, memory_world, run, share

pytestmark = pytest.mark.timeout(900)
"""The work is the same everywhere, and how long it takes is the machine's."""

BARE = None
SCENARIOS: dict[str, tuple[int, dict[str, Any], int]] = {
    # name: contenders, options, fewest states that this must have seen
    "two, bare": (2, {"kind": BARE}, 300),
    "two, bare, two rounds": (2, {"kind": BARE, "rounds": 2}, 2_000),
    "two, bare, one gives up": (2, {"kind": BARE, "timeout": 1.0, "ticks": (1.0,)}, 1_000),
    "two, bare, cancelled": (2, {"kind": BARE, "cancels": 2}, 300),
    "three, bare": (3, {"kind": BARE}, 20_000),
    "three, bare, cancelled": (3, {"kind": BARE, "cancels": 1}, 30_000),
    "two threads": (2, {}, 300),
    "two threads, two rounds": (2, {"rounds": 2}, 5_000),
    "two threads, Ctrl-C": (2, {"interrupts": 1}, 1_500),
    "two threads, timeout": (2, {"timeout": 1.0, "ticks": (1.0,)}, 1_000),
    "three threads": (3, {}, 30_000),
    "three tasks, one cancelled": (3, {"kind": lock.AsyncLock, "cancels": 1, "tasks": True}, 50_000),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_interleavings(name: str) -> None:
    contenders, options, least = SCENARIOS[name]
    result = run(
        name, explore((0,) * contenders, world=memory_world(), engine=memory(), patches=EVENTS_ONLY, **options)
    )
    assert not result.broken, str(result)
    assert result.states >= least


UP = "update upgrade"
ARBITER: dict[str, Any] = {"kind": rwlock.RWLock}
TASKS: dict[str, Any] = {"kind": rwlock.AsyncRWLock, "tasks": True}
TIMEOUT: dict[str, Any] = {"timeout": 1.0, "ticks": (1.0,)}
SHARING: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    # name: the lives of the contenders, options, fewest states that this must have seen
    "reader, writer": (("read", "write"), {}, 200),
    "writers, two rounds": (("write", "write"), {"rounds": 2}, 1_000),
    "upgrade beside a reader": ((UP, "read"), {}, 1_000),
    "upgrade before a writer": ((UP, "write"), {}, 300),
    "upgrades": ((UP, UP), {}, 500),
    "downgrade, and stay": (("write read meet", "read"), {}, 300),
    "update no more": (("update read meet", "update"), {}, 300),
    "up, down, and stay": (("update upgrade read meet", "read"), {}, 1_000),
    "upgrade, cancelled": ((UP, "read"), {"cancels": 2}, 1_000),
    "reader, writer, cancelled": (("read", "write"), {"cancels": 1}, 200),
    "upgrade, timeout": ((UP, "read"), TIMEOUT, 5_000),
    "threads: reader, writer": (("read", "write"), ARBITER, 1_500),
    "threads: upgrade": ((UP, "read"), ARBITER, 5_000),
    "threads: downgrade": (("write read meet", "read"), ARBITER, 1_500),
    "tasks: upgrade, cancelled": ((UP, "read"), {**TASKS, "cancels": 1}, 5_000),
    "readers and a writer": (("read", "read", "write"), {}, 20_000),
}
SHARING_BOUNDED: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    "upgrade, reader, writer": ((UP, "read", "write"), {"preemptions": 2}, 1_000),
}
COUNTING: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    # name: how many permits each contender believes in
    "two for one": ((1, 1), {}, 200),
    "two for two": ((2, 2), {}, 400),
    "two for one, two rounds": ((1, 1), {"rounds": 2}, 1_000),
    "two that disagree": ((1, 2), {}, 500),
    "two for one, cancelled": ((1, 1), {"cancels": 2}, 200),
    "two for one, timeout": ((1, 1), TIMEOUT, 1_000),
    "threads: two for one": ((1, 1), {"kind": semaphore.Semaphore}, 5_000),
    "tasks: two for one, cancelled": ((1, 1), {"kind": semaphore.AsyncSemaphore, "tasks": True, "cancels": 1}, 2_000),
    "three for one": ((1, 1, 1), {}, 10_000),
    "three for two": ((2, 2, 2), {}, 30_000),
}


def _hold(name: str, explored: Any, contenders: tuple[Any, ...], options: dict[str, Any], least: int) -> None:
    result = run(name, entries(explored, *contenders, **options))
    assert not result.broken, str(result)
    assert result.states >= least


@pytest.mark.parametrize("name", SHARING)
def test_all_interleavings_of_sharing(name: str) -> None:
    _hold(name, share, *SHARING[name])


@pytest.mark.parametrize("name", SHARING_BOUNDED)
def test_interleavings_of_sharing_with_few_preemptions(name: str) -> None:
    """Not exhaustive: at most that many times one contender goes on although the one before could."""
    _hold(name, share, *SHARING_BOUNDED[name])


@pytest.mark.parametrize("name", COUNTING)
def test_all_interleavings_of_counting(name: str) -> None:
    _hold(name, count, *COUNTING[name])


@pytest.mark.parametrize("lives", [("read", "write"), ("write read meet", "read")], ids=" and ".join)
def test_merging_equal_states_of_sharers_loses_no_schedule(lives: tuple[str, ...]) -> None:
    """The list that is walked is in a variable, where the search can tell two of them apart."""
    merged, plain = entries(share, *lives).run(), entries(share, *lives, merge=False).run()
    assert merged.schedules == plain.schedules
    assert merged.states < plain.states
