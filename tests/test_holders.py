"""Reading the kernel's tables: every kind of line, and nothing in them is obeyed. Real processes are in `process`."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

import fcntl  # noqa: E402

from interlock import AsyncLock, Lock, UnsafePathError, inspect  # noqa: E402
from interlock._target import resolve  # noqa: E402
from interlock.engines.kernel import holders, proc, tickets  # noqa: E402
from interlock.engines.kernel.proc import Entry  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "12: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF\n",
            Entry("FLOCK", "WRITE", False, 4242, "fe:00", 1234, 0),
        ),
        (
            "12: -> FLOCK  ADVISORY  WRITE 43 fe:00:1234 0 EOF\n",
            Entry("FLOCK", "WRITE", True, 43, "fe:00", 1234, 0),
        ),
        (
            "3: OFDLCK ADVISORY  READ -1 00:2a:77 4611686018427387904 4611686018427387904\n",
            Entry("OFDLCK", "READ", False, -1, "00:2a", 77, 4611686018427387904),
        ),
        ("1: POSIX  ADVISORY  READ 9 08:01:5 128 128", Entry("POSIX", "READ", False, 9, "08:01", 5, 128)),
        ("7: LEASE  ACTIVE    WRITE 6 08:01:5 0 EOF", Entry("LEASE", "WRITE", False, 6, "08:01", 5, 0)),
        ("\n", None),
        ("1:", None),
        ("1: FLOCK ADVISORY WRITE x 08:01:5 0 EOF", None),
        ("1: FLOCK ADVISORY WRITE 1 <none>:0 0 EOF", None),
        ("1: FLOCK ADVISORY WRITE", None),
    ],
)
def test_lines_of_the_table(line: str, entry: Entry | None) -> None:
    assert proc.parse(line) == entry


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
    assert proc.command(words) == text


def test_what_a_run_is() -> None:
    assert proc.is_run(["interlock", "run", "x", "--", "y"])
    assert not proc.is_run(["interlock", "who", "x"])
    assert not proc.is_run(["make", "run", "--", "interlock"])


def test_a_process_that_is_gone_is_no_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    party = proc.party(child.pid)
    assert (party.pid, party.command, party.user) == (child.pid, "", "")
    assert proc.started(child.pid) is None


def test_a_zombie_has_a_name() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert proc.party(child.pid).command.startswith("[")
    child.communicate()


def test_when_a_process_began() -> None:
    started = proc.started(os.getpid())
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
        assert [(party.pid, party.position) for party in report.waiters] == [(os.getpid(), 1), (os.getpid(), 2)]
        since = report.waiters[0].since
        assert since is not None
        assert abs(time.time() - since) < 30
        assert report.waiters[0].since_exact
    finally:
        for fd in fds:
            os.close(fd)
    assert holders.waiting(resolve(path)) == 0
    assert holders.waiting(resolve(tmp_path / "none")) == 0


def test_this_process_names_its_threads_and_tasks(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with Lock(path):
            inside.set()
            done.wait(60)

    def queue(name: str) -> threading.Thread:
        before = len(inspect(path).waiters)
        thread = threading.Thread(target=lambda: Lock(path).acquire(30).release(), name=name)
        thread.start()
        while len(inspect(path).waiters) == before:
            time.sleep(0.001)
        return thread

    threads = [threading.Thread(target=work, name="the builder")]
    threads[0].start()
    assert inside.wait(60)
    threads += [queue("first"), queue("second")]
    report = inspect(path)
    done.set()
    for thread in threads:
        thread.join()
    (holder,) = report.holders
    assert (holder.pid, holder.mode, holder.since_exact) == (os.getpid(), "write", True)
    assert holder.waited is not None
    assert holder.waited < 60
    assert holder.thread == f"the builder (tid {threads[0].native_id})"
    assert [(party.position, party.thread.split()[0]) for party in report.waiters] == [(1, "first"), (2, "second")]
    assert all(party.pid == os.getpid() and party.waited is not None for party in report.waiters)


def test_tasks_have_names_too(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"

    async def hold() -> None:
        async with AsyncLock(path):
            waiter = asyncio.create_task(AsyncLock(path).acquire(), name="the waiter")
            await asyncio.sleep(0)
            report = inspect(path)
            waiter.cancel()
        (holder,), (waiting,) = report.holders, report.waiters
        assert (holder.task, waiting.task) == ("the holder", "the waiter")
        assert holder.thread == waiting.thread == f"{threading.current_thread().name} (tid {os.getpid()})"

    async def main() -> None:
        await asyncio.create_task(hold(), name="the holder")

    asyncio.run(main())


def test_threads_of_others_where_there_is_no_doubt(tmp_path: Path) -> None:
    """One with a single thread, and one of which one thread blocks in flock(2)."""
    path = tmp_path / "a.lock"
    program = (
        "import fcntl, sys, threading\n"
        "file = open(sys.argv[1], 'w')\n"
        "idle = threading.Event()\n"
        "if len(sys.argv) > 2: threading.Thread(target=idle.wait, daemon=True).start()\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "input()\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with subprocess.Popen([*words, "more"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiter:
            while not (report := inspect(path)).waiters or not report.waiters[0].thread:
                time.sleep(0.005)
            holder.communicate("\n")
            waiter.communicate("\n")
    assert report.holders[0].thread.endswith(f"(tid {holder.pid})")
    assert report.holders[0].waited is None
    (party,) = report.waiters
    assert (party.pid, party.position, party.mode) == (waiter.pid, None, "write")
    assert party.thread.endswith(f"(tid {waiter.pid})")
    assert party.host
    assert party.user


def test_shared_locks_and_the_marks_of_readers(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ops = resolve(path).engine.ops  # type: ignore[attr-defined]
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]
    try:
        fcntl.flock(fds[0], fcntl.LOCK_SH)
        arrived = (1 << 59) + ops.boottime_ns()
        ops.fcntl(fds[1], 37, struct.pack("hhqqi4x", 0, 0, arrived, 1, 0))
        report = inspect(path)
    finally:
        for fd in fds:
            os.close(fd)
    assert [party.mode for party in report.holders] == ["read"]
    assert [(party.mode, party.position) for party in report.waiters] == [("read", 1)]
    assert abs((report.waiters[0].since or 0) - time.time()) < 30


def test_waiters_of_others_that_are_not_shown(tmp_path: Path) -> None:
    """What /proc/locks shows of processes whose descriptors we may not see."""
    table = [
        Entry("FLOCK", "WRITE", False, 77_000_000, "fe:00", 1, 0),
        Entry("OFDLCK", "WRITE", False, -1, "fe:00", 1, tickets.BASE + 5),
        Entry("OFDLCK", "READ", False, -1, "fe:00", 1, 0),
    ]
    holders_seen, waiters = holders.parties(table, {}, [])
    assert [party.pid for party in holders_seen] == [77_000_000]
    assert [(party.pid, party.position, party.since_exact) for party in waiters] == [(None, 1, True)]
