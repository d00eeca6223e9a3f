"""The errno matrix is compared with strace. The whole: `python -m tests.faults.escapes`."""

from __future__ import annotations

import pytest

from tests.support import need

from .escapes import escapes
from .files import VERBS
from .subjects import SUBJECTS


@pytest.mark.parametrize("kind", [*SUBJECTS, *VERBS])
def test_no_call_gets_past_the_gate(kind: str) -> None:
    need("strace")
    report = escapes(kind)
    assert report.unexplained(kind) == [], "\n".join(report.lines)
    assert report.seen.total() >= 10


def test_a_call_behind_the_gate_is_reported() -> None:
    need("strace")
    report = escapes("flock", plant=True)
    (escaped,) = report.escaped
    assert escaped == ("newfstatat", "the thread")
    assert report.unexplained("flock")
