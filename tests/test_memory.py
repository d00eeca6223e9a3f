"""The memory engine, beyond what all engines promise."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from interlock import AsyncRWLock, AsyncSemaphore, Lock, ProtocolError, RLock, RWLock, Semaphore, inspect
from interlock._core import arbiter
from interlock._core.acquire import run
from interlock._core.arbiter import Line
from interlock._io.blocking import io
from interlock.engines.memory import MemoryEngine, engine


def test_its_traits() -> None:
    assert engine.traits.rows() == {
        "abilities": ("rwlock", "semaphore"),
        "name": "memory",
        "family": "session",
        "excludes": "threads",
        "fair": "fifo",
        "fences": True,
        "survives_crash": True,
        "wait": "events",
    }


def test_names_are_separate() -> None:
    with Lock("memory://#one"), Lock("memory://#two"), Lock("memory://a/b#one"):
        pass


def test_a_reentrant_hold_has_the_token_of_the_first() -> None:
    lock = RLock("memory://#reentrant")
    with lock as first, lock as second:
        assert first.token == second.token is not None
    with lock as third:
        assert third.token is not None
        assert first.token is not None
        assert third.token > first.token


def test_tokens_count_grants_of_one_name() -> None:
    tokens = []
    for _ in range(3):
        with Lock("memory://#counted") as hold:
            tokens.append(hold.token)
    with Lock("memory://#another") as hold:
        assert hold.token == 1
    assert tokens == [1, 2, 3]


def test_a_grant_that_vanished_is_lost() -> None:
    hold = Lock("memory://#vanished").acquire()
    engine._grants.clear()
    assert hold.lost
    hold.release()


def test_queues_do_not_pile_up() -> None:
    """Waiters of this process wait in the arbiter's line, not here."""
    own = MemoryEngine()
    assert own._queues == {}
    lock = Lock("memory://#piled")

    def work() -> None:
        for _ in range(50):
            with lock:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine._queues.get("#piled", deque()) == deque()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_holds_nothing_and_can_lock_its_own_memory() -> None:
    """Also when no lock on a path was ever made: then nothing else has arranged for forks."""
    program = """
import os
from interlock import Lock, NotHeldError
lock = Lock("memory://#x")
hold = lock.acquire()
if os.fork() == 0:
    assert not hold.held and not lock.held
    try:
        hold.release()
    except NotHeldError as error:
        assert "forked child" in str(error)
    else:
        raise AssertionError("released what is the parent's")
    with lock:
        assert lock.held
    print("child", flush=True)
    os._exit(0)
os.wait()
assert hold.held
hold.release()
print("parent")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("child\nparent\n", "")


@pytest.mark.parametrize("kind", ["write", "permit"])
def test_who_waits_in_a_loop_that_was_closed_over_it_blocks_nobody(kind: str) -> None:
    target = f"memory://#closed {kind}"
    left: list[asyncio.Task[Any]] = []

    async def wait() -> None:
        lock = AsyncRWLock(target).write() if kind == "write" else AsyncSemaphore(target, 1).acquire()
        left.append(asyncio.ensure_future(lock))
        for _ in range(100):
            await asyncio.sleep(0)

    def acquire(timeout: float) -> Any:
        return RWLock(target).write(timeout) if kind == "write" else Semaphore(target, 1).acquire(timeout)

    with acquire(0):
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: (loop.run_until_complete(wait()), loop.close()))
        thread.start()
        thread.join(60)
        assert len(inspect(target).waiters) == 1
    assert not inspect(target).waiters, "nobody looks for it any more"
    began = time.monotonic()
    with acquire(20):
        assert time.monotonic() - began < 10
    left.pop()._log_destroy_pending = False  # type: ignore[attr-defined]


# ---- read-write locks and semaphores: claims without an arbiter, as the simulator has them


class Told:
    """A parker that counts what it is told; `there`: is its event loop?"""

    def __init__(self, there: bool = True) -> None:
        self.woken = 0
        self.there = there

    def unpark(self) -> bool:
        self.woken += 1
        return self.there


class Entries:
    """Claims for one name, in the engines that have it in common."""

    def __init__(self) -> None:
        self.siblings = MemoryEngine()._siblings()
        self.lines = {kind: Line(engine, "#x", "x") for kind, engine in self.siblings.items()}

    def claim(self, kind: str, permits: int = 0) -> Any:
        claim = self.siblings[kind].claim(self.lines[kind], object(), False)
        claim.permits = permits
        return claim

    def got(self, kind: str, permits: int = 0) -> Any:
        claim = self.claim(kind, permits)
        assert run(self.siblings[kind].try_acquire(io, claim, 0.0))
        return claim

    def waits(self, kind: str, permits: int = 0, there: bool = True) -> Any:
        claim = self.claim(kind, permits)
        assert not run(self.siblings[kind].try_acquire(io, claim, 0.0))
        claim.parker = Told(there)
        return claim


@pytest.mark.parametrize("kind", ["read", "update", "write", "semaphore"])
@pytest.mark.parametrize("end", ["release", "withdraw", "drop", "disown"])
def test_whatever_ends_an_entry_lets_the_next_look(kind: str, end: str) -> None:
    entries = Entries()
    permits = int(kind == "semaphore")
    other = kind if permits else "write"
    holder, waiter = entries.got(kind, permits), entries.waits(other, permits)
    engine = entries.siblings[kind]
    assert engine.lost(holder) == ""
    if end in ("release", "withdraw"):
        run(getattr(engine, end)(io, holder))
    else:
        getattr(engine, end)(holder)
    assert engine.lost(holder) == "its entry is gone"
    assert not holder.taken
    assert not holder.upgrading
    assert waiter.parker.woken == 1
    assert run(entries.siblings[other].try_acquire(io, waiter, 0.0))
    assert waiter.parker is None
    assert waiter.since
    engine.drop(holder)  # of what is gone: nothing
    assert entries.siblings[other].lost(waiter) == ""


def test_only_those_whose_loop_is_closed_are_passed_by() -> None:
    entries = Entries()
    holder, dead, waiter = entries.got("write"), entries.waits("write", there=False), entries.waits("write")
    arbiter.turns[dead.line] = dead
    entries.siblings["write"].drop(holder)
    assert dead.line not in arbiter.turns
    assert dead.parker is None
    assert waiter.parker.woken == 2  # by the holder's end, and by that of the dead
    assert run(entries.siblings["write"].try_acquire(io, waiter, 0.0))


def test_a_holder_that_waits_in_a_closed_loop_holds_on() -> None:
    """For an upgrade: its hold is still somebody's."""
    entries = Entries()
    reader, update = entries.got("read"), entries.got("update")
    assert not run(entries.siblings["update"].upgrade(io, update))
    update.parker = Told(there=False)
    entries.siblings["read"].drop(reader)
    assert update.parker.woken == 1
    assert entries.siblings["update"].lost(update) == ""
    assert run(entries.siblings["update"].upgrade(io, update))
    assert (update.mode, update.upgrading, update.parker) == ("write", False, None)


def test_an_upgrade_that_is_given_up_or_comes_down_lets_the_next_look() -> None:
    entries = Entries()
    engine = entries.siblings["update"]
    reader, update = entries.got("read"), entries.got("update")
    assert not run(engine.upgrade(io, update))
    late = entries.waits("read")
    update.parker = Told()
    run(engine.stay(io, update))
    assert (update.mode, update.upgrading, update.parker, late.parker.woken) == ("update", False, None, 1)
    run(engine.stay(io, update))
    assert late.parker.woken == 1, "there was nothing to give up"
    assert run(entries.siblings["read"].try_acquire(io, late, 0.0))
    for each in (reader, late):
        entries.siblings["read"].drop(each)
    assert run(engine.upgrade(io, update))
    later = entries.waits("read")
    engine.downgrade(update, "read")
    assert later.parker.woken == 1
    assert run(entries.siblings["read"].try_acquire(io, later, 0.0))


def test_a_waiting_entry_subscribes_then_sleeps() -> None:
    class Sleeps:
        naps: list[tuple[object, float]] = []  # noqa: RUF012

        def parker(self) -> Told:
            return told

        async def park(self, parker: object, until: float) -> bool:
            self.naps.append((parker, until))
            return False

    told, naps = Told(), Sleeps()
    entries = Entries()
    entries.got("write")
    waiter = entries.waits("write")
    waiter.parker = None
    run(entries.siblings["write"].wait(naps, waiter, 7.0))
    assert (waiter.parker, naps.naps) == (told, [])
    run(entries.siblings["write"].wait(naps, waiter, 7.0))
    assert naps.naps == [(told, 7.0)]


def test_what_is_told_of_entries() -> None:
    entries = Entries()
    first, second = entries.got("update"), entries.got("read")
    entries.waits("update")
    entries.waits("write")
    line = entries.lines["read"]
    report = entries.siblings["read"].inspect(line)
    assert report.enforced
    assert [party.mode for party in report.holders] == ["update", "read"]
    assert [(party.mode, party.position) for party in report.waiters] == [("update", 1), ("write", 2)]
    holder, where = entries.siblings["read"].blame(line)
    assert holder is not None
    assert (holder.mode, where) == ("update", "in this process")
    assert not run(entries.siblings["update"].upgrade(io, first))
    first.parker = Told()
    waiters = entries.siblings["read"].inspect(line).waiters
    assert [(party.mode, party.position) for party in waiters] == [("write", 1), ("update", 2), ("write", 3)]
    assert (waiters[0].since, waiters[0].waited) == (None, None)
    assert not waiters[0].since_exact
    assert second.since
    empty = Entries()
    assert empty.siblings["read"].blame(empty.lines["read"]) == (None, "")
    assert not empty.siblings["read"].inspect(empty.lines["read"]).holders


def test_the_traits_of_entries() -> None:
    for sibling in Entries().siblings.values():
        assert sibling.traits.rows() == {
            "name": "memory",
            "family": "session",
            "excludes": "threads",
            "fair": "fifo",
            "fences": False,
            "survives_crash": True,
            "wait": "events",
            "abilities": (),
        }


def test_a_slot_is_free_when_its_holder_has_left_and_is_nobody_elses_before() -> None:
    entries = Entries()
    permits = entries.siblings["semaphore"]
    first, second = entries.got("semaphore", 2), entries.got("semaphore", 2)
    assert (first.slot, second.slot) == (0, 1)
    permits.drop(first)
    third = entries.got("semaphore", 2)
    assert third.slot == 0
    permits.drop(first)  # once more: it is another's by now
    assert permits._lists.slots == {("#x", 0): third, ("#x", 1): second}
    with pytest.raises(ProtocolError, match="of 2 permits, and this one is of 3"):
        run(permits.try_acquire(io, entries.claim("semaphore", 3), 0.0))
    assert list(permits._lists.lists["#x"]) == [second, third]


def test_who_was_refused_for_its_number_may_come_again() -> None:
    entries = Entries()
    permits = entries.siblings["semaphore"]
    first, refused = entries.got("semaphore", 2), entries.claim("semaphore", 3)
    with pytest.raises(ProtocolError):
        run(permits.try_acquire(io, refused, 0.0))
    permits.drop(first)
    assert run(permits.try_acquire(io, refused, 0.0))


def test_an_entry_says_that_it_holds_before_it_looks_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an upgrade that was announced in between sees it, or is seen. Whoever draws back wakes the others."""
    entries = Entries()
    engine = entries.siblings["read"]
    other = entries.got("read")
    other.parker = Told()
    claim = entries.claim("read")
    said: list[bool] = []

    def may(one: Any, _: object) -> bool:
        said.append(one.taken)
        return not one.taken

    monkeypatch.setattr(engine, "_may", may)
    assert not run(engine.try_acquire(io, claim, 0.0))
    assert said == [False, True]
    assert not claim.taken
    assert not claim.since
    assert other.parker.woken == 1
    monkeypatch.undo()
    assert run(engine.try_acquire(io, claim, 0.0))
    assert claim.taken
