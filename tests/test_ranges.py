"""What read-write locks and semaphores on a path do where the world changes, or fails, between two of their calls."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, LostError, NotHeldError, RWLock, Semaphore, Timeout, UnsupportedError
from interlock._core import arbiter
from interlock.engines import kernel
from interlock.engines.kernel import slots, tickets

from .seam import descriptors, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("read-write locks on a path are Linux only", allow_module_level=True)

KINDS: dict[str, Callable[[Path], Any]] = {
    "read": lambda path: RWLock(path).try_read(),
    "update": lambda path: RWLock(path).try_update(),
    "write": lambda path: RWLock(path).try_write(),
    "permit": lambda path: Semaphore(path, 1).try_acquire(),
}
AT_ONCE: dict[str, Callable[[Path], Any]] = {
    "read": lambda path: RWLock(path).read(5),
    "update": lambda path: RWLock(path).update(5),
    "write": lambda path: RWLock(path).write(5),
    "permit": lambda path: Semaphore(path, 1).acquire(5),
}
"""These take a shorter way if they find it free."""
EACH = pytest.mark.parametrize("kind", list(KINDS))


def is_range(request: bytes) -> bool:
    """Is it an attempt to get what excludes others?"""
    kind, _, start, _, _ = tickets._FLOCK.unpack(request)
    return bool(kind != tickets._NONE and start < tickets.TAKEN)


@EACH
@pytest.mark.parametrize("ways", [KINDS, AT_ONCE], ids=["try", "acquire"])
def test_a_file_replaced_after_it_was_opened_is_not_what_is_held(
    kind: str, ways: dict[str, Callable[[Path], Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes later opens the new file, so a hold of the old one would exclude nobody."""
    path = tmp_path / "lock"
    path.touch()
    ops = kernel.engine().ops
    real = ops.flock
    replaced: list[int] = []

    def flock(fd: int, how: int) -> None:
        real(fd, how)
        if not replaced:
            replaced.append(fd)
            os.unlink(path)
            path.touch()

    monkeypatch.setattr(ops, "flock", flock)
    hold = ways[kind](path)
    monkeypatch.undo()
    assert replaced
    assert hold is not None
    assert not hold.lost
    other = KINDS["permit" if kind == "permit" else "write"](path)
    assert other is None, "both have it"
    hold.release()
    assert descriptors(path) == []


@EACH
@pytest.mark.parametrize(
    "number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, 524, errno.EIO, errno.EBADF]
)
def test_an_error_of_a_range_says_where_and_leaves_nothing(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    ops = kernel.engine().ops
    real = ops.fcntl

    def failing(fd: int, what: int, request: bytes) -> Any:
        if what == tickets._SETLK and is_range(request):
            raise OSError(number, os.strerror(number))
        return real(fd, what, request)

    monkeypatch.setattr(ops, "fcntl", failing)
    with pytest.raises((UnsupportedError, OSError)) as caught:
        KINDS[kind](path)
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    if number == errno.EIO:
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.EIO
    else:
        assert isinstance(caught.value, UnsupportedError)
        said = "may only be read" if number == errno.EBADF else "has no open file description locks"
        assert said in str(caught.value)
    assert descriptors(path) == []
    hold = KINDS[kind](path)
    assert hold is not None
    hold.release()


@pytest.mark.parametrize("handler", [False, True], ids=["another thread", "a handler of a signal"])
@pytest.mark.parametrize("at", ["flock", "fcntl", "fstat", "stat"])
def test_a_hold_that_is_released_within_a_step_of_its_upgrade(
    at: str, handler: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the n-th call of each kind: whatever the upgrade was about to do, nothing of it is left."""
    n = 1
    while _released_at(tmp_path / "lock", at, n, handler, monkeypatch):
        n += 1
    assert n > 1


def _released_at(path: Path, at: str, n: int, handler: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    """False: the upgrade did not make so many calls."""
    ops = kernel.engine().ops
    reader, hold = RWLock(path).read(), RWLock(path).update()
    claim: Any = hold._claim
    real = getattr(ops, at)
    releasing = threading.Thread(target=hold.release)
    upgrading = threading.current_thread()
    calls = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal calls
        if threading.current_thread() is not upgrading:
            return real(*args, **more)
        calls += 1
        if calls == n and handler:
            hold.release()
        elif calls == n:
            releasing.start()
            releasing.join(0.05)  # it has come, and waits
        return real(*args, **more)

    monkeypatch.setattr(ops, at, counted)
    with pytest.raises((NotHeldError, Timeout)):
        hold.upgrade(0.3)
    monkeypatch.undo()
    if calls < n:
        hold.release()
    elif not handler:
        releasing.join(60)
    assert not hold.held
    reader.release()
    assert descriptors(path) == []
    with RWLock(path).write(20):
        pass
    assert claim.instance is None
    return calls >= n


def test_a_hold_that_is_released_while_it_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    reader, hold = RWLock(path).read(), RWLock(path).update()
    told: list[BaseException] = []

    def upgrade() -> None:
        try:
            hold.upgrade(20)
        except (NotHeldError, LostError) as error:
            told.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    limit = time.monotonic() + 60
    while (other := RWLock(path).try_read()) is not None:  # until it waits
        other.release()
        assert time.monotonic() < limit
    hold.release()
    reader.release()
    thread.join(60)
    assert [type(error) for error in told] == [NotHeldError]
    with RWLock(path).write(20):
        pass
    assert descriptors(path) == []


def test_a_descriptor_that_an_upgrade_moves_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks has read the old number when the upgrade begins to wait, and looks at it afterwards."""
    path = tmp_path / "lock"
    ops = kernel.engine().ops
    reader, hold = RWLock(path).read(), RWLock(path).update()
    looks, moved = threading.Event(), threading.Event()
    told: list[str] = []
    current, lift = ops.current, ops.lift

    def late(fd: int, place: str) -> bool:
        if threading.current_thread() is asking and not looks.is_set():
            looks.set()
            assert moved.wait(60)
        return current(fd, place)

    def lifted(owner: Any, above: int) -> None:
        was = owner.fd
        lift(owner, max(above, was))
        assert owner.fd != was
        moved.set()

    asking = threading.Thread(target=lambda: told.append(hold.lost.reason))
    monkeypatch.setattr(ops, "current", late)
    monkeypatch.setattr(ops, "lift", lifted)
    asking.start()
    assert looks.wait(60)
    with pytest.raises(Timeout):
        hold.upgrade(0.1)
    asking.join(60)
    assert told == [""]
    hold.assert_held()
    hold.release()
    reader.release()


@EACH
def test_a_hold_is_not_lost_while_it_is_noted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler of a signal, or another thread, may look between the two stores that note whose descriptor it is."""
    ops = kernel.engine().ops
    path = tmp_path / "lock"
    path.touch()  # only then there is the short way
    looks: list[bool] = []

    class Noted(dict[int, float]):
        def __setitem__(self, fd: int, proof: float) -> None:
            claims: list[Any] = [*arbiter.turns.values(), *arbiter.granted]
            looks.extend(claim.line.engine._ours(claim) for claim in claims if claim.since and claim.fd == fd)
            super().__setitem__(fd, proof)

    monkeypatch.setattr(ops, "owned", Noted(ops.owned))
    hold = AT_ONCE[kind](path)
    assert looks == [True]
    assert not hold._claim.moves
    hold.release()


@pytest.mark.parametrize(
    ("wait", "start", "end"),
    [
        (lambda path: RWLock(path).write(120), slots.READ_WRITE, slots.READ_WRITE_END),
        (lambda path: Semaphore(path, 1).acquire(120), slots.SLOTS, slots.SLOTS + 1),
    ],
    ids=["write", "permit"],
)
def test_who_gets_its_range_at_the_back_hears_the_end_of_the_flock(
    wait: Callable[[Path], Any], start: int, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was overdue, and who is in front of it is stopped: from then on the flock alone keeps it waiting."""
    path = tmp_path / "lock"
    ops = kernel.engine().ops
    naps = [0.0]
    real = kernel.KernelEngine._nap

    def noted(engine: kernel.KernelEngine, claim: kernel.KernelClaim) -> float:
        naps.append(real(engine, claim))
        return naps[-1]

    monkeypatch.setattr(kernel.KernelEngine, "_nap", noted)
    monkeypatch.setattr(tickets, "FRONT", 1)
    monkeypatch.setattr(kernel, "NAP", 0.02)
    lock = Lock(path).acquire()
    stopped = os.open(path, os.O_RDWR)
    tickets.enter(ops, stopped)
    waiter = threading.Thread(target=lambda: wait(path).release())
    waiter.start()
    until(lambda: tickets.anybody_since(ops, stopped, start, end))
    monkeypatch.setattr(kernel, "NAP", 1000.0)
    until(lambda: naps[-1] > 100)
    assert tickets._in_front(ops, stopped) is not None, "the others do not see that somebody tries"
    os.close(os.open(path, os.O_RDWR))  # as when a holder is killed: the event comes before the lock is free
    until(lambda: kernel._ECHOES[0] in naps)
    until(lambda: naps[-1] > 100)
    lock.release()
    waiter.join(30)
    assert not waiter.is_alive()
    os.close(stopped)
