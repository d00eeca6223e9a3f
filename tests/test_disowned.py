"""A lock that the server of a network filesystem has given up: the holder is told at its next question. Linux.

The real thing is `tests/network`: a client that stood still for longer than its NFSv4 lease. Here the answers of its
kernel are played.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("network filesystems are looked at on Linux", allow_module_level=True)

from interlock import Hold, Lock, LostError
from interlock._wait import inotify
from interlock.engines import kernel
from interlock.engines.kernel.ops import Ops
from interlock.engines.kernel.other_ops import DualOps

from .seam import nothing_left

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=[Ops, DualOps])
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ops:
    made: Ops = request.param()
    monkeypatch.setitem(kernel._engines, "kernel", kernel.KernelEngine(made, inotify))
    return made


def answer(ops: Ops, place: str, number: int) -> None:
    def pread(fd: int, size: int, at: int) -> bytes:
        if number:
            raise OSError(number, os.strerror(number))
        return b""

    ops.place = place
    ops.pread = pread


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *(("nfs4 at /mnt", number) for number in (errno.EIO, errno.ESTALE, errno.EBADF)),
        *(("cifs at /mnt", number) for number in (errno.EIO, errno.EACCES, errno.EAGAIN, errno.EBADF)),
        ("smb3 at /mnt", errno.EACCES),
    ],
)
def test_a_lock_that_the_server_gave_up_is_lost(tmp_path: Path, ops: Ops, place: str, number: int) -> None:
    path = tmp_path / "a.lock"
    hold = Lock(path).acquire(0)
    answer(ops, place, 0)
    hold.assert_held()
    answer(ops, place, number)
    with pytest.raises(LostError, match=os.strerror(number)):
        hold.assert_held()
    answer(ops, place, 0)
    assert hold.lost  # for good: somebody else may have been in
    assert "server" in hold.lost.reason
    hold.release()
    with Lock(path).acquire(0) as again:
        again.assert_held()
    nothing_left(path)


@pytest.mark.parametrize(("place", "number"), [("nfs4 at /mnt", errno.EACCES), ("cifs at /mnt", errno.ETIMEDOUT)])
def test_what_is_no_word_on_the_lock_is_neither_held_nor_lost(
    tmp_path: Path, ops: Ops, place: str, number: int
) -> None:
    hold = Lock(tmp_path / "a.lock").acquire(0)
    answer(ops, place, number)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        hold.assert_held()
    assert not isinstance(raised.value, LostError)
    answer(ops, place, 0)
    hold.assert_held()
    hold.release()


def test_a_filesystem_that_reads_whole_blocks_only_is_not_asked(tmp_path: Path, ops: Ops) -> None:
    with Lock(tmp_path / "a.lock").acquire(0) as hold:
        answer(ops, "nfs at /mnt", errno.EINVAL)
        hold.assert_held()


def test_a_local_filesystem_is_not_read(tmp_path: Path, ops: Ops) -> None:
    with Lock(tmp_path / "a.lock").acquire(0) as hold:
        for place in ("", "ext4 at /", "fuse.sshfs at /mnt"):
            answer(ops, place, errno.EIO)
            hold.assert_held()


def test_the_read_asks_the_server_and_not_the_cache(tmp_path: Path, ops: Ops) -> None:
    with Lock(tmp_path / "a.lock").acquire(0) as hold:
        seen = []

        def pread(fd: int, size: int, at: int) -> bytes:
            seen.append(ops.flags(fd, 3) & os.O_DIRECT)
            return b""

        ops.place, ops.pread = "nfs at /mnt", pread
        hold.assert_held()
        hold.assert_held()
        assert seen in ([os.O_DIRECT] * 2, [0] * 2)  # 0: this directory's filesystem has none (tmpfs before 6.6)


def unlock(hold: Hold) -> None:
    """Behind its back."""
    claim: Any = hold._claim
    fcntl.flock(claim.fd, fcntl.LOCK_UN)


def test_nfs3_is_asked_by_locking_once_more(tmp_path: Path, ops: Ops) -> None:
    """Played: the server has forgotten the lock, so another descriptor gets it."""
    path = tmp_path / "a.lock"
    hold = Lock(path).acquire(0)
    answer(ops, "nfs at /mnt", 0)
    hold.assert_held()  # nobody else has it, so it is ours still, or again
    with path.open("r+") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlock(hold)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(LostError, match="another host"):
            hold.assert_held()
    assert hold.lost  # for good
    hold.release()
    nothing_left(path)


def test_a_lock_that_nobody_took_is_taken_back(tmp_path: Path, ops: Ops) -> None:
    path = tmp_path / "a.lock"
    with Lock(path).acquire(0) as hold, path.open("r+") as other:
        answer(ops, "nfs at /mnt", 0)
        unlock(hold)
        hold.assert_held()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nfs4_is_not_locked_again(tmp_path: Path, ops: Ops) -> None:
    """It says EIO for what is lost; and what was lost must not be taken back unnoticed."""
    path = tmp_path / "a.lock"
    with Lock(path).acquire(0) as hold, path.open("r+") as other:
        answer(ops, "nfs4 at /mnt", 0)
        unlock(hold)
        hold.assert_held()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_server_that_fails_while_it_is_asked_takes_nothing_away(tmp_path: Path, ops: Ops) -> None:
    """NFSv3: an error of the second lock of `dual` must not end the first one."""
    path = tmp_path / "a.lock"
    with Lock(path).acquire(0) as hold, path.open("r+") as other:
        answer(ops, "nfs at /mnt", 0)
        real = ops.fcntl

        def fails(fd: int, command: int, argument: Any = 0) -> Any:
            if command == 37:  # F_OFD_SETLK
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            return real(fd, command, argument)

        ops.fcntl = fails
        if isinstance(ops, DualOps):
            with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
                hold.assert_held()
        else:
            hold.assert_held()
        ops.fcntl = real
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hold.assert_held()
