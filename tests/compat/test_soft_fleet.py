"""Mixed fleets of real filelock and interlock on one path, with kills: not one overlap. `fleet` is the harness, and a
command: `python -m tests.compat.fleet --holds 100000`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from .fleet import KINDS, Fleet, Interval, libraries_for, overlapping
from .soft_support import NEW, OLD, filelock

if TYPE_CHECKING:
    from pathlib import Path

    from .fleet import Outcome

linux = pytest.mark.skipif(sys.platform != "linux", reason="the harness looks into /proc")


def run(
    kind: str, directory: Path, holds: int, seconds: float, kills: float, killed_holders: int = 0
) -> Outcome:
    libraries = libraries_for(kind, filelock(OLD), filelock(NEW))
    fleet = Fleet(kind, libraries, directory, seed=7, kills=kills)
    return fleet.run(holds, seconds, killed_holders=killed_holders)


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_fleet_never_overlaps(tmp_path: Path, kind: str) -> None:
    outcome = run(kind, tmp_path, holds=1000, seconds=150, kills=6)
    assert outcome.overlaps == []
    assert outcome.holds >= 1000
    assert all(outcome.by_library.values())


@linux
@pytest.mark.parametrize("kind", ["MarkerSoftFileLock", "SoftReadWriteLock"])
def test_a_fleet_of_the_newer_kinds_never_overlaps(tmp_path: Path, kind: str) -> None:
    kills = 4 if kind == "MarkerSoftFileLock" else 0  # a dead member of the log blocks until it is put out
    outcome = run(kind, tmp_path, holds=150, seconds=150, kills=kills)
    assert outcome.overlaps == []
    assert outcome.holds >= 150
    assert all(outcome.by_library.values())


@linux
def test_a_fleet_of_strict_locks_never_overlaps(tmp_path: Path) -> None:
    outcome = run("StrictSoftFileLock", tmp_path, holds=60, seconds=150, kills=0)
    assert outcome.overlaps == []
    assert outcome.holds >= 60


@linux
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_fleet_never_overlaps_in_many_holds(tmp_path: Path, kind: str) -> None:
    outcome = run(kind, tmp_path, holds=5_000, seconds=400, kills=5, killed_holders=1)
    assert outcome.overlaps == []
    assert outcome.kills_while_holding > 0


def test_the_referee_sees_an_overlap() -> None:
    writer, reader = Interval(0, 10, True, "a"), Interval(12, 20, False, "b")
    assert overlapping([writer, reader, Interval(13, 15, False, "c"), Interval(20, 30, True, "d")]) == []
    assert len(overlapping([writer, Interval(9, 11, True, "b")])) == 1
    assert len(overlapping([writer, Interval(5, 30, False, "b")])) == 1
    assert len(overlapping([reader, Interval(13, 15, False, "c"), Interval(19, 30, True, "d")])) == 1
    # a short writer inside a long one, and then a third that meets only the long one
    assert len(overlapping([Interval(0, 100, True, "a"), Interval(1, 2, True, "b"), Interval(50, 60, True, "c")])) == 2


@linux
def test_a_fleet_without_a_lock_is_caught(tmp_path: Path) -> None:
    """The negative control: on paths of their own the workers exclude nobody, and the referee must say so."""
    left, right = tmp_path / "left", tmp_path / "right"
    left.mkdir()
    right.mkdir()
    filelock(NEW)
    for attempt in range(1, 6):  # one fleet may be through before the other has begun
        for directory in (left / str(attempt), right / str(attempt)):
            directory.mkdir()
        one = Fleet("FileLock", {"interlock": None}, left / str(attempt), seed=1, kills=0)
        other = Fleet("FileLock", {"interlock": None}, right / str(attempt), seed=2, kills=0)
        if overlapping(one.start_and_collect(other, holds=400 * 2**attempt)):
            return
    pytest.fail("two fleets without a lock between them, and they never met")
