"""The errno matrix is compared with strace, and strace injects errors itself.

The whole: `python -m tests.faults.escapes` and `python -m tests.faults.traced`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import need

from .escapes import escapes
from .files import VERBS
from .subjects import SUBJECTS, Referee
from .traced import CALLS, Case, cases, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE = list(cases())[::61]


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    need("strace")
    found = Referee()
    yield found
    found.close()


@pytest.mark.parametrize("kind", [*SUBJECTS, *VERBS])
def test_no_call_gets_past_the_gate(kind: str) -> None:
    need("strace")
    report = escapes(kind)
    assert report.all() == [], "\n".join(report.lines)
    assert report.seen.total() >= 10


def test_a_call_behind_the_gate_is_reported() -> None:
    need("strace")
    report = escapes("flock", plant=True)
    (escaped,) = report.escaped
    assert escaped == ("newfstatat", "the thread")
    assert report.all()


@pytest.mark.parametrize("case", SLICE, ids=lambda case: "-".join(map(str, case)).replace(" ", "_"))
def test_an_error_of_the_kernel(case: Case, referee: Referee) -> None:
    assert run(case, referee).problems == []


def test_the_slice_has_each_kind() -> None:
    assert {case.kind for case in SLICE} == set(CALLS)


def test_an_error_of_the_kernel_that_is_met(referee: Referee) -> None:
    found = run(Case("flock", "flock", "ENOLCK", 1), referee)
    assert found.hit
    assert found.how != "no error"
    assert found.problems == []


def test_a_planted_bug_meets_an_error_of_the_kernel(referee: Referee) -> None:
    found = run(Case("flock", "flock", "EIO", 1), referee, ("grant",))
    assert found.hit
    assert any("another process gets it too" in problem for problem in found.problems)
