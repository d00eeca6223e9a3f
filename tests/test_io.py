"""The three ways to wait: woken before, while and after sleeping, from every side, and never too long."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interlock._io import blocking, running
from interlock._io.asyncio import io_of_running_loop
from interlock._io.trio import io as trio_io
from interlock.testing.conformance.worlds import Asyncio, Threads, Trio, World

from .sources import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

WORLDS = pytest.mark.parametrize("world", [Threads(), Asyncio(), Trio()], ids=lambda world: world.name)
TASKS = pytest.mark.parametrize("world", [Asyncio(), Trio()], ids=lambda world: world.name)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sources are descriptors that poll(2) knows")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    os.close(pipe.writer)


def scenario(world: World, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    world.run(body)


def later(act: Callable[[], object]) -> threading.Thread:
    """From another thread, when this one probably sleeps. What is tested holds in any order."""

    def run() -> None:
        time.sleep(0.02)
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@WORLDS
def test_unparked_before(world: World) -> None:
    async def body() -> None:
        io = world.io()
        parker = io.parker()
        parker.unpark()
        parker.unpark()
        assert await io.park(parker, io.now() + 100)
        assert not await io.park(parker, io.now() + 0.01)  # both were one wake-up

    scenario(world, body)


@WORLDS
def test_unparked_before_with_a_source(world: World, pipe: Pipe) -> None:
    async def body() -> None:
        io = world.io()
        parker = io.parker(pipe)
        parker.unpark()
        assert await io.park(parker, io.now() + 100)
        assert not await io.park(parker, io.now() + 0.01)

    scenario(world, body)


@WORLDS
@pytest.mark.parametrize("sourced", [False, True])
def test_the_deadline_wakes(world: World, sourced: bool, pipe: Pipe) -> None:
    async def body() -> None:
        io = world.io()
        parker = io.parker(pipe if sourced else None)
        for seconds in (-1.0, 0.0, 0.0002, 0.05):
            began = io.now()
            assert not await io.park(parker, began + seconds)
            assert seconds - 0.0015 <= io.now() - began < max(seconds, 0.0) + 20

    scenario(world, body)


@WORLDS
@pytest.mark.parametrize("sourced", [False, True])
def test_unparked_by_another_thread(world: World, sourced: bool, pipe: Pipe) -> None:
    async def body() -> None:
        io = world.io()
        parker = io.parker(pipe if sourced else None)
        thread = later(parker.unpark)
        began = io.now()
        limit = began + 120
        while not await io.park(parker, limit):
            assert io.now() < limit
        assert io.now() - began < 60
        thread.join()

    scenario(world, body)


@WORLDS
def test_news_wake(world: World, pipe: Pipe) -> None:
    """In the world of threads the news are left to the caller to read; in the others the event loop reads them."""

    async def body() -> None:
        io = world.io()
        parker = io.parker(pipe)
        pipe.parkers.append(parker)
        thread = later(pipe.tell)
        assert await io.park(parker, io.now() + 30)
        thread.join()
        pipe.drain()
        assert pipe.drained == 1

    scenario(world, body)


@TASKS
def test_an_endless_sleep_can_be_woken_by_a_task(world: World) -> None:
    async def body() -> None:
        io = world.io()
        parker = io.parker()
        woken: list[bool] = []

        async def sleep() -> None:
            woken.append(await io.park(parker, float("inf")))

        async with world.group() as group:
            group.start(sleep)
            await world.pause(0.01)
            assert not woken
            parker.unpark()
        assert woken == [True]

    scenario(world, body)


@TASKS
@pytest.mark.parametrize("sourced", [False, True])
def test_one_that_is_always_woken_lets_others_run(world: World, sourced: bool, pipe: Pipe) -> None:
    """Else a waiter that is woken without end would keep the holder, in the same loop, from releasing."""

    async def body() -> None:
        io = world.io()
        parker = io.parker(pipe if sourced else None)
        turns: list[bool] = []

        async def other() -> None:
            for _ in range(20):
                turns.append(True)
                await world.pause()

        async with world.group() as group:
            group.start(other)
            for _ in range(100):
                parker.unpark()
                assert await io.park(parker, io.now() + 30)
            assert len(turns) == 20

    scenario(world, body)


@TASKS
def test_one_reader_serves_all_waiters(world: World, pipe: Pipe) -> None:
    async def body() -> None:
        io = world.io()
        parkers = [io.parker(pipe) for _ in range(50)]
        pipe.parkers.extend(parkers)
        woken: list[bool] = []

        async def sleep(parker: Any) -> None:
            woken.append(await io.park(parker, io.now() + 30))

        async with world.group() as group:
            for parker in parkers:
                group.start(sleep, parker)
            await world.pause(0.01)
            pipe.tell()
        assert woken == [True] * 50
        assert pipe.drained == 1

    scenario(world, body)


@TASKS
def test_a_cancelled_sleep_leaves_no_reader(world: World, pipe: Pipe) -> None:
    async def body() -> None:
        io = world.io()

        async def sleep() -> None:
            await io.park(io.parker(pipe), float("inf"))

        async with world.group() as group:
            jobs = [group.start(sleep) for _ in range(3)]
            await world.pause(0.01)
            for job in jobs:
                job.cancel()
        if world.name == "asyncio":
            assert not asyncio.get_running_loop().remove_reader(pipe.fileno())
        parker = io.parker(pipe)
        pipe.parkers.append(parker)
        pipe.tell()
        assert await io.park(parker, io.now() + 30)

    scenario(world, body)


@WORLDS
def test_a_call_is_made_and_its_error_passed(world: World) -> None:
    async def body() -> None:
        io = world.io()
        assert await io.call(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await io.call(divmod, 7, 0)

    scenario(world, body)


@WORLDS
def test_owners_are_threads_and_tasks(world: World) -> None:
    async def body() -> None:
        io = world.io()
        mine = io.owner()
        assert io.owner() is mine

        async def owner() -> object:
            return io.owner()

        for _ in range(3):
            assert await world.elsewhere(owner) is not mine

    scenario(world, body)


def test_no_thread_is_taken_for_one_that_ended() -> None:
    """The system gives idents out again, mostly at once."""
    owners: list[object] = []
    idents: set[int] = set()

    def note() -> None:
        owners.append(blocking.io.owner())
        idents.add(threading.get_ident())

    for _ in range(20):
        thread = threading.Thread(target=note)
        thread.start()
        thread.join()
    assert len(set(map(id, owners))) == 20
    assert len(idents) < 20


# ---- shield


@TASKS
@pytest.mark.parametrize("suspends", [False, True])
def test_a_shield_ends_what_it_began(world: World, suspends: bool) -> None:
    async def body() -> None:
        io = world.io()
        did: list[str] = []

        async def undo() -> str:
            did.append("begun")
            if suspends:
                await world.pause(0.05)
            did.append("ended")
            return "result"

        async def work() -> None:
            try:
                await world.pause(3600)
            finally:
                assert await io.shield(undo()) == "result"

        async with world.group() as group:
            job = group.start(work)
            await world.pause(0.01)
            job.cancel()
            await world.pause(0.01)
            job.cancel()
        assert did == ["begun", "ended"]

    scenario(world, body)


def test_asyncio_delivers_a_cancellation_after_the_shield() -> None:
    async def main() -> None:
        did: list[str] = []

        async def undo() -> None:
            await asyncio.sleep(0.05)
            did.append("ended")

        async def work() -> None:
            await io_of_running_loop().shield(undo())
            did.append("never")

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert did == ["ended"]

    asyncio.run(main())


@WORLDS
def test_a_shield_passes_errors(world: World) -> None:
    async def body() -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async def suspend_and_fail() -> None:
            await world.pause()
            raise ZeroDivisionError

        for undo in (fail, suspend_and_fail):
            with pytest.raises(ZeroDivisionError):
                await world.io().shield(undo())

    scenario(world, body)


# ---- which io


def test_running_finds_the_event_loop() -> None:
    async def of_trio() -> None:
        assert running() is trio_io

    async def of_asyncio() -> None:
        io: Any = running()
        assert io is io_of_running_loop()

    trio.run(of_trio)
    asyncio.run(of_asyncio())
    with pytest.raises(RuntimeError):
        running()


def test_each_loop_has_its_own_io_and_takes_it_along() -> None:
    async def get() -> int:
        assert io_of_running_loop() is io_of_running_loop()
        return id(io_of_running_loop())

    from interlock._io import asyncio as module

    for _ in range(3):
        asyncio.run(get())
    gc.collect()
    assert len(module._ios) == 0


# ---- asyncio: loops that are closed


def test_unparking_the_task_of_a_closed_loop_says_so() -> None:
    loop = asyncio.new_event_loop()
    box: list[Any] = []

    async def leave() -> None:
        io = io_of_running_loop()
        box.append(io.parker())
        box.append(asyncio.ensure_future(io.park(box[0], float("inf"))))
        await asyncio.sleep(0.01)

    loop.run_until_complete(leave())
    assert box[0].unpark() is True
    loop.close()
    assert box[0].unpark() is False
    told: list[object] = []
    thread = threading.Thread(target=lambda: told.append(box[0].unpark()))
    thread.start()
    thread.join()
    assert told == [False]
    box.pop()._log_destroy_pending = False
