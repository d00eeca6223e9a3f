"""`statistics`: nothing is counted twice or not at all, and the histograms mean what they say."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import Histogram, Lock, Timeout, statistics
from interlock._core import arbiter

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    with statistics() as stats:
        with Lock(path):
            assert Lock(path).try_acquire() is None
            with pytest.raises(Timeout):
                Lock(path).acquire(0.01)
        with Lock(path):
            pass
        with Lock("memory://#statistics"):
            pass
    assert arbiter.listener is None
    locks = stats.locks()
    assert locks.keys() == {path, "memory://#statistics"}
    mine = locks[path]
    assert (mine.acquired, mine.waits, mine.withdrawn, mine.released, mine.lost) == (2, 1, 2, 2, 0)
    assert mine.contention == pytest.approx(2 / 4)
    assert mine.hold.count == mine.wait.count == 2
    assert mine.hold.longest >= 0.01
    assert stats.as_dict()[path]["hold"]["count"] == 2
    with Lock(path):
        pass
    assert stats.locks()[path].acquired == 2, "it has stopped"


def test_threads_lose_no_count(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")

    def work() -> None:
        for _ in range(400):
            with Lock(path):
                pass

    with statistics() as stats:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    mine = stats.locks()[path]
    assert mine.acquired == mine.released == mine.hold.count == mine.wait.count == 1600
    assert sum(mine.hold.counts) == 1600
    assert 0 < mine.waits < 1600


def test_locks_without_number_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock._statistics.MOST", 2)
    with statistics() as stats:
        for number in range(5):
            with Lock(f"memory://#many{number}"):
                pass
    assert {name: lock.acquired for name, lock in stats.locks().items()} == {
        "memory://#many0": 1,
        "memory://#many1": 1,
        "": 3,
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_begins_at_zero(tmp_path: Path) -> None:
    with statistics() as stats:
        with Lock(tmp_path / "x.lock"):
            pass
        child = os.fork()
        if not child:
            before = stats.locks()
            with Lock(tmp_path / "y.lock"):
                pass
            after = {name: lock.acquired for name, lock in stats.locks().items()}
            os._exit(not (before == {} and after == {str(tmp_path / "y.lock"): 1}))
        assert os.waitpid(child, 0)[1] == 0


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_an_upper_bound(durations: list[float], share: float) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    ordered = sorted(durations)
    exact = ordered[min(len(ordered) - 1, max(0, int(-(-share * len(ordered) // 1)) - 1))]
    assert exact <= histogram.quantile(share) <= max(durations)
    assert histogram.quantile(share) <= max(exact * 2.5, 1e-6) or histogram.quantile(share) == max(durations)
    assert sum(histogram.counts) == histogram.count == len(durations)
    assert histogram.mean == pytest.approx(sum(durations) / len(durations))


def test_an_empty_histogram_and_a_wrong_share() -> None:
    assert Histogram().quantile(0.5) == 0.0
    assert Histogram().mean == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram().quantile(1.5)
