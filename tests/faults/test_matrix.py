"""A slice of the errno matrix, and its negative controls. The whole: `python -m tests.faults.matrix`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from .files import VERBS
from .subjects import SUBJECTS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOCKS, FILES = 61, 29
"""One case in so many; primes, so that no errno and no moment is always left out. Verbs on files have fewer sites."""


def matrix(*words: str, patience: float = 20) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.matrix", "--json", *words],
        cwd=ROOT, env={**os.environ, "MATRIX_PATIENCE": str(patience)}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(("every", "names"), [(LOCKS, list(SUBJECTS)), (FILES, list(VERBS))])
def test_every_call_may_fail(every: int, names: list[str]) -> None:
    found = matrix("--every", str(every), *names)
    assert found["failures"] == []
    rows = {row["subject"]: row for row in found["rows"]}
    assert set(rows) == set(names)
    for row in rows.values():
        assert row["sites"] >= 10, row
        assert row["cases"] >= 10, row


@pytest.mark.parametrize(
    ("subject", "call"),
    [
        ("flock", "fcntl"),  # F_GETFL failed, and the lock was kept for good
        ("tokens", "flock"),  # LOCK_UN of the token file failed, and its descriptor leaked
        ("marker", "fstat"),  # a release that could not compare left the marker
        ("marker strict", "unlink"),  # a claim was gone, the answer was lost, and the lock said that it was held
        ("lease", "fstat"),  # a descriptor leaked
    ],
)
def test_what_it_has_found(subject: str, call: str) -> None:
    found = matrix("--every", "3", "--only", call, subject)
    assert found["failures"] == []
    assert found["rows"][0]["cases"] > 30


@pytest.mark.parametrize(
    ("plant", "every", "problem"), [("grant", "3", "1: granted, and another"), ("leak", "7", "2: descriptors leak")]
)
def test_a_planted_bug_is_found(plant: str, every: str, problem: str) -> None:
    found = matrix("--plant", plant, "--every", every, "--only", "flock", "flock", patience=0.1)
    assert any(problem in failure for failure in found["failures"])
