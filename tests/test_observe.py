"""`observe`: what is told, in which order, with which figures; and that it disturbs nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

import interlock
from interlock import AsyncLock, Event, Lock, RLock, Timeout, observe
from interlock._core import arbiter
from interlock._target import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    with observe(log):
        yield log


@pytest.fixture(params=["path", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "x.lock") if request.param == "path" else f"memory://{tmp_path}#x"


def until(condition: Callable[[], object]) -> None:
    deadline = threading.Event()
    for _ in range(30_000):
        if condition():
            return
        deadline.wait(0.002)
    raise AssertionError("it did not come to pass")


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_a_free_lock(kind: type[Lock], target: str, log: Log) -> None:
    with kind(target):
        assert log.kinds == ["acquired"]
    assert log.kinds == ["acquired", "released"]
    acquired, released = log.events
    assert acquired.resource == released.resource == target
    assert acquired.key == resolve(target).key
    assert acquired.engine == resolve(target).engine.traits.name
    assert acquired.mode == "write"
    assert acquired.pid == os.getpid()
    assert acquired.thread == threading.current_thread().name
    assert acquired.thread_id == threading.get_native_id()
    assert acquired.hold == released.hold
    assert released.held == pytest.approx(released.monotonic - acquired.monotonic)
    assert released.at - acquired.at == pytest.approx(released.held, abs=1)
    assert acquired.waited < 30


def test_the_verbs(target: str, log: Log) -> None:
    Lock(target).acquire().release()
    hold = Lock(target).try_acquire()
    assert hold is not None
    hold.release()
    assert log.kinds == ["acquired", "released"] * 2
    assert len({event.hold for event in log.events}) == 2


def test_a_re_entrant_acquire_is_no_event(target: str, log: Log) -> None:
    with RLock(target), RLock(target):
        pass
    assert log.kinds == ["acquired", "released"]


def test_giving_up(target: str, log: Log) -> None:
    hold = Lock(target).acquire()
    with pytest.raises(Timeout):
        Lock(target).acquire(0.02)
    assert Lock(target).try_acquire() is None
    hold.release()
    assert log.kinds == ["acquired", "waiting", "withdrawn", "withdrawn", "released"]
    assert log.events[2].waited >= 0.02
    assert log.events[1].hold == log.events[2].hold != log.events[3].hold


def test_a_wait_between_threads(target: str, log: Log) -> None:
    hold = Lock(target).acquire()

    def enter() -> None:
        with Lock(target):
            pass

    other = threading.Thread(target=enter, name="the other one")
    other.start()
    until(lambda: "waiting" in log.kinds)
    hold.release()
    other.join()
    mine = [event for event in log.events if event.thread == "the other one"]
    assert [event.kind for event in mine] == ["waiting", "acquired", "released"]
    assert len({event.hold for event in mine}) == 1
    released = next(event for event in log.events if event.kind == "released" and event.hold == log.events[0].hold)
    assert mine[1].monotonic >= released.monotonic, "holds that follow one another do not overlap"
    assert mine[1].waited == pytest.approx(mine[1].monotonic - mine[0].monotonic)


def in_asyncio(main: Callable[[], Any]) -> None:
    asyncio.run(main())


@pytest.mark.parametrize("start", [in_asyncio, trio.run])
def test_tasks(start: Callable[[Callable[[], Any]], None], target: str, log: Log) -> None:
    async def main() -> None:
        lock = AsyncLock(target)
        async with lock:
            with pytest.raises(Timeout):
                await AsyncLock(target).acquire(0.02)
        hold = await lock.acquire()
        await hold.release()

    start(main)
    assert log.kinds == ["acquired", "waiting", "withdrawn", "released", "acquired", "released"]
    assert all(event.task for event in log.events)


def test_a_lost_lock_is_told_once(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "x.lock"
    with Lock(path) as hold:
        path.unlink()
        assert hold.lost
        assert hold.lost
        with pytest.raises(interlock.LostError):
            hold.assert_held()
    assert log.kinds == ["acquired", "lost", "released"]
    assert "unlinked" in log.events[1].reason


def test_the_locks_of_filelock_are_seen(tmp_path: Path, log: Log) -> None:
    from interlock.filelock import FileLock
    from interlock.filelock import Timeout as FileTimeout

    lock = FileLock(tmp_path / "x.lock")
    with lock, pytest.raises(FileTimeout):
        FileLock(tmp_path / "x.lock").acquire(timeout=0.01)
    assert log.kinds == ["acquired", "waiting", "withdrawn", "released"]


def test_what_was_held_before_is_released_with_its_figures(target: str) -> None:
    log = Log()
    hold = Lock(target).acquire()
    with observe(log):
        hold.release()
    assert log.kinds == ["released"]
    assert 0 < log.events[0].held < 60


def test_what_is_released_after_the_end_is_not_told(target: str) -> None:
    log = Log()
    with observe(log):
        hold = Lock(target).acquire()
    hold.release()
    assert log.kinds == ["acquired"]


def test_without_observers_the_engine_is_as_it_was(target: str) -> None:
    engine = resolve(target).engine
    kind = type(engine)
    before = dict(vars(engine))
    with observe(Log()), observe(Log()) as inner:
        with Lock(target):
            assert type(engine) is not kind
        assert resolve(target).engine is engine
        inner.stop()
        inner.stop()
        assert type(engine) is not kind
    assert type(engine) is kind
    assert arbiter.listener is None
    assert vars(engine).keys() == before.keys()
    assert type(engine).try_now is kind.try_now


def test_all_observers_are_told_in_order(target: str) -> None:
    told: list[str] = []
    with observe(lambda event: told.append("a")), observe(lambda event: told.append("b")), Lock(target):
        pass
    assert told == ["a", "b", "a", "b"]


def test_an_error_of_a_callback_breaks_nothing_and_is_logged_once(
    target: str, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError(event.kind)

    with observe(broken):
        for _ in range(2):
            with Lock(target):
                pass
    assert log.kinds == ["acquired", "released"] * 2
    assert not Lock(target).held
    assert [(record.name, record.levelname) for record in caplog.records] == [("interlock", "ERROR")]
    assert "broken" in caplog.text
    assert "ZeroDivisionError: acquired" in caplog.text


@pytest.mark.parametrize("kind", ["acquired", "released"])
def test_an_interrupt_in_a_callback_leaves_nothing_held(kind: str, target: str) -> None:
    def interrupt(event: Event) -> None:
        if event.kind == kind:
            raise KeyboardInterrupt

    lock = Lock(target)
    with observe(interrupt), pytest.raises(KeyboardInterrupt):
        with lock:
            pass
    assert not lock.held
    hold = lock.try_acquire()
    assert hold is not None
    hold.release()


def test_a_callback_may_use_locks(target: str, tmp_path: Path, log: Log) -> None:
    def nested(event: Event) -> None:
        with Lock(tmp_path / "of the callback"):
            pass

    with observe(nested), Lock(target):
        pass
    assert log.kinds == ["acquired", "released"]


def test_an_event_can_ask_who_is_in_the_way(tmp_path: Path) -> None:
    seen = []
    hold = Lock(tmp_path / "x.lock").acquire()
    with observe(lambda event: seen.append(event.inspect()) if event.kind == "waiting" else None):
        with pytest.raises(Timeout):
            Lock(tmp_path / "x.lock").acquire(0.01)
    hold.release()
    assert [report.resource for report in seen] == [str(tmp_path / "x.lock")]
    if sys.platform == "linux":
        assert [party.pid for party in seen[0].holders] == [os.getpid()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_tells_of_its_own_only(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def write(event: Event) -> None:
        with told.open("a") as file:
            file.write(f"{event.pid} {event.kind} {event.hold}\n")

    with observe(write), Lock(tmp_path / "x.lock"):
        child = os.fork()
        if not child:
            with Lock(tmp_path / "y.lock"):
                pass
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    lines = [line.split() for line in told.read_text().splitlines()]
    assert [line[1] for line in lines if line[0] == str(child)] == ["acquired", "released"]
    assert [line[1] for line in lines if line[0] == str(os.getpid())] == ["acquired", "released"]


def test_only_what_can_be_called() -> None:
    with pytest.raises(TypeError, match="callable"):
        observe("nonsense")  # type: ignore[arg-type]
    assert arbiter.listener is None
