"""The measurement itself: it finds the overlaps that are there, and none where there are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from interlock.testing.lockfs import evidence, referee
from interlock.testing.lockfs.disks import DISKS
from interlock.testing.lockfs.referee import Result

if TYPE_CHECKING:
    from pathlib import Path

assert sys.platform == "linux"

pytestmark = [pytest.mark.usefixtures("all_places"), pytest.mark.slow]

TRUTH = {
    # What the bare system calls do there. Everywhere without a lock there are overlaps.
    ("coherent", "flock(2)"): "excludes",
    ("coherent", "no lock"): "overlaps",
    ("gpfs", "flock(2)"): "overlaps",
    ("gpfs", "OFD lock"): "excludes",
    ("gpfs", "no lock"): "overlaps",
    ("ocfs2", "flock(2)"): "excludes",
    ("ocfs2", "OFD lock"): "overlaps",
    ("local-lock", "flock(2)"): "overlaps",
    ("local-lock", "OFD lock"): "overlaps",
    ("always", "flock(2)"): "overlaps",
    ("lustre-noflock", "OFD lock"): "fails",
    ("nfs-nolockd", "flock(2)"): "fails",
    ("unsupported", "flock(2)"): "fails",
    ("errno-524", "flock(2)"): "fails",
    ("stale", "flock(2)"): "excludes",
    ("lost-replies", "flock(2)"): "excludes",
    ("xfs", "flock(2)"): "excludes",
    ("overlay", "OFD lock"): "excludes",
    ("tmpfs", "no lock"): "overlaps",
}


@pytest.mark.parametrize(("place", "kind"), TRUTH)
def test_the_referee_sees_what_is(place: str, kind: str) -> None:
    result = evidence.trial(place, kind, holds=400, kill_every=100, seconds=100)
    print(result)
    assert evidence.verdict(result) == TRUTH[place, kind], result
    if result.holds:
        assert result.holds >= 400
        assert result.kills >= 3
    if result.overlaps:
        assert result.overlaps >= 5


@pytest.mark.parametrize("place", evidence.places())
def test_auto_excludes_or_refuses_everywhere(place: str) -> None:
    """A slice of the measurement in the docs; a refusal names the filesystem or the errno."""
    result = evidence.trial(place, "auto", holds=300, kill_every=60, seconds=100)
    print(result)
    assert evidence.verdict(result) in ("excludes", "refuses"), result
    if result.holds:
        assert result.holds >= 300
    elif place != "read-only":
        assert "fuse.lockfs" in result.first_error or "524" in result.first_error
    if place in DISKS or place == "glusterfs":
        assert result.holds >= 300


def test_filelock_where_flock_is_each_hosts_own() -> None:
    assert evidence.verdict(evidence.trial("gpfs", "FileLock", holds=400, seconds=100)) == "overlaps"
    assert evidence.verdict(evidence.trial("coherent", "FileLock", holds=200, seconds=100)) == "excludes"


def test_a_lock_that_hangs_is_told_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referee, "PATIENCE", 1.0)
    before = children()
    result = evidence.trial("hang", "flock(2)", holds=10, seconds=100)
    assert evidence.verdict(result) == "hangs"
    assert children() <= before


def children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return set(file.read().split())


def test_kills_hit_those_inside_as_well() -> None:
    result = evidence.trial("tmpfs", "flock(2)", holds=2000, kill_every=20, seconds=60)
    print(result)
    assert result.overlaps == 0
    assert result.kills >= 95
    assert 10 <= result.killed_inside < result.kills


def test_a_control_that_does_not_overlap_and_an_auto_that_does_are_wrong() -> None:
    def row(kind: str, verdict: str) -> dict[str, str]:
        return {"place": "x", "kind": kind, "verdict": verdict, "first_error": ""}

    assert evidence.faults([row("no lock", "overlaps"), row("auto", "excludes"), row("flock(2)", "overlaps")]) == []
    assert len(evidence.faults([row("no lock", "excludes"), row("auto", "overlaps"), row("auto", "hangs")])) == 3


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (Result(holds=5, overlaps=1, errors={"EIO": 3}), "overlaps"),
        (Result(holds=5, errors={"EIO": 3}), "excludes"),
        (Result(holds=5, hung=True), "hangs"),
        (Result(), "hangs"),
        (Result(errors={"UnsupportedError": 20}), "refuses"),
        (Result(errors={"UnsupportedError": 19, "EIO": 1}), "fails"),
        (Result(unavailable="no such thing"), "unavailable"),
    ],
)
def test_verdicts(result: Result, verdict: str) -> None:
    assert evidence.verdict(result) == verdict


def test_the_command_writes_the_page_and_the_numbers(tmp_path: Path) -> None:
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    command = [sys.executable, "-m", "interlock.testing.lockfs.evidence", "--holds", "200", "--beside", "100"]
    command += ["--places", "coherent", "tmpfs", "lustre-noflock", "--kinds", "flock(2)", "auto"]
    command += ["--table", str(page), "--json", str(numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    trials = json.loads(numbers.read_text())["trials"]
    assert [(trial["place"], trial["kind"]) for trial in trials] == [
        (place, kind) for place in ("coherent", "tmpfs", "lustre-noflock") for kind in ("no lock", "flock(2)", "auto")
    ]
    text = page.read_text()
    assert "| filesystem | flock(2) | `auto` |" in text
    assert "| `lustre-noflock` | fails: ENOSYS | " in text
    assert "excludes 0/1" in text
    assert str(tmp_path) not in text
