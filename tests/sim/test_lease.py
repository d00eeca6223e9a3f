"""The lease engine in all interleavings: killed, standing still beyond the ttl, deceived by caches, at every step."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from interlock.engines.marker import lease_log
from interlock.testing.simlease import TTL

from .lease_scenarios import PLANTS, SWEEPS, explore
from .scenarios import run

pytestmark = pytest.mark.timeout(900)
"""The work is the same everywhere, and how long it takes is the machine's."""

CASES: dict[str, tuple[Any, ...]] = {
    "two": (2, 1, {}),
    "two, one twice": (2, (1, 2), {"trusted": True, "patches": SWEEPS}),
    "two, killed": (2, 1, {"crashes": 1}),
    "two, killed, seen to be dead": (2, 1, {"crashes": 1, "one_kernel": True, "trusted": True}),
    "two, stopped for ever": (2, 1, {"stops": 1}),
    "two, standing still": (2, 1, {"jumps": 1, "renewals": 1}),
    "two, standing still, renewing twice": (2, 1, {"jumps": 1, "renewals": 2, "trusted": True}),
    "two, deceived": (2, 1, {"stale": 1, "patches": SWEEPS}),
    "two, killed and standing still": (2, 1, {"crashes": 1, "jumps": 1, "trusted": True}),
    "two, without a log": (2, 1, {"exists": False, "crashes": 1}),
    "two, without links": (2, 1, {"links": False, "trusted": True}),
    "two, without answers": (2, 1, {"lost_replies": 1, "outcomes": ("OSError",)}),
    "three": (3, 1, {"trusted": True}),
    "three, killed": (3, 1, {"crashes": 1}),
    "three, deceived, one after the other": (3, 1, {"stale": 1, "patches": SWEEPS, "preemptions": 0}),
}

SOAK: dict[str, tuple[Any, ...]] = {
    "two, standing still twice": (2, 1, {"jumps": 2, "renewals": 1}),
    "two, standing still, renewing in time": (2, 1, {"jumps": 1, "ticks": (5.0,), "renewals": 2, "trusted": True}),
    "three, killed, local": (3, 1, {"trusted": True, "crashes": 1}),
    "three, all at once": (
        3,
        1,
        {"crashes": 1, "jumps": 1, "stale": 1, "patches": SWEEPS, "preemptions": 0},
    ),
    "three, deceived": (3, 1, {"stale": 1}),
    "three, standing still": (3, 1, {"jumps": 1}),
    "three, killed and standing still, local": (3, 1, {"trusted": True, "crashes": 1, "jumps": 1}),
    "four, local": (4, 1, {"trusted": True}),
    "four, killed, local, two preemptions": (4, 1, {"trusted": True, "crashes": 1, "preemptions": 2}),
    "four, killed, two preemptions": (4, 1, {"crashes": 1, "preemptions": 2}),
    "three, one twice, swept": (3, (1, 1, 2), {"trusted": True, "patches": SWEEPS}),
    "two, killed, standing still and deceived": (2, 1, {"crashes": 1, "jumps": 1, "stale": 1, "patches": SWEEPS}),
    "two, standing still, deceived, renewing": (2, 1, {"jumps": 1, "stale": 1, "renewals": 1}),
}
"""Minutes each, or hours: `python -m tests.sim.test_lease [NAMES]`. Which of them were run is in
docs/concepts/marker.md."""


@pytest.mark.parametrize("name", CASES)
def test_every_interleaving_is_right(name: str) -> None:
    number, rounds, options = CASES[name]
    result = run(name, explore(number, rounds, **options))
    assert not result.broken, str(result)
    assert result.states > 200


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    bug, planted = PLANTS[name]
    result = run(name, bug.broken(planted))
    assert re.search(bug.expected, result.broken), f"{name}: {result}"


def test_owners_and_contenders_leave_room_between_them() -> None:
    """For what caches hold back, and for clocks of different rates."""
    assert lease_log.WATCHED - lease_log.COUNTED >= 0.15
    assert TTL > 0


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=f"{__doc__} The names: {'; '.join({**CASES, **SOAK})}")
    words.add_argument("names", nargs="*", metavar="NAME", help="only these; else those that take minutes")
    asked = words.parse_args().names
    if unknown := [name for name in asked if name not in {**CASES, **SOAK}]:
        words.error(f"there is no {unknown[0]!r}")
    for title in asked or SOAK:
        number, rounds, options = {**CASES, **SOAK}[title]
        found = run(title, explore(number, rounds, limit=30_000_000, **options))
        assert not found.broken
