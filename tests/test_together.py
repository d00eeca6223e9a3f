"""`acquire_all`: canonical order, one deadline, all or nothing. Interrupts at every point are in `faults`."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import interlock
from interlock import AsyncLock, AsyncRLock, DeadlockError, Lock, NotHeldError, RLock, Timeout
from interlock._core.arbiter import turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return [str(tmp_path / f"{letter}.lock") for letter in "abc"]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert turns == {}


def record(monkeypatch: pytest.MonkeyPatch, times: list[float] | None = None) -> list[tuple[str, Any]]:
    """What is acquired from now on, with which timeout; and when, into `times`."""
    taken: list[tuple[str, Any]] = []
    acquire = Lock.acquire

    def noted(self: Lock, timeout: Any = None) -> Any:
        taken.append((self.resource, timeout))
        if times is not None:
            times.append(time.monotonic())
        return acquire(self, timeout)

    monkeypatch.setattr(Lock, "acquire", noted)
    return taken


def elsewhere(path: str) -> bool:
    """Is it held, as another thread sees it?"""
    found: list[bool] = []

    def look() -> None:
        hold = Lock(path).try_acquire()
        found.append(hold is None)
        if hold is not None:
            hold.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_all_are_held_and_all_are_released(names: list[str]) -> None:
    with interlock.acquire_all([Lock(name) for name in names]) as holds:
        assert len(holds) == 3
        assert [elsewhere(name) for name in names] == [True] * 3
        assert holds.held
        assert not holds.lost
        holds.assert_held()
    assert [elsewhere(name) for name in names] == [False] * 3
    assert not holds.held


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_they_are_taken_in_one_order_and_told_in_the_callers(
    names: list[str], order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = record(monkeypatch)
    asked = [names[place] for place in order]
    with interlock.acquire_all(Lock(name) for name in asked) as holds:
        assert [hold.resource for hold in holds] == asked
        assert holds[0].resource == asked[0]
    assert [resource for resource, _ in taken] == names


def test_the_order_does_not_hang_on_the_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "z").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    taken = record(monkeypatch)
    with interlock.acquire_all([Lock("z/a.lock"), Lock(tmp_path / "b.lock")]):
        pass
    assert [resource for resource, _ in taken] == ["z/a.lock", str(tmp_path / "b.lock")]


def refused(names: list[str], timeout: float) -> Timeout:
    """What `acquire_all` raises in another thread."""
    caught: list[Timeout] = []

    def attempt() -> None:
        with pytest.raises(Timeout) as info:
            interlock.acquire_all([Lock(name) for name in names], timeout)
        caught.append(info.value)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return caught[0]


def test_one_that_is_not_to_be_had_leaves_none(names: list[str]) -> None:
    for busy in names:
        with Lock(busy):
            assert refused(names, 0).resource == busy
            assert [elsewhere(name) for name in names] == [name == busy for name in names]


def test_the_deadline_is_one_for_all(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lock takes half of the time; the others have what is left, not all of it again."""
    first, last = Lock(names[0]).acquire(), Lock(names[2]).acquire()
    released: list[float] = []

    def let_in() -> None:
        released.append(time.monotonic())
        first.release()

    timer = threading.Timer(0.2, let_in)
    times: list[float] = []
    taken = record(monkeypatch, times)
    timer.start()
    error = refused(names, 0.4)
    last.release()
    timer.join()
    assert error.resource == names[2]
    assert error.waited >= 0.39
    assert [resource for resource, _ in taken] == names
    assert 0.35 < taken[0][1] <= 0.4
    # The second was asked for after the release, the first before `times[0]`: so much less is left, at the least.
    assert 0 < released[0] - times[0] <= taken[0][1] - taken[1][1] + 1e-6
    assert taken[2][1] <= taken[1][1]


def test_a_deadline_that_passed_still_gets_the_free_ones(names: list[str]) -> None:
    with interlock.acquire_all([Lock(name) for name in names], timeout=0) as holds:
        assert holds.held


def test_a_lock_twice_is_refused_before_anything_is_taken(names: list[str]) -> None:
    locks = [Lock(names[0]), Lock(names[1]), Lock(os.path.join(os.path.dirname(names[0]), ".", "a.lock"))]
    with pytest.raises(ValueError, match="same resource"):
        interlock.acquire_all(locks)
    assert not os.path.exists(names[0])


def test_an_rlock_may_be_named_twice(names: list[str]) -> None:
    lock = RLock(names[0])
    with lock, interlock.acquire_all([lock, RLock(names[0]), Lock(names[1])]) as holds:
        assert holds.held
    assert not elsewhere(names[0])


def test_what_this_thread_holds_already_is_a_deadlock_and_undone(names: list[str]) -> None:
    with Lock(names[1]):
        with pytest.raises(DeadlockError):
            interlock.acquire_all([Lock(name) for name in names])
        assert [elsewhere(name) for name in names] == [False, True, False]


@pytest.mark.parametrize("item", ["a.lock", 3, None, len, print])
def test_what_is_no_lock_is_refused(item: Any, names: list[str]) -> None:
    with pytest.raises(TypeError, match="acquire_all takes locks"):
        interlock.acquire_all([Lock(names[0]), item])
    assert not os.path.exists(names[0])


@pytest.mark.parametrize("timeout", ["1", True, -1, float("nan")])
def test_timeouts_are_read_as_everywhere(timeout: Any, names: list[str]) -> None:
    with pytest.raises((TypeError, ValueError)):
        interlock.acquire_all([Lock(names[0])], timeout=timeout)


def test_none_at_all() -> None:
    with interlock.acquire_all([]) as holds:
        assert list(holds) == []


def test_verbs_may_be_given_instead_of_locks(names: list[str]) -> None:
    with interlock.acquire_all([Lock(names[1]).acquire, Lock(names[0])]) as holds:
        assert [hold.resource for hold in holds] == [names[1], names[0]]


def test_releasing_twice_and_by_parts(names: list[str]) -> None:
    holds = interlock.acquire_all([Lock(name) for name in names])
    one, _, _ = holds
    one.release()
    assert not holds.held
    with pytest.raises(NotHeldError):
        holds.assert_held()
    holds.release()
    assert [elsewhere(name) for name in names] == [False] * 3
    with pytest.raises(NotHeldError, match=r"a\.lock"):
        holds.release()


def test_one_of_them_lost(names: list[str]) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows does not unlink a file that is open")
    with interlock.acquire_all([Lock(name) for name in names]) as holds:
        os.unlink(names[1])
        assert holds.lost
        with pytest.raises(interlock.LostError, match=r"b\.lock"):
            holds.assert_held()


def test_an_error_in_the_middle_leaves_none(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "b.lock").symlink_to("a.lock")
    with pytest.raises(interlock.UnsafePathError):
        interlock.acquire_all([Lock(name) for name in names])
    assert [elsewhere(name) for name in (names[0], names[2])] == [False, False]


def test_crossing_orders_never_deadlock(names: list[str]) -> None:
    """Threads that name the locks in all orders, with timeouts that would be far too long for a deadlock."""
    rounds = 60
    count = [0]

    def work(order: tuple[int, ...]) -> None:
        for _ in range(rounds):
            with interlock.acquire_all([Lock(names[place]) for place in order], timeout=60):
                count[0] += 1

    threads = [threading.Thread(target=work, args=(order,)) for order in itertools.permutations(range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count[0] == 6 * rounds


@pytest.mark.skipif(sys.platform != "linux", reason="read-write locks on paths need Linux")
def test_read_write_locks_by_their_verbs(names: list[str]) -> None:
    one, other = interlock.RWLock(names[0]), interlock.RWLock(names[1])
    with interlock.acquire_all([other.read, one.write, Lock(names[2])], timeout=5) as holds:
        assert (one.held, other.held) == ("write", "read")
        assert holds[0].resource == names[1]
        with pytest.raises(Timeout):
            interlock.acquire_all([Lock("memory://#z"), other.write], timeout=0)
    assert (one.held, other.held) == (None, None)
    with pytest.raises(TypeError, match=r"rwlock\.read, not"):
        interlock.acquire_all([one])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="same resource"):
        interlock.acquire_all([one.read, one.write])
    with pytest.raises(ValueError, match="same resource"):
        interlock.acquire_all([one.read, Lock(names[0])])

    async def main() -> None:
        write, read = interlock.AsyncRWLock(names[0]).write, interlock.AsyncRWLock(names[1]).read
        async with await interlock.acquire_all_async([write, read], timeout=5) as held:
            assert (one.held, other.held) == ("write", "read")
            assert held.held
        assert (one.held, other.held) == (None, None)

    asyncio.run(main())


def test_a_semaphore_gives_its_slot(names: list[str]) -> None:
    permits = interlock.Semaphore("memory://#together-permits", 2)
    with interlock.acquire_all([Lock(names[0]), permits], timeout=5) as (_, permit):
        assert permit.slot in (0, 1)  # type: ignore[attr-defined]
        with pytest.raises(Timeout):
            interlock.acquire_all([permits, Lock(names[0])], timeout=0)
        permits.acquire(0).release()  # it kept no permit


# ---- tasks


def test_tasks_do_the_same(names: list[str]) -> None:
    async def main() -> None:
        locks = [AsyncLock(names[2]), AsyncRLock(names[0]), AsyncLock("memory://#together")]
        async with await interlock.acquire_all_async(locks, timeout=5) as holds:
            assert [hold.resource for hold in holds] == [lock.resource for lock in locks]
            assert elsewhere(names[0])
        assert not elsewhere(names[0])
        holds = await interlock.acquire_all_async(locks)
        await holds.release()
        with pytest.raises(NotHeldError):
            await holds.release()

    asyncio.run(main())


def test_the_two_worlds_do_not_mix(names: list[str]) -> None:
    with pytest.raises(TypeError, match="acquire_all_async"):
        interlock.acquire_all([AsyncLock(names[0])])  # type: ignore[list-item]

    async def main() -> None:
        with pytest.raises(TypeError, match=r"is for acquire_all$"):
            await interlock.acquire_all_async([Lock(names[0])])  # type: ignore[list-item]

    asyncio.run(main())


def test_cancelled_at_every_step_it_leaves_none(names: list[str]) -> None:
    """Each lock is busy until its turn, so that the task waits for each; cancelled in the n-th wait, for all n."""

    async def main(cancel_in: int) -> bool:
        busy = [await AsyncLock(name).acquire() for name in names]
        task = asyncio.ensure_future(interlock.acquire_all_async([AsyncLock(name) for name in reversed(names)]))
        for step, hold in enumerate(busy):
            while not AsyncLock(names[step])._line.queue:  # noqa: ASYNC110 - it is the queue that is waited for
                await asyncio.sleep(0)
            if step == cancel_in:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await hold.release()
            if step == cancel_in:
                for rest in busy[step + 1 :]:
                    await rest.release()
                return [elsewhere(name) for name in names] == [False] * 3
        holds = await task
        await holds.release()
        return True

    for step in range(4):
        assert asyncio.run(main(step))
