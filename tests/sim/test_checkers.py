"""The history checker finds what is seeded, and nothing in right histories."""

from __future__ import annotations

import random
import time

import pytest

from interlock.testing.checkers import Span, check, overlaps, regressions


def in_turns(count: int, seed: int = 1) -> list[Span]:
    """A right history of an exclusive lock, in random order."""
    chance = random.Random(seed)
    now = 0.0
    history = []
    for token in range(1, count + 1):
        start = now + chance.random() * chance.choice((0, 1))
        now = start + chance.random()
        history.append(Span(start, now, token % 7, token=token))
    chance.shuffle(history)
    return history


def test_a_right_history_passes() -> None:
    assert check(in_turns(2000)) == 2000


def test_an_empty_history_passes() -> None:
    assert check([]) == 0


def test_a_seeded_overlap_is_found() -> None:
    history = in_turns(2000)
    victim = next(span for span in history if span.token == 1000)
    intruder = Span(victim.start + (victim.end - victim.start) / 2, victim.end, "intruder")
    faults = list(overlaps([*history, intruder]))
    assert [(fault.earlier, fault.later) for fault in faults] == [(victim, intruder)]
    with pytest.raises(AssertionError, match=r"1 faults in 2001 holds"):
        check([*history, intruder])


def test_a_seeded_token_regression_is_found() -> None:
    history = in_turns(2000)
    victim = next(span for span in history if span.token == 1000)
    history[history.index(victim)] = stale = victim._replace(token=998)
    faults = list(regressions(history))
    assert [fault.later for fault in faults] == [stale]
    assert faults[0].earlier.token == 999
    with pytest.raises(AssertionError, match="token 998 after token 999"):
        check(history)


def test_a_token_given_twice_is_a_regression() -> None:
    assert [fault.later.who for fault in regressions([Span(0, 1, "a", token=5), Span(1, 2, "b", token=5)])] == ["b"]


def test_tokens_of_holds_at_the_same_time_may_come_in_any_order() -> None:
    assert not list(regressions([Span(0, 2, "a", True, 7), Span(1, 3, "b", True, 6)]))


def test_spans_that_touch_do_not_overlap() -> None:
    assert not list(overlaps([Span(0, 1, "a"), Span(1, 2, "b"), Span(2, 2, "c"), Span(2, 3, "d")]))


def test_a_point_inside_another_span_overlaps() -> None:
    assert len(list(overlaps([Span(0, 2, "a"), Span(1, 1, "b")]))) == 1


def test_a_long_span_is_remembered_behind_short_ones() -> None:
    history = [Span(0, 100, "reader", shared=True), *(Span(i, i + 0.5, i, shared=True) for i in range(1, 50))]
    assert not list(overlaps(history))
    writer = Span(60, 61, "writer")
    assert [(fault.earlier.who, fault.later) for fault in overlaps([*history, writer])] == [("reader", writer)]


def test_a_reader_under_a_writer_is_found() -> None:
    assert [fault.what for fault in overlaps([Span(0, 2, "w"), Span(1, 3, "r", shared=True)])] == [
        "shared while held exclusively"
    ]


def test_permits() -> None:
    three = [Span(0, 10, "a"), Span(1, 10, "b"), Span(2, 10, "c")]
    assert not list(overlaps(three, permits=3))
    assert [fault.later.who for fault in overlaps(three, permits=2)] == ["c"]
    assert [fault.later.who for fault in overlaps(three)] == ["b", "c"]


def test_an_impossible_span_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        check([Span(2, 1, "a")])


def test_against_a_checker_that_compares_every_pair() -> None:
    """Random small histories, right and wrong ones: the same verdict as the definition, taken literally."""
    chance = random.Random(7)
    wrong = 0
    for _ in range(500):
        history = []
        for who in range(chance.randrange(1, 7)):
            start = chance.randrange(12)
            history.append(Span(start, start + chance.randrange(1, 4), who, chance.random() < 0.4))
        bad = any(
            one.start < other.end and other.start < one.end and not (one.shared and other.shared)
            for at, one in enumerate(history)
            for other in history[at + 1 :]
        )
        wrong += bad
        assert bool(list(overlaps(history))) == bad, history
    assert 100 < wrong < 450


def test_it_is_fast() -> None:
    history = in_turns(100_000)
    began = time.process_time()
    check(history)
    assert time.process_time() - began < 30  # quadratic would be minutes
