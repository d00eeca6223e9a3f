"""Read-write locks between real processes: readers together, writers in time, kill -9 of every role; and fairness."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, RWLock, inspect
from interlock.engines.kernel import tickets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("read-write locks on a path are Linux only", allow_module_level=True)

from interlock.engines.kernel import readwrite
from interlock.engines.kernel.ops import Ops

PROGRAM = """
import sys, time
from interlock import RWLock
lock, hold = RWLock(sys.argv[1]), None
for line in sys.stdin:
    verb = line.strip()
    if verb in ("read", "update", "write"):
        hold = getattr(lock, verb)(timeout=30)
    elif verb == "upgrade":
        hold.upgrade(timeout=30)
    elif verb == "release":
        hold.release()
    elif verb == "rounds":
        for _ in range(40):
            with lock.update(timeout=30) as hold:
                hold.upgrade(timeout=30)
                hold.downgrade()
    print(verb, time.monotonic(), flush=True)
"""


class Peer:
    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, verb: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(verb + "\n")
        self._process.stdin.flush()

    def hear(self) -> float:
        """When the verb was done, by the monotonic clock."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the peer has died"
        return float(line.split()[1])

    def ask(self, verb: str) -> float:
        self.tell(verb)
        return self.hear()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """SIGSTOP, and it has stopped."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def silent(self, seconds: float) -> bool:
        """It says nothing for so long."""
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], seconds)[0]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[], Peer]]:
    peers: list[Peer] = []

    def start() -> Peer:
        peers.append(Peer(tmp_path / "lock"))
        return peers[-1]

    yield start
    for each in peers:
        each.end()


def until_shut(path: Path) -> None:
    """Until somebody waits to write: new readers are not let in."""
    lock = RWLock(path)
    limit = time.monotonic() + 60
    while (hold := lock.try_read()) is not None:
        hold.release()
        assert time.monotonic() < limit
        time.sleep(0.001)


def until_waited_for(path: Path) -> None:
    limit = time.monotonic() + 60
    while not inspect(path).waiters:
        assert time.monotonic() < limit
        time.sleep(0.001)


def until_ranges(path: Path) -> None:
    """Until somebody has got the bytes of writers."""
    limit = time.monotonic() + 60
    with open(path, "rb+") as file:
        while not tickets.anybody_since(Ops(), file.fileno(), readwrite.DATA, readwrite.DATA + 1):
            assert time.monotonic() < limit
            time.sleep(0.001)


def test_8_readers_hold_together_and_a_writer_waits_for_them_only(tmp_path: Path, peer: Callable[[], Peer]) -> None:
    readers = [peer() for _ in range(8)]
    for reader in readers:
        reader.ask("read")
    writer, late = peer(), peer()
    writer.tell("write")
    until_shut(tmp_path / "lock")
    late.tell("read")
    released = [reader.ask("release") for reader in readers[1:]]
    asked = time.monotonic()
    released.append(readers[0].ask("release"))
    written = writer.hear()
    assert asked < written < max(released) + 60
    asked = time.monotonic()
    writer.ask("release")
    assert asked < late.hear()
    late.ask("release")


@pytest.mark.parametrize("mode", ["read", "update", "write", "upgrade"])
def test_a_killed_holder_leaves_nothing(tmp_path: Path, peer: Callable[[], Peer], mode: str) -> None:
    holder = peer()
    holder.ask("update" if mode == "upgrade" else mode)
    if mode == "upgrade":
        holder.ask("upgrade")
    lock = RWLock(tmp_path / "lock")
    assert lock.try_write() is None
    other = peer()
    other.tell("write")
    if mode in ("read", "update"):
        until_shut(tmp_path / "lock")
    holder.kill()
    other.hear()
    assert lock.try_read() is None
    other.ask("release")
    with lock.write(timeout=20):
        pass


def test_a_writer_that_is_killed_while_it_waits_lets_readers_in(tmp_path: Path, peer: Callable[[], Peer]) -> None:
    lock = RWLock(tmp_path / "lock")
    with lock.read() as hold:
        writer = peer()
        writer.tell("write")
        until_shut(tmp_path / "lock")
        reader = peer()
        reader.tell("read")
        writer.kill()
        reader.hear()
        hold.assert_held()
        reader.ask("release")


@pytest.mark.parametrize("mode", ["read", "update", "write"])
@pytest.mark.parametrize("held", ["read", "write"])
def test_a_writer_that_stands_still_while_it_waits_is_passed_by_once_nobody_holds(
    tmp_path: Path, peer: Callable[[], Peer], held: str, mode: str
) -> None:
    """Not before: whoever waits behind it stays shut out while anybody has the lock, shared as it may be."""
    path = tmp_path / "lock"
    with getattr(RWLock(path), held)() as hold:
        writer = peer()
        writer.tell("write")
        until_waited_for(path)
        writer.stop()
        other = peer()
        other.tell(mode)
        assert other.silent(0.5)
        hold.assert_held()
    other.hear()
    writer.go_on()
    assert writer.silent(0.1)
    asked = time.monotonic()
    other.ask("release")
    assert asked < writer.hear()


def test_a_writer_that_stands_still_behind_a_lock_keeps_its_ranges(tmp_path: Path, peer: Callable[[], Peer]) -> None:
    """What it has got it keeps, see `ranges`: so it is passed by a `Lock`, and not by those who want ranges too."""
    path = tmp_path / "lock"
    with Lock(path):
        writer = peer()
        writer.tell("write")
        until_waited_for(path)
        until_ranges(path)
        writer.stop()
        other = peer()
        other.tell("read")
    with Lock(path, timeout=20):
        assert other.silent(0.2)
    assert other.silent(0.2)
    writer.go_on()
    writer.hear()
    assert other.silent(0.1)
    asked = time.monotonic()
    writer.ask("release")
    assert asked < other.hear()


def test_updaters_that_upgrade_do_not_deadlock(peer: Callable[[], Peer]) -> None:
    peers = [peer(), peer(), peer()]
    for each in peers:
        each.tell("rounds")
    for each in peers:
        each.hear()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fair_is_even_while_waiters_are_killed(tmp_path: Path) -> None:
    """Strict figures are `bench.fairness`'s, on a machine of its own. Here others may be busy, and who does not get a
    core is passed by after 10 ms. Without fair=True, more than a third of all waits are overtaken."""
    from bench import fairness

    seen = []
    for number in range(4):  # a busy machine may disturb one, but not each
        records, kills = fairness.contest(str(tmp_path / f"lock{number}"), 0.001, 8.0, fair=True, kill=True)
        overtaken = sum(times > 0 for times in fairness.overtaken(records)) / max(len(records), 1)
        seen.append((kills, len(records), fairness.evenness(records) or 0.0, overtaken))
        if kills > 10 and len(records) > 100 and seen[-1][2] > 0.9 and overtaken < 0.3:
            return
    raise AssertionError(seen)


def test_a_wait_is_overtaken_by_who_came_after_it_stood() -> None:
    from bench import fairness
    from bench.fairness import CLOSE, Record

    late = 10 * CLOSE
    first = Record(0, asked=0, came=late, stood=late + 2, got=2 * late, released=2 * late)
    asked_later = Record(1, asked=2 * CLOSE, came=late + 1, stood=late + 3, got=late + 4, released=late + 5)
    came_later = asked_later._replace(place=2, came=late + 3)
    assert fairness.overtaken([asked_later, first]) == [0, 0]  # who of them stood first nobody knows
    assert fairness.overtaken([came_later, first]) == [0, 1]
    assert fairness.overtaken_asked([asked_later, came_later, first]) == [0, 0, 2]
    assert fairness.overtaken([first._replace(got=late + 3), came_later]) == [0, 0]
