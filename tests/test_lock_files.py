"""What may stand at the path of a lock file, how lock files are made, and whose they may be."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import (
    Lock,
    Timeout,
    UnsafePathError,
)

if sys.platform != "linux":
    pytest.skip("looks into /proc and waits with inotify", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from .seam import WAYS, PatchedOps, descriptors, in_a_thread, nothing_left, patched_engine, taken  # noqa: E402
from .support import need_root  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch) -> PatchedOps:
    return patched_engine(monkeypatch)


every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# ---- what is not a lock file


def plant_dangling_link(path: Path) -> None:
    path.symlink_to("victim")


def plant_link(path: Path) -> None:
    path.with_name("victim").write_text("precious")
    path.symlink_to("victim")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may have no more than 108 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


PLANTS: list[tuple[Callable[[Path], None], str]] = [
    (plant_dangling_link, "a symbolic link"),
    (plant_link, "a symbolic link"),
    (plant_fifo, "a FIFO"),
    (plant_socket, "a socket"),
]


def quickly_refused(way: Callable[[Path], object], path: Path, error: type[Exception], match: str) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=match):
        way(path)
    assert time.monotonic() - began < 30
    nothing_left(path)


@every_way
@pytest.mark.parametrize(("plant", "kind"), PLANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_lock_file_is_refused(
    way: Callable[[Path], object], plant: Callable[[Path], None], kind: str, path: Path
) -> None:
    plant(path)
    quickly_refused(way, path, UnsafePathError, f"a.lock is {kind}")
    victim = path.with_name("victim")
    if plant is plant_link:
        assert victim.read_text() == "precious"
    else:
        assert not victim.exists()


@every_way
def test_a_directory_is_refused(way: Callable[[Path], object], path: Path) -> None:
    path.mkdir()
    quickly_refused(way, path, IsADirectoryError, "a.lock")


@every_way
def test_a_device_is_refused(way: Callable[[Path], object]) -> None:
    began = time.monotonic()
    with pytest.raises(UnsafePathError, match="/dev/null is a character device"):
        way(pathlib.Path("/dev/null"))
    assert time.monotonic() - began < 30


@every_way
def test_a_fifo_that_somebody_locks_is_refused_too(way: Callable[[Path], object], path: Path) -> None:
    """It looks contended; nobody must wait for it."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(UnsafePathError, match="FIFO"):
            way(path)
        assert time.monotonic() - began < 30
    finally:
        os.close(fd)
    nothing_left(path)


@every_way
def test_a_file_in_the_place_of_the_directory(way: Callable[[Path], object], path: Path) -> None:
    path.write_text("")
    with pytest.raises(NotADirectoryError):
        way(path / "b.lock")
    nothing_left(path / "b.lock")


@every_way
def test_a_name_too_long(way: Callable[[Path], object], path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        way(path.with_name("x" * 300))
    assert caught.value.errno == errno.ENAMETOOLONG


@every_way
def test_another_users_file_by_a_hard_link_is_refused(way: Callable[[Path], object], path: Path) -> None:
    need_root()
    victim = path.with_name("victim")
    victim.write_text("precious")
    os.chown(victim, 65534, 65534)
    path.hardlink_to(victim)
    quickly_refused(way, path, UnsafePathError, "hard link to a file of user 65534")
    assert victim.read_text() == "precious"
    assert not taken(victim)


def test_ones_own_hard_link_is_fine(path: Path) -> None:
    path.write_text("")
    path.with_name("other").hardlink_to(path)
    with Lock(path) as hold:
        assert taken(path)
        assert not hold.lost
    assert not taken(path)


# ---- how lock files are made


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    os.umask(before)
    yield lambda mask: void(os.umask(mask))
    os.umask(before)


def void(_: object) -> None:
    pass


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0, 0o666)])
def test_the_umask_decides_who_may_lock(
    mask: int, mode: int, path: Path, umask: Callable[[int], None]
) -> None:
    umask(mask)
    with Lock(path.parent / "new" / "a.lock"):
        pass
    made = (path.parent / "new" / "a.lock").stat()
    assert stat.S_IMODE(made.st_mode) == mode
    assert stat.S_IMODE((path.parent / "new").stat().st_mode) == 0o777 & ~mask
    assert made.st_size == 0


def test_a_default_acl_decides_instead(path: Path, umask: Callable[[int], None]) -> None:
    """A directory may say that its group can lock whatever the umask: setfacl -d -m u::rwx,g::rwx,o::-"""
    entries = [(0x01, 7, 0xFFFFFFFF), (0x04, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path.parent, "system.posix_acl_default", acl)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP or os.environ.get("INTERLOCK_REQUIRE_ALL"):
            raise
        pytest.skip("this filesystem has no access control lists")
    umask(0o077)
    with Lock(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_content_and_times_are_kept(path: Path) -> None:
    path.write_text("not ours")
    os.utime(path, ns=(10**18, 10**18))
    for _ in range(3):
        with Lock(path):
            assert path.read_text() == "not ours"
    assert path.read_text() == "not ours"
    assert path.stat().st_mtime_ns == 10**18
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0


def test_contention_keeps_the_content(path: Path) -> None:
    path.write_text("not ours")
    with Lock(path), pytest.raises(Timeout):
        in_a_thread(lambda: Lock(path).acquire(0.05))
    assert path.read_text() == "not ours"


def test_the_lock_file_stays(path: Path) -> None:
    with Lock(path):
        inode = path.stat().st_ino
    assert path.stat().st_ino == inode


LIST_DESCRIPTORS = """
import os
for fd in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink("/proc/self/fd/" + fd))
    except OSError:
        pass
"""


def test_children_do_not_inherit_the_descriptor(path: Path) -> None:
    with Lock(path):
        assert descriptors(path) != []
        seen = subprocess.run(
            [sys.executable, "-c", LIST_DESCRIPTORS], close_fds=False, capture_output=True, text=True, check=True
        )
    assert str(path) not in seen.stdout


# ---- files of other users in shared directories

AS_NOBODY = """
import fcntl, os, sys
from interlock import Lock, Timeout
# Wait once, in vain, so that all is loaded: another user may have no way to the files of this interpreter.
with open(sys.argv[1] + ".warm", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        Lock(file.name).acquire(0.05)
    except Timeout as error:
        str(error)
os.umask(0o022)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
hold = None
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "acquire":
            hold = Lock(sys.argv[1]).acquire(10)
        elif word == "try":
            hold = Lock(sys.argv[1]).try_acquire()
        elif word == "release":
            hold.release()
            hold = None
        print(hold is not None, flush=True)
    except Exception as error:
        print(type(error).__name__ if isinstance(error, OSError) else repr(error), flush=True)
"""


class Nobody:
    """A process of another user that locks on command."""

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", AS_NOBODY, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory like /tmp. pytest's own are closed to other users."""
    import tempfile
    from pathlib import Path

    need_root()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o1777)
        yield Path(directory)


@pytest.fixture
def nobody(shared: Path) -> Iterator[Nobody]:
    nobody = Nobody(str(shared / "a.lock"))
    yield nobody
    nobody.end()


def test_another_users_lock_file_in_a_sticky_directory(shared: Path, nobody: Nobody) -> None:
    """Whatever fs.protected_regular says on this machine: with 1 or 2, opening it with O_CREAT would be EACCES."""
    path = shared / "a.lock"
    assert nobody.ask("acquire") == "True"
    assert path.stat().st_uid == 65534
    assert Lock(path).try_acquire() is None
    with pytest.raises(Timeout) as caught:
        Lock(path).acquire(0.05)
    assert caught.value.holder is not None
    assert caught.value.holder.pid == nobody.process.pid
    assert caught.value.holder.user != "root"
    assert nobody.ask("release") == "False"
    with Lock(path):
        assert nobody.ask("try") == "False"
    assert nobody.ask("try") == "True"


def test_a_file_that_may_only_be_read_can_be_locked(shared: Path, nobody: Nobody) -> None:
    path = shared / "a.lock"
    path.write_text("")
    path.chmod(0o644)
    with Lock(path):
        assert nobody.ask("try") == "False"
    assert nobody.ask("acquire") == "True"
    assert Lock(path).try_acquire() is None
    got = []
    thread = threading.Thread(target=lambda: got.append(Lock(path).acquire(10)))
    thread.start()
    assert nobody.ask("release") == "False"
    thread.join()
    got.pop().release()


def test_waiting_with_a_file_that_may_only_be_read(shared: Path, nobody: Nobody) -> None:
    path = shared / "a.lock"
    path.write_text("")
    path.chmod(0o644)
    hold = Lock(path).acquire()
    threading.Timer(0.1, hold.release).start()
    assert nobody.ask("acquire") == "True"
    assert nobody.ask("release") == "False"


def test_a_file_that_may_not_be_read_is_an_error(shared: Path, nobody: Nobody) -> None:
    path = shared / "a.lock"
    path.write_text("")
    path.chmod(0o600)
    began = time.monotonic()
    assert nobody.ask("acquire") == "PermissionError"
    assert time.monotonic() - began < 30


def test_a_directory_that_may_not_be_written_is_an_error(shared: Path, nobody: Nobody) -> None:
    os.chmod(shared, 0o755)
    assert nobody.ask("acquire") == "PermissionError"


def test_protected_regular(path: Path, ops: PatchedOps) -> None:
    """fs.protected_regular=2: in a sticky directory, O_CREAT on another user's file is EACCES, whatever its mode."""
    path.write_text("")
    ops.fail("open", errno.EACCES, when=lambda name, flags, *mode: bool(flags & os.O_CREAT) and os.path.exists(name))
    with Lock(path):
        assert taken(path)
    with Lock(path).acquire(5):
        assert taken(path)
    assert not taken(path)
