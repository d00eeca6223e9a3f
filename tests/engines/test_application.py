"""The same application on a path and on every engine: only the target differs."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from interlock.testing.conformance.crew import WORLDS, Crew

from .application import POOL, Done, plan, work
from .backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMES = 8


@pytest.fixture(params=["path", *BACKENDS])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes a target of a name."""
    with ExitStack() as stack:
        if request.param == "path":
            yield lambda name: str(tmp_path / f"{name}.lock")
        else:
            yield stack.enter_context(BACKENDS[request.param]()).target


def test_the_application(target: Callable[[str], str], tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    os.mkdir(directory)
    given = plan(target, directory, TIMES, {})
    with Crew() as crew:
        working = [crew.hire(world).begin(work, given) for world in WORLDS * 2]
        done: list[Done] = [each.result(60) for each in working]
    assert [fault for each in done for fault in each.faults] == []
    with open(given.path("counter")) as file:
        assert int(file.read()) == TIMES * len(done)
    tokens = [token for each in done for token in each.written]
    assert len(set(tokens)) == len(tokens) == TIMES * len(done)
    assert all(each.written == sorted(each.written) for each in done)
    assert {slot for each in done for slot in each.slots} <= set(range(POOL))
    assert sum(each.read for each in done) > 0


def test_it_finds_what_it_is_there_to_find(tmp_path: Path) -> None:
    """Without exclusion (each worker has locks of its own) it does not pass."""
    directory = str(tmp_path / "data")
    os.mkdir(directory)
    with Crew() as crew:
        working = []
        for number, world in enumerate(WORLDS * 2):
            given: Any = plan(lambda name: str(tmp_path / f"{number}-{name}.lock"), directory, 30, {})  # noqa: B023
            working.append(crew.hire(world).begin(work, given))
        faults = []
        for each in working:
            try:
                faults += each.result(60).faults
            except Exception as error:  # noqa: BLE001 - torn files are what is expected here
                faults.append(repr(error))
    assert faults
