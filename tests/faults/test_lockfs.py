"""The fault filesystem plays what it says. Plain system calls only: nothing here uses a lock of ours."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from interlock.testing.lockfs import MODES, Fault, LockFS, Mode, Mount

from ..support import need_lockfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Pair = Callable[[Mode], tuple[Mount, Mount]]

OFD_SETLK = 37
WHOLE = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two hosts that share a place."""
    need_lockfs()
    with LockFS(tmp_path / "disk") as fs:

        def mount(mode: Mode) -> tuple[Mount, Mount]:
            return fs.mount(tmp_path / "one", mode), fs.mount(tmp_path / "two", mode)

        yield mount
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        assert str(tmp_path) not in table.read()


def flock(fd: int) -> str:
    return said(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


def ofd(fd: int) -> str:
    return said(lambda: fcntl.fcntl(fd, OFD_SETLK, WHOLE))


def said(call: Callable[[], object]) -> str:
    """What a system call answered: nothing, or the name of its error."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def opened(*mounts: Mount) -> list[int]:
    return [os.open(os.path.join(mount.path, "x"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for mount in mounts]


def until(condition: Callable[[], object]) -> None:
    """What must come true, and does not need to be so at once."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


BUSY = "EAGAIN"
LOCKS = {
    # mode: flock on the same host, flock on the other one, OFD lock on the same, on the other; the first one is held
    "coherent": (BUSY, BUSY, BUSY, BUSY),
    "gpfs": (BUSY, "", BUSY, BUSY),
    "ocfs2": (BUSY, BUSY, BUSY, ""),
    "local-lock": (BUSY, "", BUSY, ""),
    "always": ("", "", "", ""),
    "stale": (BUSY, BUSY, BUSY, BUSY),
}


@pytest.mark.parametrize("mode", LOCKS)
def test_who_is_excluded(pair: Pair, mode: str) -> None:
    one, two = pair(MODES[mode])
    holder, neighbour, other = opened(one, one, two)
    assert flock(holder) == ofd(holder) == ""
    assert (flock(neighbour), flock(other), ofd(neighbour), ofd(other)) == LOCKS[mode]
    os.close(holder)
    late = opened(one)[0]
    if "" not in LOCKS[mode]:
        until(lambda: flock(late) == ofd(late) == "")  # close(2) ends both, a moment later
    for fd in (neighbour, other, late):
        os.close(fd)


@pytest.mark.parametrize(
    ("mode", "error"), [("lustre-noflock", "ENOSYS"), ("nfs-nolockd", "ENOLCK"), ("unsupported", "EOPNOTSUPP")]
)
def test_locks_that_are_not_there(pair: Pair, mode: str, error: str) -> None:
    one, _ = pair(MODES[mode])
    (fd,) = opened(one)
    assert flock(fd) in (error, "ENOTSUP")
    assert ofd(fd) in (error, "ENOTSUP")
    os.close(fd)


def test_every_mode_reads_and_writes_files(pair: Pair, tmp_path: Path) -> None:
    """What a directory on it is good for, apart from faults: as the same calls on the disk say."""
    one, two = pair(MODES["coherent"])
    here, there = one.path, two.path
    os.mkdir(f"{here}/d", 0o750)
    with open(f"{here}/d/f", "wb") as file:
        file.write(b"x" * 300_000 + b"end")
    with open(f"{there}/d/f", "rb") as file:
        assert file.read() == b"x" * 300_000 + b"end"
    os.link(f"{there}/d/f", f"{there}/g")
    assert os.stat(f"{here}/g").st_nlink == 2
    assert os.stat(f"{here}/g").st_ino == os.stat(f"{there}/d/f").st_ino
    os.symlink("d/f", f"{here}/s")
    assert os.readlink(f"{there}/s") == "d/f"
    os.rename(f"{there}/g", f"{there}/d/h")
    assert sorted(os.listdir(f"{here}/d")) == ["f", "h"]
    assert said(lambda: os.rmdir(f"{here}/d")) == "ENOTEMPTY"
    assert said(lambda: os.close(os.open(f"{here}/s", os.O_CREAT | os.O_EXCL))) == "EEXIST"
    assert said(lambda: os.stat(f"{here}/missing")) == "ENOENT"
    os.truncate(f"{here}/d/h", 3)
    assert os.stat(f"{there}/d/f").st_size == 3
    os.utime(f"{here}/d/f", ns=(5_000_000_001, 6_000_000_002))
    assert os.stat(f"{there}/d/f").st_mtime_ns == 6_000_000_002
    os.chmod(f"{here}/d/f", 0o604)
    assert os.stat(f"{there}/d/f").st_mode & 0o777 == 0o604
    os.unlink(f"{here}/d/f")
    os.unlink(f"{here}/d/h")
    os.rmdir(f"{there}/d")
    os.mkfifo(f"{here}/p")
    assert sorted(os.listdir(there)) == ["p", "s"] == sorted(os.listdir(tmp_path / "disk"))
    assert os.statvfs(here).f_namemax == os.statvfs(tmp_path / "disk").f_namemax


def test_ranges_of_one_owner_are_cut_and_joined(pair: Pair) -> None:
    one, two = pair(MODES["coherent"])
    mine, others = opened(one, two)

    def ask(fd: int, kind: int, start: int, length: int) -> str:
        return said(lambda: fcntl.fcntl(fd, OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0)))

    assert ask(mine, fcntl.F_WRLCK, 0, 100) == ""
    assert ask(mine, fcntl.F_UNLCK, 40, 20) == ""
    assert ask(others, fcntl.F_WRLCK, 40, 20) == ""
    assert ask(others, fcntl.F_RDLCK, 39, 1) == BUSY
    assert ask(others, fcntl.F_RDLCK, 60, 1) == BUSY
    assert ask(mine, fcntl.F_RDLCK, 0, 40) == ""
    assert ask(others, fcntl.F_RDLCK, 0, 40) == ""
    assert ask(mine, fcntl.F_WRLCK, 10, 1) == BUSY
    found = fcntl.fcntl(mine, 36, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 45, 1, 0))
    assert struct.unpack("hhqqi4x", found)[:4] == (fcntl.F_WRLCK, 0, 40, 20)
    os.close(others)
    until(lambda: ask(mine, fcntl.F_WRLCK, 0, 200) == "")
    os.close(mine)


def test_posix_locks_go_with_the_first_close_and_ofd_locks_do_not(pair: Pair) -> None:
    one, two = pair(MODES["coherent"])
    first, second, other = opened(one, one, two)
    fcntl.lockf(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert ofd(other) == BUSY
    os.close(second)
    assert ofd(other) == "", "the classic surprise of POSIX locks"
    os.close(other)
    (second,) = opened(one)
    assert ofd(first) == ""
    os.close(second)
    (other,) = opened(two)
    assert ofd(other) == BUSY
    for fd in (first, other):
        os.close(fd)


HOLDER = """
import fcntl, os, sys, time, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
how = {"flock": lambda: fcntl.flock(fd, fcntl.LOCK_EX), "posix": lambda: fcntl.lockf(fd, fcntl.LOCK_EX)}[sys.argv[2]]
print("tries", flush=True)
try:
    how()
except KeyboardInterrupt:
    print("interrupted", flush=True)
except OSError as error:
    print("errno", error.errno, flush=True)
else:
    print("holds", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        pass
"""


class Holder:
    """Another process that blocks in a lock call, then holds."""

    def __init__(self, mount: Mount, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, os.path.join(mount.path, "x"), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "tries"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=100)


@pytest.fixture
def hold() -> Iterator[Callable[[Mount, str], Holder]]:
    made: list[Holder] = []

    def start(mount: Mount, kind: str) -> Holder:
        made.append(Holder(mount, kind))
        return made[-1]

    yield start
    for holder in made:
        with suppress(ValueError):  # ended by the test
            holder.end()


@pytest.mark.parametrize("kind", ["flock", "posix"])
def test_a_blocked_call_is_granted_when_the_holder_is_killed(
    pair: Pair, kind: str, hold: Callable[[Mount, str], Holder]
) -> None:
    one, two = pair(MODES["coherent"])
    holder = hold(one, kind)
    assert holder.line() == "holds"
    waiter = hold(two, kind)
    holder.end()
    assert waiter.line() == "holds"


@pytest.mark.parametrize("kind", ["flock", "posix"])
def test_a_blocked_call_can_be_interrupted(pair: Pair, kind: str, hold: Callable[[Mount, str], Holder]) -> None:
    one, two = pair(MODES["coherent"])
    holder = hold(one, kind)
    assert holder.line() == "holds"
    waiter = hold(two, kind)
    while two.requests().get("setlkw", 0) == 0:
        time.sleep(0.001)
    waiter.process.send_signal(signal.SIGINT)
    assert waiter.line() == "interrupted"
    assert [lock["host"] for lock in one.locks()] == [1]


@pytest.mark.parametrize("kind", ["flock", "posix"])
def test_when_a_host_crashes_its_locks_are_the_others(
    pair: Pair, kind: str, hold: Callable[[Mount, str], Holder]
) -> None:
    one, two = pair(MODES["coherent"])
    holder = hold(one, kind)
    assert holder.line() == "holds"
    waiter = hold(two, kind)
    one.crash()
    assert waiter.line() == "holds"
    assert said(lambda: os.stat(one.path)) in ("ENOTCONN", "ECONNABORTED")
    assert os.listdir(two.path) == ["x"]
    os.unlink(os.path.join(two.path, "x"))


def test_a_lock_that_hangs_cannot_be_killed_until_the_host_is_gone(
    pair: Pair, hold: Callable[[Mount, str], Holder]
) -> None:
    one, _ = pair(MODES["hang"])
    holder = hold(one, "flock")
    while one.requests().get("setlkw", 0) == 0:
        time.sleep(0.001)
    holder.process.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        holder.process.wait(0.3)
    one.unmount()
    assert holder.process.wait(60) == -signal.SIGKILL


def test_a_paused_host_waits_and_keeps_its_lock(pair: Pair) -> None:
    one, two = pair(MODES["coherent"])
    mine, others = opened(one, two)
    assert flock(mine) == ""
    one.pause()
    done: list[os.stat_result] = []
    thread = threading.Thread(target=lambda: done.append(os.stat(one.path + "/x")))
    thread.start()
    assert flock(others) == BUSY
    assert not done
    one.resume()
    thread.join(60)
    assert done
    assert flock(others) == BUSY
    for fd in (mine, others):
        os.close(fd)


def test_caches_are_believed_for_their_time_and_opening_refreshes(pair: Pair) -> None:
    times = replace(MODES["stale"], attributes=0.8, names=0.8, absence=0.8)
    one, two = pair(times)
    path, other = f"{one.path}/x", f"{two.path}/x"
    with open(path, "w") as file:
        file.write("old")
    assert os.stat(other).st_size == 3
    assert os.listdir(two.path) == os.listdir(two.path) == ["x"]  # the first makes the atime stale
    assert said(lambda: os.stat(two.path + "/y")) == "ENOENT"
    began = time.monotonic()
    with open(path, "a") as file:
        file.write(" and new")
    os.rename(path, f"{one.path}/z")
    os.close(os.open(f"{one.path}/y", os.O_CREAT | os.O_WRONLY))
    stale = (os.stat(other).st_size, os.listdir(two.path), said(lambda: os.stat(two.path + "/y")))
    with open(other) as file:
        fresh = os.fstat(file.fileno()).st_size
        text = file.read()
    if time.monotonic() - began < 0.7:
        assert stale == (3, ["x"], "ENOENT")
    assert (fresh, text) == (11, "old and new"), "close-to-open: the file that was renamed away, as it is now"
    while said(lambda: os.stat(two.path + "/y")):
        assert time.monotonic() < began + 20
    assert sorted(os.listdir(two.path)) == ["y", "z"]
    assert said(lambda: os.stat(other)) == "ENOENT"


def test_without_close_to_open_an_opened_file_is_as_old_as_its_attributes(pair: Pair) -> None:
    one, two = pair(replace(MODES["stale-blind"], attributes=30, names=30, absence=30))
    with open(f"{one.path}/x", "w") as file:
        file.write("old")
    assert os.stat(f"{two.path}/x").st_size == 3
    with open(f"{one.path}/x", "a") as file:
        file.write(" and new")
    with open(f"{two.path}/x") as file:
        assert os.fstat(file.fileno()).st_size == 3
        assert file.read() == "old"


# ---- faults


def test_eio_on_close_closes_all_the_same(pair: Pair) -> None:
    one, _ = pair(replace(MODES["coherent"], faults=(Fault("flush", "EIO"),)))
    (fd,) = opened(one)
    assert flock(fd) == ""
    assert said(lambda: os.close(fd)) == "EIO"
    assert said(lambda: os.close(fd)) == "EBADF"
    (fd,) = opened(one)
    until(lambda: flock(fd) == "")  # the lock ended, whatever close(2) said
    os.close(fd)


def test_estale_gets_through_when_it_comes_again(pair: Pair) -> None:
    one, _ = pair(MODES["coherent"])
    os.close(opened(one)[0])
    one.fail(Fault("lookup", "ESTALE", count=1))
    assert said(lambda: os.stat(one.path + "/x")) == "", "the VFS tries again"
    one.heal()
    one.fail(Fault("lookup", "ESTALE", nth=2, count=3, every=7))
    answers = [said(lambda: os.stat(one.path + "/x")) for _ in range(9)]
    assert answers == ["", "ESTALE", "", "", "", "", "ESTALE", "", ""]
    assert one.hits() == 6


def test_enospc_at_the_nth_write(pair: Pair) -> None:
    one, two = pair(replace(MODES["coherent"], faults=(Fault("write", "ENOSPC", nth=3, count=2),)))
    (fd,) = opened(one)
    answers = [said(lambda: os.write(fd, b"12345")) for _ in range(5)]
    assert answers == ["", "", "ENOSPC", "ENOSPC", ""]
    os.close(fd)
    assert os.stat(two.path + "/x").st_size == 15


@pytest.mark.parametrize("error", ["EIO", "EEXIST"])
def test_a_lost_reply_means_that_it_was_done(pair: Pair, error: str) -> None:
    faults = (Fault("link", error, after=True), Fault("create", error, after=True, name="y"))
    one, two = pair(replace(MODES["coherent"], faults=faults))
    os.close(opened(one)[0])
    assert said(lambda: os.link(one.path + "/x", one.path + "/l")) == error
    assert os.stat(one.path + "/x").st_nlink == 2
    assert said(lambda: os.open(one.path + "/y", os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == error
    assert sorted(os.listdir(two.path)) == ["l", "x", "y"]
    for name in ("l", "x", "y"):
        os.unlink(f"{one.path}/{name}")
    assert os.listdir(two.path) == []


def test_faults_by_name_and_after_the_mount(pair: Pair) -> None:
    one, _ = pair(MODES["coherent"])
    one.fail(Fault("unlink", "EACCES", count=None, name="x"))
    os.close(opened(one)[0])
    os.mkdir(one.path + "/d")
    assert [said(lambda: os.unlink(one.path + "/x")) for _ in range(3)] == ["EACCES"] * 3
    os.rmdir(one.path + "/d")
    one.heal()
    assert said(lambda: os.unlink(one.path + "/x")) == ""


@pytest.mark.parametrize("words", [{"flock": "perhaps"}, {"posix": ""}, {"faults": (("open", "NOTHING"),)}])
def test_a_mode_that_means_nothing_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is not|is no name"):
        _ = [Fault(*fault) for fault in words.get("faults", ())] or Mode("x", **words)  # type: ignore[attr-defined,arg-type]


def test_the_mount_table_says_what_the_caller_wants(tmp_path: Path) -> None:
    need_lockfs()
    with LockFS(tmp_path / "disk") as fs:
        fs.mount(tmp_path / "one", MODES["coherent"], kind="fuse.sshfs")
        with open("/proc/self/mounts", encoding="utf-8") as table:
            (line,) = [line for line in table if str(tmp_path) in line]
        assert line.split()[2] == "fuse.sshfs"


def test_a_killed_server_leaves_no_mount(tmp_path: Path) -> None:
    need_lockfs()
    with LockFS(tmp_path / "disk") as fs:
        fs.mount(tmp_path / "one", MODES["coherent"])
        fs._process.kill()
        fs._process.wait()
        assert said(lambda: os.stat(tmp_path / "one")) == "ENOTCONN"
    assert os.listdir(tmp_path / "one") == []


def test_an_errno_that_fuse_lets_nobody_send(tmp_path: Path) -> None:
    program = """
    import fcntl, json, os, sys
    from interlock.testing.lockfs import refuse_locks
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    refuse_locks()
    found = []
    for call in (lambda: fcntl.flock(fd, fcntl.LOCK_EX), lambda: fcntl.lockf(fd, fcntl.LOCK_EX),
                 lambda: fcntl.fcntl(fd, fcntl.F_GETFD)):
        try:
            found.append(call())
        except OSError as error:
            found.append(error.errno)
    print(json.dumps(found))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x")]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=100).stdout
    assert json.loads(answer) == [524, 524, 1]
