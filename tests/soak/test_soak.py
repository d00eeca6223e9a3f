"""A slice of each storm, and the proof that the referee sees what is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ..support import need_lockfs
from .__main__ import COUNTS, FILES, LEDGER, sums
from .locks import KINDS, OF_FILES
from .referee import DOOMED, INSIDE, OVERLAPS, WRITE, Cells, Takeovers
from .storm import storm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_nobody_is_in_with_another_whoever_is_killed(kind: str, tmp_path: Path) -> None:
    holds = 300 if kind in OF_FILES else 5_000
    outcome = storm(kind, str(tmp_path), 1, holds=holds, kills=50, limit=240)
    print(outcome)
    assert outcome.right
    assert outcome.holds >= holds
    assert outcome.kills >= 50


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "holds"), [("lease", 20), ("strict", 100), ("soft", 200)])
def test_hosts_that_cannot_prove_each_other_dead(kind: str, holds: int) -> None:
    need_lockfs()
    from interlock.testing.lockfs import evidence

    with evidence.mounted("coherent") as paths:
        outcome = storm(kind, paths, 1, holds=holds, kills=10, every=0.2, limit=240, apart=True)
    print(outcome)
    assert outcome.right
    assert outcome.holds >= holds
    assert outcome.kills >= 10


def test_without_a_lock_the_referee_sees_it(tmp_path: Path) -> None:
    outcome = storm("none", str(tmp_path), 1, holds=20_000, kills=5, limit=120)
    assert outcome.overlaps > 0
    assert not outcome.right


def test_a_lock_beside_it_is_another_lock() -> None:
    cells = Cells(3, "soft", 2)
    cells.enter(0, WRITE, 0)
    cells.enter(1, WRITE, 1)
    assert cells.sum(OVERLAPS) == 0
    cells.enter(2, WRITE, 1)
    assert cells.sum(OVERLAPS) == 1


def test_the_time_of_a_takeover_counts_from_the_kill() -> None:
    cells = Cells(3, "soft")
    takeovers = Takeovers(cells)
    for left_before in (False, True):
        cells.enter(0, WRITE)
        cells.put(0, DOOMED, 1)
        before = time.monotonic()
        hold = takeovers.before(0)
        if left_before:
            cells.leave(0)
        takeovers.after(0, hold)
        cells.put(0, INSIDE, 0)
        cells.put(0, DOOMED, 0)
        assert takeovers.open() is not left_before
        cells.enter(1, WRITE)
        cells.leave(1)
        lasted = time.monotonic() - before
        assert not takeovers.open()
        (found,) = takeovers.sorted()  # who left before the kill has left nothing to be taken over
        assert left_before or 0 < found <= lasted


def test_one_more_than_the_permits_is_seen() -> None:
    cells = Cells(3, "semaphore")
    cells.enter(0, WRITE)
    cells.enter(1, WRITE)
    assert cells.sum(OVERLAPS) == 0
    cells.enter(2, WRITE)
    assert cells.sum(OVERLAPS) == 1


def test_the_ledger_says_what_was_run() -> None:
    lines = LEDGER.lines()
    assert lines
    for line in lines:
        assert line["kind"] in KINDS
        assert {"date", "commit", "python", "system", "seed", "seconds", *COUNTS} <= line.keys()
    for kind, counts in sums().items():
        assert kind == "none" or counts["overlaps"] == counts["regressions"] == 0
