"""Leases on files (`primitive="marker"`): what they are on disk, what ends them, and how they bear a bad world."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    Fence,
    Lock,
    LostError,
    ProtocolError,
    StaleTokenError,
    Timeout,
    UnsafePathError,
    UnsupportedError,
)
from interlock._core.arbiter import granted, line_for
from interlock.engines.marker import engine as marker_engine
from interlock.engines.marker import lease, lease_log
from interlock.engines.marker.lease import LeaseEngine
from interlock.engines.marker.lease_fence import MarkerFence
from interlock.engines.marker.lease_ops import LeaseOps, NoLinks
from interlock.engines.marker.ops import Ops as MarkerOps
from interlock.filelock import SoftFileLock
from interlock.filelock import Timeout as FileLockTimeout

from .seam import in_a_thread
from .support import need, need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform == "win32":
    pytest.skip("kills and stops processes", allow_module_level=True)

TTL = 0.6


def lock(path: Path, ttl: float = 30.0, **options: Any) -> Lock:
    return Lock(path, primitive="marker", ttl=ttl, **options)


def log_of(path: Path) -> Path:
    return path.with_name(path.name + ".interlock")


def newest(path: Path) -> Path:
    return max(log_of(path).glob("[0-9]*"))


class Ops(LeaseOps):
    """Calls that fail, or answer otherwise, as a test says."""

    def __init__(self) -> None:
        self.instead: dict[str, Callable[..., Any]] = {}

    def __getattribute__(self, name: str) -> Any:
        real = super().__getattribute__(name)
        patch = super().__getattribute__("__dict__").get("instead", {}).get(name)
        return real if patch is None else lambda *args, **kwargs: patch(real, *args, **kwargs)


def patched(path: Path, ttl: float = 30.0, trusted: bool = True) -> tuple[Lock, Ops]:
    """A lock by an engine of its own: to the log it is another process, of the same pid."""
    ops = Ops()
    engine = LeaseEngine(ops, lease.engine()._events if trusted else None, ttl, MarkerFence())
    made = lock(path)
    made._line = line_for(engine, os.fspath(path), os.fspath(path))
    return made, ops


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x" / "a.lock"


class Holder:
    """Another process that holds the lock. `prefix`: a program before it, such as unshare."""

    def __init__(self, path: Path, ttl: float, *prefix: str, then: str = "sys.stdin.readline()") -> None:
        program = f"""
            import os, sys, time
            from interlock import Lock
            hold = Lock({os.fspath(path)!r}, primitive="marker", ttl={ttl}).acquire()
            print(os.getpid(), hold.token, flush=True)
            {then}
        """
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        pid, token = self.line().split()
        self.pid, self.token = int(pid), int(token)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        for number in (signal.SIGCONT, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
        self.process.communicate()


@pytest.fixture
def holder(path: Path) -> Iterator[Callable[..., Holder]]:
    made: list[Holder] = []

    def make(*args: Any, **options: Any) -> Holder:
        made.append(Holder(path, *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


# ---- what it is


def test_tokens_rise_and_the_log_stays_small(path: Path) -> None:
    tokens: list[int] = []
    for _ in range(20):
        with lock(path) as hold:
            tokens.append(hold.token or 0)
            assert not hold.lost
    assert tokens == sorted(set(tokens))
    assert len(list(log_of(path).iterdir())) <= lease_log.KEEP + 2


def test_a_record_names_its_owner(path: Path) -> None:
    with lock(path) as hold:
        with pytest.raises(Timeout) as caught:
            Lock(path, primitive="marker", ttl=7).acquire(0.01)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == os.getpid()
        text = newest(path).read_text()
    assert f"token={hold.token}\n" in text
    assert text.endswith("H 00000000000000000000\n")
    assert newest(path).read_text().endswith("R 00000000000000000001\n")


def test_the_keeper_renews_and_moves_the_deadline(path: Path) -> None:
    with lock(path, TTL) as hold:
        before = newest(path).read_bytes()
        end = time.monotonic() + 2 * TTL
        while time.monotonic() < end:
            assert not hold.lost
            time.sleep(0.02)
        assert newest(path).read_bytes() != before
        hold.renew()
        hold.assert_held()


@pytest.mark.parametrize("ttl", [0, 0.01, -1, float("nan"), float("inf"), 1e9])
def test_a_ttl_out_of_range_is_refused(path: Path, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        lock(path, ttl)


def test_a_lock_can_be_pickled(path: Path) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(lock(path, 5)))
    assert again._line is lock(path, 5)._line


# ---- what ends it


def test_the_death_of_its_process_is_seen_at_once(path: Path, holder: Callable[..., Holder]) -> None:
    other = holder(30)
    began = []

    def kill() -> None:
        began.append(time.monotonic())
        other.process.kill()

    threading.Timer(0.2, kill).start()
    with lock(path).acquire(20) as hold:
        took = time.monotonic() - began[0]
        assert hold.token is not None
        assert hold.token > other.token
    assert took < 15  # of 30; measured: docs/concepts/marker.md


def test_who_is_stopped_beyond_its_ttl_cannot_write_any_more(path: Path, holder: Callable[..., Holder]) -> None:
    """Not after a successor wrote, nor when there is none: by its hold, and by its bare token."""
    guarded = path.with_name("guarded")
    then = f"""
            import interlock
            fence = interlock.Fence({os.fspath(guarded)!r})
            fence.write(hold, "first")
            print("wrote", flush=True)
            sys.stdin.readline()
            for by in (hold, hold.token):
                try:
                    fence.write(by, "late")
                    print("written", flush=True)
                except Exception as error:
                    print(type(error).__name__, flush=True)
    """
    other = holder(TTL, then=then.strip())
    assert other.line() == "wrote\n"
    other.process.send_signal(signal.SIGSTOP)
    with lock(path, TTL).acquire(20) as hold:
        Fence(guarded).write(hold, "second")
        other.go_on()
        other.process.send_signal(signal.SIGCONT)
        assert other.line() == f"{LostError.__name__}\n"
        assert other.line() == f"{StaleTokenError.__name__}\n"
        assert guarded.read_text() == "second"


def test_a_process_that_exits_lets_go(path: Path, holder: Callable[..., Holder]) -> None:
    other = holder(30)
    other.go_on()
    other.process.wait(60)
    assert newest(path).read_text().splitlines()[-1].startswith("R")


def test_who_is_stopped_beyond_its_ttl_learns_that_it_lost(path: Path, holder: Callable[..., Holder]) -> None:
    then = """sys.stdin.readline()
            print(bool(hold.lost), flush=True)
            try:
                hold.assert_held()
            except Exception as error:
                print(type(error).__name__, error, flush=True)
    """
    other = holder(TTL, then=then.strip())
    other.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with lock(path, TTL).acquire(20) as hold:
        assert time.monotonic() - began >= TTL * 0.6
        assert hold.token is not None
        assert hold.token > other.token
        other.go_on()
        other.process.send_signal(signal.SIGCONT)
        assert other.line() == "True\n"
        assert other.line().startswith("LostError")
        other.process.wait(60)
        hold.assert_held()  # what the other wrote on its way out changed nothing
        assert newest(path).name == f"{hold.token:020d}"
        assert newest(path).read_text().splitlines()[-1].startswith("H")


def test_lost_is_told_although_a_renewal_hangs(path: Path) -> None:
    mine, ops = patched(path, TTL)
    go_on, told = threading.Event(), threading.Event()
    reasons: list[str] = []

    def note(reason: str) -> None:
        reasons.append(reason)
        told.set()

    def hangs(real: Any, *args: Any, **kwargs: Any) -> None:
        go_on.wait(60)
        real(*args, **kwargs)

    with mine as hold:
        hold.on_lost(note)
        ops.instead["write"] = hangs
        assert told.wait(60)
        assert "ttl" in reasons[0]
        assert hold.lost
        with pytest.raises(LostError):
            hold.assert_held()
        go_on.set()
        ops.instead.clear()
        with pytest.raises(LostError):  # a renewal that comes too late is none
            hold.renew()


@pytest.mark.parametrize("end", ["release", "leave", "drop"])
def test_what_is_lost_keeps_no_thread_of_its_own_process_out(path: Path, end: str) -> None:
    mine, ops = patched(path, TTL)
    lost = threading.Event()
    box: list[Any] = []
    hold = mine.__enter__()
    hold.on_lost(lambda _: lost.set())
    ops.instead["write"] = failing(errno.EIO)
    waiter = threading.Thread(target=lambda: box.append(mine.acquire(20)))
    waiter.start()
    assert lost.wait(60)
    ops.instead.clear()
    waiter.join(60)
    (other,) = box
    assert hold.lost
    assert hold.held
    if end == "leave":
        mine.__exit__(None, None, None)
    elif end == "release":
        hold.release()
    else:
        mine._blocks.clear()
        with pytest.warns(ResourceWarning):
            del hold
    other.assert_held()  # the end of the first was not the end of the second
    assert in_a_thread(lambda: lock(path).try_acquire()) is None
    assert not granted
    other.release()
    lock(path).acquire(5).release()


def test_a_renewal_that_fails_for_a_while_loses_nothing(path: Path) -> None:
    mine, ops = patched(path, 3 * TTL)
    failed = threading.Event()

    def fails(real: Any, *args: Any, **kwargs: Any) -> None:
        failed.set()
        failing(errno.EIO)()

    with mine as hold:
        ops.instead["write"] = fails
        assert failed.wait(60)
        ops.instead.clear()
        end = time.monotonic() + 3 * TTL
        while time.monotonic() < end:
            hold.assert_held()
            time.sleep(0.05)


@pytest.mark.parametrize("renews", [True, False])
def test_a_descriptor_that_is_a_file_of_the_users_by_now_is_left_alone(path: Path, renews: bool) -> None:
    """A daemon closes all descriptors at its start; the next file that it opens gets the lease's number."""
    hold = lock(path, TTL if renews else 30.0).acquire()
    claim = hold._claim
    assert claim is not None
    number = claim.fd  # type: ignore[attr-defined]
    os.close(number)
    data = path.with_name("data")
    mine = os.open(data, os.O_RDWR | os.O_CREAT)
    try:
        assert mine == number
        os.write(mine, b"precious")
        if renews:
            assert hold.lost.wait(60)
            assert "descriptor" in hold.lost.reason
        hold.release()
        assert data.read_bytes() == b"precious"
        os.fstat(mine)
    finally:
        os.close(mine)


# ---- who has died, and who has not


def unshared(*namespaces: str) -> tuple[str, ...]:
    need_root()
    return (need("unshare"), "--fork", "--kill-child", *namespaces)


def test_a_dead_owner_of_another_pid_namespace_is_waited_for(path: Path, holder: Callable[..., Holder]) -> None:
    other = holder(TTL, *unshared("--pid", "--mount-proc"), then="time.sleep(100)")
    assert other.pid == 1
    last = newest(path).read_bytes()
    other.end()
    seen = time.monotonic()
    assert newest(path).read_bytes()[:-21] == last[:-21]
    with lock(path, TTL).acquire(20):
        assert time.monotonic() - seen > TTL * 0.5


def test_a_dead_host_is_waited_for_by_hardly_more_than_its_ttl(path: Path, holder: Callable[..., Holder]) -> None:
    """Counted from its death, by somebody who was waiting before: 1.2 ttl, and room for a busy machine."""
    ttl = 2.0
    for _ in range(5):  # a busy machine may be late, but not each time
        other = holder(ttl, *unshared("--pid", "--mount-proc"), then="time.sleep(100)")
        died: list[float] = []

        def kill(other: Holder = other, died: list[float] = died) -> None:
            died.append(time.monotonic())
            other.process.kill()

        threading.Timer(0.3, kill).start()
        with lock(path, ttl).acquire(60):
            took = time.monotonic() - died[0]
        assert took > ttl * 0.5
        if took < ttl * 1.5:
            return
    raise AssertionError(f"the last of five took {took:.2f} s")


def test_two_containers_with_one_pid_and_one_name(path: Path, holder: Callable[..., Holder]) -> None:
    """Pid 1 of the one lives, and is not taken for dead, nor for itself, by pid 1 of the other."""
    prefix = unshared("--pid", "--mount-proc", "--uts")
    other = holder(30, *prefix)
    program = f"""
import os
from interlock import Lock, Timeout
assert os.getpid() == 1
try:
    Lock({os.fspath(path)!r}, primitive="marker").acquire(0.3)
except Timeout as error:
    print(error.holder.pid)
"""
    told = subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert (other.pid, told) == (1, "1\n")


def test_a_child_with_its_parents_pid_in_a_namespace_of_its_own(path: Path) -> None:
    """Pid 1 of a container forks a sandbox whose pid 1 sees no other process: that proves nobody's death."""
    program = f"""
        import ctypes, os, time
        from interlock import Lock, Timeout
        lock = Lock({os.fspath(path)!r}, primitive="marker")
        with lock:
            pass
        told, tell = os.pipe()
        owner = os.fork()
        if not owner:
            hold = lock.acquire()
            os.write(tell, b"x")
            time.sleep(100)
        os.read(told, 1)
        assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID
        if not os.fork():
            try:
                print(lock.acquire(0.3))
            except Timeout as error:
                print(os.getpid(), error.holder.pid == owner, flush=True)
            os._exit(0)
        os.wait()
    """
    command = [*unshared("--pid", "--mount-proc"), sys.executable, "-c", textwrap.dedent(program)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "1 True\n"


def test_another_name_of_this_host_proves_nothing_and_hides_nothing(path: Path, holder: Callable[..., Holder]) -> None:
    other = holder(30, *unshared("--uts"), then="os.kill(os.getpid(), 9)")
    other.process.wait(60)
    with lock(path).acquire(20):  # the kernel is ours, whatever it is called there
        pass


# ---- a world that misbehaves


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"interlock-lease/2\n", "newer version"),
        (b"hello\n", "no record"),
        (b"interlock-lease/1\ntoken=1\nsum=00000000\nH 00000000000000000000\n", "damaged"),
        (None, "damaged"),
    ],
)
def test_what_cannot_be_understood_is_an_error(path: Path, data: bytes | None, what: str) -> None:
    with lock(path):
        pass
    file = newest(path)
    file.write_bytes(file.read_bytes().replace(b"ttl=30", b"ttl=31") if data is None else data)
    before = {each.name: each.read_bytes() for each in log_of(path).iterdir()}
    for _ in range(2):
        with pytest.raises(ProtocolError, match=what) as caught:
            lock(path).acquire(0.2)
        assert str(file) in str(caught.value)
        assert "interlock break" in str(caught.value)
    assert {each.name: each.read_bytes() for each in log_of(path).iterdir()} == before
    engine = lease.engine()
    with pytest.raises(ProtocolError):
        engine.break_stale(lock(path)._line)
    assert engine.break_stale(lock(path)._line, force=True) == "forced"
    with lock(path):
        pass


@pytest.mark.parametrize("data", [b"", b"interlock", b"\0" * 200, b"interlock-lease/1\ntoken=17\nnon"])
def test_an_unfinished_record_is_waited_for_and_then_an_error(
    path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_log, "TORN", 0.3)
    with lock(path):
        pass
    good = newest(path).read_bytes()
    newest(path).write_bytes(data)
    with pytest.raises(Timeout):
        lock(path).acquire(0.05)
    with pytest.raises(ProtocolError, match="unfinished"):
        lock(path).acquire(20)
    newest(path).write_bytes(good)
    with lock(path):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_no_record_behind(path: Path, links: bool) -> None:
    mine, ops = patched(path)
    with mine:
        pass
    if not links:
        ops.instead["link"] = _no_links
        with mine:
            pass
    ops.instead["write"] = failing(errno.ENOSPC)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            mine.acquire(1)
    del ops.instead["write"]
    assert [each.name for each in log_of(path).iterdir() if each.name.startswith(".")] == []
    with mine as hold:
        hold.assert_held()


def _no_links(*_: Any) -> Any:
    raise NoLinks


def test_without_hard_links(path: Path) -> None:
    inside = []
    worst = []

    def work() -> None:
        mine, ops = patched(path, trusted=False)
        ops.instead["link"] = _no_links
        for _ in range(20):
            with mine:
                inside.append(1)
                worst.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert worst == [1] * 60


@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST], ids=["lost", "repeated"])
@pytest.mark.parametrize("call", ["link", "create"])
@pytest.mark.parametrize("trusted", [True, False])
def test_an_answer_that_got_lost_is_found_again(path: Path, trusted: bool, call: str, number: int) -> None:
    """Done, and answered with an error; a client that asks again finds its own name taken."""
    mine, ops = patched(path, trusted=trusted)
    with mine:
        pass
    answers = []

    def lost(real: Any, *args: Any) -> Any:
        done = real(*args)
        answers.append(done)
        if call == "link" and number == errno.EEXIST:  # which our table tells as "not made"
            return False
        raise OSError(number, os.strerror(number))

    ops.instead[call] = lost
    with mine as hold:
        assert not hold.lost
    assert answers
    ops.instead.clear()
    with mine:
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST], ids=["lost", "repeated"])
@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_log_is_begun_although_the_answer_got_lost(
    path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def lost(*args: Any) -> None:
        real(*args)
        failing(number)()

    monkeypatch.setattr(os, call, lost)
    mine, _ = patched(path)
    with mine as hold:
        assert not hold.lost
    monkeypatch.undo()
    assert sorted(os.listdir(path.parent)) == [path.name, path.name + ".interlock"]


def descriptors(directory: Path) -> list[str]:
    """What this process has open there; the rest may be other threads'."""
    found = []
    for fd in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith(os.fspath(directory))]


def test_close_may_say_what_it_likes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor is gone, and what was read, or is on the disk, stays so."""
    real, said = os.close, []

    def close(fd: int) -> None:
        real(fd)
        said.append(fd)
        failing(errno.EIO)()

    before = descriptors(path.parent)
    monkeypatch.setattr(os, "close", close)
    one, _ = patched(path, trusted=False)
    other, _ = patched(path, trusted=False)
    for mine in (one, other, one):
        with mine as hold:
            assert not hold.lost
    monkeypatch.undo()
    assert said
    assert descriptors(path.parent) == before


def test_a_log_that_was_removed(path: Path) -> None:
    mine, _ = patched(path, TTL)
    with mine as hold:
        shutil.rmtree(log_of(path))
        assert hold.lost
        assert "removed" in str(hold.lost.reason)
        with pytest.raises(LostError):
            hold.renew()
        began = time.monotonic()
        with lock(path, TTL).acquire(20) as other:  # somebody may hold: one ttl must pass
            assert time.monotonic() - began > TTL * 0.9
            assert hold.token is not None
            assert other.token is not None
            assert other.token > hold.token


def test_a_fence_that_was_removed(path: Path) -> None:
    with lock(path, TTL) as hold:
        path.unlink()
        with pytest.raises(LostError, match="filelock"):
            hold.renew()


class Unreadable(MarkerOps):
    """Markers cannot be read, as long as `number` says so."""

    number = 0

    def open(self, path: str, flags: int) -> int:  # type: ignore[override]
        if self.number:
            raise OSError(self.number, os.strerror(self.number), path)
        return super().open(path, flags)


@pytest.fixture
def markers(monkeypatch: pytest.MonkeyPatch) -> Unreadable:
    ops = Unreadable()
    monkeypatch.setattr(marker_engine(), "ops", ops)
    return ops


def test_a_fence_that_cannot_be_read_is_not_called_removed(path: Path, markers: Unreadable) -> None:
    with lock(path) as hold:
        markers.number = errno.EIO
        with pytest.raises(OSError, match="Input/output") as caught:
            hold.renew()
        assert caught.value.errno == errno.EIO
        hold.assert_held()
        markers.number = 0
        hold.renew()


def test_where_the_fence_cannot_be_read_a_log_that_is_not_there_was_perhaps_removed(
    path: Path, markers: Unreadable
) -> None:
    with lock(path, 30.0) as hold:
        shutil.rmtree(log_of(path))
        markers.number = errno.EIO
        other, _ = patched(path)
        with pytest.raises(OSError, match="Input/output"):
            other.try_acquire()
        markers.number = 0
        assert other.try_acquire() is None  # the log begins with a lease of nobody, which runs out
        assert hold.lost


def test_a_directory_without_generations(path: Path) -> None:
    log_of(path).mkdir(parents=True)
    (log_of(path) / "note").write_text("")
    with pytest.raises(ProtocolError, match="no generation"):
        lock(path).acquire(1)


def test_what_is_no_directory(path: Path) -> None:
    path.parent.mkdir()
    log_of(path).symlink_to(path.parent)
    with pytest.raises(UnsafePathError, match="symbolic link"):
        lock(path).acquire(1)


def test_the_time_of_day_decides_nothing(path: Path) -> None:
    mine, ops = patched(path)
    for wall in (0.0, 4e9, 1.0, time.time()):
        ops.instead["wall"] = lambda _, wall=wall: wall
        with mine as hold:
            assert not hold.lost
            with pytest.raises(Timeout):
                lock(path, 9).acquire(0.01)


def test_a_machine_that_was_suspended(path: Path) -> None:
    """The clock goes on meanwhile, and nothing runs."""
    mine, ops = patched(path)
    with mine as hold:
        assert not hold.lost
        ops.instead["clock"] = lambda real: real() + 28
        assert hold.lost
        ops.instead.clear()
        assert hold.lost  # for good


# ---- with filelock's markers


def test_soft_locks_and_leases_keep_each_other_out(path: Path) -> None:
    soft = SoftFileLock(path)
    path.parent.mkdir()
    with soft.acquire():
        with pytest.raises(Timeout):
            lock(path).acquire(0.1)
    with lock(path):
        with pytest.raises(FileLockTimeout):
            soft.acquire(timeout=0.1)
    with pytest.raises(FileLockTimeout):  # the way back is closed
        soft.acquire(timeout=0.1)


def test_a_marker_of_a_dead_owner_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    program = f"import os, interlock.filelock as f; it = f.SoftFileLock({os.fspath(path)!r}); it.acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert path.read_text()
    with lock(path).acquire(20):
        pass


def test_the_lock_file_of_kernel_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock.engines.marker import lease_fence

    monkeypatch.setattr(lease_fence, "TORN", 0.1)
    with Lock(path):
        pass
    with pytest.raises(ProtocolError, match="kernel locks"):
        lock(path).acquire(20)


# ---- breaking


def test_breaking_needs_proof_or_force(path: Path, holder: Callable[..., Holder]) -> None:
    line = lock(path)._line
    engine = lease.engine()
    assert engine.break_stale(line) == ""
    other = holder(30)
    assert engine.stale(line) == ""
    with pytest.raises(ProtocolError, match="nothing proves"):
        engine.break_stale(line)
    assert engine.break_stale(line, force=True) == "forced"
    with lock(path).acquire(20) as hold:
        assert hold.token is not None
        assert hold.token > other.token
    third = holder(30)
    third.end()
    assert re.search(r"pid \d+, has died", engine.stale(line))
    assert "has died" in engine.break_stale(line)
    assert engine.break_stale(line) == ""


def test_a_client_that_cannot_open_a_second_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SMB client of Linux, without the mount option nolease: see the page on NFS and SMB."""
    target = tmp_path / "a.lock"
    with Lock(target, primitive="marker", ttl=5):
        pass
    real = os.open

    def refusing(path: str, flags: int, *mode: int) -> int:
        if f"{target.name}.interlock{os.sep}0" in os.fspath(path) and not flags & os.O_CREAT:
            raise OSError(errno.EINVAL, "Invalid argument", path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UnsupportedError, match="nolease"):
        Lock(target, primitive="marker", ttl=5).acquire(0)


def test_nothing_is_imported_in_the_middle_of_an_acquisition(tmp_path: Path) -> None:
    """On 3.11 a Ctrl-C inside a class body comes out as a RuntimeError of `__set_name__`."""
    program = """
import sys, interlock
lock = interlock.Lock(sys.argv[1], primitive="marker")
lock.acquire().release()
open(sys.argv[1] + ".interlock/waits-" + "0" * 32, "w").close()  # what a waiter left that was killed
before = set(sys.modules)
lock.acquire().release()
print([name for name in sorted(set(sys.modules) - before) if name.startswith("interlock")])  # the keeper has its own
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert not list((tmp_path / "x.interlock").glob("waits-*"))


def test_a_client_that_knows_an_open_file_by_its_first_name_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMB: fstat(2) of the record says ENOENT once the name it was made with is gone."""
    made, _ = patched(path)
    hold = made.acquire(0)
    claim: Any = hold._claim
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        if fd == claim.fd:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return real(fd)

    monkeypatch.setattr(os, "fstat", fstat)
    assert claim.line.engine.renew(claim) == ""
    hold.assert_held()
    newest(path).unlink()
    with pytest.raises(LostError, match="was removed"):
        hold.assert_held()
    hold.release()


@pytest.mark.parametrize("may_write", [True, False])
def test_records_of_other_hosts_are_opened_for_writing_where_that_is_allowed(
    path: Path, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    """NFSv4 gives a host that only reads a delegation, for which others wait when the host is dead."""
    lock(path).acquire(0).release()
    record, ways = os.fspath(newest(path)), []
    real = os.open

    def opened(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if name == record:
            ways.append(flags & os.O_ACCMODE)
            if not may_write and flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(name, flags, *rest, **options)

    monkeypatch.setattr(os, "open", opened)
    patched(path, trusted=False)[0].acquire(0).release()
    assert set(ways) == ({os.O_RDWR} if may_write else {os.O_RDWR, os.O_RDONLY})
    ways.clear()
    record = os.fspath(newest(path))
    patched(path, trusted=True)[0].acquire(0).release()
    assert set(ways) == {os.O_RDONLY}  # it would wake those who wait for a release


def test_the_file_at_the_path_outlives_a_loss_of_power(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it may be empty, which nobody can tell from another protocol's."""
    settled = []
    real = os.fsync

    def fsync(fd: int) -> None:
        settled.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    lock(path).acquire(0).release()
    assert (path.stat().st_ino, path.stat().st_size) in settled
    assert path.stat().st_size


def test_who_is_killed_while_putting_the_file_at_the_path_leaves_nothing_in_the_way(path: Path) -> None:
    """It was created, then written: killed in between, the next ones found it empty, for good."""
    program = """
import os, signal, sys
from interlock import Lock
real, path = os.open, sys.argv[1]
def opened(name, flags, *rest, **options):
    fd = real(name, flags, *rest, **options)
    if flags & os.O_CREAT and (name == path or "/.00000000000000000000-" in str(name)):
        os.kill(os.getpid(), signal.SIGKILL)
    return fd
os.open = opened
Lock(path, primitive="marker").acquire()
"""
    done = subprocess.run([sys.executable, "-c", program, os.fspath(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert not path.exists()
    with lock(path).acquire(0):
        assert path.stat().st_size
        assert not [name for name in os.listdir(log_of(path)) if name.startswith(".")]


@pytest.mark.parametrize("call", ["names", "create_private", "link"])
def test_a_client_that_connects_again_is_waited_for(path: Path, call: str) -> None:
    """SMB: everything is EAGAIN until the server is back."""
    lock(path).acquire(0).release()
    made, ops = patched(path, trusted=False)
    answers = [errno.EAGAIN] * 3

    def away(real: Callable[..., Any], *args: Any) -> Any:
        if answers:
            number = answers.pop()
            raise OSError(number, os.strerror(number))
        return real(*args)

    ops.instead[call] = away
    with pytest.raises(Timeout):
        made.acquire(0)
    with made.acquire(60) as hold:
        hold.assert_held()
    assert not answers
    assert not [name for name in os.listdir(log_of(path)) if name.startswith(".")]
