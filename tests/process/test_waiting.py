"""Many waiters: tasks without threads, processes without polling."""

# ruff: noqa: ASYNC110 - what is awaited happens in other processes

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import AsyncLock
from interlock._core import arbiter

from .workers import Worker, isolated, locked_by_others, state, switches, tickets, until, work_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


class Crowd:
    """Tasks of one process that want the lock; each notes its turn, and that it was alone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.inside = 0
        self.served: list[int] = []
        self.threads = len(os.listdir("/proc/self/task"))
        self.files = len(os.listdir("/proc/self/fd"))

    async def member(self, number: int) -> None:
        async with AsyncLock(self.path):
            self.inside += 1
            assert self.inside == 1
            self.served.append(number)
            self.inside -= 1

    def all_wait(self, size: int) -> bool:
        (claim,) = arbiter.turns.values()
        return len(claim.line.queue) == size - 1 and tickets(self.path) == 1

    def is_light(self) -> None:
        """No thread, and no descriptor, per waiter."""
        assert threading.active_count() == 1
        assert len(os.listdir("/proc/self/task")) == self.threads
        assert len(os.listdir("/proc/self/fd")) <= self.files + 8

    def was_served(self, size: int) -> None:
        assert self.served == list(range(size))  # first come, first served
        assert not locked_by_others(self.path)
        assert not arbiter.turns


@isolated
def test_a_thousand_asyncio_tasks_wait_without_a_thread(path: str) -> None:
    holder = Worker()
    holder.ask("acquire", path)
    crowd = Crowd(path)

    async def main() -> None:
        tasks = [asyncio.create_task(crowd.member(number)) for number in range(1000)]
        await asyncio.sleep(0)
        while not crowd.all_wait(1000):
            await asyncio.sleep(0.01)
        crowd.is_light()
        assert not crowd.served
        holder.tell("release")
        await asyncio.gather(*tasks)
        crowd.is_light()

    asyncio.run(main())
    crowd.was_served(1000)
    holder.close()


@pytest.mark.usefixtures("trio")
@isolated
def test_two_hundred_trio_tasks_wait_without_a_thread(path: str) -> None:
    import trio

    holder = Worker()
    holder.ask("acquire", path)
    crowd = Crowd(path)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(crowd.member, number)
                await trio.lowlevel.checkpoint()
            while not crowd.all_wait(200):
                await trio.sleep(0.01)
            crowd.is_light()
            assert not crowd.served
            holder.tell("release")
        crowd.is_light()

    trio.run(main)
    assert sorted(crowd.served) == list(range(200))
    crowd.served.sort()  # trio starts tasks in no order
    crowd.was_served(200)
    holder.close()


@isolated
def test_tasks_of_several_processes_take_turns(path: str) -> None:
    """While a hundred tasks here queue, another process gets its turn too: one contender per process."""
    holder, other = Worker(), Worker()
    holder.ask("acquire", path)
    crowd = Crowd(path)

    async def main() -> None:
        tasks = [asyncio.create_task(crowd.member(number)) for number in range(100)]
        while not arbiter.turns or not crowd.all_wait(100):
            await asyncio.sleep(0.01)
        other.tell("acquire", path, 20)
        while tickets(path) < 2:
            await asyncio.sleep(0.01)
        holder.tell("release")
        while other.silent(0):
            await asyncio.sleep(0.001)
        assert other.answer()["event"] == "acquired"
        other.tell("release")
        await asyncio.gather(*tasks)

    asyncio.run(main())
    crowd.was_served(100)
    holder.close()
    other.close()


def test_waiting_processes_use_no_cpu(spawn: Spawn, path: str) -> None:
    """Twenty of them for three seconds: they wake only for their naps."""
    holder, nursery = spawn(), spawn()
    holder.ask("acquire", path)
    waiters = [nursery.ask("spawn", path)["child"] for _ in range(20)]
    until(lambda: tickets(path) == 20 and all(state(pid) == "S" for pid in waiters), "all wait")
    worked, woke = sum(map(work_seconds, waiters)), sum(map(switches, waiters))
    began = time.monotonic()
    while time.monotonic() - began < 3:
        time.sleep(3 - (time.monotonic() - began))
    seconds = time.monotonic() - began
    worked, woke = sum(map(work_seconds, waiters)) - worked, sum(map(switches, waiters)) - woke
    print(f"20 waiters, {seconds:.1f} s: {worked / seconds:.2%} of a core, {woke / 20 / seconds:.1f} wake-ups/s each")
    assert tickets(path) == 20
    assert worked < 0.10 * seconds
    assert woke < 20 * seconds * 4
