"""Other code of the process closes the descriptor of a lock; its number becomes another file's, or another lock's."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import AsyncLock, Lock, LostError, RLock, RWLock, Semaphore
from interlock._core.arbiter import granted, turns

from .seam import in_a_thread, patched_engine, taken, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("RWLock and Semaphore on paths are Linux only", allow_module_level=True)

WAYS: dict[str, Callable[[str], Any]] = {
    "lock": lambda path: Lock(path).acquire(),
    "lock, contended first": lambda path: _after_a_wait(path, lambda: Lock(path).acquire()),
    "fair": lambda path: Lock(path, fair=True).acquire(),
    "rlock": lambda path: RLock(path).acquire(),
    "read": lambda path: RWLock(path).read(),
    "read, contended first": lambda path: _after_a_wait(path, lambda: RWLock(path).read()),
    "update": lambda path: RWLock(path).update(),
    "write": lambda path: RWLock(path).write(),
    "permit": lambda path: Semaphore(path, 2).acquire(),
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.lock")


def _after_a_wait(path: str, acquire: Callable[[], Any]) -> Any:
    first = Lock(path).acquire()
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(acquire()))
    thread.start()
    until(lambda: any(claim.parker for claim in _waiting(path)) or turns_queue(path))
    first.release()
    thread.join()
    return box[0]


def _waiting(path: str) -> list[Any]:
    return [claim for line, claim in list(turns.items()) if line.key == path and not claim.since]


def turns_queue(path: str) -> bool:
    return any(line.key == path and line.queue for line in list(turns))


def reuse(fd: int, path: str, flags: int = os.O_RDWR | os.O_CREAT) -> None:
    """Close it, and have its number back for another open file."""
    os.close(fd)
    other = os.open(path, flags)
    if other != fd:
        os.dup2(other, fd)
        os.close(other)


@pytest.mark.parametrize("way", WAYS)
def test_a_release_leaves_the_file_alone_that_has_the_number_now(path: str, tmp_path: Path, way: str) -> None:
    hold = WAYS[way](path)
    fd = hold._claim.fd
    reuse(fd, str(tmp_path / "user.txt"))
    assert hold.lost
    assert "closed by somebody else" in hold.lost.reason
    hold.release()
    os.write(fd, b"mine")
    os.close(fd)
    assert (tmp_path / "user.txt").read_text() == "mine"
    Lock(path).acquire(5).release()


@pytest.mark.parametrize("way", WAYS)
def test_a_release_frees_no_lock_of_the_user_on_the_same_lock_file(path: str, way: str) -> None:
    import fcntl

    hold = WAYS[way](path)
    fd = hold._claim.fd
    reuse(fd, path)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert hold.lost
    hold.release()
    assert in_a_thread(lambda: Lock(path).try_acquire()) is None
    os.close(fd)
    Lock(path).acquire(5).release()


def test_a_socket_or_pipe_that_does_not_block_is_none_of_ours_either(path: str) -> None:
    hold = Lock(path).acquire()
    fd = hold._claim.fd  # type: ignore[union-attr]
    os.close(fd)
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd in ends
    hold.release()
    os.write(ends[1], b"x")
    assert os.read(ends[0], 1) == b"x"
    for end in ends:
        os.close(end)


def test_a_hold_that_got_the_number_of_one_on_the_same_file_outlives_it(path: str) -> None:
    first = RWLock(path).update()
    os.close(first._claim.fd)  # type: ignore[union-attr]
    second = RWLock(path).update(5)
    assert second._claim.fd == first._claim.fd  # type: ignore[union-attr]
    with pytest.raises(LostError):
        first.upgrade(0)
    assert second.mode == "update"
    assert not second.lost
    assert first.lost
    first.release()
    assert not second.lost
    assert in_a_thread(lambda: RWLock(path).try_update()) is None
    second.upgrade(5)
    assert in_a_thread(lambda: RWLock(path).try_read()) is None
    second.release()
    RWLock(path).write(5).release()


def test_a_stale_update_hold_does_not_write_beside_a_writer(path: str) -> None:
    stale = RWLock(path).update()
    os.close(stale._claim.fd)  # type: ignore[union-attr]
    writer = RWLock(path).write(5)
    with pytest.raises(LostError):
        stale.upgrade(0)
    with pytest.raises(LostError):
        stale.downgrade()
    stale.release()
    assert not writer.lost
    assert taken(path)  # type: ignore[arg-type]
    writer.release()


def test_slots_stay_apart(path: str) -> None:
    first = Semaphore(path, 2).acquire()
    os.close(first._claim.fd)  # type: ignore[union-attr]
    others = [Semaphore(path, 2).acquire(5) for _ in range(2)]
    assert sorted(hold.slot for hold in others) == [0, 1]
    first.release()
    assert Semaphore(path, 2).try_acquire() is None
    for hold in others:
        hold.release()


def test_what_a_waiter_tries_is_its_own(path: str, tmp_path: Path) -> None:
    """Closed while it waits: it opens the lock file anew, and neither locks nor closes what has the number now."""
    import fcntl

    holder = _foreign(path)
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(Lock(path).acquire(20)))
    thread.start()
    until(lambda: any(claim.wd for claim in _waiting(path)))
    until(lambda: _asleep(thread))  # it tries once more after it has subscribed
    fd = _waiting(path)[0].fd
    reuse(fd, str(tmp_path / "user.txt"))
    fcntl.flock(holder, fcntl.LOCK_UN)
    os.close(holder)
    thread.join(60)
    other = os.open(tmp_path / "user.txt", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody locked it
    assert box[0]._claim.fd != fd
    assert taken(path)  # type: ignore[arg-type]
    box[0].release()
    os.close(other)
    os.close(fd)


def _asleep(thread: threading.Thread) -> bool:
    """Has it not run for a while?"""

    def runs() -> list[str]:
        with open(f"/proc/self/task/{thread.native_id}/status", encoding="ascii") as file:
            return [line for line in file if "ctxt_switches" in line]

    before = runs()
    time.sleep(0.05)
    return runs() == before


def _foreign(path: str) -> int:
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_forked_child_closes_no_file_of_the_users(path: str, tmp_path: Path) -> None:
    hold = Lock(path).acquire()
    fd = hold._claim.fd  # type: ignore[union-attr]
    reuse(fd, str(tmp_path / "user.txt"))
    pid = os.fork()
    if pid == 0:
        try:
            os.write(fd, b"child")
            os._exit(0)
        except OSError:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    hold.release()
    os.close(fd)
    assert (tmp_path / "user.txt").read_text() == "child"


def test_async_holds_too(path: str, tmp_path: Path) -> None:
    import asyncio

    async def main() -> None:
        hold = await AsyncLock(path).acquire()
        fd = hold._claim.fd  # type: ignore[union-attr]
        reuse(fd, str(tmp_path / "user.txt"))
        await hold.release()
        os.write(fd, b"mine")
        os.close(fd)

    asyncio.run(main())
    assert not granted


def test_where_status_flags_are_not_shown_locks_work_all_the_same(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock.engines.kernel import ops as module

    monkeypatch.setattr(module, "_signature", lambda: 0)
    ops = patched_engine(monkeypatch)
    hold = Lock(path).acquire()
    assert not hold.lost
    ops.fail("close", errno.EIO)
    hold.release()
    assert not taken(path)  # type: ignore[arg-type]
