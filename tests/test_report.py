"""What is told of holders and waiters, in words."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import Party, Report
from interlock._report import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.0 s"),
        (0, "0.0 s"),
        (0.25, "0.2 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (5 * 3600 + 125, "5 h 2 min"),
        (86399.6, "1 d 0 h"),
        (3 * 86400 + 4 * 3600 + 5, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e9))
def test_durations_are_short_and_not_far_off(seconds: float) -> None:
    text = duration(seconds)
    assert len(text) <= 12 + 6
    sizes = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    words = text.split()
    told = sum(float(number) * sizes[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(told - seconds) <= sizes[words[-1]]


def test_parties_in_words() -> None:
    assert str(Party(None)) == "an unknown process"
    assert str(Party(42)) == "pid 42"
    assert str(Party(42, "make -j8", inherited=True)) == "pid 42 (make -j8), which inherited the descriptor,"
    ago = time.time() - 12.2
    assert str(Party(42, "make", since=ago, since_exact=True)) == "pid 42 (make) for 12 s"
    assert str(Party(42, since=ago)) == "pid 42 for at most 12 s"


def test_a_report_goes_through_json() -> None:
    report = Report("a.lock", "kernel", holders=(Party(1, "x", since=2.5),), facts={"filesystem": "ext4"})
    again = json.loads(json.dumps(report.as_dict()))
    assert again["holders"][0] == {
        "pid": 1, "command": "x", "user": "", "host": "", "since": 2.5, "since_exact": False, "inherited": False,
        "thread": "", "task": "", "mode": "", "waited": None, "position": None, "slot": None,
    }  # fmt: skip
    assert again["waiters"] == []
    assert again["facts"] == {"filesystem": "ext4"}
    assert again["complete"] is True


def test_reports_are_values() -> None:
    assert Report("a", "kernel") == Report("a", "kernel")
    with pytest.raises(AttributeError):
        Report("a", "kernel").resource = "b"  # type: ignore[misc]
