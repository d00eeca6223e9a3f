"""`RWLock` on lock files: modes, upgrades, who excludes whom, and what it does with files that it may not write."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import interlock
from interlock import (
    AsyncRWLock,
    DeadlockError,
    Lock,
    LostError,
    NotHeldError,
    RWHold,
    RWLock,
    Timeout,
    UnsafePathError,
    UnsupportedError,
)
from interlock._core import arbiter
from interlock.engines import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("read-write locks on a path are Linux only", allow_module_level=True)

import fcntl


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "a.lock")


def taken(path: str) -> dict[str, bool]:
    """Which modes another descriptor cannot have now."""
    lock = RWLock(path)
    found = {}
    for mode in ("read", "update", "write"):
        hold = getattr(lock, f"try_{mode}")()
        found[mode] = hold is None
        if hold is not None:
            hold.release()
    return found


READ_TAKEN = {"read": False, "update": False, "write": True}
UPDATE_TAKEN = {"read": False, "update": True, "write": True}
WRITE_TAKEN = {"read": True, "update": True, "write": True}
FREE = {"read": False, "update": False, "write": False}


@pytest.mark.parametrize(
    ("mode", "then"), [("read", READ_TAKEN), ("update", UPDATE_TAKEN), ("write", WRITE_TAKEN)]
)
def test_what_each_mode_leaves_to_others(path: str, mode: str, then: dict[str, bool]) -> None:
    lock = RWLock(path)
    assert taken(path) == FREE
    with getattr(lock, mode)() as hold:
        assert type(hold) is RWHold
        assert (hold.mode, lock.held) == (mode, mode)
        assert hold.held
        assert not hold.lost
        assert taken(path) == then
        assert Lock(path).try_acquire() is None
    assert not hold.held
    assert lock.held is None
    assert taken(path) == FREE
    assert not arbiter.granted


def test_upgrade_and_downgrade_keep_the_lock(path: str) -> None:
    with RWLock(path).update() as hold:
        hold.upgrade()
        assert hold.mode == "write"
        assert taken(path) == WRITE_TAKEN
        hold.upgrade()
        assert hold.try_upgrade()
        hold.downgrade("update")
        assert taken(path) == UPDATE_TAKEN
        assert hold.try_upgrade()
        hold.downgrade()
        assert str(hold.mode) == "read"  # to the type checker it is "write" since the line above
        assert taken(path) == READ_TAKEN
        hold.downgrade()
    with RWLock(path).write() as hold:
        hold.downgrade("update")
        assert taken(path) == UPDATE_TAKEN
        hold.upgrade(timeout=1)
        assert taken(path) == WRITE_TAKEN
    assert taken(path) == FREE


def test_an_upgrade_waits_for_the_readers_and_keeps_new_ones_out(path: str) -> None:
    lock = RWLock(path)
    reader = lock.read()
    with in_thread(lambda: lock.update()) as other:
        hold = other.result
        assert not hold.try_upgrade()
        with pytest.raises(Timeout, match="was not acquired"):
            hold.upgrade(timeout=0.02)
        assert hold.mode == "update"
        assert taken(path) == UPDATE_TAKEN
        with in_thread(hold.upgrade, wait=False) as upgrade:
            until(lambda: shut(lock))
            assert not upgrade.done()
            reader.release()
        assert hold.mode == "write"
        hold.release()
    assert taken(path) == FREE


def test_an_upgrade_that_times_out_names_a_reader_not_itself(path: str) -> None:
    code = "import sys, interlock\nwith interlock.RWLock(sys.argv[1]).read(): print(flush=True), sys.stdin.read()"
    with RWLock(path).update() as hold, subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with pytest.raises(Timeout) as caught:
            hold.upgrade(timeout=0.02)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == reader.pid
        assert "in this process" not in str(caught.value)
        assert reader.stdin is not None
        reader.stdin.close()
    with RWLock(path).update() as hold, in_thread(RWLock(path).read) as other:
        with pytest.raises(Timeout, match="in this process"):
            hold.upgrade(timeout=0.02)
        other.result.release()


def test_only_update_holds_are_upgraded(path: str) -> None:
    with RWLock(path).read() as hold:
        with pytest.raises(UnsupportedError, match=r"only update\(\) can be upgraded"):
            hold.upgrade()
        with pytest.raises(UnsupportedError):
            hold.try_upgrade()
        with pytest.raises(ValueError, match="would be an upgrade"):
            hold.downgrade("update")
        with pytest.raises(ValueError, match="to 'read' or 'update'"):
            hold.downgrade("write")  # type: ignore[arg-type]
    for use in (hold.upgrade, hold.try_upgrade, hold.downgrade, hold.release):
        with pytest.raises(NotHeldError):
            use()


# ---- order


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets no core for a while keeps its place."""
    monkeypatch.setattr(kernel, "PATIENCE", 5.0)


@pytest.mark.usefixtures("patient")
def test_who_comes_after_a_writer_waits_behind_it(path: str) -> None:
    lock = RWLock(path)
    order: list[str] = []
    first = lock.read()

    def write() -> None:
        with lock.write():
            order.append("writer")

    def read() -> None:
        with lock.read():
            order.append("reader")

    with in_thread(write, wait=False):
        until(lambda: shut(lock))
        with in_thread(read, wait=False), in_thread(read, wait=False):
            until(lambda: marks(path) >= 1)
            assert order == []
            first.release()
    assert order == ["writer", "reader", "reader"]


def test_readers_do_not_wait_for_an_updater_that_waits(path: str) -> None:
    lock = RWLock(path)
    with lock.update() as hold, in_thread(lambda: lock.update().release(), wait=False):
        until(lambda: marks(path) == 1)
        with in_thread(lambda: lock.read(timeout=5).release()):
            hold.release()


def marks(path: str) -> int:
    """How many wait with a mark or a ticket."""
    inode = os.stat(path).st_ino
    found = 0
    with open("/proc/locks", "rb") as table:
        for line in table:
            fields = line.split()
            if b"OFDLCK" in fields and int(fields[-3].rpartition(b":")[2]) == inode and int(fields[-2]) >= 1 << 59:
                found += 1
    return found


# ---- deadlocks with oneself


@pytest.mark.parametrize(
    ("mine", "wanted"),
    [("read", "write"), ("update", "update"), ("update", "write"), ("write", "read"), ("write", "update"),
     ("write", "write")],
)  # fmt: skip
def test_waiting_for_oneself_is_a_deadlock(path: str, mine: str, wanted: str) -> None:
    lock, twin = RWLock(path), RWLock(path)
    with getattr(lock, mine)():
        with pytest.raises(DeadlockError, match="for ever"):
            getattr(twin, wanted)()
        with pytest.raises(Timeout):
            getattr(twin, wanted)(timeout=0.01)
        with pytest.raises(DeadlockError):
            Lock(path).acquire()


def test_more_of_the_same_is_had_at_once_or_not_at_all(path: str) -> None:
    lock = RWLock(path)
    with lock.read() as hold:
        with lock.read(), lock.update():
            pass
        with in_thread(lambda: lock.write(timeout=5).release(), wait=False) as writer:
            until(lambda: shut(lock))
            with pytest.raises(DeadlockError, match="not to be had at once"):
                lock.read()
            with pytest.raises(Timeout):
                lock.read(timeout=0.01)
            assert not writer.done()
            hold.release()


def test_an_upgrade_that_would_wait_for_the_same_thread_is_a_deadlock(path: str) -> None:
    lock = RWLock(path)
    with lock.read(), lock.update() as hold:
        with pytest.raises(DeadlockError, match="also held for reading"):
            hold.upgrade()
        with pytest.raises(Timeout):
            hold.upgrade(timeout=0.01)
        assert hold.mode == "update"


# ---- others


def test_a_plain_lock_and_flock_exclude_it_both_ways(path: str) -> None:
    lock = RWLock(path)
    with Lock(path):
        assert taken(path) == WRITE_TAKEN
    for mode, foreign in (("read", True), ("update", True), ("write", False)):
        with getattr(lock, mode)():
            assert _flock(path, fcntl.LOCK_SH) == foreign
            assert not _flock(path, fcntl.LOCK_EX)


@pytest.mark.usefixtures("patient")
def test_a_plain_lock_that_waits_is_not_passed_by_new_readers(path: str) -> None:
    lock = RWLock(path)
    first = lock.read()
    with in_thread(lambda: Lock(path).acquire(5).release(), wait=False):
        until(lambda: shut(lock))
        first.release()
    assert taken(path) == FREE


def _flock(path: str, how: int) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_an_upgrade_beside_a_foreign_shared_flock_waits_and_stays_shared(path: str) -> None:
    hold = RWLock(path).update()
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    with pytest.raises(Timeout):
        hold.upgrade(timeout=0.02)
    assert hold.mode == "update"
    os.close(fd)
    assert not _flock(path, fcntl.LOCK_EX)
    assert taken(path) == UPDATE_TAKEN
    hold.upgrade(timeout=5)
    assert taken(path) == WRITE_TAKEN
    hold.release()


def test_a_lock_that_comes_into_a_failed_conversion_makes_the_hold_lost(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux drops the shared flock when it cannot be converted. Who takes it then has it, and we know."""
    hold = RWLock(path).update()
    shared = os.open(path, os.O_RDWR)
    fcntl.flock(shared, fcntl.LOCK_SH)
    ops = kernel.engine().ops
    real = ops.flock

    def flock(fd: int, how: int) -> None:
        try:
            real(fd, how)
        except BlockingIOError:
            if how & fcntl.LOCK_EX:  # it has failed: now another one exchanges its shared lock for all of it
                real(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise

    monkeypatch.setattr(ops, "flock", flock)
    with pytest.raises(LostError, match="in the middle of an upgrade"):
        hold.upgrade(timeout=5)
    assert hold.lost
    with pytest.raises(LostError):
        hold.assert_held()
    monkeypatch.undo()
    hold.release()
    os.close(shared)
    assert taken(path) == FREE


# ---- files


@pytest.fixture
def nobody() -> Any:
    """Be a user who may not write root's files, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_reader_cannot_do_without_a_lock_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A writer that made it later would not see the reader. What it may do: read one that is there."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o555)
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    path = str(directory / "a.lock")
    lock = RWLock(path)
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        for attempt in (lock.read, lock.write, Lock(path).acquire, lock.try_read):
            with pytest.raises(PermissionError, match="there is no lock file, and only who may write") as caught:
                attempt()
            assert (caught.value.errno, caught.value.filename) == (errno.EACCES, path)
        assert lock.held is None
    assert os.listdir(directory) == []
    directory.chmod(0o755)
    RWLock(path).write().release()
    directory.chmod(0o555)
    request.getfixturevalue("nobody")
    with lock.read() as hold:
        assert hold.held


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_reader_needs_no_right_to_write(tmp_path: Path, what: str, request: pytest.FixtureRequest) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    path = str(directory / "a.lock")
    with RWLock(path).write(), pytest.raises(Timeout):
        RWLock(path).read(timeout=0.01)  # what a wait loads, nobody could not read
    os.chmod(path, 0o444)
    if what == "directory":
        directory.chmod(0o555)
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    lock = RWLock(path)
    writer = lock.write() if os.geteuid() == 0 else None
    request.getfixturevalue("nobody")
    if writer is not None:
        assert lock.try_read() is None
        with in_thread(lambda: lock.read(timeout=5).release(), wait=False):
            until(lambda: marks(path) == 1)
            writer.release()
    with lock.read() as hold, lock.read():
        assert hold.held
        with pytest.raises(UnsupportedError, match="may only be read, and this needs"):
            lock.update(timeout=1)
        with pytest.raises(UnsupportedError, match="may only be read, and this needs"):
            lock.write(timeout=1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o444
    directory.chmod(0o755) if os.geteuid() == os.stat(directory).st_uid else None


def test_nothing_is_written(path: str) -> None:
    with RWLock(path).update() as hold:
        hold.upgrade()
    assert os.stat(path).st_size == 0


def test_what_is_no_lock_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("elsewhere", tmp_path / "link")
    for name in ("fifo", "link"):
        for mode in ("read", "update", "write"):
            with pytest.raises(UnsafePathError):
                getattr(RWLock(tmp_path / name), mode)(timeout=0)
    assert not arbiter.granted
    assert not arbiter.turns


def test_a_replaced_file_is_noticed(path: str) -> None:
    with RWLock(path).read() as hold:
        os.unlink(path)
        assert hold.lost
        with pytest.raises(LostError):
            hold.assert_held()
        with RWLock(path).write(timeout=5) as other:
            assert not other.lost


def test_where_there_is_no_queue_it_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.engine(), "_hears", lambda path: False)
    with pytest.raises(UnsupportedError, match="needs Linux, a local filesystem"):
        RWLock(path)


# ---- objects


def test_repr_and_pickle(path: str) -> None:
    lock = RWLock(path, timeout=0)
    assert "not held" in repr(lock)
    with lock.read():
        assert "held by this process for read" in repr(lock)
        again: RWLock = pickle.loads(pickle.dumps(lock))
        assert again.held == "read"
        with pytest.raises(Timeout):
            again.write()


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_wrong_timeouts(path: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        RWLock(path, timeout=wrong)
    with pytest.raises(ValueError, match="timeout"):
        RWLock(path).read(wrong)
    assert not os.path.exists(path)


def test_a_dropped_hold_is_released(path: str) -> None:
    with pytest.warns(ResourceWarning, match="dropped without release"):
        RWLock(path).read()
    assert taken(path) == FREE


def test_a_forked_child_has_no_hold_and_ends_none(path: str) -> None:
    with RWLock(path).read() as hold:
        pid = os.fork()
        if pid == 0:
            ok = not hold.held and not arbiter.granted
            try:
                hold.release()
            except NotHeldError:
                os._exit(0 if ok else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert hold.held
        assert taken(path) == READ_TAKEN


def test_async(path: str) -> None:
    async def scenario() -> None:
        lock = AsyncRWLock(path)
        async with lock.read() as one, lock.read() as two:
            assert one.mode == two.mode == "read"
            with pytest.raises(DeadlockError):
                await lock.write()
            assert await lock.try_write() is None
        hold = await lock.update()
        await hold.upgrade()
        assert hold.mode == "write"
        assert await asyncio.create_task(attempt(lock)) is None
        with pytest.raises(DeadlockError, match="this very thread"):
            RWLock(path).read()
        await hold.downgrade()
        RWLock(path).read().release()
        await hold.release()

    async def attempt(lock: AsyncRWLock) -> Any:
        return await lock.try_read()

    asyncio.run(scenario())
    assert taken(path) == FREE


def test_a_cancelled_upgrade_stays_an_update(path: str) -> None:
    async def scenario() -> None:
        lock = AsyncRWLock(path)
        hold = await lock.update()
        reader = RWLock(path).read(timeout=1)
        task = asyncio.create_task(hold.upgrade())
        while not shut(RWLock(path)):  # noqa: ASYNC110 - a fact of the kernel's
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hold.mode == "update"
        assert taken(path) == UPDATE_TAKEN
        reader.release()
        await hold.upgrade(timeout=5)
        await hold.release()

    asyncio.run(scenario())


def test_the_names_are_public() -> None:
    assert {"RWLock", "AsyncRWLock", "RWHold", "AsyncRWHold"} <= set(interlock.__all__)


# ---- helpers


class in_thread:  # noqa: N801 - reads as a statement
    """Run something in a thread; the block ends when it has ended, and with its error."""

    def __init__(self, work: Callable[[], Any], wait: bool = True) -> None:
        self.result: Any = None
        self._error: BaseException | None = None
        self._work = work
        self._wait = wait
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the block's thread
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(60)
        assert self.done(), "the thread hangs"
        if self._error is not None:
            raise self._error

    def __enter__(self) -> in_thread:
        self._thread.start()
        if self._wait:
            self.join()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.join()


def shut(lock: RWLock) -> bool:
    """Are new readers kept out?"""
    hold = lock.try_read()
    if hold is not None:
        hold.release()
    return hold is None


def until(true: Callable[[], Any]) -> None:
    """Wait for a fact."""
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.mark.parametrize("replaced", ["before", "meanwhile"])
def test_an_upgrade_of_a_file_that_is_gone_is_lost(path: str, replaced: str) -> None:
    """Somebody else may write at the path by now."""
    hold = RWLock(path).update()
    reader = RWLock(path).read()
    told: list[BaseException] = []

    def upgrade() -> None:
        try:
            hold.upgrade(20)
        except LostError as error:
            told.append(error)

    thread = threading.Thread(target=upgrade)
    if replaced == "meanwhile":
        thread.start()
        while not taken(path)["read"]:  # its ticket keeps others out once it waits
            time.sleep(0.001)
    os.unlink(path)
    with RWLock(path).write(5) as writer:
        if replaced == "before":
            thread.start()
        thread.join(60)  # it does not wait for the reader of a file that is nobody's lock any more
        assert len(told) == 1
        assert hold.mode == "update"
        assert not writer.lost
    reader.release()
    hold.release()


@pytest.mark.parametrize("mode", ["read", "update", "write"])
def test_a_hold_whose_descriptor_was_closed_is_lost(path: str, mode: str) -> None:
    hold = getattr(RWLock(path), mode)()
    os.close(hold._claim.fd)
    assert hold.lost
    assert "descriptor" in hold.lost.reason
    with pytest.raises(LostError):
        hold.assert_held()
    hold.release()


@pytest.mark.parametrize("where", ["path", "memory"])
def test_the_mode_of_a_hold_is_changed_by_one_at_a_time(where: str, tmp_path: Path) -> None:
    """A second change would undo the first one's: a reader beside the writer, two updaters."""
    target: Any = tmp_path / "lock" if where == "path" else "memory://#one-at-a-time"
    reader, hold = RWLock(target).read(), RWLock(target).update()
    thread = threading.Thread(target=hold.upgrade, args=(60,))
    thread.start()
    limit = time.monotonic() + 60
    while (other := RWLock(target).try_read()) is not None:  # until it waits
        other.release()
        assert time.monotonic() < limit
    changes: list[Callable[[], object]] = [
        hold.try_upgrade,
        lambda: hold.upgrade(1),
        lambda: hold.downgrade("read"),
        lambda: hold.downgrade("update"),
    ]
    for change in changes:
        with pytest.raises(UnsupportedError, match="is being changed by another thread or task"):
            change()
    assert RWLock(target).try_update() is None
    reader.release()
    thread.join(60)
    assert hold.mode == "write"
    assert RWLock(target).try_read() is None
    hold.downgrade("update")
    assert RWLock(target).try_update() is None
    assert hold.try_upgrade()
    hold.release()
    with RWLock(target).write(20):
        pass


def test_a_task_does_not_change_the_mode_that_another_changes(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    async def main() -> None:
        lock = AsyncRWLock(path)
        reader = await lock.read()
        hold = await lock.update()
        first = asyncio.create_task(hold.upgrade(60))
        while (other := await lock.try_read()) is not None:  # until it waits
            await other.release()
            await asyncio.sleep(0)  # its turn
        with pytest.raises(UnsupportedError, match="is being changed by another thread or task"):
            await hold.upgrade(1)
        with pytest.raises(UnsupportedError, match="is being changed by another thread or task"):
            await hold.downgrade()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await hold.downgrade("read")
        await hold.release()
        await reader.release()

    asyncio.run(main())
