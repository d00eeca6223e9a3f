"""The explorer finds every planted bug, and nothing where it is not planted."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from . import planted_entries, planted_shared  # noqa: F401 - they add to the list
from .planted import PLANTS, Plant
from .scenarios import run

if TYPE_CHECKING:
    from interlock.testing.sim import Result

pytestmark = pytest.mark.timeout(900)
"""The work is the same everywhere, and how long it takes is the machine's."""

FOUND_WITHIN = 50_000
"""States. A planted bug that hides longer is not found, it is stumbled upon."""


@cache
def _sound(scenario: str) -> Result:
    plant = next(plant for plant in PLANTS if plant.scenario == scenario)
    return run(f"{plant.name}, not planted", plant.sound())


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    found = run(plant.name, plant.broken())
    assert re.search(plant.expected, found.broken), f"{plant.name}: {found}"
    assert found.states < FOUND_WITHIN
    assert len(found.trace) > 3


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_it_is_not_found_where_it_is_not(plant: Plant) -> None:
    result = _sound(plant.scenario)
    assert not result.broken, str(result)


def test_there_are_enough_of_them() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 20
