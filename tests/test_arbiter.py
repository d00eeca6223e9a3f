"""The line of a process: who has the turn, who is next, and that no wake-up is lost."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from interlock._core import arbiter
from interlock._core.acquire import acquire, run
from interlock._core.arbiter import Line, Place, give_back, line_for, turns
from interlock._io.blocking import io
from interlock.engines.memory import MemoryEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

numbers = count()


@pytest.fixture
def line() -> Line:
    return line_for(MemoryEngine(), f"line {next(numbers)}", "the line")


class Asker:
    """A place in a line, whose parker counts its wake-ups."""

    def __init__(self, line: Line) -> None:
        self.claim = line.engine.claim(line, self, False)
        self.place = Place(io, self.claim)
        self.woken = 0
        self.there = True
        self.place.parker = self

    def unpark(self) -> bool:
        self.woken += 1
        return self.there

    def tries(self) -> bool:
        return run(self.place.try_acquire(io, io.now() + 1000))

    def withdraws(self) -> None:
        run(self.place.withdraw(io))

    def releases(self) -> None:
        self.claim.line.engine.drop(self.claim)
        give_back(self.claim)


def test_one_key_is_one_line() -> None:
    engine, other = MemoryEngine(), MemoryEngine()
    line = line_for(engine, "key", "as it was named first")
    assert line_for(engine, "key", "otherwise") is line
    assert line.resource == "as it was named first"
    assert not line.secret
    assert line_for(engine, "another", "x") is not line
    assert line_for(other, "key", "x") is not line


def test_a_line_goes_when_nobody_needs_it() -> None:
    engine = MemoryEngine()
    line = line_for(engine, "key", "x")
    gone = weakref.ref(line)
    del line
    gc.collect()
    assert gone() is None
    assert line_for(engine, "key", "named anew").resource == "named anew"


def test_the_turn_goes_to_one(line: Line) -> None:
    one, two = Asker(line), Asker(line)
    assert one.tries()
    assert turns[line] is one.claim
    assert not two.tries()
    assert list(line.queue) == [two.place]
    assert one.tries()  # who has the turn keeps it
    one.releases()
    assert line not in turns
    assert two.woken == 1
    assert two.tries()
    assert not line.queue
    two.releases()


def test_a_newcomer_goes_behind(line: Line) -> None:
    one, two, three = Asker(line), Asker(line), Asker(line)
    assert one.tries()
    assert not two.tries()
    one.releases()
    assert not three.tries()  # the turn is free, and two has been called
    assert two.tries()
    two.releases()
    assert three.woken == 1
    assert three.tries()
    three.releases()


def test_only_the_first_is_woken(line: Line) -> None:
    holder, *waiters = (Asker(line) for _ in range(5))
    assert holder.tries()
    assert not any(waiter.tries() for waiter in waiters)
    holder.releases()
    assert [waiter.woken for waiter in waiters] == [1, 0, 0, 0]


def test_whoever_leaves_wakes_the_next(line: Line) -> None:
    """Its own wake-up may have been the one that counted."""
    holder, one, two = (Asker(line) for _ in range(3))
    assert holder.tries()
    assert not one.tries()
    assert not two.tries()
    holder.releases()
    assert (one.woken, two.woken) == (1, 0)
    one.withdraws()
    assert two.woken == 1
    assert two.tries()
    two.releases()


def test_withdrawing_from_the_middle_or_twice(line: Line) -> None:
    holder, one, two, three = (Asker(line) for _ in range(4))
    assert holder.tries()
    for waiter in (one, two, three):
        assert not waiter.tries()
    two.withdraws()
    two.withdraws()
    assert list(line.queue) == [one.place, three.place]
    assert turns[line] is holder.claim
    holder.releases()
    for waiter in (one, three):
        assert waiter.tries()
        waiter.releases()


def test_withdrawing_a_winner_gives_the_turn_back(line: Line) -> None:
    one, two = Asker(line), Asker(line)
    assert one.tries()
    assert not two.tries()
    one.withdraws()
    assert two.tries()
    two.releases()


def test_an_error_of_the_engine_gives_the_turn_back(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> bool:
        raise OSError("broken")

    one, two = Asker(line), Asker(line)
    monkeypatch.setattr(line.engine, "try_acquire", broken)
    monkeypatch.setattr(line.engine, "withdraw", broken)
    with pytest.raises(OSError, match="broken"):
        run(acquire(io, one.place, io.now() + 1000))
    assert line not in turns
    assert not line.queue
    monkeypatch.undo()
    assert two.tries()
    two.releases()


def test_places_that_nobody_comes_back_to_are_passed_by(line: Line) -> None:
    """Their event loop was closed over them."""
    holder, dead, dead_too, alive = (Asker(line) for _ in range(4))
    assert holder.tries()
    for waiter in (dead, dead_too, alive):
        assert not waiter.tries()
    dead.there = dead_too.there = False
    holder.releases()
    assert alive.woken == 1
    assert list(line.queue) == [alive.place]
    assert alive.tries()
    dead.withdraws()
    alive.releases()
    assert not line.queue


def test_giving_back_what_one_has_not_changes_nothing(line: Line) -> None:
    one, two = Asker(line), Asker(line)
    assert one.tries()
    give_back(two.claim)
    assert turns[line] is one.claim
    one.releases()
    give_back(one.claim)
    assert line not in turns


def test_a_forked_child_forgets_all(line: Line) -> None:
    holder, waiter = Asker(line), Asker(line)
    others = dict(turns)
    assert holder.tries()
    assert not waiter.tries()
    assert arbiter.forget_all() == [*others.values(), holder.claim]
    assert not turns
    assert not line.queue
    assert holder.claim.depth == 0
    assert waiter.tries() is False  # the engine's grant is the parent's still: it disowns next
    line.engine.disown(holder.claim)
    assert waiter.tries()
    waiter.releases()
    turns.update(others)


def test_a_forked_child_wakes_who_waited_in_it(line: Line) -> None:
    """The thread that forked may be one: in the handler of a signal, within its wait."""
    holder, waiter = Asker(line), Asker(line)
    others = dict(turns)
    assert holder.tries()
    assert not waiter.tries()
    arbiter.share(holder.claim)
    woken = waiter.woken
    assert arbiter.forget_all() == [*others.values(), holder.claim]
    assert waiter.woken == woken + 1
    assert not waiter.place.queued
    assert not arbiter.granted
    line.engine.disown(holder.claim)
    assert waiter.tries()
    waiter.releases()
    turns.update(others)


def test_who_finds_its_place_gone_in_the_middle_of_a_try_comes_again(line: Line) -> None:
    """A fork between its joining and its look."""

    class Emptied(deque[Place]):
        def append(self, place: Place) -> None:
            pass

    one = Asker(line)
    line.queue = Emptied()
    assert not one.tries()
    assert not one.place.queued
    line.queue = deque()
    assert one.tries()
    one.releases()


# ---- who waits, and for how long


class Naps:
    """An io whose sleeps end at once; `wakes`: by a wake-up."""

    def __init__(self, wakes: bool) -> None:
        self.wakes = wakes
        self.asked: list[float] = []

    def now(self) -> float:
        return 1000.0

    async def park(self, parker: object, until: float) -> bool:
        self.asked.append(until - self.now())
        return self.wakes


def waits(asker: Asker, until: float, wakes: bool = False) -> float:
    """For how many seconds it would sleep."""
    naps: Any = Naps(wakes)
    run(asker.place.wait(naps, until))
    (asked,) = naps.asked
    return float(asked)


def test_the_first_looks_for_itself_more_often_than_the_others(line: Line) -> None:
    holder, first, second = Asker(line), Asker(line), Asker(line)
    assert holder.tries()
    assert not first.tries()
    assert not second.tries()
    assert waits(first, 9000.0) == arbiter.NAP
    assert waits(second, 9000.0) == 5 * arbiter.NAP
    assert waits(first, 1000.25) == waits(second, 1000.25) == 0.25
    for each in (second, first, holder):
        each.withdraws()


def test_who_was_not_woken_takes_a_free_turn_whatever_its_rank(line: Line) -> None:
    """Whom the first waits for may be stopped, and never wake it."""
    holder, first, second = Asker(line), Asker(line), Asker(line)
    assert holder.tries()
    assert not first.tries()
    assert not second.tries()
    waits(second, 9000.0)
    assert not second.tries(), "it is not free"
    assert list(line.queue) == [first.place, second.place]
    holder.releases()
    waits(second, 9000.0, wakes=True)
    assert not second.tries(), "it was woken, so all is well with the queue"
    waits(second, 9000.0)
    assert second.tries()
    assert list(line.queue) == [first.place]
    second.releases()
    assert first.tries()
    first.releases()


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_turn_whose_event_loop_is_closed_is_ended_unless_it_holds(line: Line, there: bool, granted: bool) -> None:
    """Who was not woken looks at who has the turn: one that waits there for another program, and never goes on."""
    holder, waiter = Asker(line), Asker(line)
    claim: Any = holder.claim
    turns[line] = claim
    claim.parker = holder
    claim.since = 5.0 if granted else 0.0
    holder.there = there
    assert not waiter.tries()
    waits(waiter, 9000.0, wakes=True)
    assert turns[line] is claim
    waits(waiter, 9000.0)
    assert (line not in turns) == (not granted and not there)
    assert waiter.tries() == (line not in turns or turns[line] is waiter.claim)
    give_back(claim)
    waiter.withdraws()


def test_an_error_of_the_engine_says_at_which_path(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    one = Asker(line)
    monkeypatch.setattr(line.engine, "try_acquire", broken)
    monkeypatch.setattr(line.engine, "wait", broken)
    for step in (one.tries, lambda: run(one.place.wait(io, io.now() + 1000))):
        with pytest.raises(OSError, match="Input/output") as caught:
            step()
        assert caught.value.filename == line.key
    monkeypatch.undo()
    one.withdraws()
    assert line not in turns


def test_an_interrupted_withdrawal_is_done_all_the_same(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    one, two = Asker(line), Asker(line)
    assert one.tries()
    monkeypatch.setattr(line.engine, "withdraw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.withdraws()
    monkeypatch.undo()
    assert line not in turns
    assert two.tries(), "the engine has it still"
    two.releases()


# ---- after an exception, wherever it struck


def test_a_claim_that_is_abandoned_leaves_its_place(line: Line) -> None:
    holder, waiter, other = Asker(line), Asker(line), Asker(line)
    assert holder.tries()
    assert not waiter.tries()
    assert not other.tries()
    arbiter.abandon(waiter.claim)
    assert list(line.queue) == [other.place]
    assert not waiter.place.queued
    assert turns[line] is holder.claim
    assert other.woken == 1, "the wake-up that the first had may have been the one that counts"
    arbiter.abandon(holder.claim)
    assert list(line.queue) == [other.place]
    assert line not in turns
    assert other.tries(), "the engine has it still"
    arbiter.share(other.claim)
    arbiter.abandon(other.claim)
    assert not arbiter.granted
    assert not arbiter.alive(other.claim)


def test_an_abandoning_that_is_interrupted_begins_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else will do it; and the interrupt is not lost."""
    engine: Any = line.engine
    one, two = Asker(line), Asker(line)
    assert one.tries()
    assert not two.tries()
    drop = engine.drop
    left = [KeyboardInterrupt("first"), KeyboardInterrupt("second")]

    def interrupted(claim: object) -> None:
        if left:
            raise left.pop(0)
        drop(claim)

    monkeypatch.setattr(engine, "drop", interrupted)
    with pytest.raises(KeyboardInterrupt, match="second"):
        arbiter.abandon(one.claim)
    monkeypatch.undo()
    assert line not in turns
    assert two.woken == 1
    assert two.tries()
    two.releases()


def test_who_shares_gives_the_turn_to_the_next_and_is_alive(line: Line) -> None:
    one, two = Asker(line), Asker(line)
    assert one.tries()
    assert arbiter.alive(one.claim)
    assert not two.tries()
    assert not arbiter.alive(two.claim)
    arbiter.share(one.claim)
    assert line not in turns
    assert two.woken == 1
    assert arbiter.alive(one.claim)
    arbiter.abandon(one.claim)
    assert not arbiter.alive(one.claim)
    two.withdraws()


def test_lines_that_are_known(line: Line) -> None:
    engine = line.engine
    assert arbiter.known(engine, line.key)
    assert not arbiter.known(engine, "another")
    assert line in arbiter.lines()
    other = line_for(engine, "goes", "x")
    assert arbiter.known(engine, "goes")
    where = (id(engine), "goes")
    dead = arbiter._lines[where]
    del other
    gc.collect()
    arbiter._lines[where] = dead  # as it is found while it is taken away
    assert not arbiter.known(engine, "goes")
    assert None not in arbiter.lines()
    assert line_for(engine, "goes", "anew").resource == "anew"


@pytest.fixture
def restless() -> Iterator[None]:
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_that_name_a_resource_at_once_get_one_line() -> None:
    """Two lines would not know of each other: no queue, no re-entrance, no deadlock noticed."""
    engine = MemoryEngine()

    def round_of(key: str) -> int:
        found: list[Line] = []
        start = threading.Barrier(4)

        def name() -> None:
            start.wait()
            found.append(line_for(engine, key, key))

        threads = [threading.Thread(target=name) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(set(map(id, found)))

    assert {round_of(str(number)) for number in range(300)} == {1}
    gc.collect()
    assert not [where for where in arbiter._lines if where[0] == id(engine)]


@pytest.mark.usefixtures("restless")
def test_lines_that_come_and_go_stay_one() -> None:
    engine = MemoryEngine()
    wrong: list[object] = []

    def work() -> None:
        for _ in range(2000):
            line = line_for(engine, "key", "x")
            if line_for(engine, "key", "x") is not line:
                wrong.append(line)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("restless")
def test_nobody_is_forgotten_in_the_crowd(line: Line) -> None:
    """Threads that come, wait, give up and release at the worst moments: everybody is served, one at a time."""
    inside: list[int] = []
    served: list[int] = []
    wrong: list[object] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(40):
            claim: Any = line.engine.claim(line, object(), False)
            patience = chance.choice((0.0, 0.0002, 30.0))
            if run(acquire(io, Place(io, claim), io.now() + patience)):
                inside.append(number)
                if inside != [number]:
                    wrong.append(list(inside))
                inside.remove(number)
                line.engine.drop(claim)
                give_back(claim)
                served.append(number)
            elif patience == 30.0:
                wrong.append(f"{number} starved")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(served) >= 8 * 8
    assert line not in turns
    assert not line.queue
