"""`Semaphore` on lock files and in memory: counting, slots, disagreement, death."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncSemaphore,
    DeadlockError,
    Lock,
    NotHeldError,
    ProtocolError,
    RWLock,
    Semaphore,
    SemaphoreHold,
    Timeout,
    UnsupportedError,
    inspect,
)
from interlock._core import arbiter
from interlock.engines import kernel

if TYPE_CHECKING:
    from pathlib import Path

_numbers = count()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="semaphores on a path are Linux only")


@pytest.fixture(params=[pytest.param("kernel", marks=LINUX), "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "new" / "gpus") if request.param == "kernel" else f"memory://#semaphore{next(_numbers)}"


def test_so_many_and_no_more(target: str) -> None:
    semaphore = Semaphore(target, 3)
    holds = [semaphore.acquire() for _ in range(3)]
    assert [hold.slot for hold in holds] == [0, 1, 2]
    assert all(type(hold) is SemaphoreHold and hold.held for hold in holds)
    assert semaphore.held
    assert semaphore.try_acquire() is None
    with pytest.raises(Timeout):
        Semaphore(target, 3).acquire(timeout=0.01)
    holds[1].release()
    with pytest.raises(NotHeldError):
        holds[1].release()
    assert holds[1].slot == 1
    with semaphore as again:
        assert again.slot == 1
        assert semaphore.try_acquire() is None
    holds[0].release()
    holds[2].release()
    assert not semaphore.held
    assert not arbiter.granted


def test_waiting_for_ones_own_last_permit_is_a_deadlock(target: str) -> None:
    semaphore = Semaphore(target, 2)
    with semaphore, semaphore:
        with pytest.raises(DeadlockError, match="all 2 permits"):
            semaphore.acquire()


@pytest.mark.parametrize("fair", [False, True])
def test_slots_are_never_shared(target: str, fair: bool) -> None:
    inside: set[int] = set()
    faults: list[str] = []
    seen: list[int] = []

    def work() -> None:
        semaphore = Semaphore(target, 3, fair=fair, timeout=30)
        for _ in range(20):
            with semaphore as hold:
                if hold.slot in inside or len(inside) >= 3:
                    faults.append(f"slot {hold.slot} while {inside} were taken")
                inside.add(hold.slot)
                seen.append(hold.slot)
                time.sleep(0.0002)
                inside.discard(hold.slot)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert len(seen) == 160
    assert set(seen) == {0, 1, 2}


def test_who_names_another_number_is_refused(target: str) -> None:
    two, three = Semaphore(target, 2), Semaphore(target, 3)
    with two:
        for _ in range(3):
            with pytest.raises(ProtocolError, match="in use as a semaphore of 2 permits, and this one is of 3"):
                three.acquire(timeout=1)
        with two:
            pass
    with three, pytest.raises(ProtocolError, match="of 3 permits"):
        two.try_acquire()
    assert not arbiter.turns


@pytest.mark.parametrize("wrong", [0, -1, (1 << 20) + 1])
def test_impossible_numbers(target: str, wrong: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        Semaphore(target, wrong)


@pytest.mark.parametrize("wrong", [True, 1.5, "2", None])
def test_what_is_no_number(target: str, wrong: Any) -> None:
    with pytest.raises(TypeError):
        Semaphore(target, wrong)


def test_a_waiter_is_woken(target: str) -> None:
    semaphore = Semaphore(target, 1)
    hold = semaphore.acquire()
    got: list[float] = []

    def wait() -> None:
        with Semaphore(target, 1, timeout=20) as mine:
            got.append(mine.waited)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    assert got == []
    hold.release()
    thread.join(60)
    assert len(got) == 1


def test_pickle(target: str) -> None:
    semaphore = Semaphore(target, 2, timeout=0)
    again = pickle.loads(pickle.dumps(semaphore))
    with semaphore, semaphore:
        assert again.permits == 2
        with pytest.raises(Timeout):
            again.acquire()


def test_async(target: str) -> None:
    async def scenario() -> None:
        semaphore = AsyncSemaphore(target, 2)
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            async with semaphore as hold:
                assert hold.slot in (0, 1)
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert most == 2
        one, two = await semaphore.acquire(), await semaphore.acquire()
        with pytest.raises(DeadlockError):
            await semaphore.acquire()
        task = asyncio.create_task(semaphore.acquire())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await semaphore.try_acquire() is None
        await one.release()
        await two.release()

    asyncio.run(scenario())
    assert not arbiter.granted
    assert not arbiter.turns


def test_kinds_do_not_mix_in_memory() -> None:
    target = f"memory://#kinds{next(_numbers)}"
    semaphore = Semaphore(target, 1)
    for other in (Lock, RWLock):
        with pytest.raises(ValueError, match="is used as a semaphore"):
            other(target)
    del semaphore
    lock = RWLock(target)
    with pytest.raises(ValueError, match="is used as a rwlock"):
        Lock(target)
    with lock.read():
        assert [party.mode for party in inspect(target).holders] == ["read"]
    del lock
    with Lock(target), pytest.raises(ValueError, match="is used as a lock"):
        Semaphore(target, 1)


# ---- on a lock file


HOLDER = """
import sys
from interlock import Semaphore
hold = Semaphore(sys.argv[1], 2).acquire()
print(hold.slot, flush=True)
sys.stdin.readline()
"""


@LINUX
def test_a_holder_that_is_killed_gives_its_permit_back(tmp_path: Path) -> None:
    path = str(tmp_path / "gpus")
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        slots = [int(holder.stdout.readline()) for holder in holders]  # type: ignore[union-attr]
        assert sorted(slots) == [0, 1]
        semaphore = Semaphore(path, 2)
        assert semaphore.try_acquire() is None
        assert {party.pid for party in inspect(path).holders} == {holder.pid for holder in holders}
        holders[1].kill()
        with semaphore.acquire(timeout=20) as hold:
            assert hold.slot == slots[1]
            assert semaphore.try_acquire() is None
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


@LINUX
def test_a_lock_on_the_same_file_excludes_all_permits(tmp_path: Path) -> None:
    path = str(tmp_path / "gpus")
    semaphore = Semaphore(path, 2)
    with semaphore:
        assert Lock(path).try_acquire() is None
        with pytest.raises(DeadlockError):
            Lock(path).acquire()
    with Lock(path):
        assert semaphore.try_acquire() is None
        with pytest.raises(DeadlockError):
            semaphore.acquire()
    assert os.stat(path).st_size == 0


@LINUX
@pytest.mark.parametrize("mode", ["read", "update", "write"])
def test_no_permit_of_what_is_held_as_a_read_write_lock(mode: str, tmp_path: Path) -> None:
    path = str(tmp_path / "gpus")
    semaphore = Semaphore(path, 2)
    with getattr(RWLock(path), mode)():
        for attempt in (semaphore.try_acquire, semaphore.acquire, lambda: semaphore.acquire(timeout=0.1)):
            with pytest.raises(ProtocolError, match="in use as a read-write lock"):
                attempt()
        assert not semaphore.held
    with semaphore:
        pass


@LINUX
def test_it_needs_a_file_that_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "gpus")
    ops = kernel.engine().ops
    (tmp_path / "gpus").touch()

    def read_only(file: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return os.open(file, flags, *mode)

    monkeypatch.setattr(ops, "open", read_only)
    with pytest.raises(UnsupportedError, match="may only be read, and this needs a lock file that may be written"):
        Semaphore(path, 2).acquire(timeout=1)


@LINUX
def test_a_forked_child_has_no_permit(tmp_path: Path) -> None:
    semaphore = Semaphore(tmp_path / "gpus", 1)
    with semaphore as hold:
        pid = os.fork()
        if pid == 0:
            os._exit(int(hold.held or semaphore.held))
        assert os.waitpid(pid, 0)[1] == 0
        assert hold.held
        assert semaphore.try_acquire() is None
