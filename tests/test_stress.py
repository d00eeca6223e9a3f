"""Threads that change at every bytecode, as far as an interpreter with a global lock does it: what goes wrong in one
without such a lock often goes wrong here too, if more rarely. The free-threaded builds themselves run in hosted CI."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from interlock import AsyncLock, Lock, NotHeldError, RLock, Timeout
from interlock._core.arbiter import turns
from interlock._target import resolve
from interlock.testing.conformance import Referee

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 1.5
numbers = count()


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["kernel", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a.lock") if request.param == "kernel" else f"memory://#stress{next(numbers)}"


def together(*jobs: Callable[[], object]) -> None:
    """All at once, each in a thread; the first error is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def idle(target: str) -> None:
    line = resolve(target)
    assert line not in turns
    assert not line.queue


def test_every_way_at_once(target: str) -> None:
    """Blocks, holds, tries, timeouts, re-entrance and two event loops, on shared and on own objects."""
    referee, shared, reentrant = Referee(), Lock(target), RLock(target)
    until = time.monotonic() + SECONDS

    def inside(hold: Any) -> None:
        referee.enter()
        assert hold.held
        referee.leave()

    def blocks(lock: Lock) -> None:
        while time.monotonic() < until:
            with lock as hold:
                inside(hold)

    def nested() -> None:
        while time.monotonic() < until:
            with reentrant as outer, reentrant as inner:
                inside(inner)
                assert outer.held

    def attempts() -> None:
        chance = random.Random(1)
        while time.monotonic() < until:
            try:
                hold = Lock(target).acquire(chance.choice((0, 0.0001, 0.01)))
            except Timeout:
                continue
            inside(hold)
            hold.release()

    def tasks() -> None:
        async def work(lock: AsyncLock) -> None:
            while time.monotonic() < until:
                async with lock as hold:
                    inside(hold)
                    await asyncio.sleep(0)

        async def main() -> None:
            lock = AsyncLock(target)
            await asyncio.gather(*(work(lock) for _ in range(3)))

        asyncio.run(main())

    own = [lambda lock=lock: blocks(lock) for lock in (shared, shared, Lock(target))]
    together(*own, nested, attempts, tasks, tasks)
    assert referee.overlaps == 0
    assert referee.entered > 30
    idle(target)


def test_holds_that_change_hands(target: str) -> None:
    """Acquired by one thread, released by another, while a third waits for it."""
    referee = Referee()
    handed: list[Any] = []
    more = threading.Semaphore(0)
    room = threading.Semaphore(1)
    rounds = 150

    def acquire() -> None:
        lock = Lock(target)
        for _ in range(rounds):
            assert room.acquire(timeout=60)
            hold = lock.acquire()
            referee.enter()
            handed.append(hold)
            more.release()

    def release() -> None:
        for _ in range(rounds):
            assert more.acquire(timeout=60)
            hold = handed.pop()
            referee.leave()
            hold.release()
            with pytest.raises(NotHeldError):
                hold.release()
            room.release()

    def wait() -> None:
        for _ in range(rounds):
            with Lock(target):
                referee.enter()
                referee.leave()

    together(acquire, release, wait)
    assert (referee.entered, referee.overlaps) == (2 * rounds, 0)
    idle(target)


def test_locks_that_are_made_and_dropped(target: str) -> None:
    """The line of a resource comes and goes with its locks."""
    referee = Referee()
    until = time.monotonic() + SECONDS

    def work() -> None:
        while time.monotonic() < until:
            with Lock(target):
                referee.enter()
                referee.leave()

    together(*[work] * 6)
    assert referee.overlaps == 0
    idle(target)
