"""kill -9 and SIGSTOP of holders and of waiters."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from statistics import median, quantiles

import pytest

from interlock import Lock
from interlock.engines.kernel import NAP
from interlock.engines.kernel.tickets import FRONT

from .workers import Worker, descriptors, isolated, lockers, queues, state, tickets, until

assert sys.platform == "linux"

Spawn = Callable[[], Worker]
LONGEST_NAP = 1.25 * NAP


def enqueue(nursery: Worker, path: str, options: dict[str, object] | None = None) -> int:
    """One more waiting process behind those that wait already; its pid."""
    before = tickets(path)
    pid: int = nursery.ask("spawn", path, options)["child"]
    until(lambda: tickets(path) == before + 1 and state(pid) == "S", "one more ticket")
    return pid


def test_a_waiter_gets_the_lock_of_a_killed_holder(spawn: Spawn, path: str) -> None:
    nursery = spawn()
    nursery.tell("spawn", path)
    holder = nursery.answer("acquired")["pid"]
    nursery.answer("spawned")
    delays = []
    for _ in range(200):
        waiter = enqueue(nursery, path)
        killed = nursery.ask("kill", holder)
        if killed["event"] == "acquired":  # the child was faster than its parent
            acquired, killed = killed, nursery.answer("killed")
        else:
            acquired = nursery.answer("acquired")
        assert acquired["pid"] == waiter
        assert lockers(path) == [waiter]
        assert tickets(path) == 0  # a winner waits no more
        delays.append((acquired["at"] - killed["at"]) * 1000)
        holder = waiter
    p99 = quantiles(delays, n=100)[98]
    print(f"kill -9 to acquired, 200 kills: p50 {median(delays):.2f} ms, p99 {p99:.2f} ms, max {max(delays):.2f} ms")
    assert median(delays) < 250  # woken, and not by the end of a nap; the figures are `bench kill`'s


@isolated
def test_a_holder_that_waited_would_close_its_lock_first(path: str) -> None:
    """A dying process closes its highest descriptors first, and to close an inotify instance takes milliseconds."""
    for first in True, False:
        stranger = Worker()
        stranger.ask("acquire", path)

        def let_go(stranger: Worker = stranger) -> None:
            until(lambda: queues(os.getpid(), path), "we wait")
            stranger.ask("release")

        helper = threading.Thread(target=let_go)
        helper.start()
        with Lock(path, timeout=20):
            helper.join()
            targets = descriptors()
            (lock_file,) = (fd for fd, target in targets.items() if target == path)
            (instance,) = (fd for fd, target in targets.items() if "inotify" in target)
            assert lock_file > instance, (first, targets)
        stranger.close()


def test_killed_waiters_leave_neither_a_ghost_nor_a_lost_wake_up(spawn: Spawn, path: str) -> None:
    """Of 16 waiters 9 die: the first, the last, and others; the rest get their turn without anybody napping."""
    holder, nursery = spawn(), spawn()
    holder.ask("acquire", path)
    queue = [enqueue(nursery, path) for _ in range(16)]
    victims = {0, 1, 15, *random.Random(4).sample(range(4, 15), 6)}  # 2 and 3 stay in front
    for index in sorted(victims, key=lambda index: index * 7 % 16):
        nursery.ask("kill", queue[index])
    assert tickets(path) == 16 - len(victims)

    released = holder.ask("release")["at"]
    left = {pid for index, pid in enumerate(queue) if index not in victims}
    delays = []
    while left:
        acquired = nursery.answer("acquired")
        left.remove(acquired["pid"])
        delays.append(acquired["at"] - released)
        released = nursery.ask("kill", acquired["pid"])["at"] if not left else _kill(nursery, acquired["pid"])
    assert tickets(path) == 0
    assert not lockers(path)
    assert median(delays) < 0.7 * NAP, delays


def _kill(nursery: Worker, pid: int) -> float:
    nursery.tell("kill", pid)
    at: float = nursery.answer("killed")["at"]
    return at


@pytest.mark.parametrize("fair", [False, True])
def test_when_all_in_front_are_killed_the_next_one_comes_within_a_nap(spawn: Spawn, path: str, fair: bool) -> None:
    holder, nursery = spawn(), spawn()
    holder.ask("acquire", path)
    queue = [enqueue(nursery, path, {"fair": fair}) for _ in range(FRONT + 2)]
    for pid in queue[:FRONT]:
        nursery.ask("kill", pid)
    released = holder.ask("release")["at"]
    acquired = nursery.answer("acquired")
    assert acquired["pid"] in queue[FRONT:]
    assert acquired["at"] - released < LONGEST_NAP + 20


@pytest.mark.parametrize("fair", [False, True])
def test_when_all_in_front_are_stopped_others_wait_no_longer_than_a_nap(spawn: Spawn, path: str, fair: bool) -> None:
    holder, nursery = spawn(), spawn()
    holder.ask("acquire", path)
    queue = [enqueue(nursery, path, {"fair": fair}) for _ in range(FRONT + 1)]
    for pid in queue[:FRONT]:
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: state(pid) == "T", "stopped")  # type: ignore[misc]
    released = holder.ask("release")["at"]
    acquired = nursery.answer("acquired")
    assert acquired["pid"] == queue[FRONT]
    assert acquired["at"] - released < LONGEST_NAP + 20

    # The stopped ones have lost nothing but time.
    for pid in queue[:FRONT]:
        os.kill(pid, signal.SIGCONT)
    left = set(queue[:FRONT])
    while left:
        _kill(nursery, acquired["pid"])
        acquired = nursery.answer("acquired")
        left.remove(acquired["pid"])


def test_a_stopped_holder_keeps_the_lock(spawn: Spawn, path: str) -> None:
    holder, other = spawn(), spawn()
    holder.ask("acquire", path)
    holder.stop()
    assert other.ask("attempt", path)["event"] == "contended"
    timed_out = other.ask("acquire", path, 0.3)
    assert timed_out["type"] == "Timeout"
    assert timed_out["holder"]["pid"] == holder.pid
    assert lockers(path) == [holder.pid]
    holder.signal(signal.SIGCONT)
    assert holder.ask("check") | {"at": 0} == {
        "event": "checked", "pid": holder.pid, "at": 0, "held": True, "lost": False, "error": None,
    }  # fmt: skip
    holder.ask("release")
    assert other.ask("attempt", path)["event"] == "acquired"


def test_a_storm_of_kills_never_lets_two_in(spawn: Spawn, path: str) -> None:
    """Holders and waiters die at random; each that acquires must find itself the only locker."""
    chance = random.Random(11)
    nursery = spawn()
    alive: list[int] = []
    acquired = 0
    holder = 0
    for _ in range(150):
        while len(alive) < 6:
            nursery.tell("spawn", path)
            alive.append(nursery.answer("spawned")["child"])
        if not holder:
            news = nursery.answer("acquired")
            holder = news["pid"]
            acquired += 1
            assert lockers(path) == [holder]
        victim = holder if chance.random() < 0.5 else chance.choice(alive)
        nursery.tell("kill", victim)
        nursery.answer("killed")
        alive.remove(victim)
        if victim == holder:
            holder = 0
        elif not holder:
            assert not queues(victim, path)
    assert acquired > 40
