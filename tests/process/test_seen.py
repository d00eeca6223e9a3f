"""Modes, slots, queues and owners of real processes, as `inspect`, `interlock who`, `interlock top` and errors tell."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, RWLock, Semaphore, Timeout, inspect

from ..support import need_module
from .workers import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interlock import Report

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

PROGRAM = """
import sys
import interlock, interlock.filelock
holds, locks = [], {}
print("ready", flush=True)
for line in sys.stdin:
    verb, *words = line.split()
    try:
        if verb == "release":
            holds.pop().release()
        elif verb == "upgrade":
            holds[-1].upgrade()
        elif verb in ("read", "update", "write"):
            holds.append(getattr(interlock.RWLock(words[0]), verb)())
        elif verb == "permit":
            holds.append(interlock.Semaphore(words[0], int(words[1]), fair=True).acquire())
        elif verb == "fair":
            holds.append(interlock.Lock(words[0], fair=True).acquire())
        elif verb == "lock":
            holds.append(interlock.Lock(words[0]).acquire())
        elif verb == "lease":
            holds.append(interlock.Lock(words[0], primitive="marker", ttl=float(words[1])).acquire())
        else:
            lock = getattr(interlock.filelock, verb)(*words)
            lock.acquire()
            holds.append(lock)
        print("done", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


class Peer:
    """Another process that obeys."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        assert self.hear() == "ready"

    def tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, *words: object) -> None:
        self.tell(*words)
        assert self.hear() == "done"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def peer() -> Iterator[Callable[[], Peer]]:
    peers: list[Peer] = []

    def start() -> Peer:
        peers.append(Peer())
        return peers[-1]

    yield start
    for one in peers:
        one.kill()


def interlock(*words: str) -> str:
    need_module("click")
    done = subprocess.run([sys.executable, "-m", "interlock", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: str) -> list[dict[str, str]]:
    """The table that `interlock who` prints."""
    head, *lines = interlock("who", path).splitlines()
    names, found = head.split(), [line for line in lines if not line.startswith("(")]
    return [dict(zip(names, line.split(maxsplit=len(names) - 1), strict=True)) for line in found]


def told(path: str) -> dict[str, Any]:
    """What `interlock who --json` prints."""
    found: dict[str, Any] = json.loads(interlock("who", "--json", path))
    return found


def top(directory: str) -> tuple[str, list[dict[str, Any]]]:
    text = interlock("top", "--once", directory)
    return text, json.loads(interlock("top", "--json", directory))["locks"]


def until_waits(path: str, number: int) -> Report:
    until(lambda: len(inspect(path).waiters) == number, f"{number} wait")
    return inspect(path)


# ---- semaphores


def test_slots_are_named(peer: Callable[[], Peer], path: str) -> None:
    one, two, three = peer(), peer(), peer()
    one.ask("permit", path, 3)
    two.ask("permit", path, 3)
    one.ask("permit", path, 3)
    three.tell("permit", path, 3)
    report = until_waits(path, 1)
    assert sorted((party.pid, party.slot, party.mode) for party in report.holders) == sorted(
        [(one.pid, 0, "permit"), (one.pid, 2, "permit"), (two.pid, 1, "permit")]
    )
    (waiter,) = report.waiters
    assert (waiter.pid, waiter.slot, waiter.mode, waiter.position) == (three.pid, None, "permit", 1)
    assert report.facts["permits"] == "3"
    table = {(row["STATE"], row["PID"], row["SLOT"]) for row in rows(path)}
    assert table == {
        ("holds:permit", str(one.pid), "0"),
        ("holds:permit", str(two.pid), "1"),
        ("holds:permit", str(one.pid), "2"),
        ("waits:permit", str(three.pid), "-"),
    }
    assert {(party["pid"], party["slot"]) for party in told(path)["holders"]} == {
        (one.pid, 0), (two.pid, 1), (one.pid, 2)
    }  # fmt: skip
    text, (lock,) = top(os.path.dirname(path))
    assert {(party["pid"], party["slot"]) for party in lock["holders"]} == {(one.pid, 0), (two.pid, 1), (one.pid, 2)}
    assert lock["facts"]["permits"] == "3"
    for slot in range(3):
        assert f"permit {slot}" in text
    two.ask("release")
    assert three.hear() == "done"
    assert [(party.pid, party.slot) for party in inspect(path).holders if party.slot == 1] == [(three.pid, 1)]


def test_this_process_knows_its_slots_and_threads(path: str) -> None:
    with Semaphore(path, 2), Semaphore(path, 2):
        parties = inspect(path).holders
    assert sorted(party.slot or 0 for party in parties) == [0, 1]
    assert all(party.pid == os.getpid() and party.thread and party.since_exact for party in parties)


def test_a_lock_has_no_slot(path: str) -> None:
    with Lock(path):
        (row,) = rows(path)
        assert (row["STATE"], row["SLOT"], row["POS"]) == ("holds", "-", "-")


# ---- queues


@pytest.mark.parametrize("verb", ["fair", "permit", "write", "update", "read"])
def test_places_in_the_queue_are_seen_by_others(verb: str, peer: Callable[[], Peer], path: str) -> None:
    """For `who`, and for whoever observes."""
    words = (path, 1) if verb == "permit" else (path,)
    holder = peer()
    holder.ask("permit" if verb == "permit" else "lock" if verb == "fair" else "write", *words)
    waiters = []
    for number in range(1, 4):
        waiters.append(peer())
        waiters[-1].tell(verb, *words)
        until_waits(path, number)
    assert [(row["STATE"].split(":")[0], row["POS"], row["PID"]) for row in rows(path)] == [
        ("holds", "-", str(holder.pid)),
        *(("waits", str(place), str(waiter.pid)) for place, waiter in enumerate(waiters, 1)),
    ]
    waiters[0].kill()
    report = until_waits(path, 2)
    assert [(party.pid, party.position) for party in report.waiters] == [(waiters[1].pid, 1), (waiters[2].pid, 2)]


def test_an_upgrade_waits_and_holds(peer: Callable[[], Peer], path: str) -> None:
    reader, updater = peer(), peer()
    reader.ask("read", path)
    updater.ask("update", path)
    updater.tell("upgrade")
    until_waits(path, 1)
    found = [(row["STATE"], row["PID"]) for row in rows(path)]
    assert sorted(found) == sorted(
        [("holds:read", str(reader.pid)), ("holds:update", str(updater.pid)), ("waits", str(updater.pid))]
    )
    reader.ask("release")
    assert updater.hear() == "done"
    assert [row["STATE"] for row in rows(path)] == ["holds"]


# ---- blame


def timeout(call: Callable[[float], object]) -> Timeout:
    """The error of an attempt in another thread of this process."""
    caught: list[Timeout] = []

    def attempt() -> None:
        with pytest.raises(Timeout) as info:
            call(0.01)
        caught.append(info.value)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return caught[0]


def test_an_update_blames_the_updater_not_a_reader(peer: Callable[[], Peer], path: str) -> None:
    lock = RWLock(path)
    updater = peer()
    updater.ask("update", path)
    with lock.read():
        error = timeout(lock.update)
    assert error.holder is not None
    assert (error.holder.pid, error.holder.mode) == (updater.pid, "update")
    assert "in this process" not in str(error)


def test_a_write_blames_any_holder(peer: Callable[[], Peer], path: str) -> None:
    lock = RWLock(path)
    with lock.read():
        error = timeout(lock.write)
    assert error.holder is not None
    assert (error.holder.pid, error.holder.mode) == (os.getpid(), "read")
    assert "in this process" in str(error)
    reader = peer()
    reader.ask("read", path)
    error = timeout(lock.write)
    assert error.holder is not None
    assert error.holder.pid == reader.pid


@pytest.mark.parametrize("verb", ["read", "update"])
def test_who_is_kept_out_by_a_waiting_writer_is_told_so(verb: str, peer: Callable[[], Peer], path: str) -> None:
    lock = RWLock(path)
    writer = peer()
    with lock.read():
        writer.tell("write", path)
        until_waits(path, 1)
        error = timeout(getattr(lock, verb))
        assert error.holder is None, "the reader is not in the way"
        assert f"a writer waits before you: pid {writer.pid} (" in str(error)
    assert writer.hear() == "done"
    error = timeout(getattr(lock, verb))
    assert error.holder is not None
    assert (error.holder.pid, error.holder.mode) == (writer.pid, "write")


def test_an_upgrade_blames_a_reader_of_another_process(peer: Callable[[], Peer], path: str) -> None:
    lock = RWLock(path)
    reader, writer = peer(), peer()
    reader.ask("read", path)
    with lock.update() as hold:
        writer.tell("write", path)
        until_waits(path, 1)
        error = timeout(hold.upgrade)
    assert error.holder is not None
    assert (error.holder.pid, error.holder.mode) == (reader.pid, "read")
    reader.kill()
    assert writer.hear() == "done"


def test_in_memory_it_is_the_same() -> None:
    lock = RWLock("memory://#blame")
    with lock.read(), lock.update():
        error = timeout(lock.update)
        assert error.holder is not None
        assert error.holder.mode == "update"
        assert error.holder.thread.startswith(threading.current_thread().name)
    writing = threading.Thread(target=lambda: lock.write().release())
    with lock.read():
        writing.start()
        until(lambda: lock.inspect().waiters, "it waits")
        error = timeout(lock.read)
        assert error.holder is None
        assert "a writer waits before you" in str(error)
    writing.join()


def test_an_upgrade_in_memory_is_seen_to_wait() -> None:
    lock = RWLock("memory://#upgrade-seen")
    reader = lock.read()

    def update() -> None:
        with lock.update() as hold:
            hold.upgrade()

    thread = threading.Thread(target=update, name="the updater")
    thread.start()
    until(lambda: lock.inspect().waiters, "it waits")
    report = lock.inspect()
    reader.release()
    thread.join()
    assert {party.mode for party in report.holders} == {"read", "update"}
    (waiter,) = report.waiters
    assert (waiter.mode, waiter.position, waiter.thread.split()[1]) == ("write", 1, "updater")


# ---- markers and leases


def test_the_owner_of_a_marker_is_named(peer: Callable[[], Peer], path: str) -> None:
    owner = peer()
    owner.ask("SoftFileLock", path)
    report = inspect(path)
    (holder,) = report.holders
    assert (report.engine, holder.pid, holder.host) == ("marker", owner.pid, os.uname().nodename)
    assert "import interlock" in holder.command
    assert holder.user
    assert holder.thread.endswith(f"(tid {owner.pid})")
    assert holder.since_exact
    assert abs((holder.since or 0) - time.time()) < 30
    (row,) = rows(path)
    assert (row["STATE"], row["PID"]) == ("holds", str(owner.pid))
    assert told(path)["holders"][0]["pid"] == owner.pid
    text, (lock,) = top(os.path.dirname(path))
    assert (lock["engine"], lock["holders"][0]["pid"]) == ("marker", owner.pid)
    assert os.path.basename(path) in text
    owner.ask("release")
    assert inspect(path).holders == ()
    assert top(os.path.dirname(path))[1] == []


def test_the_owner_of_a_marker_of_filelock_itself_is_named(path: str) -> None:
    need_module("filelock")
    code = "import filelock, sys\nwith filelock.SoftFileLock(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "1\n"
        (row,) = rows(path)
        assert (row["STATE"], row["PID"]) == ("holds", str(owner.pid))
        assert top(os.path.dirname(path))[1][0]["holders"][0]["pid"] == owner.pid
        owner.kill()
        owner.communicate()
    report = inspect(path)
    assert [party.pid for party in report.holders] == [owner.pid], "it keeps others out until one of them looks"
    assert report.hint == "that process has died"
    assert "that process has died" in interlock("who", path)


def test_a_file_that_is_no_marker_names_nobody(path: str) -> None:
    for content in ("important\n", "4242\n", "x" * 5000):
        with open(path, "w") as file:
            file.write(content)
        assert inspect(path).holders == ()
        assert top(os.path.dirname(path))[1] == []


def test_a_lock_of_the_kernel_beside_a_marker(peer: Callable[[], Peer], path: str) -> None:
    """Those who wrote a marker and those who use flock(2) do not see each other: both are told."""
    owner = peer()
    owner.ask("SoftFileLock", path)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert {party.pid for party in inspect(path).holders} == {os.getpid(), owner.pid}


def test_a_lease_and_who_waits_for_it(peer: Callable[[], Peer], path: str) -> None:
    owner, first, second = peer(), peer(), peer()
    owner.ask("lease", path, 30)
    for number, waiter in enumerate((first, second), 1):
        waiter.tell("lease", path, 30)
        until_waits(path, number)
    report = inspect(path)
    assert report.engine == "marker lease"
    (holder,) = report.holders
    assert (holder.pid, holder.since_exact) == (owner.pid, True)
    assert holder.user
    assert "import interlock" in holder.command
    assert [(party.pid, party.position) for party in report.waiters] == [(first.pid, None), (second.pid, None)]
    for party in report.waiters:
        assert party.waited is not None
        assert 0 <= party.waited < 60
        assert party.user
        assert party.host
        assert "import interlock" in party.command
    table = [(row["STATE"], row["POS"], row["PID"]) for row in rows(path)]
    assert table == [
        ("holds", "-", str(owner.pid)), ("waits", "?", str(first.pid)), ("waits", "?", str(second.pid))
    ]  # fmt: skip
    text, (lock,) = top(os.path.dirname(path))
    assert [party["pid"] for party in lock["waiters"]] == [first.pid, second.pid]
    assert str(second.pid) in text
    second.kill()
    assert [party.pid for party in inspect(path).waiters] == [first.pid], "the dead do not wait"
    owner.ask("release")
    assert first.hear() == "done"
    report = inspect(path)
    assert ([party.pid for party in report.holders], report.waiters) == ([first.pid], ())
    names = os.listdir(path + ".interlock")
    assert not [name for name in names if name.startswith("waits-")], "the note of the dead was removed"


def test_this_process_waits_for_a_lease_with_its_threads(path: str) -> None:
    lock = Lock(path, primitive="marker")
    hold = lock.acquire()
    threads = [threading.Thread(target=lambda: lock.acquire().release(), name=f"wants-{n}") for n in range(2)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda: len(inspect(path).waiters) == number, "it waits")  # noqa: B023
    report = inspect(path)
    hold.release()
    for thread in threads:
        thread.join()
    (holder,) = report.holders
    assert (holder.pid, holder.thread.split()[0]) == (os.getpid(), threading.current_thread().name)
    assert sorted(party.thread.split()[0] for party in report.waiters) == ["wants-0", "wants-1"]
    assert not [name for name in os.listdir(path + ".interlock") if name.startswith("waits-")]
