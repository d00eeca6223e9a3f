"""All interleavings of the memory engine: alone, and behind the arbiter and the shells."""

from __future__ import annotations

from typing import Any

import pytest

from interlock import lock

from .scenarios import EVENTS_ONLY, explore, memory, memory_world, run

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
