"""Fencing tokens of lock files: they only grow, whoever dies and whatever the clock does."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncLock,
    Lock,
    LostError,
    NotHeldError,
    ProtocolError,
    RLock,
    RWLock,
    Semaphore,
    Timeout,
    UnsupportedError,
)

from .atomic_support import child
from .seam import PatchedOps, patched_engine
from .support import need_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("forks, and replaces system calls", allow_module_level=True)

from interlock.engines.kernel import tokens


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def file(path: Path) -> Path:
    return path.with_name("a.lock.token")


def token(path: Path) -> int:
    with Lock(path) as hold:
        assert hold.token is not None
        return hold.token


def test_they_grow_and_who_does_not_ask_makes_no_file(path: Path, file: Path) -> None:
    with Lock(path):
        pass
    assert os.listdir(path.parent) == ["a.lock"]
    found = [token(path) for _ in range(50)]
    assert found == sorted(set(found))
    assert abs(found[0] - time.time_ns() // 1000) < 60_000_000
    assert path.read_bytes() == b""
    assert len(file.read_bytes()) == 2 * tokens._SIZE


def test_one_hold_has_one_token(path: Path) -> None:
    with RLock(path) as outer, RLock(path) as inner:
        assert outer.token == outer.token == inner.token
    assert outer.token == inner.token  # also after the release
    with Lock(path) as hold:
        pass
    with pytest.raises(NotHeldError):
        _ = hold.token
    assert outer.token is not None
    assert token(path) > outer.token


def test_threads_that_ask_together_get_the_same(path: Path) -> None:
    with Lock(path) as hold:
        gate = threading.Barrier(8)
        found: list[int | None] = []

        def ask() -> None:
            gate.wait()
            found.append(hold.token)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1


def test_tasks(path: Path) -> None:
    async def main() -> list[int | None]:
        found = []
        for _ in range(3):
            async with AsyncLock(path) as hold:
                found.append(hold.token)
        return found

    found = asyncio.run(main())
    assert found == sorted(set(found), key=str)


def test_only_writers_of_a_read_write_lock_have_one(path: Path) -> None:
    lock = RWLock(path)
    with lock.read() as hold:
        assert hold.token is None
    with lock.write() as hold:
        first = hold.token
    with lock.update() as hold:
        assert hold.token is None
        hold.upgrade()
        second = hold.token
        hold.downgrade()
        assert hold.token is None
    assert first is not None
    assert second is not None
    assert first < second < token(path)


def test_holders_of_a_semaphore_have_none(path: Path, file: Path) -> None:
    with Semaphore(path, 2) as one, Semaphore(path, 2) as two:
        assert one.token is two.token is None
    assert not file.exists()


def test_the_clock_may_go_back_or_stand(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now[0] * 1000)
    assert [token(path), token(path)] == [2_000_000_000, 2_000_000_001]
    now[0] = 1
    assert token(path) == 2_000_000_002
    now[0] = 3_000_000_000
    assert token(path) == 3_000_000_000


def test_without_the_files_the_clock_is_the_floor(path: Path, file: Path) -> None:
    last = token(path)
    for gone in ([path], [file], [path, file]):
        for each in gone:
            each.unlink()
        assert token(path) > last
        last = token(path)


@pytest.mark.parametrize("length", range(tokens._SIZE + 1))
@pytest.mark.parametrize("number", [0, 1, 2])
def test_torn_records(path: Path, file: Path, number: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands, so that only the file can tell."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    found = [token(path) for _ in range(number)]
    real = os.pwrite

    def torn(fd: int, data: bytes, at: int) -> int:
        real(fd, data[:length], at)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def die() -> None:
        monkeypatch.setattr(os, "pwrite", torn)
        token(path)

    assert child(die) == signal.SIGKILL
    found += [token(path), token(path), token(path)]
    assert found == sorted(set(found)), (found, file.read_bytes())


def test_a_full_disk(path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:10], at))
        with pytest.raises(OSError, match="No space") as caught, Lock(path) as hold:
            _ = hold.token
        assert str(caught.value.filename) == str(file)
    assert token(path) < token(path)


@pytest.mark.parametrize("left", [b"", b"\0" * 96, b"\0" * 48, b"interlock tok"])
def test_what_a_power_loss_may_leave(path: Path, file: Path, left: bytes) -> None:
    file.write_bytes(left)
    assert token(path) < token(path) < token(path)


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"x" * 96, b"interlock token 2 " + b"0" * 78, b"\0" * 5000 + b"x"])
def test_somebody_elses_file_is_left_alone(path: Path, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with Lock(path) as hold:
        with pytest.raises(ProtocolError, match="not a token file"):
            _ = hold.token
        assert hold.held
    assert file.read_bytes() == content


def test_the_lock_file_is_never_written(path: Path) -> None:
    path.write_text("#!/bin/sh\necho a user's script, locked by flock(1)\n")
    before = path.read_bytes()
    assert token(path) < token(path)
    assert path.read_bytes() == before


def test_the_largest_token(path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: ((1 << 63) - 1) * 1000)
    assert token(path) == (1 << 63) - 1
    with pytest.raises(ProtocolError, match="largest"), Lock(path) as hold:
        _ = hold.token


def test_a_holder_that_lost_its_file_gets_none(path: Path) -> None:
    """Not even when its successor has one already: it would be greater."""
    with Lock(path) as old:
        path.unlink()
        assert child(lambda: token(path)) == 0
        with pytest.raises(LostError):
            _ = old.token
        assert old.lost


def test_who_had_a_token_before_the_loss_has_a_smaller_one(path: Path) -> None:
    with Lock(path) as old:
        mine = old.token
        path.unlink()
        assert mine is not None
        assert child(lambda: os._exit(0 if token(path) > mine else 1)) == 0
        assert old.token == mine


def test_a_user_who_may_not_write(path: Path, file: Path) -> None:
    need_root()
    path.touch(0o666)
    path.chmod(0o666)
    last = token(path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666  # as the lock file
    for parent in path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)

    def as_nobody() -> None:
        os.setuid(65534)
        assert token(path) > last

    def refused() -> None:
        os.setuid(65534)
        with Lock(path) as hold:
            with pytest.raises(UnsupportedError, match="may not be written"):
                _ = hold.token
            assert hold.held

    assert child(as_nobody) == 0
    file.chmod(0o644)
    assert child(refused) == 0
    file.unlink()
    assert child(refused) == 0
    assert not file.exists()


def test_who_is_stopped_in_the_middle_holds_others_up_for_a_while(
    path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PATIENCE", 0.1)
    with Lock(path) as hold:
        with Lock(file), pytest.raises(Timeout, match="giving out a token"):
            _ = hold.token
        assert hold.token is not None


def test_a_token_file_that_is_replaced_while_it_is_locked(
    path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = patched_engine(monkeypatch)
    first = token(path)
    with Lock(path) as hold:
        ops.before("flock", file.unlink)
        second = hold.token
    assert second is not None
    assert second > first
    assert file.exists()


CALLS = ("open", "fstat", "stat", "flock", "close")


def test_killed_at_each_call(path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    found: list[int] = []
    for number in range(100):
        ops = PatchedOps()

        def die(ops: PatchedOps = ops, number: int = number) -> None:
            with pytest.MonkeyPatch.context() as patch:
                from interlock._wait import inotify
                from interlock.engines import kernel

                patch.setitem(kernel._engines, "kernel", kernel.KernelEngine(ops, inotify))
                with Lock(path) as hold:
                    left = [number]

                    def act(real: Callable[..., Any], *args: Any, **options: Any) -> Any:
                        left[0] -= 1
                        if left[0] < 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*args, **options)

                    for name in CALLS:
                        ops.patch(name, act)
                    _ = hold.token
                    ops.heal()

        status = child(die)
        found.append(token(path))
        if status == 0:
            break
        assert status == signal.SIGKILL
    assert number > 6
    assert found == sorted(set(found))


def test_processes_that_are_killed_leave_a_growing_history(path: Path, tmp_path: Path) -> None:
    """Each writes its token to a history under the lock; the clock of each runs differently."""
    history = tmp_path / "history"

    def work(skew: int) -> None:
        real = time.time_ns
        time.time_ns = lambda: real() - skew * 3_600_000_000_000
        while True:
            with Lock(path) as hold, history.open("ab", buffering=0) as lines:
                lines.write(b"%d\n" % (hold.token or 0))

    for _ in range(8):
        pids = []
        for skew in range(4):
            pid = os.fork()
            if not pid:
                try:
                    work(skew)
                finally:
                    os._exit(1)
            pids.append(pid)
        size = history.stat().st_size if history.exists() else 0
        limit = time.monotonic() + 60
        while not history.exists() or history.stat().st_size < size + 200 * 17:
            assert time.monotonic() < limit
            time.sleep(0.001)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    found = [int(line) for line in history.read_bytes().split(b"\n") if line]
    assert len(found) > 8 * 200
    assert found == sorted(set(found))
