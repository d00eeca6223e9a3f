"""The kernel engine's outside effects on Windows: what they make of the system's answers (run anywhere, against a
scripted system), and that they exclude (run on Windows, with real processes)."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import stat
import subprocess
import sys
import textwrap
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

import interlock.engines.kernel
from interlock import UnsafePathError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOUND, MISSING, NO_DIRECTORY, DENIED, SHARING, EXISTS, DELETING = 0, 2, 3, 5, 32, 80, 303
HANDLE, ELSEWHERE = 4242, 4243


def refusal(code: int) -> OSError:
    """What CreateFile and WinError raise for a system error code."""
    error = OSError(errno.EACCES, f"refused with {code}")
    error.winerror = code  # type: ignore[attr-defined,unused-ignore]
    return error


def _load() -> Any:
    """The module, on Windows as it is, elsewhere over stand-ins for what only Windows has."""
    if sys.platform == "win32":
        from interlock.engines.kernel import windows

        return windows
    winapi: Any = types.ModuleType("_winapi")
    winapi.GENERIC_READ, winapi.GENERIC_WRITE = 0x80000000, 0x40000000
    winapi.OPEN_EXISTING, winapi.FILE_TYPE_DISK = 3, 1
    winapi.CreateFile = winapi.CloseHandle = winapi.GetFileType = None
    folder = interlock.engines.kernel.__path__[0]
    spec = importlib.util.spec_from_file_location(
        "interlock.engines.kernel.windows_elsewhere", os.path.join(folder, "windows.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_winapi", winapi)
        patch.setattr(sys, "platform", "win32")
        patch.setattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0x400, raising=False)
        patch.setattr(stat, "FILE_ATTRIBUTE_DIRECTORY", 0x10, raising=False)
        patch.setattr(ctypes, "WinDLL", lambda *_, **__: _Library(), raising=False)
        patch.setattr(ctypes, "get_last_error", lambda: 0, raising=False)
        spec.loader.exec_module(module)
    return module


class _Library:
    def __getattr__(self, name: str) -> Any:
        function = types.SimpleNamespace()
        setattr(self, name, function)
        return function


windows: Any = _load()
WRITE, READ, NEW, OPEN_EXISTING = windows._READ_WRITE, windows._READ_ONLY, windows._CREATE_NEW, windows._EXISTING


class Claim:
    fd: int | None = None


_Base: Any = windows.Ops


class System(_Base):  # type: ignore[misc]
    """The engine's table over a scripted system: each `open` is answered by the next of `answers`."""

    def __init__(self, *answers: int) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []  # access, how
        self.closed: list[int] = []
        self.made: list[str] = []
        self.mode: int | None = stat.S_IFREG  # of what stat finds at the path; None: nothing
        self.attributes = {HANDLE: 0x80, ELSEWHERE: 0x80}
        self.files = {HANDLE: (7, 1 << 32 | 9), ELSEWHERE: (7, 1 << 32 | 9)}  # volume, index
        self.type = 1
        self.clock = 100.0
        self.last = 0

    def open(self, path: str, access: int, share: int, _: int, how: int, flags: int, template: int) -> int:
        assert flags & 0x00200000, "would follow a link"
        self.asked.append((access, how))
        answer = self.answers.pop(0)
        if answer:
            raise refusal(answer)
        if access == windows._ATTRIBUTES:
            return ELSEWHERE
        assert not share & 0x4, "a lock file that can be deleted while it is held"
        return HANDLE

    def close(self, handle: int) -> None:
        self.closed.append(handle)

    def kind(self, handle: int) -> int:
        return self.type

    def stat(self, path: str, *, follow_symlinks: bool) -> os.stat_result:
        assert not follow_symlinks
        if self.mode is None:
            raise FileNotFoundError(path)
        return os.stat_result((self.mode, *[0] * 9))

    def makedirs(self, path: str, *, exist_ok: bool) -> None:
        assert exist_ok
        self.made.append(path)

    def information(self, handle: int, words: Any) -> bool:
        volume, index = self.files[handle]
        words[0], words[7], words[10] = self.attributes[handle], volume, 1
        words[11], words[12] = index >> 32, index & 0xFFFFFFFF
        return True

    def lock_range(self, handle: int, flags: int, _: int, low: int, high: int, overlapped: Any) -> bool:
        assert (flags, low, high) == (3, 1, 0), "not byte 0, exclusive, at once"
        assert not any(overlapped), "not at offset 0"
        return not self.last

    def unlock_range(self, handle: int, _: int, low: int, high: int, overlapped: Any) -> bool:
        assert (low, high) == (1, 0)
        return not self.last

    def error(self) -> int:
        return self.last

    def now(self) -> float:
        return self.clock


@pytest.fixture(autouse=True)
def _win_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "WinError", refusal, raising=False)


def opened(system: System) -> int | None:
    claim = Claim()
    system.open_lock_file(claim, "dir/x.lock")
    assert not system.answers, "fewer questions than expected"
    return claim.fd


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([FOUND], [(WRITE, OPEN_EXISTING)]),
        ([MISSING, FOUND], [(WRITE, OPEN_EXISTING), (WRITE, NEW)]),
        ([DENIED, FOUND], [(WRITE, OPEN_EXISTING), (READ, OPEN_EXISTING)]),
        ([MISSING, EXISTS, FOUND], [(WRITE, OPEN_EXISTING), (WRITE, NEW), (WRITE, OPEN_EXISTING)]),
    ],
    ids=["there", "created", "read-only", "created by another"],
)
def test_opens(answers: list[int], asked: list[tuple[int, int]]) -> None:
    system = System(*answers)
    assert opened(system) == HANDLE
    assert system.asked == asked
    assert not system.made


def test_makes_the_parent_directory() -> None:
    system = System(NO_DIRECTORY, MISSING, FOUND)
    assert opened(system) == HANDLE
    assert system.made == ["dir"]


@pytest.mark.parametrize("code", [SHARING, DELETING])
def test_a_file_that_cannot_be_opened_just_now_is_contention(code: int) -> None:
    assert opened(System(code)) is None


def test_denied_is_contention_for_a_while_and_then_an_error() -> None:
    system = System()

    def attempt(at: float) -> int | None:
        system.clock = at
        system.answers = [DENIED, DENIED]
        return opened(system)

    assert attempt(100.0) is None
    assert attempt(100.5) is None
    with pytest.raises(OSError, match="refused with 5") as caught:
        attempt(100.0 + windows.DENIED_FOR)
    assert caught.value.filename == "dir/x.lock"
    # Much later it is another deletion, and begins anew.
    assert attempt(300.0) is None
    assert attempt(300.9) is None
    # What was opened in between was not denied for good.
    system.answers = [FOUND]
    assert opened(system) == HANDLE
    assert attempt(301.5) is None


@pytest.mark.parametrize(
    ("mode", "error"),
    [(stat.S_IFDIR, IsADirectoryError), (stat.S_IFLNK, UnsafePathError)],
    ids=["itself", "a link"],
)
def test_a_directory_is_an_error_at_once(mode: int, error: type[Exception]) -> None:
    system = System(DENIED, DENIED)
    system.mode = mode
    with pytest.raises(error, match=r"x\.lock"):
        opened(system)


def test_a_link_is_refused() -> None:
    system = System(FOUND)
    system.attributes[HANDLE] = 0x400
    with pytest.raises(UnsafePathError, match=r"x\.lock is a symbolic link"):
        opened(system)


def test_a_device_is_refused() -> None:
    system = System(FOUND)
    system.type = 2
    with pytest.raises(UnsafePathError, match="a device"):
        opened(system)


def test_other_errors_pass_with_their_path() -> None:
    with pytest.raises(OSError, match="refused with 123") as caught:
        opened(System(123))
    assert caught.value.filename == "dir/x.lock"


def test_gives_up_on_a_file_that_comes_and_goes() -> None:
    with pytest.raises(OSError, match="created and removed") as caught:
        opened(System(*[MISSING, EXISTS] * 100))
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize(("code", "locked"), [(0, True), (33, False), (997, False)])
def test_one_attempt(code: int, locked: bool) -> None:
    system = System()
    system.last = code
    assert system.try_lock(HANDLE, "x.lock") is locked


def test_a_drive_without_locks_is_unsupported() -> None:
    system = System()
    system.last = 50
    with pytest.raises(UnsupportedError, match=r"x\.lock: this drive has no LockFileEx"):
        system.try_lock(HANDLE, "x.lock")


def test_a_failed_lock_is_an_error_with_its_path() -> None:
    system = System()
    system.last = 6
    with pytest.raises(OSError, match="refused with 6") as caught:
        system.try_lock(HANDLE, "x.lock")
    assert caught.value.filename == "x.lock"


def test_identity_is_volume_and_index() -> None:
    system = System(FOUND, FOUND, FOUND)
    assert system.current(HANDLE, "x.lock")
    system.files[ELSEWHERE] = (7, 2 << 32 | 9)
    assert not system.current(HANDLE, "x.lock")
    system.files[ELSEWHERE] = (8, 1 << 32 | 9)
    assert not system.current(HANDLE, "x.lock")
    assert system.closed == [ELSEWHERE] * 3


@pytest.mark.parametrize("code", [MISSING, NO_DIRECTORY, DENIED, DELETING])
def test_a_file_that_is_gone_is_not_current(code: int) -> None:
    system = System(code)
    assert not system.current(HANDLE, "x.lock")
    assert not system.closed


def test_an_error_is_not_an_answer_about_identity() -> None:
    with pytest.raises(OSError, match="refused with 1450") as caught:
        System(1450).current(HANDLE, "x.lock")
    assert caught.value.filename == "x.lock"


# ---- on Windows, with real processes

on_windows = pytest.mark.skipif(sys.platform != "win32", reason="runs on Windows")

COUNT = """
import sys
from interlock import Lock
lock = Lock(sys.argv[1], timeout=60)
for _ in range(int(sys.argv[3])):
    with lock:
        with open(sys.argv[2]) as file:
            number = int(file.read())
        with open(sys.argv[2], "w") as file:
            file.write(str(number + 1))
"""
HOLD = """
import sys, time
from interlock import Lock
hold = Lock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
hold.release()
"""
FOREIGN = """
import msvcrt, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
try:
    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
except OSError:
    print("contended", flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def started(code: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@on_windows
def test_four_processes_count_a_file_up(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [start(COUNT, tmp_path / "x.lock", counter, 100) for _ in range(4)]
    assert [worker.wait(100) for worker in workers] == [0] * 4
    assert counter.read_text() == "400"


@on_windows
def test_excludes_times_out_and_is_taken_over(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.lock"
    holder = start(HOLD, path)
    assert first_line(holder) == "held"
    lock = interlock.Lock(path)
    assert lock.try_acquire() is None
    began = time.monotonic()
    with pytest.raises(interlock.Timeout, match=r"x\.lock"):
        lock.acquire(timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    with pytest.raises(PermissionError):
        path.unlink()
    holder.kill()  # TerminateProcess
    with lock.acquire(timeout=20) as hold:
        hold.assert_held()
        assert first_line(start(FOREIGN, path)) == "contended"
    assert path.exists()


@on_windows
def test_waits_for_those_who_lock_otherwise(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    foreign = start(FOREIGN, path)
    assert first_line(foreign) == "held"
    lock = interlock.Lock(path)
    assert lock.try_acquire() is None
    assert foreign.stdin is not None
    foreign.stdin.close()
    lock.acquire(timeout=20).release()


@on_windows
def test_threads_of_one_process_exclude_by_handle(tmp_path: Path) -> None:
    ops = windows.Ops()
    one, other = Claim(), Claim()
    path = str(tmp_path / "x.lock")
    ops.open_lock_file(one, path)
    ops.open_lock_file(other, path)
    try:
        assert ops.try_lock(one.fd, path)
        assert ops.current(one.fd, path)
        assert not ops.try_lock(other.fd, path)
        ops.flock(one.fd, windows.UNLOCK)
        assert ops.try_lock(other.fd, path)
        first, second = ops.fstat(one.fd), ops.fstat(other.fd)
        assert (first.st_dev, first.st_ino, first.st_nlink) == (second.st_dev, second.st_ino, 1)
    finally:
        ops.close(one.fd)
        ops.close(other.fd)


@on_windows
def test_a_read_only_file_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    path.chmod(stat.S_IREAD)
    try:
        with interlock.Lock(path) as hold:
            hold.assert_held()
            assert interlock.Lock(str(path).upper()).try_acquire() is None
    finally:
        path.chmod(stat.S_IWRITE)


@on_windows
def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        interlock.Lock(tmp_path).acquire()
    victim = tmp_path / "victim"
    victim.write_text("content")
    link = tmp_path / "link"
    try:
        link.symlink_to(victim)
    except OSError as error:
        pytest.skip(f"needs the right to make symbolic links: {error}")
    if not link.is_symlink():
        pytest.skip("this system says that it made a symbolic link, and made none (Wine 8)")
    with pytest.raises(UnsafePathError, match="link"):
        interlock.Lock(link).acquire()
    assert victim.read_text() == "content"


@on_windows
def test_fair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="fair"):
        interlock.Lock(tmp_path / "x.lock", fair=True)


@on_windows
def test_inspect_says_that_it_does_not_know(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = start(HOLD, path)
    assert first_line(holder) == "held"
    report = interlock.inspect(path)
    assert not report.complete
    assert not report.holders
    holder.kill()
    with interlock.Lock(path).acquire(timeout=20):
        report = interlock.inspect(path)
        assert [party.pid for party in report.holders] == [os.getpid()]
        assert not report.complete
