"""Reading the kernel's tables: every kind of line, and nothing in them is obeyed. Real processes are in `process`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from interlock import Lock, UnsafePathError, inspect  # noqa: E402
from interlock._target import resolve  # noqa: E402
from interlock.engines.kernel import holders, tickets  # noqa: E402
from interlock.engines.kernel.holders import _command, _Entry, _is_run, _parse  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "12: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF\n",
            _Entry("FLOCK", False, 4242, "fe:00", 1234, "0"),
        ),
        (
            "12: -> FLOCK  ADVISORY  WRITE 43 fe:00:1234 0 EOF\n",
            _Entry("FLOCK", True, 43, "fe:00", 1234, "0"),
        ),
        (
            "3: OFDLCK ADVISORY  READ -1 00:2a:77 4611686018427387904 4611686018427387904\n",
            _Entry("OFDLCK", False, -1, "00:2a", 77, "4611686018427387904"),
        ),
        ("1: POSIX  ADVISORY  READ 9 08:01:5 128 128", _Entry("POSIX", False, 9, "08:01", 5, "128")),
        ("7: LEASE  ACTIVE    WRITE 6 08:01:5 0 EOF", _Entry("LEASE", False, 6, "08:01", 5, "0")),
        ("\n", None),
        ("1:", None),
        ("1: FLOCK ADVISORY WRITE x 08:01:5 0 EOF", None),
        ("1: FLOCK ADVISORY WRITE 1 <none>:0 0 EOF", None),
        ("1: FLOCK ADVISORY WRITE", None),
    ],
)
def test_lines_of_the_table(line: str, entry: _Entry | None) -> None:
    assert _parse(line) == entry


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["make", "-j8"], "make -j8"),
        (["sh", "-c", "echo \x1b[31mred\x07\n\x9b2J"], "sh -c echo ?[31mred???2J"),
        (["x" * 200], "x" * 79 + "…"),
        (["caf\u00e9", "\u202egnp.exe"], "caf\u00e9 ?gnp.exe"),
        (["/usr/bin/python3", "/usr/bin/interlock", "run", "a.lock", "--", "make", "all"], "make all"),
        (["python3", "-m", "interlock", "run", "--timeout", "3", "a.lock", "--", "ls", "--", "x"], "ls -- x"),
        (["git", "run", "--", "x"], "git run -- x"),
        ([], ""),
    ],
)
def test_commands_for_people(words: list[str], text: str) -> None:
    """What a process calls itself may be meant for the terminal of whoever looks."""
    assert _command(words) == text


def test_what_a_run_is() -> None:
    assert _is_run(["interlock", "run", "x", "--", "y"])
    assert not _is_run(["interlock", "who", "x"])
    assert not _is_run(["make", "run", "--", "interlock"])


def test_a_process_that_is_gone_is_no_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    party = holders._party(child.pid)
    assert (party.pid, party.command, party.user) == (child.pid, "", "")
    assert holders._started(child.pid) is None


def test_a_zombie_has_a_name() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert holders._party(child.pid).command.startswith("[")
    child.communicate()


def test_when_a_process_began() -> None:
    started = holders._started(os.getpid())
    assert started is not None
    assert 0 < time.time() - started < 24 * 3600


def test_a_lock_without_a_file(tmp_path: Path) -> None:
    report = inspect(tmp_path / "a.lock")
    assert (report.holders, report.waiters, report.enforced) == ((), (), True)
    assert report.hint == "there is no lock file yet"
    assert not (tmp_path / "a.lock").exists()


def test_looking_takes_no_lock_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("content")
    before = path.stat()
    for _ in range(3):
        assert inspect(path).holders == ()
    after = path.stat()
    assert (before.st_mtime_ns, before.st_atime_ns, before.st_size) == (
        after.st_mtime_ns,
        after.st_atime_ns,
        after.st_size,
    )


def test_what_is_no_lock_file_has_no_holders(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("dir")
    for name in ("dir", "fifo", "link"):
        with pytest.raises(UnsafePathError, match="not a regular file"):
            inspect(tmp_path / name)


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with Lock(tmp_path / "a.lock") as hold:
        report = inspect(tmp_path / "a.lock")
        assert not report.complete
        assert report.holders == ()
        assert hold.held


def test_tickets_and_marks_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ops = resolve(path).engine.ops  # type: ignore[attr-defined]
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
    try:
        assert holders.waiting(resolve(path)) == 0
        tickets.enter(ops, fds[0])
        tickets.enter(ops, fds[1])
        tickets.mark(ops, fds[2])
        assert holders.waiting(resolve(path)) == 2
        report = inspect(path)
        assert report.holders == ()  # a mark without the lock holds nothing
        assert [party.pid for party in report.waiters] == [os.getpid()]
        since = report.waiters[0].since
        assert since is not None
        assert abs(time.time() - since) < 30
        assert report.waiters[0].since_exact
    finally:
        for fd in fds:
            os.close(fd)
    assert holders.waiting(resolve(path)) == 0
    assert holders.waiting(resolve(tmp_path / "none")) == 0
