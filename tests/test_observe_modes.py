"""What is told of read-write locks, semaphores and leases: `observe`, `statistics`, and losses nobody asked about."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncRWLock,
    AsyncSemaphore,
    Event,
    Lock,
    RWLock,
    Semaphore,
    Timeout,
    observe,
    statistics,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def until(self, kind: str) -> Event:
        """Return the first event of this kind, when it has come."""
        with self.news:
            assert self.news.wait_for(lambda: any(event.kind == kind for event in self.events), 30), kind
            return next(event for event in self.events if event.kind == kind)

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(event.kind, event.was, event.mode) for event in self.events]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    with observe(log):
        yield log


@pytest.fixture(params=["path", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path}#x"
    if sys.platform != "linux":
        pytest.skip("read-write locks and semaphores on a path are Linux only")
    return str(tmp_path / "x.lock")


def test_a_hold_goes_through_its_modes(target: str, log: Log) -> None:
    with RWLock(target).update() as hold:
        hold.upgrade()
        hold.upgrade()
        hold.downgrade("update")
        assert hold.try_upgrade()
        hold.downgrade()
        hold.downgrade()
    assert log.told == [
        ("acquired", "", "update"),
        ("upgraded", "update", "write"),
        ("downgraded", "write", "update"),
        ("upgraded", "update", "write"),
        ("downgraded", "write", "read"),
        ("released", "", "read"),
    ]
    assert len({event.hold for event in log.events}) == 1
    times = [event.monotonic for event in log.events]
    assert times == sorted(times)
    for before, event in zip(log.events, log.events[1:-1], strict=False):
        assert event.held == pytest.approx(event.monotonic - before.monotonic), "how long it had the mode before"
    assert log.events[-1].held == pytest.approx(times[-1] - times[0]), "from the grant on"


def test_an_upgrade_that_waits_and_one_that_gives_up(target: str, log: Log) -> None:
    lock = RWLock(target)
    reader = lock.read()
    updater: list[Any] = []
    first, second = threading.Event(), threading.Event()

    def update() -> None:
        hold = lock.update()
        updater.append(hold)
        with pytest.raises(Timeout):
            hold.upgrade(0.02)
        assert not hold.try_upgrade()
        first.set()
        assert second.wait(60)
        hold.upgrade()
        hold.release()

    thread = threading.Thread(target=update)
    thread.start()
    assert first.wait(60)
    mine = [event for event in log.events if event.thread == thread.name]
    assert [(event.kind, event.was, event.mode) for event in mine] == [
        ("acquired", "", "update"),
        ("waiting", "update", "write"),
        ("withdrawn", "update", "write"),
        ("withdrawn", "update", "write"),
    ]
    assert 0.02 <= mine[2].waited < 30
    assert mine[3].waited < mine[2].waited
    log.events.clear()
    second.set()
    waiting = log.until("waiting")
    reader.release()
    thread.join()
    upgraded = log.until("upgraded")
    assert upgraded.hold == waiting.hold == mine[0].hold
    assert upgraded.waited == pytest.approx(upgraded.monotonic - waiting.monotonic)
    assert upgraded.held == pytest.approx(upgraded.monotonic - mine[0].monotonic), "an update hold until then"
    released = next(event for event in log.events if event.kind == "released" and event.mode == "read")
    assert upgraded.monotonic >= released.monotonic, "a write hold and a reader before it do not overlap"


def test_tasks_tell_the_same(target: str, log: Log) -> None:
    async def main() -> None:
        async with AsyncRWLock(target).update() as hold:
            async with AsyncRWLock(target).read():
                with pytest.raises(Timeout):
                    await hold.upgrade(0.02)
            await hold.upgrade()
            await hold.downgrade()
        async with AsyncSemaphore(target + "2", 2) as hold:
            assert hold.slot == 0

    asyncio.run(main())
    assert log.told == [
        ("acquired", "", "update"),
        ("acquired", "", "read"),
        ("waiting", "update", "write"),
        ("withdrawn", "update", "write"),
        ("released", "", "read"),
        ("upgraded", "update", "write"),
        ("downgraded", "write", "read"),
        ("released", "", "read"),
        ("acquired", "", "permit"),
        ("released", "", "permit"),
    ]
    assert all(event.task for event in log.events)


def test_a_cancelled_upgrade_is_withdrawn(target: str, log: Log) -> None:
    async def main() -> None:
        lock = AsyncRWLock(target)
        reader = await lock.read()
        hold = await AsyncRWLock(target).update()
        waits = asyncio.Event()
        with observe(lambda event: waits.set() if event.kind == "waiting" else None):
            upgrade = asyncio.create_task(hold.upgrade(30))
            await waits.wait()
        upgrade.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrade
        assert hold.mode == "update"
        await hold.release()
        await reader.release()

    asyncio.run(main())
    kinds = [event.kind for event in log.events]
    assert kinds == ["acquired", "acquired", "waiting", "withdrawn", "released", "released"]


def test_an_upgrade_that_is_lost_is_told(tmp_path: Path, log: Log) -> None:
    if sys.platform != "linux":
        pytest.skip("read-write locks on a path are Linux only")
    from interlock import LostError

    path = tmp_path / "x.lock"
    with RWLock(path).update() as hold:
        path.unlink()
        with pytest.raises(LostError):
            hold.upgrade()
    assert [event.kind for event in log.events] == ["acquired", "lost", "released"]


def test_what_was_held_before_tells_its_changes(target: str) -> None:
    log = Log()
    hold = RWLock(target).update()
    with observe(log):
        hold.upgrade()
        hold.release()
    assert log.told == [("upgraded", "update", "write"), ("released", "", "write")]
    assert 0 < log.events[0].held <= log.events[1].held < 30


def test_a_permit_has_a_slot(target: str, log: Log) -> None:
    semaphore = Semaphore(target, 2)
    one, two = semaphore.acquire(), semaphore.acquire()
    assert semaphore.try_acquire() is None
    one.release()
    three = semaphore.acquire()
    two.release()
    three.release()
    assert [(event.kind, event.mode, event.slot) for event in log.events] == [
        ("acquired", "permit", 0),
        ("acquired", "permit", 1),
        ("withdrawn", "permit", None),
        ("released", "permit", 0),
        ("acquired", "permit", 0),
        ("released", "permit", 1),
        ("released", "permit", 0),
    ]


def test_locks_have_no_slot(target: str, log: Log) -> None:
    with Lock(target):
        pass
    assert [(event.mode, event.slot) for event in log.events] == [("write", None)] * 2


def test_upgrades_are_counted(target: str) -> None:
    lock = RWLock(target)
    with statistics() as stats, lock.update() as hold:
        with lock.read(), pytest.raises(Timeout):
            hold.upgrade(0.02)
        hold.upgrade()
        hold.downgrade()
    mine = stats.locks()[target]
    figures = (mine.acquired, mine.upgraded, mine.downgraded, mine.waits, mine.withdrawn, mine.released)
    assert figures == (2, 1, 1, 1, 1, 2)
    assert mine.wait.count == 3
    assert mine.contention == pytest.approx(1 / 4)
    assert stats.as_dict()[target]["upgraded"] == 1


def test_permits_are_counted(target: str) -> None:
    with statistics() as stats:
        with Semaphore(target, 2), Semaphore(target, 2), pytest.raises(Timeout):
            Semaphore(target, 2).acquire(0.01)
    mine = stats.locks()[target]
    assert (mine.acquired, mine.waits, mine.withdrawn, mine.released) == (2, 1, 1, 2)


def lease(path: str) -> Lock:
    return Lock(path, primitive="marker", ttl=30)


def test_a_lease_tells_and_counts(tmp_path: Path, log: Log) -> None:
    path = str(tmp_path / "x.lock")
    with statistics() as stats:
        with lease(path), pytest.raises(Timeout):
            lease(path).acquire(0.01)
    assert log.told == [(kind, "", "write") for kind in ("acquired", "waiting", "withdrawn", "released")]
    assert {event.engine for event in log.events} == {"marker lease"}
    assert stats.locks()[path].withdrawn == 1


def lock_file(path: str) -> Any:
    return Lock(path).acquire()


def lease_hold(path: str) -> Any:
    return lease(path).acquire()


def read_hold(path: str) -> Any:
    return RWLock(path).read()


def permit(path: str) -> Any:
    return Semaphore(path, 2).acquire()


@pytest.mark.skipif(sys.platform != "linux", reason="events of the filesystem are asked of Linux")
@pytest.mark.parametrize("acquire", [lock_file, read_hold, permit])
def test_a_loss_is_pushed_though_nobody_asks(acquire: Callable[[str], Any], tmp_path: Path, log: Log) -> None:
    path = tmp_path / "x.lock"
    hold = acquire(str(path))
    told: list[str] = []
    hold.on_lost(told.append)
    path.unlink()
    event = log.until("lost")
    assert "unlinked" in event.reason
    assert event.thread != threading.current_thread().name, "a thread of the library's found it out"
    assert event.hold == log.events[0].hold
    assert event.held > 0
    assert hold.lost
    hold.release()
    assert [event.kind for event in log.events] == ["acquired", "lost", "released"]
    assert told == [event.reason]


def test_a_lease_that_was_taken_is_told_by_its_keeper(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "x.lock"
    hold = Lock(path, primitive="marker", ttl=0.6).acquire()
    engine: Any = hold._claim.line.engine  # type: ignore[union-attr]
    assert engine.break_stale(hold._claim.line, force=True) == "forced"  # type: ignore[union-attr]
    event = log.until("lost")
    assert "another owner" in event.reason
    assert event.engine == "marker lease"
    hold.release()
    assert [event.kind for event in log.events] == ["acquired", "lost", "released"]
