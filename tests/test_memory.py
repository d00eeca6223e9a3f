"""The memory engine, beyond what all engines promise."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from interlock import AsyncRWLock, AsyncSemaphore, Lock, RLock, RWLock, Semaphore, inspect
from interlock.engines.memory import MemoryEngine, engine


def test_its_traits() -> None:
    assert engine.traits.rows() == {
        "abilities": ("rwlock", "semaphore"),
        "name": "memory",
        "family": "session",
        "excludes": "threads",
        "fair": "fifo",
        "fences": True,
        "survives_crash": True,
        "wait": "events",
    }


def test_names_are_separate() -> None:
    with Lock("memory://#one"), Lock("memory://#two"), Lock("memory://a/b#one"):
        pass


def test_a_reentrant_hold_has_the_token_of_the_first() -> None:
    lock = RLock("memory://#reentrant")
    with lock as first, lock as second:
        assert first.token == second.token is not None
    with lock as third:
        assert third.token is not None
        assert first.token is not None
        assert third.token > first.token


def test_tokens_count_grants_of_one_name() -> None:
    tokens = []
    for _ in range(3):
        with Lock("memory://#counted") as hold:
            tokens.append(hold.token)
    with Lock("memory://#another") as hold:
        assert hold.token == 1
    assert tokens == [1, 2, 3]


def test_a_grant_that_vanished_is_lost() -> None:
    hold = Lock("memory://#vanished").acquire()
    engine._grants.clear()
    assert hold.lost
    hold.release()


def test_queues_do_not_pile_up() -> None:
    """Waiters of this process wait in the arbiter's line, not here."""
    own = MemoryEngine()
    assert own._queues == {}
    lock = Lock("memory://#piled")

    def work() -> None:
        for _ in range(50):
            with lock:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine._queues.get("#piled", deque()) == deque()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_holds_nothing_and_can_lock_its_own_memory() -> None:
    """Also when no lock on a path was ever made: then nothing else has arranged for forks."""
    program = """
import os
from interlock import Lock, NotHeldError
lock = Lock("memory://#x")
hold = lock.acquire()
if os.fork() == 0:
    assert not hold.held and not lock.held
    try:
        hold.release()
    except NotHeldError as error:
        assert "forked child" in str(error)
    else:
        raise AssertionError("released what is the parent's")
    with lock:
        assert lock.held
    print("child", flush=True)
    os._exit(0)
os.wait()
assert hold.held
hold.release()
print("parent")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("child\nparent\n", "")


@pytest.mark.parametrize("kind", ["write", "permit"])
def test_who_waits_in_a_loop_that_was_closed_over_it_blocks_nobody(kind: str) -> None:
    target = f"memory://#closed {kind}"
    left: list[asyncio.Task[Any]] = []

    async def wait() -> None:
        lock = AsyncRWLock(target).write() if kind == "write" else AsyncSemaphore(target, 1).acquire()
        left.append(asyncio.ensure_future(lock))
        for _ in range(100):
            await asyncio.sleep(0)

    def acquire(timeout: float) -> Any:
        return RWLock(target).write(timeout) if kind == "write" else Semaphore(target, 1).acquire(timeout)

    with acquire(0):
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: (loop.run_until_complete(wait()), loop.close()))
        thread.start()
        thread.join(60)
        assert len(inspect(target).waiters) == 1
    assert not inspect(target).waiters, "nobody looks for it any more"
    began = time.monotonic()
    with acquire(20):
        assert time.monotonic() - began < 10
    left.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
