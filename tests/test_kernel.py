"""Lock files when a system call fails, when the world changes between two of them, and when the system helps nobody
to wait. The promises that all engines share are in `conformance`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    Lock,
    LostError,
    Timeout,
    UnsupportedError,
)

if sys.platform != "linux":
    pytest.skip("looks into /proc and waits with inotify", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from .seam import WAYS, PatchedOps, descriptors, nothing_left, patched_engine, taken, until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch) -> PatchedOps:
    return patched_engine(monkeypatch)


every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# ---- the file changes between open and lock, or while it is held


@pytest.fixture
def other(path: Path) -> Path:
    return path.with_name("other")


def unlink_it(path: Path) -> Callable[[], None]:
    return path.unlink


def replace_it(path: Path) -> Callable[[], None]:
    def act() -> None:
        other = path.with_name("other")
        other.write_text("")
        os.replace(other, path)

    return act


CHANGES = pytest.mark.parametrize("change", [unlink_it, replace_it])


@CHANGES
@pytest.mark.parametrize("acquire", [Lock.acquire, lambda lock: lock.acquire(5), Lock.try_acquire])
def test_a_change_between_open_and_lock_is_noticed(
    change: Callable[[Path], Callable[[], None]], acquire: Callable[[Lock], Any], path: Path, ops: PatchedOps
) -> None:
    path.write_text("")
    lock = Lock(path)
    ops.before("flock", change(path))
    hold = acquire(lock)
    assert taken(path)
    assert not hold.lost
    assert len(descriptors(path)) == 1
    hold.release()
    assert not taken(path)
    nothing_left(path)


@CHANGES
def test_a_change_between_open_and_a_lock_that_is_taken(
    change: Callable[[Path], Callable[[], None]], path: Path, ops: PatchedOps
) -> None:
    """The file that was opened is held by somebody else, and no longer at the path: nobody need wait for it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        ops.before("flock", change(path))
        hold = Lock(path).try_acquire()
        assert hold is not None
        assert taken(path)
        hold.release()
    finally:
        os.close(fd)
    nothing_left(path)


def test_a_file_replaced_at_every_attempt(path: Path, ops: PatchedOps) -> None:
    path.write_text("")
    ops.before("flock", replace_it(path), times=10**9)
    with pytest.raises(BlockingIOError, match="replaced faster") as caught:
        Lock(path).acquire()
    assert caught.value.filename == str(path)
    nothing_left(path)


def test_a_file_removed_faster_than_it_can_be_opened(path: Path, ops: PatchedOps) -> None:
    def open_never(real: Callable[..., int], name: str, flags: int, *mode: int) -> int:
        raise FileExistsError if flags & os.O_CREAT else FileNotFoundError

    ops.patch("open", open_never)
    with pytest.raises(OSError, match="created and removed faster"):
        Lock(path).acquire()
    nothing_left(path)


def test_a_directory_removed_before_the_file_is_made(path: Path, ops: PatchedOps) -> None:
    gone = path.parent / "gone" / "a.lock"
    removed: list[bool] = []

    def remove_once() -> None:
        if not removed:
            gone.parent.rmdir()
            removed.append(True)

    gone.parent.mkdir()
    ops.before("open", remove_once, times=10**9)
    with Lock(gone):
        assert taken(gone)


@CHANGES
def test_a_waiter_sees_that_its_file_is_gone(change: Callable[[Path], Callable[[], None]], path: Path) -> None:
    """Who waits for the old file would wait for nobody's lock; the holder is told that it lost."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        got: list[float] = []

        def wait() -> None:
            with Lock(path):
                got.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: len(descriptors(path)) == 1 and not got)
        time.sleep(0.02)
        change(path)()
        thread.join(60)
        assert got
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "True LostError\n"
    finally:
        holder.kill()
        holder.communicate()


HOLDER = """
import sys
from interlock import Lock, LostError
hold = Lock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.readline()
try:
    hold.assert_held()
except LostError as error:
    print(bool(hold.lost), type(error).__name__, flush=True)
sys.stdin.readline()
"""


@CHANGES
def test_a_hold_on_a_file_that_is_gone_is_lost(change: Callable[[Path], Callable[[], None]], path: Path) -> None:
    hold = Lock(path).acquire()
    assert not hold.lost
    change(path)()
    assert hold.lost
    assert hold.held
    with pytest.raises(LostError, match=r"a\.lock is lost: .*unlinked or replaced"):
        hold.assert_held()
    with pytest.raises(LostError):
        hold.renew()
    second = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(second, fcntl.LOCK_EX)
    hold.release()
    assert taken(path)  # the release did nothing to the new file, nor did it remove it
    os.close(second)
    nothing_left(path)


# ---- system calls that fail


@every_way
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, 524, errno.EBADF])
def test_a_filesystem_without_locks(
    number: int, way: Callable[[Path], object], path: Path, ops: PatchedOps
) -> None:
    ops.fail_lock(number)
    began = time.monotonic()
    with pytest.raises(UnsupportedError) as caught:
        way(path)
    assert time.monotonic() - began < 30
    assert str(path) in str(caught.value)
    if number != errno.EBADF:
        assert errno.errorcode.get(number, str(number)) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    nothing_left(path)
    ops.heal()
    with Lock(path):
        assert taken(path)


@every_way
@pytest.mark.parametrize("call", ["flock", "fstat"])
def test_an_error_of_the_system_passes_unchanged(
    call: str, way: Callable[[Path], object], path: Path, ops: PatchedOps
) -> None:
    path.write_text("")
    ops.fail(call, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        way(path)
    assert type(caught.value) is OSError
    assert caught.value.errno == errno.EIO
    if call == "flock":
        assert caught.value.filename == str(path)
    ops.heal()
    assert not taken(path)
    nothing_left(path)
    with Lock(path):
        assert taken(path)


@every_way
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_file_that_cannot_be_opened(
    number: int, way: Callable[[Path], object], path: Path, ops: PatchedOps
) -> None:
    with Lock(path):
        pass
    ops.fail("open", number)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        way(path)
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    nothing_left(path)
    ops.heal()
    with Lock(path):
        assert taken(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_file_that_cannot_be_made(number: int, path: Path, ops: PatchedOps) -> None:
    ops.fail("open", number, when=lambda name, flags, *mode: bool(flags & os.O_CREAT))
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        Lock(path).acquire(5)
    assert caught.value.errno == number
    assert not path.exists()
    nothing_left(path)


def test_a_read_only_filesystem(path: Path, ops: PatchedOps) -> None:
    """flock(2) needs no right to write; what is there can be locked."""
    path.write_text("")
    ops.fail("open", errno.EROFS, when=lambda name, flags, *mode: flags & os.O_ACCMODE != os.O_RDONLY)
    with Lock(path):
        assert taken(path)
    assert not taken(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR])
def test_an_error_of_close_is_none(number: int, path: Path, ops: PatchedOps) -> None:
    """Linux has closed the descriptor whatever it says; closing again might close somebody else's."""

    def close(real: Callable[[int], None], fd: int) -> None:
        real(fd)
        raise OSError(number, os.strerror(number))

    lock = Lock(path)
    hold = lock.acquire()
    ops.patch("close", close)
    closed = ops.count("close")
    hold.release()
    assert ops.count("close") == closed + 1
    assert not hold.held
    assert not taken(path)
    nothing_left(path)


def test_an_error_of_unlock_is_none(path: Path, ops: PatchedOps) -> None:
    hold = Lock(path).acquire()
    ops.fail("flock", errno.EIO, when=lambda fd, how: how == fcntl.LOCK_UN)
    hold.release()
    ops.heal()
    assert not taken(path)
    nothing_left(path)


def test_contention_on_smb_is_contention(path: Path, ops: PatchedOps) -> None:
    ops.fail_lock(errno.EACCES)
    assert Lock(path).try_acquire() is None
    with pytest.raises(Timeout):
        Lock(path).acquire(0.02)
    nothing_left(path)


def test_no_descriptors_left(tmp_path: Path) -> None:
    """For real: what is held stays held, the error says what it is, and later it works again."""
    program = """
import errno, os, resource, sys
from interlock import Lock
held = Lock("held.lock").acquire()
limit = len(os.listdir("/proc/self/fd")) + 20
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
fillers = []
try:
    while True:
        fillers.append(os.dup(0))
except OSError:
    pass
for attempt in (Lock.acquire, lambda lock: lock.acquire(1), Lock.try_acquire):
    try:
        attempt(Lock("a.lock"))
    except OSError as error:
        assert error.errno == errno.EMFILE, error
        assert error.filename.endswith("a.lock"), error
    else:
        raise AssertionError("locked without a descriptor")
assert held.held and not held.lost
os.close(fillers.pop())
with Lock("a.lock"):
    print("locked")
held.release()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.stdout, result.stderr) == ("locked\n", "")
