"""What read-write locks and semaphores on a path show on the lock file, which other versions read, and what wakes them.

The offsets are written out here, not taken from the modules: whoever changes them would exclude nobody of an older
version.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from interlock import Lock, ProtocolError, RWLock, Semaphore, Timeout

from .seam import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("read-write locks and semaphores on a path are Linux only", allow_module_level=True)

from interlock.engines import kernel
from interlock.engines.kernel import readwrite, tickets

SLOTS = 1 << 55
NUMBERS = 1 << 56
UPDATER = 1 << 57
DATA = (1 << 57) + 1
READERS = 1 << 59
UPDATERS = 1 << 60
TICKETS = 1 << 62


class Shown(NamedTuple):
    """A line of /proc/locks."""

    kind: str
    mode: str
    start: int
    end: int


FLOCK_READ, FLOCK_WRITE = Shown("FLOCK", "READ", 0, -1), Shown("FLOCK", "WRITE", 0, -1)
READ_DATA = Shown("OFDLCK", "READ", DATA, DATA)
HELD: dict[str, list[Shown]] = {
    "read": [FLOCK_READ, READ_DATA],
    "update": [FLOCK_READ, READ_DATA, Shown("OFDLCK", "WRITE", UPDATER, UPDATER)],
    "write": [FLOCK_WRITE, Shown("OFDLCK", "WRITE", UPDATER, DATA)],
    "permit": [
        FLOCK_READ, Shown("OFDLCK", "READ", NUMBERS + 3, NUMBERS + 3), Shown("OFDLCK", "WRITE", SLOTS, SLOTS),
    ],
}  # fmt: skip
ACQUIRE: dict[str, Callable[[Path, float], Any]] = {
    "read": lambda path, timeout: RWLock(path).read(timeout),
    "update": lambda path, timeout: RWLock(path).update(timeout),
    "write": lambda path, timeout: RWLock(path).write(timeout),
    "permit": lambda path, timeout: Semaphore(path, 3).acquire(timeout),
}
EACH = pytest.mark.parametrize("kind", list(ACQUIRE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.lock"
    path.touch()
    return path


def shown(path: Path) -> list[Shown]:
    inode = str(path.stat().st_ino)
    found = []
    with open("/proc/locks", encoding="ascii") as table:
        for line in table:
            *_, kind, _, mode, _, file, start, end = line.split()
            if file.rpartition(":")[2] == inode:
                found.append(Shown(kind, mode, int(start), -1 if end == "EOF" else int(end)))
    return sorted(found)


def ranges(path: Path, start: int, end: int) -> list[Shown]:
    return [one for one in shown(path) if start <= one.start < end]


class Waiter:
    """Acquires in a thread, and keeps it until `leave`."""

    def __init__(self, path: Path, kind: str, timeout: float = 100.0) -> None:
        self.hold: Any = None
        self.error: Exception | None = None
        self._got, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ACQUIRE[kind], path, timeout))
        self._thread.start()

    def _run(self, acquire: Callable[[Path, float], Any], path: Path, timeout: float) -> None:
        try:
            self.hold = acquire(path, timeout)
        except (Timeout, ProtocolError) as error:
            self.error = error
        self._got.set()
        if self.hold is not None:
            self._leave.wait(100)
            self.hold.release()

    def got(self, within: float = 20.0) -> bool:
        return self._got.wait(within) and self.error is None

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


class Naps:
    """How long the waiters were to sleep at most. `long`: more than any test takes, but for the echoes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[float] = []
        self._patch = monkeypatch
        for engine in (kernel.KernelEngine, readwrite.Lane):
            monkeypatch.setattr(engine, "_nap", self._noted(engine._nap))

    def _noted(self, real: Callable[..., float]) -> Callable[..., float]:
        def nap(engine: Any, claim: Any) -> float:
            self.asked.append(real(engine, claim))
            return self.asked[-1]

        return nap

    def long(self) -> None:
        self._patch.setattr(kernel, "NAP", 1000.0)

    def asleep(self) -> None:
        """Wait until whoever asked last sleeps for long."""
        until(lambda: self.asked and self.asked[-1] > 100)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    return Naps(monkeypatch)


@EACH
def test_what_a_hold_shows(kind: str, path: Path) -> None:
    with ACQUIRE[kind](path, 0):
        assert shown(path) == HELD[kind]
    assert shown(path) == []
    with Lock(path):
        waiter = Waiter(path, kind)
        until(lambda: ranges(path, READERS, 1 << 63))
    assert waiter.got()
    assert shown(path) == HELD[kind], "its mark or ticket is left"
    waiter.leave()
    assert shown(path) == []


def test_what_an_upgrade_and_a_downgrade_show(path: Path) -> None:
    with RWLock(path).update() as hold:
        hold.upgrade()
        both = [Shown("OFDLCK", "WRITE", UPDATER, UPDATER), Shown("OFDLCK", "WRITE", DATA, DATA)]
        assert shown(path) in (HELD["write"], [FLOCK_WRITE, *both])
        hold.downgrade("update")
        assert shown(path) == HELD["update"]
        hold.downgrade("read")
        assert shown(path) == HELD["read"]
    with RWLock(path).write() as hold:
        hold.downgrade("read")
        assert shown(path) == HELD["read"]


@pytest.mark.parametrize(
    ("kind", "base", "mode"),
    [
        ("read", READERS, "READ"), ("update", UPDATERS, "READ"),
        ("write", TICKETS, "WRITE"), ("permit", TICKETS, "WRITE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("blind", [False, True], ids=["events", "no events"])
def test_what_a_waiter_shows(
    kind: str, base: int, mode: str, blind: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte, at the time of its arrival; where there are no watches left too, where it only naps."""
    ops = kernel.engine().ops
    if blind:
        monkeypatch.setattr(kernel.engine()._events, "shared", lambda: None)
    with Lock(path):
        began = ops.boottime_ns()
        waiter = Waiter(path, kind)
        until(lambda: [one for one in ranges(path, READERS, 1 << 63) if one.mode == mode])
        (one,) = ranges(path, READERS, 1 << 63)
        assert one.start == one.end
        assert base + began < one.start < base + ops.boottime_ns()
    assert waiter.got()
    waiter.leave()


@EACH
def test_a_waiter_is_woken_by_the_end_of_a_lock(kind: str, path: Path, naps: Naps) -> None:
    naps.long()
    lock = Lock(path).acquire()
    waiter = Waiter(path, kind)
    naps.asleep()
    lock.release()
    assert waiter.got()
    waiter.leave()


@pytest.mark.parametrize(
    ("kind", "other"),
    [("read", "write"), ("update", "write"), ("update", "update"), ("write", "read"), ("write", "update"),
     ("write", "write")],
)  # fmt: skip
def test_a_waiter_is_woken_by_the_end_of_a_hold(kind: str, other: str, path: Path, naps: Naps) -> None:
    naps.long()
    hold = ACQUIRE[other](path, 0)
    waiter = Waiter(path, kind)
    naps.asleep()
    hold.release()
    assert waiter.got()
    waiter.leave()


def test_a_waiter_is_woken_by_a_downgrade(path: Path, naps: Naps) -> None:
    naps.long()
    with RWLock(path).write() as hold:
        waiter = Waiter(path, "read")
        naps.asleep()
        hold.downgrade("update")
        assert waiter.got()
        waiter.leave()


def test_an_upgrade_is_woken_by_the_end_of_a_reader_and_its_end_wakes_who_came_meanwhile(
    path: Path, naps: Naps
) -> None:
    naps.long()
    reader = RWLock(path).read()
    with RWLock(path).update() as hold:
        upgrade = threading.Thread(target=hold.upgrade, args=(100,))
        upgrade.start()
        until(lambda: ranges(path, TICKETS, 1 << 63))
        naps.asleep()
        reader.release()
        upgrade.join(20)
        assert str(hold.mode) == "write"
        assert ranges(path, READERS, 1 << 63) == [], "its ticket is left"
        hold.downgrade("update")
        reader = RWLock(path).read()
        naps.asked.clear()
        with pytest.raises(Timeout):
            hold.upgrade(0.1)
        reader.release()


def test_an_upgrade_that_is_given_up_wakes_who_came_meanwhile(path: Path, naps: Naps) -> None:
    naps.long()
    reader = RWLock(path).read()
    with RWLock(path).update() as hold:
        gave_up = threading.Event()

        def upgrade() -> None:
            with pytest.raises(Timeout):
                hold.upgrade(1.0)
            gave_up.set()

        thread = threading.Thread(target=upgrade)
        thread.start()
        until(lambda: ranges(path, TICKETS, 1 << 63))
        late = Waiter(path, "read")
        until(lambda: ranges(path, READERS, READERS << 1))
        assert gave_up.wait(20)
        assert late.got()
        assert sorted(shown(path)) == sorted([*HELD["read"], *HELD["read"], *HELD["update"]])
        late.leave()
        reader.release()
        thread.join(20)


@EACH
def test_a_copy_of_the_descriptor_keeps_nothing_of_what_was_released(kind: str, path: Path) -> None:
    """A child has one, for example, that was forked and has not run yet."""
    hold = ACQUIRE[kind](path, 0)
    copy = os.dup(hold._claim.fd)
    assert shown(path) == HELD[kind]
    hold.release()
    assert shown(path) == []
    os.close(copy)


@EACH
def test_who_gives_up_leaves_nothing_on_a_copy_and_has_no_range(kind: str, path: Path) -> None:
    with Lock(path):
        waiter = Waiter(path, kind, 0.3)
        until(lambda: ranges(path, READERS, 1 << 63))
        (fd,) = _descriptors_but(path, 1)
        copy = os.dup(fd)
        waiter.leave()
        assert isinstance(waiter.error, Timeout)
        assert shown(path) == [FLOCK_WRITE]
        os.close(copy)


def _descriptors_but(path: Path, first: int) -> list[int]:
    """This process's descriptors of the file, without the first so many."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == os.path.realpath(path):
                found.append(int(name))
        except OSError:
            continue
    return sorted(found)[first:]


@pytest.mark.parametrize("others", [0, 1], ids=["nobody waits", "one at the back"])
def test_the_last_in_front_that_gives_up_calls_those_at_the_back(
    others: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hear nothing but that."""
    ops = kernel.engine().ops
    called: list[int] = []
    monkeypatch.setattr(ops, "touch", called.append)
    back = os.open(path, os.O_RDWR)
    with Lock(path):
        front = Waiter(path, "permit", 0.3)
        until(lambda: [one for one in ranges(path, TICKETS, 1 << 63) if one.mode == "WRITE"])
        for _ in range(others):
            tickets.enter(ops, back)
        front.leave()
        assert len(called) == others
        assert len(ranges(path, TICKETS, 1 << 63)) == others
    os.close(back)


@EACH
def test_who_has_waited_lets_others_run_when_it_releases(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom its close wakes stands on this very core."""
    ops = kernel.engine().ops
    yielded: list[int] = []
    monkeypatch.setattr(ops, "yield_core", lambda: yielded.append(threading.get_ident()))
    ACQUIRE[kind](path, 0).release()
    assert yielded == [], "nobody was there"
    with Lock(path):
        waiter = Waiter(path, kind)
        until(lambda: ranges(path, READERS, 1 << 63))
    assert waiter.got()
    waiter.leave()
    assert yielded.count(waiter._thread.ident or 0) == 1


@EACH
def test_what_ended_has_got_nothing(kind: str, path: Path) -> None:
    """A claim goes on after that where its file was replaced, or in a forked child."""
    for end in ("drop", "_forget", "disown"):
        hold = ACQUIRE[kind](path, 0)
        claim = hold._claim
        fd = os.dup(claim.fd)
        assert claim.got
        getattr(claim.line.engine, end)(claim)
        assert not claim.got
        assert not getattr(claim, "agreed", False)
        assert claim.fd is None
        for each in _descriptors_but(path, 0):
            os.close(each)
        assert fd
        hold.release()
        assert shown(path) == []


# ---- semaphores that disagree


def test_whoever_sees_another_number_is_refused_before_and_after_it_shows_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = kernel.engine().ops
    other = os.open(path, os.O_RDWR)
    real = ops.fcntl

    def place(number: int) -> None:
        real(other, tickets._SETLK, tickets._FLOCK.pack(tickets._READ, 0, NUMBERS + number, 1, 0))

    def leave(number: int) -> None:
        real(other, tickets._SETLK, tickets._FLOCK.pack(tickets._NONE, 0, NUMBERS + number, 1, 0))

    for number in (1, 2, 4, 1 << 20):
        place(number)
        with pytest.raises(ProtocolError, match=f"of {number} permits, and this one is of 3"):
            ACQUIRE["permit"](path, 1)
        assert shown(path) == [Shown("OFDLCK", "READ", NUMBERS + number, NUMBERS + number)]
        leave(number)
    place(3)
    ACQUIRE["permit"](path, 1).release()
    leave(3)

    def late(fd: int, what: int, request: bytes) -> Any:
        """Both come together: it is there when this one has shown its own."""
        if fd != other and what == tickets._SETLK and tickets._FLOCK.unpack(request)[2] == NUMBERS + 3:
            place(2)
        return real(fd, what, request)

    monkeypatch.setattr(ops, "fcntl", late)
    with pytest.raises(ProtocolError, match="of 2 permits, and this one is of 3"):
        ACQUIRE["permit"](path, 1)
    monkeypatch.undo()
    os.close(other)


@pytest.fixture(autouse=True)
def nothing_left(path: Path) -> Iterator[None]:
    yield
    assert shown(path) == []
    assert _descriptors_but(path, 0) == []
