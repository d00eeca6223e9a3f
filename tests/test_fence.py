"""`Fence`: whoever lost its lock writes nothing, whenever it was stopped."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncLock,
    Fence,
    Lock,
    LockError,
    LostError,
    NotHeldError,
    ProtocolError,
    RWLock,
    StaleTokenError,
    Timeout,
    UnsupportedError,
)

from .atomic_support import child, dying_at_each_call, install, names_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("forks, and stops processes", allow_module_level=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a"


def test_older_tokens_are_refused(path: Path) -> None:
    fence = Fence(path)
    assert fence.newest == 0
    fence.write(5, "five")
    fence.write(5, "five again")
    fence.write(7, b"seven")
    with pytest.raises(StaleTokenError, match="token 7") as caught:
        Fence(path).write(6, "six")
    error = caught.value
    assert (error.resource, error.token, error.newest) == (str(path), 6, 7)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert path.read_bytes() == b"seven"
    assert fence.newest == 7
    assert names_in(path.parent) == [".a.fence", "a"]


def test_a_directory_has_one_mark(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    fence.write(5, "x", "one")
    fence.write(6, "y", "two")
    with pytest.raises(StaleTokenError):
        fence.write(5, "z", "three")
    assert names_in(tmp_path) == [".fence", "one", "two"]
    for bad in ("", ".", "..", "a/b", "/etc/passwd", "a\0", ".fence", ".fence.lock"):
        with pytest.raises(ValueError, match="not the name"):
            fence.write(9, "x", bad)
    with pytest.raises(ValueError, match="name the file"):
        fence.write(9, "x")
    with pytest.raises(ValueError, match="is a file"):
        Fence(tmp_path / "one").write(9, "x", "name")
    assert fence.newest == 6


@pytest.mark.parametrize("bad", [0, -1, True, 1 << 64])
def test_what_is_no_token(path: Path, bad: int) -> None:
    with pytest.raises(ValueError, match="not a fencing token"):
        Fence(path).write(bad, "x")
    assert os.listdir(path.parent) == []


def test_a_hold_is_asserted_and_carries_its_token(path: Path, tmp_path: Path) -> None:
    lock, fence = tmp_path / "x.lock", Fence(path)
    with Lock(lock) as hold:
        fence.write(hold, "one")
        assert fence.newest == hold.token
        os.unlink(lock)
        with pytest.raises(LostError):
            fence.write(hold, "late")
    with pytest.raises(NotHeldError):
        fence.write(hold, "later")
    with RWLock(lock).read() as shared, pytest.raises(UnsupportedError, match="no fencing token"):
        fence.write(shared, "x")
    with Lock("memory://#fenced") as counted, pytest.raises(StaleTokenError):
        fence.write(counted, "another resource's numbers")
    assert path.read_text() == "one"


def test_the_hold_of_a_task(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncLock(tmp_path / "x.lock") as hold:
            Fence(path).write(hold, "task")

    asyncio.run(main())
    assert path.read_text() == "task"


def test_a_block_of_ones_own(path: Path, tmp_path: Path) -> None:
    fence = Fence(path)
    with Lock(tmp_path / "x.lock") as hold, fence.admit(hold) as token:
        assert token == hold.token == fence.newest
        assert child(lambda: pytest.raises(Timeout, Fence(path, timeout=0.01).write, token + 1, "x")) == 0
        path.write_text("ours")
    with pytest.raises(StaleTokenError), fence.admit(token - 1):
        raise AssertionError("admitted")
    with pytest.raises(ZeroDivisionError), fence.admit(token):
        raise ZeroDivisionError
    fence.write(token, "free again")


@pytest.mark.parametrize("mark", [b"", b"x", b"interlock fence 1 00000000000000000009 00000000\n"])
def test_a_damaged_mark_stops_all(path: Path, mark: bytes) -> None:
    fence = Fence(path)
    fence.write(5, "five")
    (path.parent / ".a.fence").write_bytes(mark)
    with pytest.raises(ProtocolError, match="damaged"):
        fence.write(9, "nine")
    with pytest.raises(ProtocolError):
        _ = fence.newest
    assert path.read_text() == "five"
    assert (path.parent / ".a.fence").read_bytes() == mark


def test_killed_at_each_call(path: Path) -> None:
    """Whatever was written with 6, 5 does not come after it."""
    fence = Fence(path)
    fence.write(5, "five")

    def check(when: str) -> None:
        newest = fence.newest
        assert path.read_text() in ("five", "six"), when
        assert newest in (5, 6), when
        if path.read_text() == "six" or newest == 6:
            assert newest == 6, when
            with pytest.raises(StaleTokenError):
                fence.write(5, "late")
        os.unlink(path.parent / ".a.fence")
        fence.write(5, "five")
        assert names_in(path.parent) == [".a.fence", "a"], when

    calls = dying_at_each_call(lambda: Fence(path).write(6, "six"), check)
    assert calls.count("replace") == 2
    assert fence.newest == 6


def stopped_before_its_rename(monkeypatch: pytest.MonkeyPatch, path: Path, act: Callable[[], object]) -> None:
    """Let `act` happen between the last check of a write and its rename."""
    done: list[int] = []

    def late(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "replace" and args[1] == str(path) and not done:
            done.append(1)
            act()
        return real(*args, **options)

    install(monkeypatch, late)


def test_a_newer_writer_waits_for_one_that_was_admitted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def newer() -> None:
        def write() -> None:
            with pytest.raises(Timeout):
                Fence(path, timeout=0.05).write(6, "six")

        assert child(write) == 0

    stopped_before_its_rename(monkeypatch, path, newer)
    Fence(path).write(5, "five")
    assert path.read_text() == "five"
    Fence(path).write(6, "six")


def test_without_its_lock_the_late_writer_is_refused_still(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def newer() -> None:
        os.unlink(path.parent / ".a.fence.lock")
        assert child(lambda: Fence(path).write(6, "six")) == 0

    stopped_before_its_rename(monkeypatch, path, newer)
    with pytest.raises(StaleTokenError):
        Fence(path).write(5, "five")
    assert path.read_text() == "six"
    assert names_in(path.parent) == [".a.fence", "a"]


def test_and_it_is_the_sweep_that_sees_to_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    from interlock.atomic import update

    def newer() -> None:
        os.unlink(path.parent / ".a.fence.lock")
        assert child(lambda: Fence(path).write(6, "six")) == 0

    monkeypatch.setattr(update, "sweep", lambda *args, **options: None)
    stopped_before_its_rename(monkeypatch, path, newer)
    try:
        Fence(path).write(5, "five")
    except LockError:
        pytest.fail("something else protects, and the test above shows nothing")
    assert path.read_text() == "five"


HOLDER = """
import sys, time
from interlock import Fence, Lock, LockError
lock, path, ttl = sys.argv[1], sys.argv[2], float(sys.argv[3])
with Lock(lock, primitive="marker", ttl=ttl) as hold:
    Fence(path).write(hold, "first")
    print(hold.token, flush=True)
    sys.stdin.readline()
    try:
        Fence(path).write(hold, "late")
    except LockError as error:
        print(type(error).__name__, bool(hold.lost), flush=True)
    else:
        print("wrote", flush=True)
"""


def test_a_lease_holder_that_was_stopped_beyond_its_ttl(path: Path, tmp_path: Path) -> None:
    lock, ttl = str(tmp_path / "x.lock"), 1.0
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock, str(path), str(ttl)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        first = int(holder.stdout.readline())
        os.kill(holder.pid, signal.SIGSTOP)
        with Lock(lock, primitive="marker", ttl=ttl, timeout=30) as hold:
            assert hold.token is not None
            assert hold.token > first
            Fence(path).write(hold, "second")
            holder.stdin.write("\n")
            holder.stdin.flush()
            os.kill(holder.pid, signal.SIGCONT)
            answer = holder.stdout.readline().split()
        assert answer in (["LostError", "True"], ["StaleTokenError", "True"])
        assert path.read_text() == "second"
    finally:
        os.kill(holder.pid, signal.SIGCONT)
        holder.kill()
        holder.communicate()


def test_a_lease_that_ran_out_is_refused_though_nobody_came(path: Path, tmp_path: Path) -> None:
    lock, ttl = str(tmp_path / "x.lock"), 0.5
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock, str(path), str(ttl)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGSTOP)
        holder.stdin.write("\n")
        holder.stdin.flush()
        time.sleep(2 * ttl)  # this is what is tested: time that passes
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.stdout.readline() == "LostError True\n"
        assert path.read_text() == "first"
    finally:
        holder.kill()
        holder.communicate()


def test_what_is_no_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    fence = Fence(tmp_path / "state.json")
    with pytest.raises(TypeError, match="not str"):
        fence.write("12", b"data")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^data is bytes or str, not int; nothing was changed"):
        Fence(tmp_path / "deep" / "state.json").write(12, 5)  # type: ignore[arg-type]
    assert not (tmp_path / "deep").exists()
    assert not (tmp_path / "state.json").exists()
