"""The line of a process: who has the turn, who is next, and that no wake-up is lost."""

from __future__ import annotations

import gc
import random
import threading
import weakref
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
