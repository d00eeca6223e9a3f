"""Which filesystem a path is on, by the kernel's table of mounts."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from interlock._wait import mounts
from interlock._wait.mounts import LOCAL, fstype

from .support import need, need_lockfs

if TYPE_CHECKING:
    from pathlib import Path

TABLE = r"""
22 1 254:1 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:30 / /mnt/a rw shared:5 master:2 - nfs4 server:/export rw,vers=4.2
25 22 0:31 / /mnt/ab rw - tmpfs tmpfs rw
26 22 0:32 / /home rw - nfs server:/home rw
27 26 0:33 / /home rw - xfs /dev/sdb rw
28 22 0:34 / /with\040space\011and\134more rw - fuse.sshfs host: rw
29 24 0:35 / /mnt/a/scratch rw - lustre scratch rw
broken line
30 22 0:36 / /mnt/odd rw no separator here
"""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "open", lambda *_, **__: io.StringIO(TABLE.lstrip()), raising=False)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/etc/a", "ext4"),
        ("/procession", "ext4"),
        ("/proc", "proc"),
        ("/mnt/a", "nfs4"),
        ("/mnt/a/deep/down", "nfs4"),
        ("/mnt/ab", "tmpfs"),
        ("/mnt/abc", "ext4"),
        ("/mnt/a/scratch/x", "lustre"),
        ("/mnt/a/scratchy", "nfs4"),
        ("/home/me", "xfs"),  # the later mount covers the earlier
        ("/with space\tand\\more/x", "fuse.sshfs"),
        ("/mnt/odd/x", "ext4"),
    ],
)
def test_the_longest_and_latest_mount_counts(path: str, kind: str) -> None:
    assert fstype(path) == kind


def test_without_a_table_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(mounts, "open", refuse, raising=False)
    assert fstype("/") == ""


def test_filesystems_that_others_can_write_to_are_not_local() -> None:
    shared = "nfs nfs4 cifs smb3 fuse fuse.sshfs fuseblk lustre gpfs ceph 9p virtiofs afs ocfs2 gfs2 vboxsf".split()
    assert LOCAL.isdisjoint([*shared, ""])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_table() -> None:
    assert fstype("/proc/self") == "proc"
    if os.path.ismount("/dev/shm"):
        assert fstype("/dev/shm") == "tmpfs"
    assert fstype("/") != ""


# ---- the table changes while we live

REMOUNT = """
import atexit, os, sys
import interlock
from interlock import UnsupportedError
from interlock._wait import mounts
from interlock.testing.lockfs import MODES, LockFS

place = sys.argv[1]
path = os.path.join(place, "x.lock")
how = sys.argv[2]
fs = LockFS(place + "-disk")
atexit.register(fs.close)
mounted = []

def mount():  # of a type that no fact is known about
    mounted.append(fs.mount(place, MODES["gpfs"]))

def umount():
    mounted.pop().unmount()

def granted():
    try:
        with lock():
            return True
    except UnsupportedError:
        return False

def lock():
    if how == "lease":
        return interlock.Lock(path, primitive="marker", ttl=60)
    if how == "rwlock":
        return interlock.RWLock(path).write()
    return interlock.Lock(path)
"""


def remounted(tmp_path: Path, program: str, how: str = "lock") -> None:
    """Run it where it may mount what it likes, and nobody else sees it."""
    need_lockfs()
    place = tmp_path / "place"
    script = REMOUNT + textwrap.dedent(program)
    command = [need("unshare"), "--mount", sys.executable, "-c", script, str(place), how]
    place.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the mount table of Linux")


@on_linux
@pytest.mark.parametrize("how", ["lock", "rwlock"])
def test_what_is_mounted_over_a_directory_that_was_used_is_seen(tmp_path: Path, how: str) -> None:
    program = """
    assert granted()
    mount()
    assert not granted()
    umount()
    assert granted()
    """
    remounted(tmp_path, program, how)


@on_linux
def test_a_log_of_leases_made_on_a_local_filesystem_is_not_believed_on_another(tmp_path: Path) -> None:
    program = """
    from interlock.engines.marker import lease
    assert granted()
    engine = lease.engine(60)
    assert engine.log(path).trusted
    mount()
    assert not engine.log(path).trusted
    umount()
    assert engine.log(path).trusted and granted()
    """
    remounted(tmp_path, program, "lease")


@on_linux
@pytest.mark.parametrize("between", ["closed()", "taken()", "child()"])
def test_the_watch_of_the_mount_table_survives_what_programs_do(tmp_path: Path, between: str) -> None:
    program = f"""
    def watching():
        return next(fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{{fd}}")
                    and os.readlink(f"/proc/self/fd/{{fd}}").endswith("mountinfo"))

    def closed():
        os.close(watching())

    def taken():
        os.dup2(os.open(os.devnull, os.O_RDONLY), watching())

    def child():  # who has our descriptor, and must not take our news
        if not os.fork():
            granted()
            mount()
            os._exit(granted())
        assert os.wait()[1] == 0

    assert granted()
    before = mounts.changes()
    assert before == mounts.changes()
    {between}
    if not mounted:
        mount()
    assert not granted()
    assert before < mounts.changes() == mounts.changes()
    """
    remounted(tmp_path, program)


@on_linux
def test_without_a_descriptor_left_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> Any:
        def opens(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        return opens

    for number in (errno.EMFILE, errno.ENOENT, errno.ENOMEM):
        mounts._forget()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse(number))
            assert len({mounts.changes() for _ in range(3)}) == 3
        assert len({mounts.changes() for _ in range(3)}) == 1


@on_linux
def test_what_was_answered_without_a_table_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look finds its descriptor, but the table cannot be opened."""
    place = os.path.realpath(tmp_path)
    local = mounts.is_local(place)
    assert local

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "no more")

    mounts._local.clear()
    with monkeypatch.context() as patch:
        patch.setattr(mounts, "open", refuse, raising=False)
        assert not mounts.is_local(place)
    assert mounts.is_local(place)


@on_linux
def test_a_poll_that_is_not_the_systems_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of gevent and eventlet do not know POLLPRI, or are not there."""
    import select

    mounts._forget()
    with monkeypatch.context() as patch:
        patch.setattr(select, "poll", lambda: None)
        assert len({mounts.changes() for _ in range(3)}) == 3
        patch.delattr(select, "poll")
        assert len({mounts.changes() for _ in range(3)}) == 3
    assert len({mounts.changes() for _ in range(3)}) == 1


@on_linux
def test_a_look_beside_another_threads_look_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one may have been told, and not have said so yet."""
    before = mounts.changes()
    watch = mounts._watch
    assert watch is not None
    within: list[int] = []
    look = watch.look

    def slow() -> Any:
        monkeypatch.undo()
        within.append(mounts.changes())
        return look()

    monkeypatch.setattr(watch, "look", slow)
    assert mounts.changes() == before
    assert within != [before]
    assert mounts.changes() == before


@on_linux
def test_news_that_came_as_a_signal_did_are_not_lost(tmp_path: Path) -> None:
    """Ctrl-C at each instruction of the look."""
    program = """
    class Stop(BaseException):
        pass

    def stopped_at(number):
        counted = 0
        def trace(frame, event, _):
            nonlocal counted
            if frame.f_code.co_filename != mounts.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                counted += 1
                if counted == number:
                    raise Stop
            return trace
        sys._getframe().f_trace_opcodes = True  # without it CPython 3.12 traces none in the frames that are called
        sys.settrace(trace)
        try:
            mounts.is_local(place)
        except Stop:
            return True
        finally:
            sys.settrace(None)
        return False

    local, number = True, 1
    assert mounts.is_local(place)
    while True:
        (mount if local else umount)()
        local = not local
        if not stopped_at(number):
            break
        assert mounts.is_local(place) is local, number
        number += 1
    assert number > 20, number
    """
    remounted(tmp_path, program)


@on_linux
def test_threads_look_at_once() -> None:
    """A poll object of CPython is one thread's at a time."""
    errors: list[Exception] = []

    def look() -> None:
        try:
            for _ in range(2000):
                mounts.changes()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
