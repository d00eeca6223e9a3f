"""A short fight for every engine, one that must be lost, and the judge."""

from __future__ import annotations

import pytest

from .backends import BACKENDS
from .fight import Plan, run
from .history import Hold, judge, together

SECONDS = 7.0


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(BACKENDS))
def test_nobody_writes_what_is_anothers(engine: str) -> None:
    for seed in (6, 7, 8):
        fought = run(engine, SECONDS, seed)
        assert fought.verdict.faults == []
        assert fought.verdict.unaware == 0
        assert fought.kills >= 2
        assert (fought.restarts, fought.partitions) == (1, 1)
        assert fought.stops >= 1
        assert fought.verdict.used >= 3
        if fought.verdict.lost:
            return
    raise AssertionError("nobody lost it in three fights, so nothing was shown")


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["none", "deaf"])
def test_a_fight_without_a_lock_and_one_of_the_deaf_are_found_out(plant: str) -> None:
    """Not by every fight: on a slow machine few holds are stopped in the middle of their writes."""
    for seed in range(6, 12):
        if run("redis", 4.0 if seed < 8 else 12.0, seed, plant=plant).verdict.faults:
            return
    raise AssertionError("six fights, and nothing was found")


def hold(who: str, token: int, got: float, *writes: float, fenced: tuple[float, ...] = ()) -> Hold:
    asked = [*writes, *fenced]
    return Hold(who, token, got, asked, list(writes), None, None)


def test_holds_one_after_the_other_are_right() -> None:
    verdict = judge([hold("a", 1, 0.0, 0.1, 0.2), hold("b", 2, 0.3, 0.4), hold("a", 3, 0.5, 0.6)])
    assert verdict.faults == []
    assert (verdict.holds, verdict.used, verdict.writes) == (3, 3, 4)


def test_two_that_used_their_tokens_at_once_are_found() -> None:
    verdict = judge([hold("a", 1, 0.0, 0.1, 0.5), hold("b", 2, 0.3, 0.4)])
    assert any("more than 1 at once" in fault for fault in verdict.faults)
    assert verdict.unaware == 1


def test_one_that_is_fenced_but_was_not_told_is_found() -> None:
    verdict = judge([hold("a", 1, 0.0, 0.1, fenced=(0.5,)), hold("b", 2, 0.3, 0.4)])
    assert verdict.unaware == 1
    assert len(verdict.faults) == 1


def test_one_that_asked_before_the_other_got_it_is_right() -> None:
    """It was stopped between the question and the write; the fence is there for that."""
    verdict = judge([hold("a", 1, 0.0, 0.1, fenced=(0.2,)), hold("b", 2, 0.3, 0.4)])
    assert verdict.faults == []
    assert verdict.fenced == 1


def test_tokens_that_go_back_are_found_and_may_be_excused() -> None:
    holds = [hold("a", 5, 0.0, 0.1), hold("b", 4, 0.3, 0.4)]
    assert any("token 4 after token 5" in fault for fault in judge(holds).faults)
    verdict = judge(holds, excused=[(0.25, 0.35)])
    assert verdict.faults == []
    assert verdict.excused == 1


def test_a_hold_that_wrote_nothing_overlaps_nobody() -> None:
    verdict = judge([hold("a", 1, 0.0), hold("b", 2, 0.3, 0.4)])
    assert (verdict.faults, verdict.used) == ([], 1)


def test_verdicts_of_several_locks_are_added_up() -> None:
    right = judge([hold("a", 1, 0.0, 0.1, 0.2)])
    wrong = judge([hold("a", 1, 0.0, 0.1, 0.5), hold("b", 2, 0.3, 0.4)])
    both = together([right, wrong, wrong])
    assert both[:-1] == (5, 5, 8, 0, 2, 0, 0)
    assert both.faults == wrong.faults * 2


@pytest.mark.slow
def test_a_dense_fight_over_several_locks_is_told_as_one() -> None:
    fought = run("redis", 8.0, 9, plan=Plan(locks=3, kills=3, rounds=2))
    assert fought.verdict.faults == []
    assert (fought.restarts, fought.partitions) == (2, 2)
    assert fought.kills >= 12
    assert fought.verdict.used >= 3
