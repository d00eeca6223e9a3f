"""What read-write locks and semaphores on a path show on the lock file, which other versions read, and what wakes them.

The offsets are written out here, not taken from the modules: whoever changes them would exclude nobody of an older
version.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from interlock import Lock, ProtocolError, RWLock, Semaphore, Timeout, inspect

from .seam import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("read-write locks and semaphores on a path are Linux only", allow_module_level=True)

import fcntl

from interlock.engines import kernel
from interlock.engines.kernel import readwrite, tickets

SLOTS = 1 << 55
NUMBERS = 1 << 56
UPDATER = 1 << 57
DATA = (1 << 57) + 1
READERS = 1 << 59
UPDATERS = 1 << 60
HOLDERS = 1 << 61
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


def free(path: Path) -> bool:
    """Does it show nothing, at once or soon? Who reads /proc/PID/fd keeps what was closed for a moment."""
    limit = time.monotonic() + 5
    while shown(path):
        if time.monotonic() > limit:
            return False
        time.sleep(0.001)
    return True


def ranges(path: Path, start: int, end: int) -> list[Shown]:
    return [one for one in shown(path) if start <= one.start < end]


class Waiter:
    """Acquires in a thread, and keeps it until `leave`."""

    def __init__(self, path: Path, kind: str, timeout: float = 100.0) -> None:
        self.hold: Any = None
        self.error: Exception | None = None
        self._got, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ACQUIRE[kind], path, timeout), daemon=True)
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
    assert free(path)
    with Lock(path):
        waiter = Waiter(path, kind)
        until(lambda: ranges(path, READERS, 1 << 63))
    assert waiter.got()
    assert shown(path) == HELD[kind], "its mark or ticket is left"
    waiter.leave()
    assert free(path)


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


def test_an_upgrade_that_waits_for_a_foreign_flock_has_its_own_shared_meanwhile(path: Path, naps: Naps) -> None:
    """A conversion that fails has dropped it; without it a `Lock` would come in."""
    naps.long()
    foreign = os.open(path, os.O_RDWR)
    fcntl.flock(foreign, fcntl.LOCK_SH)
    with RWLock(path).update() as hold:
        thread = threading.Thread(target=hold.upgrade, args=(100,))
        thread.start()
        until(lambda: ranges(path, TICKETS, 1 << 63))
        naps.asleep()
        assert [one for one in shown(path) if one.kind == "FLOCK"] == [FLOCK_READ, FLOCK_READ]
        os.close(foreign)
        thread.join(20)
        assert str(hold.mode) == "write"


@EACH
def test_a_copy_of_the_descriptor_keeps_nothing_of_what_was_released(kind: str, path: Path) -> None:
    """A child has one, for example, that was forked and has not run yet."""
    hold = ACQUIRE[kind](path, 0)
    copy = os.dup(hold._claim.fd)
    assert shown(path) == HELD[kind]
    hold.release()
    assert free(path)
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
    left: list[int] = []
    monkeypatch.setattr(kernel.engine().ops, "touch", lambda _: left.append(len(ranges(path, TICKETS, 1 << 63))))
    back = os.open(path, os.O_RDWR)
    with Lock(path):
        front = Waiter(path, "permit", 0.3)
        until(lambda: [one for one in ranges(path, TICKETS, 1 << 63) if one.mode == "WRITE"])
        for _ in range(others):
            tickets.enter(kernel.engine().ops, back)
        front.leave()
        # It may have called before it slept, too: then its own ticket was there.
        assert (left[-1] if left else 0) == len(ranges(path, TICKETS, 1 << 63)) == others
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
        assert getattr(claim, "agreed", True)
        getattr(claim.line.engine, end)(claim)
        assert not claim.got
        assert not getattr(claim, "agreed", False)
        assert claim.fd is None
        for each in _descriptors_but(path, 0):
            os.close(each)
        assert fd
        hold.release()
        assert free(path)


# ---- the order of those who wait


@pytest.fixture
def stranger(path: Path) -> Iterator[Stranger]:
    made = Stranger(path)
    yield made
    made.leave()


class Stranger:
    """Somebody else in line, or with a range, who does nothing more: it is stopped."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.path = path

    def take(self, start: int, kind: int = tickets._READ, length: int = 1) -> None:
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR)
        kernel.engine().ops.fcntl(self.fd, tickets._SETLK, tickets._FLOCK.pack(kind, 0, start, length, 0))

    def leave(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def now() -> int:
    return int(kernel.engine().ops.boottime_ns())


HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("kind", "minds"),
    [("read", [TICKETS]), ("update", [TICKETS, UPDATERS]), ("write", [READERS, UPDATERS]), ("permit", [])],
)
@pytest.mark.parametrize("region", [READERS, UPDATERS, TICKETS])
@pytest.mark.parametrize("younger", [False, True], ids=["older", "younger"])
def test_whom_a_waiter_lets_go_first(
    kind: str, minds: list[int], region: int, younger: bool, path: Path, stranger: Stranger, naps: Naps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Woken by the end of a lock, it does not pass who came before, while that is not long: the nap that would let it
    is not over. Who came later, and who stands where it does not look, is nothing to it."""
    naps.long()
    monkeypatch.setattr(kernel, "PATIENCE", 500.0)
    lock = Lock(path).acquire()
    if not younger:
        stranger.take(region + now())
    waiter = Waiter(path, kind)
    until(lambda: len(ranges(path, READERS, 1 << 63)) == (1 if younger else 2))
    naps.asleep()
    if younger:
        stranger.take(region + now() + HOUR)
    naps.asked.clear()
    lock.release()
    if not younger and region in minds:
        naps.asleep()
        assert waiter.hold is None
        assert waiter.error is None
        stranger.leave()
    assert waiter.got()
    waiter.leave()


@pytest.mark.parametrize("kind", ["read", "update"])
def test_who_has_waited_its_patience_passes_who_does_not_come(kind: str, path: Path, stranger: Stranger) -> None:
    """Only where nobody holds anything: else the older one is right to wait."""
    stranger.take(TICKETS + now())
    assert ACQUIRE[kind](path, 20).release() is None
    attempt = getattr(RWLock(path), f"try_{kind}")
    attempt().release()
    with RWLock(path).try_read():  # type: ignore[union-attr]
        assert attempt() is None
        if kind == "read":
            assert shown(path) == sorted([*HELD["read"], *ranges(path, TICKETS, 1 << 63)])
    other = Stranger(path)
    for what in (UPDATER, DATA):
        other.take(what, tickets._WRITE)
        assert attempt() is None
        other.leave()
    with _flock(path):
        assert attempt() is None
        assert len(shown(path)) == 2, "it keeps a range, for which older ones wait"
    attempt().release()


@pytest.mark.parametrize("kind", ["read", "update"])
def test_who_might_pass_keeps_no_range_while_a_lock_is_held(
    kind: str, path: Path, stranger: Stranger, naps: Naps
) -> None:
    """Older ones would run into it."""
    naps.long()
    stranger.take(TICKETS + now())
    with _flock(path):
        waiter = Waiter(path, kind)
        naps.asleep()  # after it had its patience, and tried
        assert kernel.PATIENCE in naps.asked
        assert ranges(path, SLOTS, READERS) == []
    assert waiter.got()
    waiter.leave()


@contextmanager
def _flock(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_who_passes_and_meets_a_writer_all_the_same_draws_back_and_says_so(
    path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer came after the look: it may have run into the shared flock."""
    ops = kernel.engine().ops
    stranger.take(TICKETS + now())
    writer = Stranger(path)
    real = ops.flock
    told: list[int] = []

    def late(fd: int, how: int) -> None:
        real(fd, how)
        if writer.fd < 0:
            writer.take(UPDATER, tickets._WRITE, 2)

    monkeypatch.setattr(ops, "flock", late)
    monkeypatch.setattr(ops, "tell", told.append)
    assert RWLock(path).try_read() is None
    assert [one.kind for one in shown(path)] == ["OFDLCK"] * 2, "the flock is kept"
    assert len(told) == 1
    writer.leave()


def test_how_long_sharers_nap(path: Path) -> None:
    """Short ones after each event, since that comes before a dying holder's lock is free; PATIENCE, after which they
    may pass who does not come; and then the long one."""
    for kind in ("read", "update"):
        with ACQUIRE[kind](path, 0) as hold:
            engine: Any = hold._claim.line.engine
            claim = engine.claim_type()
            claim.instance = engine
            found = []
            for claim.echo in range(len(kernel._ECHOES) + 2):
                found.append(engine._nap(claim))
            assert tuple(found[:-1]) == (*kernel._ECHOES, kernel.PATIENCE)
            assert found[-1] >= 0.5 * kernel.NAP


@EACH
def test_what_is_free_is_had_without_standing_in_line(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stands(*_: object) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(kernel.KernelEngine, "_subscribe", stands)
    for _ in range(3):
        ACQUIRE[kind](path, 20).release()


@pytest.mark.parametrize(
    ("kind", "minds"),
    [("read", [TICKETS]), ("update", [TICKETS, UPDATERS]), ("permit", [TICKETS]),
     ("write", [TICKETS, READERS, UPDATERS, HOLDERS])],
)  # fmt: skip
@pytest.mark.parametrize("region", [READERS, UPDATERS, HOLDERS, TICKETS])
def test_a_newcomer_stands_in_line_where_somebody_waits(
    kind: str, minds: list[int], region: int, path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder's mark is no place in it; only a writer looks at all of that with one call."""

    def stands(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(kernel.KernelEngine, "_subscribe", stands)
    stranger.take(region + now())
    if region in minds:
        with pytest.raises(InterruptedError):
            ACQUIRE[kind](path, 20)
    else:
        ACQUIRE[kind](path, 20).release()


@pytest.mark.parametrize("kind", ["read", "permit"])
def test_the_short_way_is_for_a_file_of_one_name(kind: str, path: Path) -> None:
    """And without content: that may say more, and is read on the long way."""
    hold = ACQUIRE[kind](path, 0)
    engine = hold._claim.line.engine

    def short() -> bool:
        claim = engine.claim(hold._claim.line, object(), False)
        claim.permits = hold._claim.permits
        try:
            return bool(engine.try_now(claim, 1.0))
        finally:
            engine.drop(claim)

    assert short()
    os.link(path, f"{path}2")
    assert not short()
    os.unlink(f"{path}2")
    assert short()
    path.write_text("x")
    assert not short()
    path.write_text("")
    hold.release()


def test_a_newcomer_does_not_pass_who_waits_for_a_permit(path: Path, stranger: Stranger) -> None:
    """Unless it has no time at all, or its process looked a moment ago; one that is fair looks each time."""
    engine = Semaphore(path, 3)._line.engine

    def short(timeout: float, courtesy: float, fair: bool = False) -> bool:
        line = Semaphore(path, 3)._line
        line.courtesy = courtesy
        claim = engine.claim(line, object(), fair)
        claim.permits = 3
        claim.fair = fair
        try:
            return bool(engine.try_now(claim, timeout))
        finally:
            engine.drop(claim)

    later = float("inf")
    assert short(1.0, 0.0)
    stranger.take(TICKETS + now())
    assert not short(1.0, 0.0)
    assert short(1.0, later)
    assert not short(1.0, later, fair=True)
    assert short(0.0, 0.0)
    assert short(0.0, 0.0, fair=True)
    stranger.leave()
    assert short(1.0, later, fair=True)


@pytest.mark.parametrize(("fair", "others", "calls"), [(True, 1, 1), (True, 0, 0), (False, 1, 0)])
def test_a_fair_winner_of_a_permit_calls_the_next(
    fair: bool, others: int, calls: int, path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the oldest tries, and a permit may be left when it has got one."""
    called: list[int] = []
    lock = Lock(path).acquire()
    monkeypatch.setitem(ACQUIRE, "permit", lambda path, timeout: Semaphore(path, 3, fair=fair).acquire(timeout))
    waiter = Waiter(path, "permit")
    until(lambda: [one for one in ranges(path, TICKETS, 1 << 63) if one.mode == "WRITE"])
    if others:
        stranger.take(TICKETS + now(), tickets._WRITE)
    monkeypatch.setattr(kernel.engine().ops, "touch", called.append)
    lock.release()
    assert waiter.got()
    assert len(called) == calls
    waiter.leave()


def test_an_upgrade_that_has_waited_is_no_waiter_any_more(path: Path) -> None:
    reader = RWLock(path).read()
    with RWLock(path).update() as hold:
        thread = threading.Thread(target=hold.upgrade, args=(100,))
        thread.start()
        until(lambda: ranges(path, TICKETS, 1 << 63))
        assert [party.mode for party in inspect(path).waiters] == ["write"]
        reader.release()
        thread.join(60)
        assert inspect(path).waiters == ()
        assert [party.mode for party in inspect(path).holders] == ["write"]


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

    asked: list[tuple[int, int]] = []

    def noted(fd: int, what: int, request: bytes) -> Any:
        asked.append((what, tickets._FLOCK.unpack(request)[2]))
        return real(fd, what, request)

    place(2)
    monkeypatch.setattr(ops, "fcntl", noted)
    with pytest.raises(ProtocolError, match="of 2 permits"):
        Semaphore(path, 3).acquire(0)
    assert (tickets._GETLK, NUMBERS) in asked
    assert (tickets._SETLK, NUMBERS + 3) not in asked, "who is wrong disturbs nobody"
    monkeypatch.undo()
    leave(2)

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
    assert free(path)
    assert _descriptors_but(path, 0) == []
