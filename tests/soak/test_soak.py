"""A slice of each storm, and the proof that the referee sees what is there."""

from __future__ import annotations

import json
import mmap
from typing import TYPE_CHECKING

import pytest

from .__main__ import COUNTS, FILES, LEDGER, sums
from .storm import _CELLS, _OVERLAPS, _WIDTH, KINDS, SLOW, WRITE, Cells, storm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_nobody_is_in_with_another_whoever_is_killed(kind: str, tmp_path: Path) -> None:
    holds = 300 if kind in SLOW else 5_000
    outcome = storm(kind, str(tmp_path), 1, holds=holds, kills=50, limit=240)
    print(outcome)
    assert outcome.right
    assert outcome.holds >= holds
    assert outcome.kills >= 50


def test_without_a_lock_the_referee_sees_it(tmp_path: Path) -> None:
    outcome = storm("none", str(tmp_path), 1, holds=20_000, kills=5, limit=120)
    assert outcome.overlaps > 0
    assert not outcome.right


def test_one_more_than_the_permits_is_seen() -> None:
    cells = Cells(mmap.mmap(-1, 8 * (_CELLS + 3 * _WIDTH)), 3, "semaphore")
    cells.enter(0, WRITE)
    cells.enter(1, WRITE)
    assert cells.sum(_OVERLAPS) == 0
    cells.enter(2, WRITE)
    assert cells.sum(_OVERLAPS) == 1


def test_the_ledger_says_what_was_run() -> None:
    lines = [json.loads(line) for line in LEDGER.read_text(encoding="utf-8").splitlines()]
    assert lines
    for line in lines:
        assert line["kind"] in KINDS
        assert {"date", "commit", "python", "system", "seed", "seconds", *COUNTS} == line.keys() - {"kind"}
    for kind, counts in sums().items():
        assert kind == "none" or counts["overlaps"] == counts["regressions"] == 0
