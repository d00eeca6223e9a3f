"""Waiting by kqueue: its book-keeping (run anywhere, over a stand-in for the kernel's queue), and the engine's way of
waiting for events without a queue of tickets (on Linux over inotify, on macOS over kqueue, with real processes)."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

import interlock._wait
from interlock import Lock
from interlock._core.arbiter import turns
from interlock.engines import kernel

if TYPE_CHECKING:
    from pathlib import Path

ADD, DELETE, CLEAR, VNODE = 0x1, 0x2, 0x20, -4
UNLOCKED, DELETED, RENAMED, ATTRIB, REVOKED = 0x100, 0x1, 0x20, 0x8, 0x40


class Queue:
    """The kernel's side: what is registered per descriptor, and the events that the test makes happen."""

    def __init__(self) -> None:
        self.notes: dict[int, int] = {}
        self.pending: list[Any] = []
        self.gone: set[int] = set()
        self.closed = False
        self.number = 77

    def fileno(self) -> int:
        if self.closed:
            raise ValueError("closed kqueue")
        return self.number

    def control(self, changes: list[Any] | None, most: int, timeout: float | None) -> list[Any]:
        assert timeout == 0, "would block"
        for change in changes or ():
            assert change.filter == VNODE
            if change.ident in self.gone:
                raise OSError(errno.EBADF, "no such descriptor")
            if change.flags & DELETE:
                del self.notes[change.ident]
            else:
                assert change.flags == ADD | CLEAR
                self.notes[change.ident] = change.fflags  # replaces, as the kernel does
        answer, self.pending = self.pending[:most], self.pending[most:]
        return answer

    def happens(self, fd: int, note: int) -> None:
        if self.notes.get(fd, 0) & note:
            self.pending.append(types.SimpleNamespace(ident=fd, fflags=note))

    def close(self) -> None:
        self.closed = True


def _kevent(ident: int, filter: int, flags: int, fflags: int) -> Any:  # noqa: A002 - its name in the real one
    return types.SimpleNamespace(ident=ident, filter=filter, flags=flags, fflags=fflags)


@pytest.fixture
def kqueue(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fresh copy of the module, for macOS, over the stand-in."""
    constants = {
        "KQ_EV_ADD": ADD,
        "KQ_EV_DELETE": DELETE,
        "KQ_EV_CLEAR": CLEAR,
        "KQ_FILTER_VNODE": VNODE,
        "KQ_NOTE_DELETE": DELETED,
        "KQ_NOTE_RENAME": RENAMED,
        "KQ_NOTE_ATTRIB": ATTRIB,
        "KQ_NOTE_REVOKE": REVOKED,
    }
    for name, value in constants.items():
        assert getattr(select, name, value) == value
        monkeypatch.setattr(select, name, value, raising=False)
    monkeypatch.setattr(select, "kqueue", Queue, raising=False)
    monkeypatch.setattr(select, "kevent", _kevent, raising=False)
    path = os.path.join(interlock._wait.__path__[0], "kqueue.py")
    spec = importlib.util.spec_from_file_location("interlock._wait.kqueue_elsewhere", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        spec.loader.exec_module(module)
    return module


def test_tells_whom_it_concerns(kqueue: Any) -> None:
    instance = kqueue.Instance()
    told: list[str] = []
    instance.watch(5, instance.CLOSED, "a", lambda: told.append("a"))
    instance.watch(6, instance.CLOSED, "b", lambda: told.append("b"))
    instance._queue.happens(5, UNLOCKED)
    instance.drain()
    assert told == ["a"]
    instance.drain()
    assert told == ["a"], "told twice of one event"
    instance._queue.happens(6, DELETED)
    instance.drain()
    assert told == ["a"], "told of what was not watched for"


def test_watching_again_adds(kqueue: Any) -> None:
    instance = kqueue.Instance()
    assert instance.watch(5, instance.REPLACED, "a", list) == 5
    instance.watch(5, instance.CLOSED, "a", list)
    assert instance._queue.notes == {5: UNLOCKED | DELETED | RENAMED | ATTRIB | REVOKED}
    instance.watch(5, instance.REPLACED, "b", list)
    assert instance._queue.notes == {5: UNLOCKED | DELETED | RENAMED | ATTRIB | REVOKED}
    instance.unwatch(5, "a")
    assert instance._queue.notes == {5: DELETED | RENAMED | ATTRIB | REVOKED}
    instance.unwatch(5, "b")
    assert not instance._queue.notes
    instance.unwatch(5, "b")


def test_a_lost_handle_is_unwatched_by_its_key(kqueue: Any) -> None:
    instance = kqueue.Instance()
    instance.watch(5, instance.CLOSED, "a", list)
    instance.watch(6, instance.CLOSED, "b", list)
    instance.unwatch(0, "b")
    assert instance._queue.notes == {5: UNLOCKED}


def test_a_descriptor_that_was_closed_is_forgotten(kqueue: Any) -> None:
    instance = kqueue.Instance()
    told: list[str] = []
    instance.watch(5, instance.CLOSED, "a", lambda: told.append("a"))
    instance._queue.gone.add(5)
    instance.unwatch(5, "a")
    instance._queue.pending.append(types.SimpleNamespace(ident=5, fflags=UNLOCKED))
    instance.drain()
    assert not told


def test_a_refused_watch_leaves_nothing(kqueue: Any) -> None:
    instance = kqueue.Instance()
    told: list[str] = []
    instance.watch(5, instance.REPLACED, "a", list)
    instance._queue.gone.add(6)
    with pytest.raises(OSError, match="no such descriptor"):
        instance.watch(6, instance.CLOSED, "b", lambda: told.append("b"))
    instance._queue.pending.append(types.SimpleNamespace(ident=6, fflags=UNLOCKED))  # another's, of that number
    instance.drain()
    assert not told
    instance.unwatch(6, "b")
    assert instance._queue.notes.keys() == {5}


def test_more_news_than_fit_wake_everybody(kqueue: Any) -> None:
    instance = kqueue.Instance()
    told: set[int] = set()
    for fd in range(10, 110):
        instance.watch(fd, instance.CLOSED, fd, lambda fd=fd: told.add(fd))
        instance._queue.happens(fd, UNLOCKED)
    instance.drain()
    assert told == set(range(10, 110))


def test_news_survive_an_exception_while_they_are_told(kqueue: Any) -> None:
    instance = kqueue.Instance()
    told: list[str] = []
    first = iter([KeyboardInterrupt()])

    def interrupted() -> None:
        for error in first:
            raise error
        told.append("a")

    instance.watch(5, instance.CLOSED, "a", interrupted)
    instance.watch(6, instance.CLOSED, "b", lambda: told.append("b"))
    instance._queue.happens(5, UNLOCKED)
    with pytest.raises(KeyboardInterrupt):
        instance.drain()
    assert told == ["a", "b"]


def test_one_instance_per_process_and_none_in_a_child(kqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqueue.fork, "in_child", lambda callback: None)
    parents = kqueue.shared()
    assert kqueue.shared() is parents

    # In the child the number is free: closing it there reaches nobody.
    unused = os.dup(0)
    os.close(unused)
    parents._queue.number = unused
    kqueue._forget()
    assert parents._queue.closed
    childs = kqueue.shared()
    assert childs is not parents

    # Its number is another file's already: it must never be closed, not by the collector either.
    childs._queue.number = 0
    kqueue._forget()
    assert not childs._queue.closed
    assert childs in kqueue._strays

    # A Python that knows of forks has closed it.
    third = kqueue.shared()
    third._queue.closed = True
    kqueue._forget()
    assert kqueue.shared() is not third


@pytest.mark.parametrize(("flags", "local"), [(0x1000, True), (0x1000 | 0x14809000, True), (0x14808000, False)])
def test_trusts_what_the_kernel_calls_local(
    kqueue: Any, monkeypatch: pytest.MonkeyPatch, flags: int, local: bool
) -> None:
    class Libc:
        def statfs(self, path: bytes, answer: Any) -> int:
            assert path == b"/some/where"
            answer[64:68] = flags.to_bytes(4, sys.byteorder)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    assert kqueue.trusts("/some/where") is local
    monkeypatch.setattr(Libc, "statfs", lambda *_: -1)
    assert not kqueue.trusts("/some/where")


# ---- events without tickets, for real

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read(1)
if sys.argv[2] == "unlock":
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
    print("released", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def only_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of this platform, without tickets, and with naps so long that nothing but an event ends a wait."""
    if sys.platform == "linux":
        from interlock._wait import inotify as events
        from interlock.engines.kernel.ops import Ops
    elif sys.platform == "darwin":
        from interlock._wait import kqueue as events
        from interlock.engines.kernel.ops import Ops
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("runs on Linux and macOS")
    elif sys.platform != "win32":
        monkeypatch.setitem(kernel._engines, "kernel", kernel.KernelEngine(Ops(), events, queue=False))
    monkeypatch.setattr(kernel, "NAP", 1000.0)
    monkeypatch.setattr(kernel, "BLIND_NAP", 1000.0)


@pytest.mark.parametrize("how", ["unlock", "kill"])
@pytest.mark.usefixtures("only_events")
def test_a_release_wakes_a_waiter(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.lock"
    for _ in range(5):
        command = [sys.executable, "-c", HOLD, str(path), how]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdin is not None
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                lock = Lock(path)
                assert lock.try_acquire() is None
                waiting = _release_when_watched(lock, holder, how)
                with lock.acquire(timeout=20) as hold:
                    assert hold.waited < 15, "woken by the end of its patience, not by the release"
                waiting.join()
            finally:
                holder.kill()


def _release_when_watched(lock: Lock, holder: subprocess.Popen[str], how: str) -> threading.Thread:
    """Let the holder go once this process sleeps on the lock."""

    def release() -> None:
        late = time.monotonic() + 60
        while time.monotonic() < late:
            claim = turns.get(lock._line)
            if claim is not None and getattr(claim, "instance", None) is not None:
                break
            time.sleep(0.001)
        time.sleep(0.05)  # into the sleep; if it is not there yet, it only finds the lock free
        if how == "kill":
            holder.kill()
        else:
            assert holder.stdin is not None
            holder.stdin.write("x")
            holder.stdin.flush()

    thread = threading.Thread(target=release)
    thread.start()
    return thread


COUNT = """
import sys
from interlock import Lock
from interlock._core.arbiter import turns
from interlock.engines import kernel
if sys.platform == "linux":
    from interlock._wait import inotify as events
else:
    from interlock._wait import kqueue as events
from interlock.engines.kernel.ops import Ops
kernel._engines["kernel"] = kernel.KernelEngine(Ops(), events, queue=False)
lock = Lock(sys.argv[1], timeout=60)
for _ in range(100):
    with lock:
        with open(sys.argv[2]) as file:
            number = int(file.read())
        with open(sys.argv[2], "w") as file:
            file.write(str(number + 1))
"""


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="runs on Linux and macOS")
def test_processes_that_race_for_events_lose_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "x.lock"), str(counter)]
    workers = [subprocess.Popen(command) for _ in range(4)]
    try:
        assert [worker.wait(100) for worker in workers] == [0] * 4
    finally:
        for worker in workers:
            worker.kill()
    assert counter.read_text() == "400"
