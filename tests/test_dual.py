"""`dual`: flock(2) and an OFD range on one descriptor. Whom it excludes, what stays when one of the two fails, and what
each error of a lock call leads to."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("OFD locks are Linux's", allow_module_level=True)

from interlock import Lock, Timeout, UnsupportedError
from interlock.engines.kernel import answers, other_ops
from interlock.engines.kernel.ops import Ops

from .seam import nothing_left, patched_engine, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .places import Places

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
{lock}
print("held", flush=True)
sys.stdin.read()
"""
FOREIGN = {
    "flock(2)": "fcntl.flock(fd, fcntl.LOCK_EX)",
    "lockf(3)": "fcntl.lockf(fd, fcntl.LOCK_EX)",
    "OFD": "fcntl.fcntl(fd, 37, __import__('struct').pack('hhqqi4x', 1, 0, 0, 0, 0))",
    "filelock": "from filelock import FileLock; mine = FileLock(sys.argv[1]); mine.acquire()",
    "interlock flock": "from interlock import Lock; mine = Lock(sys.argv[1]).acquire()",
    "interlock dual": "from interlock import Lock; mine = Lock(sys.argv[1], primitive='dual').acquire()",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def dual(path: Path) -> Lock:
    return Lock(path, primitive="dual")


def ranged(path: Path) -> bool:
    """Does somebody keep a byte range on the file?"""
    fd = os.open(path, os.O_RDWR)
    try:
        return fcntl.fcntl(fd, 36, other_ops._FLOCK.pack(1, 0, 0, 1, 0))[:2] != b"\2\0"
    finally:
        os.close(fd)


@pytest.fixture
def foreign(path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(lock: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(lock=lock), str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("lock", FOREIGN.values(), ids=FOREIGN)
def test_it_waits_for_everybody(lock: str, path: Path, foreign: Callable[[str], subprocess.Popen[str]]) -> None:
    holder = foreign(lock)
    assert dual(path).try_acquire() is None
    with pytest.raises(Timeout):
        dual(path).acquire(0.05)
    nothing_left(path)
    if lock != FOREIGN["flock(2)"] and "interlock" not in lock and "filelock" not in lock:
        assert not taken(path)  # the half that could be had was given back
    threading.Timer(0.1, holder.kill).start()
    with dual(path).acquire(20):
        assert taken(path)
        assert ranged(path)
    assert not taken(path)
    assert not ranged(path)


@pytest.mark.parametrize("attempt", [
    "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
])  # fmt: skip
def test_everybody_waits_for_it(attempt: str, path: Path) -> None:
    program = f"import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); {attempt}"
    with dual(path):
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
        assert "BlockingIOError" in result.stderr
    subprocess.run([sys.executable, "-c", program, path], check=True)


def test_nothing_stays_of_a_holder_that_was_killed(
    path: Path, foreign: Callable[[str], subprocess.Popen[str]]
) -> None:
    foreign(FOREIGN["interlock dual"]).kill()
    with dual(path).acquire(20):
        pass


def test_threads_and_reentry(path: Path) -> None:
    with dual(path):
        box: list[Any] = []
        thread = threading.Thread(target=lambda: box.append(dual(path).try_acquire()))
        thread.start()
        thread.join()
        assert box == [None]


def test_an_interrupt_between_the_two_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = dual(path)
    engine: Any = lock._line.engine
    real = engine.ops.fcntl

    def interrupted(fd: int, command: int, *what: Any) -> Any:
        if what[0] == other_ops._TAKE:
            raise KeyboardInterrupt
        return real(fd, command, *what)

    monkeypatch.setattr(engine.ops, "fcntl", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert not taken(path)
    nothing_left(path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524, errno.EINVAL])
def test_a_place_that_has_one_of_the_two(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is another mechanism: refused."""
    lock = dual(path)
    engine: Any = lock._line.engine

    def failing(fd: int, command: int, *what: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(engine.ops, "fcntl", failing)
    with pytest.raises(UnsupportedError, match=r"flock\(2\) with an OFD range failed with") as caught:
        lock.acquire()
    assert "the OFD range" in str(caught.value.__cause__)
    assert not taken(path)
    nothing_left(path)


def test_a_file_that_may_only_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("")
    lock = dual(path)
    engine: Any = lock._line.engine
    real = os.open

    def read_only(name: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return real(name, flags, *mode)

    monkeypatch.setattr(engine.ops, "open", read_only)
    with pytest.raises(UnsupportedError, match=r"EBADF.*may only be read"):
        lock.acquire()
    nothing_left(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_two_locks_that_meet_each_other_are_found_out(
    number: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on SMB. Without that, an acquire would wait for itself for ever."""
    lock = dual(path)
    engine: Any = lock._line.engine
    real = engine.ops.fcntl

    def conflicting(fd: int, command: int, *what: Any) -> Any:
        if what[0] == other_ops._TAKE:
            raise OSError(number, os.strerror(number))
        return real(fd, command, *what)

    monkeypatch.setattr(engine.ops, "fcntl", conflicting)
    monkeypatch.setattr(engine.ops, "_tested", False)
    with pytest.raises(UnsupportedError, match=r"conflict with each other.*INTERLOCK_PRIMITIVE"):
        lock.acquire(5)
    assert os.listdir(tmp_path) == ["a.lock"]
    assert not taken(path)
    nothing_left(path)


# ---- one answer per error


@pytest.mark.parametrize("answer", answers.ANSWERS, ids=lambda answer: f"{answer[0]}, {answer[2]}")
def test_each_error_has_its_answer(answer: tuple[Any, ...], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the documented table says is what happens; nothing is held then, and nothing else was tried."""
    _, numbers, calls, meaning, outcome = answer
    assert outcome in answers.OUTCOMES
    for number in numbers:
        for call in calls.split(", "):
            _meet(number, call, meaning, outcome, path, monkeypatch)


def _meet(
    number: int, call: str, meaning: str, outcome: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = patched_engine(monkeypatch)
    lock = Lock(path)
    if call in ("unlock", "close"):
        hold = lock.acquire()
        if call == "unlock":
            ops.fail("flock", number, when=lambda fd, how: how == fcntl.LOCK_UN)
        else:
            ops.patch("close", lambda real, fd: _raise(number, real(fd)))
        hold.release()
        ops.heal()
        assert not taken(path)
        return
    if call == "open":
        ops.fail("open", number)
    else:
        ops.fail_lock(number)
    ways: tuple[Callable[[], object], ...] = (lambda: Lock(path).acquire(0.02), lambda: Lock(path).try_acquire())
    for way in ways:
        if outcome == "contended":
            with pytest.raises(Timeout):
                Lock(path).acquire(0.02)
            assert Lock(path).try_acquire() is None
        elif outcome == "unsupported":
            with pytest.raises(UnsupportedError, match=re.escape(meaning)) as refused:
                way()
            assert {str(path) in str(refused.value), "INTERLOCK_PRIMITIVE" in str(refused.value)} == {True}
            assert errno.errorcode.get(number, str(number)) in str(refused.value)
        else:
            with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
                way()
            assert (caught.value.errno, os.fsdecode(caught.value.filename)) == (number, str(path))
        nothing_left(path)
    assert set(os.listdir(path.parent)) <= {"a.lock"}


def _raise(number: int, _: object) -> None:
    raise OSError(number, os.strerror(number))


def test_a_read_only_filesystem_still_locks_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EROFS, errno.EACCES):
        path.write_text("")
        ops = patched_engine(monkeypatch)
        ops.fail("open", number, when=lambda name, flags, *mode: flags & os.O_ACCMODE != os.O_RDONLY)
        with Lock(path):
            assert taken(path)


def test_a_stale_file_is_opened_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = patched_engine(monkeypatch)
    for call in ("flock", "fstat"):
        ops.fail(call, errno.ESTALE, times=3)
        with Lock(path).acquire(5) as hold:
            assert taken(path)
            ops.fail("fstat", errno.ESTALE)
            assert hold.lost
            ops.heal()
        nothing_left(path)


def test_a_file_that_an_smb_server_has_forgotten_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flock(2) says EBADF of a descriptor that the kernel knows well, after a restart of the server."""
    ops = patched_engine(monkeypatch)
    ops.place = "cifs at /mnt"
    ops.fail("flock", errno.EBADF, times=3)
    with Lock(path).acquire(5):
        assert taken(path)
    nothing_left(path)
    ops.heal()
    ops.fail_lock(errno.EBADF)
    with pytest.raises(OSError, match="Stale") as caught:
        Lock(path).acquire()
    assert caught.value.filename == str(path)


def test_a_file_that_stays_stale(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = patched_engine(monkeypatch)
    ops.fail_lock(errno.ESTALE)
    with pytest.raises(OSError, match="Stale") as caught:
        Lock(path).acquire()
    assert caught.value.filename == str(path)
    assert sum(call[0] == "flock" and call[2] != fcntl.LOCK_UN for call in ops.calls) == 100


def test_what_is_not_local_has_no_queue(path: Path, places: Places) -> None:
    """Tickets are byte ranges: on a server, they would be a queue of its own."""
    places.mount(path.parent, "nfs4")
    with pytest.raises(UnsupportedError, match="local filesystem"):
        Lock(path, fair=True)
    assert isinstance(Lock(path)._line.engine.ops, Ops)  # type: ignore[attr-defined]


def test_read_write_locks_are_refused(path: Path, places: Places) -> None:
    """Their byte ranges are not coordinated with those of `dual`; nothing is locked."""
    from interlock import RWLock

    places.say("dual")
    with pytest.raises(UnsupportedError, match="the primitive here is dual"):
        RWLock(path).read()
    with Lock(path):
        pass
