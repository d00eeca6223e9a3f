"""The queue rule in all interleavings of a few contenders: nobody holds beside whom it must not, or sleeps for ever.

A contender joins; it decides by a snapshot of the queue that may be old by then; it sleeps until one of its concern
has left or changed since that snapshot; it may give up while it waits. Holders leave, or first upgrade, give the
upgrade up, or downgrade, as their script says.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, NamedTuple

import pytest

from interlock.engines import _queue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interlock._model import Mode


class Entry(NamedTuple):
    who: int
    mode: Mode
    permits: int = 0
    upgrading: bool = False
    awaits: frozenset[str] = frozenset()

    @property
    def ident(self) -> str:
        return str(self.who)


class Contender(NamedTuple):
    """`step`: "", "looks", "sleeps", "holds", "marked", "upgrades", "gone"."""

    step: str = ""
    script: tuple[str, ...] = ()
    mode: str = ""  # as what it holds
    seen: tuple[Entry, ...] = ()
    concern: frozenset[int] = frozenset()
    woken: bool = False


class State(NamedTuple):
    queue: tuple[Entry, ...]
    all: tuple[Contender, ...]


def place(queue: tuple[Entry, ...], who: int) -> int:
    return next(where for where, entry in enumerate(queue) if entry.who == who)


def put(state: State, who: int, contender: Contender) -> State:
    return state._replace(all=(*state.all[:who], contender, *state.all[who + 1 :]))


def change(state: State, who: int, entry: Entry | None) -> State:
    """Its entry becomes this one, or leaves; whom it concerns has news."""
    where = place(state.queue, who)
    queue = (*state.queue[:where], *((entry,) if entry else ()), *state.queue[where + 1 :])
    everybody = tuple(each._replace(woken=True) if who in each.concern else each for each in state.all)
    return State(queue, everybody)


def steps(state: State, kinds: tuple[Entry, ...]) -> Iterator[State]:
    """All that can happen next."""
    for who, one in enumerate(state.all):
        if one.step == "":
            joined = state._replace(queue=(*state.queue, kinds[who]))
            yield put(joined, who, one._replace(step="looks", seen=joined.queue))
        elif one.step == "looks":
            yield put(state, who, decided(one, who))
        elif one.step == "sleeps":
            if one.woken:
                # What it watches it has watched since before it read this.
                yield put(state, who, one._replace(step="looks", seen=state.queue, woken=False))
            yield gone(state, who)
        elif one.step == "holds":
            yield from held(state, who)
        elif one.step == "marked":
            entry = state.queue[place(state.queue, who)]._replace(awaits=frozenset(map(str, one.concern)))
            told = change(state, who, entry) if one.concern else state
            yield put(told, who, told.all[who]._replace(step="upgrades"))
        elif one.step == "upgrades":
            left = one.concern & {entry.who for entry in state.queue}
            if not left:
                yield put(state, who, one._replace(step="holds", mode="write", concern=frozenset(), seen=()))
            entry = state.queue[place(state.queue, who)]
            stays = change(state, who, entry._replace(upgrading=False, awaits=frozenset()))
            yield put(stays, who, one._replace(step="holds", concern=frozenset(), script=()))


def decided(one: Contender, who: int) -> Contender:
    where = place(one.seen, who)
    if not _queue.blockers(one.seen, where):
        return one._replace(step="holds", mode=one.seen[where].mode, seen=(), concern=frozenset(), woken=False)
    concern = frozenset(entry.who for entry in _queue.concern(one.seen, where))
    assert concern
    # It subscribes to its new concern, then reads once more; so news since `seen` are not missed.
    if concern != one.concern:
        return one._replace(step="sleeps", concern=concern, woken=True, seen=())
    return one._replace(step="sleeps", seen=())


def held(state: State, who: int) -> Iterator[State]:
    one = state.all[who]
    entry = state.queue[place(state.queue, who)]
    if not one.script:
        yield gone(state, who)
        return
    verb, *rest = one.script
    if verb == "upgrade":
        marked = change(state, who, entry._replace(upgrading=True))
        hinder = frozenset(other.who for other in _queue.hinderers(marked.queue, place(marked.queue, who)))
        yield put(marked, who, marked.all[who]._replace(step="marked", script=tuple(rest), concern=hinder, woken=False))
    else:
        weaker = change(state, who, entry._replace(mode=verb, upgrading=False, awaits=frozenset()))  # type: ignore[arg-type]
        yield put(weaker, who, weaker.all[who]._replace(mode=verb, script=tuple(rest)))


def gone(state: State, who: int) -> State:
    return put(change(state, who, None), who, Contender("gone"))


def explore(kinds: tuple[Entry, ...], scripts: tuple[tuple[str, ...], ...]) -> int:
    """Every state is safe, and wherever nothing can happen any more, all are done."""
    first = State((), tuple(Contender(script=script) for script in scripts))
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        require_safe(state, kinds)
        following = list(steps(state, kinds))
        # A sleeper may give up at any time; but nobody should have to.
        able = [after for after in following if not gave_up(state, after)]
        if not able:
            assert all(one.step == "gone" for one in state.all), f"they sleep for ever: {state}"
        for after in following:
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return len(seen)


def gave_up(before: State, after: State) -> bool:
    pairs = list(zip(before.all, after.all, strict=True))
    left = any(a.step in ("sleeps", "upgrades") and b.step == "gone" for a, b in pairs)
    return left or any(a.step == "upgrades" and b.step == "holds" and b.mode != "write" for a, b in pairs)


HOLDING = ("holds", "marked", "upgrades")


def require_safe(state: State, kinds: tuple[Entry, ...]) -> None:
    holding = [who for who, one in enumerate(state.all) if one.step in HOLDING]
    modes = [state.all[who].mode for who in holding]
    permits = kinds[0].permits
    if permits:
        assert len(holding) <= permits, state
        return
    assert "write" not in modes or len(modes) == 1, state
    assert modes.count("update") <= 1, state
    for who in holding:
        entry = state.queue[place(state.queue, who)]
        if not any(other.upgrading for other in state.queue):
            assert _queue.granted(state.queue, place(state.queue, who)), (entry, state)


READ: tuple[str, tuple[str, ...]] = ("read", ())
WRITE: tuple[str, tuple[str, ...]] = ("write", ())
KINDS: list[tuple[str, tuple[str, ...]]] = [
    READ,
    WRITE,
    ("update", ("upgrade",)),
    ("update", ("upgrade", "read")),
    ("write", ("update", "upgrade")),
    ("write", ("read",)),
]


@pytest.mark.parametrize("first", range(len(KINDS)))
def test_three_contenders_in_all_modes(first: int) -> None:
    """They join in any order, so each set of three is explored once."""
    for others in combinations_with_replacement(KINDS[first:], 2):
        everybody = (KINDS[first], *others)
        kinds = tuple(Entry(who, mode) for who, (mode, _) in enumerate(everybody))  # type: ignore[arg-type]
        assert explore(kinds, tuple(script for _, script in everybody)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("fourth", [READ, WRITE])
def test_an_upgrade_beside_readers_and_a_writer_that_may_give_up(fourth: tuple[str, tuple[str, ...]]) -> None:
    """The writer keeps a reader out when the mark is made; it leaves before the others do."""
    everybody = (("update", ("upgrade",)), READ, WRITE, fourth)
    kinds = tuple(Entry(who, mode) for who, (mode, _) in enumerate(everybody))  # type: ignore[arg-type]
    assert explore(kinds, tuple(script for _, script in everybody)) > 1000


@pytest.mark.parametrize("permits", [1, 2, 3])
def test_four_contenders_for_permits(permits: int) -> None:
    kinds = tuple(Entry(who, "write", permits) for who in range(4))
    assert explore(kinds, ((),) * 4) > 500


def test_an_upgrade_that_does_not_say_whom_it_awaits_would_wait_for_ever() -> None:
    """For a reader that is granted by its place, but had not looked when the mark came."""
    marked = (Entry(0, "update", upgrading=True), Entry(1, "read"))
    assert _queue.hinderers(marked, 0) == [marked[1]]
    assert _queue.blockers(marked, 1) == [marked[0]]
    said = (marked[0]._replace(awaits=frozenset(["1"])), marked[1])
    assert _queue.blockers(said, 1) == []


def test_the_exploration_finds_a_rule_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were upgrades no blockers where they stand behind, or were writers to watch the first only."""
    kinds = (Entry(0, "update"), Entry(1, "read"))
    right = _queue.blockers
    monkeypatch.setattr(_queue, "blockers", lambda queue, at: [e for e in right(queue, at) if not e.upgrading])
    with pytest.raises(AssertionError):
        explore(kinds, (("upgrade",), ()))
    monkeypatch.setattr(_queue, "blockers", right)
    monkeypatch.setattr(_queue, "concern", lambda queue, at: right(queue, at)[:1])
    two = (Entry(0, "read"), Entry(1, "write"), Entry(2, "read"))
    assert explore(two, ((), (), ())) > 100  # correct, if more often awake: it looks again, and finds the next
    monkeypatch.setattr(_queue, "hinderers", lambda _queue, _at: [])
    with pytest.raises(AssertionError):
        explore(kinds, (("upgrade",), ()))


def test_what_is_of_another_kind_is_found_only_before() -> None:
    queue = (Entry(0, "write", 2), Entry(1, "write", 3), Entry(2, "write"))
    assert _queue.foreign(queue, 0) is None
    assert _queue.foreign(queue, 1) == queue[0]
    assert _queue.foreign(queue, 2) == queue[0]


# ---- the rule itself, case by case


def entries(*modes: str) -> tuple[Entry, ...]:
    return tuple(Entry(who, mode) for who, mode in enumerate(modes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "others"),
    [("read", {"read", "update"}), ("update", {"read"}), ("write", set())],
)
def test_who_may_hold_together(one: str, others: set[str]) -> None:
    for other in ("read", "update", "write"):
        pair = entries(one, other)
        assert _queue.together(*pair) == (other in others)
        assert _queue.granted(pair, 1) == (other in others)
        assert list(_queue.blockers(pair, 1)) == ([] if other in others else [pair[0]])
        assert _queue.blockers(pair, 0) == []
        assert _queue.granted(pair, 0)


def test_a_writer_watches_the_last_of_those_before_it_and_others_all_of_them() -> None:
    """So its end wakes one: who watched two would be woken for nothing."""
    queue = entries("read", "read", "read", "write", "update", "read")
    assert list(_queue.concern(queue, 3)) == [queue[2]]
    assert list(_queue.concern(queue, 5)) == [queue[3]]
    assert list(_queue.concern(queue, 4)) == [queue[3]]
    queue = entries("write", "update", "update")
    assert list(_queue.concern(queue, 2)) == [queue[0], queue[1]]
    permits = tuple(Entry(who, "write", 2) for who in range(4))
    assert list(_queue.concern(permits, 3)) == list(permits[:3])
    assert list(_queue.concern(permits, 1)) == []
    assert [_queue.granted(permits, place) for place in range(4)] == [True, True, False, False]


def test_an_upgrade_waits_for_those_that_were_granted_beside_it() -> None:
    queue = entries("read", "update", "read", "write", "read")
    marked = (*queue[:1], queue[1]._replace(upgrading=True), *queue[2:])
    assert _queue.hinderers(marked, 1) == [queue[0], queue[2]]
    assert _queue.blockers(marked, 0) == [marked[1]]
    said = (*queue[:1], marked[1]._replace(awaits=frozenset(["0", "2"])), *queue[2:])
    assert _queue.blockers(said, 0) == _queue.blockers(said, 2) == []
    assert _queue.blockers(said, 4) == [said[1], said[3]]
