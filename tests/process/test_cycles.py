"""Processes that wait for each other are told by name. Real processes, real deadlocks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, Timeout, inspect
from interlock.engines.kernel import cycles

from ..support import need
from .workers import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .workers import Worker

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


@pytest.fixture
def paths(path: str) -> list[str]:
    return [os.path.join(os.path.dirname(path), f"{letter}.lock") for letter in "abcde"]


def ring(spawn: Spawn, paths: list[str], count: int) -> list[Worker]:
    """`count` processes; each holds its own lock and waits for the next one's."""
    workers = [spawn() for _ in range(count)]
    for worker, mine in zip(workers, paths, strict=False):
        assert worker.ask("acquire", mine)["event"] == "acquired"
    for place, worker in enumerate(workers):
        worker.tell("acquire", paths[(place + 1) % count])
    for place, worker in enumerate(workers):
        worker.waits(paths[(place + 1) % count])
    return workers


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_deadlock_is_told_from_each_of_its_locks(spawn: Spawn, paths: list[str], count: int) -> None:
    workers = ring(spawn, paths, count)
    for start in range(count):
        told = inspect(paths[start]).facts["cycle"]
        for place, worker in enumerate(workers):
            wanted = paths[(place + 1) % count]
            holder = workers[(place + 1) % count].pid
            assert f"pid {worker.pid} (" in told
            assert f"waits for {wanted}, which pid {holder} holds" in told
        assert told.count("waits for") == count
    workers[0].kill()
    until(lambda: "cycle" not in inspect(paths[1]).facts, "it is no cycle any more")


def test_who_prints_it(spawn: Spawn, paths: list[str]) -> None:
    workers = ring(spawn, paths, 2)
    command = [sys.executable, "-m", "interlock", "who", paths[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(("deadlock: ", "wait cycle: "))
    assert all(f"pid {worker.pid} (" in last for worker in workers)


def test_a_timeout_tells_the_cycle_that_it_was_in(spawn: Spawn, paths: list[str]) -> None:
    worker = spawn()
    worker.ask("acquire", paths[0])
    with Lock(paths[1]):
        worker.tell("acquire", paths[1])
        worker.waits(paths[1])
        with pytest.raises(Timeout) as caught:
            Lock(paths[0]).acquire(0.05)
        hint = caught.value.hint
        assert f"pid {os.getpid()} (this process) waits for {paths[0]}, which pid {worker.pid} holds" in hint
        assert f"waits for {paths[1]}, which pid {os.getpid()} holds" in hint
        assert hint in str(caught.value)
    assert worker.answer()["event"] == "acquired"


def test_a_timeout_tells_the_deadlock_of_others(spawn: Spawn, paths: list[str]) -> None:
    ring(spawn, paths, 2)
    with pytest.raises(Timeout) as caught:
        Lock(paths[0]).acquire(0.05)
    assert caught.value.hint.count("waits for") == 2
    assert f"pid {os.getpid()} " not in caught.value.hint


def test_a_queue_is_no_cycle(spawn: Spawn, paths: list[str]) -> None:
    """a waits for b's lock, b for c's, and c for nobody."""
    workers = [spawn() for _ in range(3)]
    for worker, mine in zip(workers, paths, strict=False):
        worker.ask("acquire", mine)
    for place in (0, 1):
        workers[place].tell("acquire", paths[place + 1])
        workers[place].waits(paths[place + 1])
    for path in paths[:3]:
        assert "cycle" not in inspect(path).facts
        with pytest.raises(Timeout) as caught:
            Lock(path).acquire(0)
        assert caught.value.hint == ""


def test_foreign_lockers_are_part_of_it(spawn: Spawn, paths: list[str]) -> None:
    """flock(1) holds one lock and is blocked in flock(2) for the other; it runs in one process by a descriptor."""
    worker = spawn()
    worker.ask("acquire", paths[0])
    flock = need("flock")
    script = f'exec 8>"{paths[1]}" 9>"{paths[0]}"; {flock} 8; echo held; exec {flock} 9'
    foreign = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    try:
        assert foreign.stdout is not None
        assert foreign.stdout.readline() == b"held\n"
        worker.tell("acquire", paths[1])
        worker.waits(paths[1])
        # The kernel's table names the flock(1) that locked descriptor 8, which is gone; its lock stays with the shell.
        until(lambda: len(inspect(paths[0]).waiters) == 1, "it is blocked")
        assert inspect(paths[1]).holders[0].pid == foreign.pid
        until(lambda: "cycle" in inspect(paths[0]).facts, "it is seen")
        assert f"pid {foreign.pid} (" in inspect(paths[0]).facts["cycle"]
    finally:
        foreign.kill()
        foreign.communicate()


def test_threads_of_one_process_make_no_deadlock(paths: list[str], spawn: Spawn) -> None:
    """This process holds one lock in a thread, and is waited for: that is no cycle unless it waits itself."""
    worker = spawn()
    with Lock(paths[0]):
        worker.tell("acquire", paths[0])
        worker.waits(paths[0])
        assert "cycle" not in inspect(paths[0]).facts
    assert worker.answer()["event"] == "acquired"


def test_where_nobody_waits_for_another_file_nothing_is_looked_at(
    spawn: Spawn, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "find", lambda *_: pytest.fail("it looked"))
    monkeypatch.setattr(cycles, "_waits", lambda entry: False)
    spawn().ask("acquire", paths[0])
    with pytest.raises(Timeout):
        Lock(paths[0]).acquire(0)


def test_what_was_there_only_once_is_not_told(spawn: Spawn, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ring(spawn, paths, 2)
    assert len(cycles.find(paths[0])) == 2
    monkeypatch.setattr(cycles, "_edges_of", lambda pids: [])
    assert cycles.find(paths[0]) == []
