"""For engines that exclude processes: real ones, that wait, let go, fork and are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ... import Timeout
from .base import Referee, Suite, idle, scenario
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .worlds import World

_PEER = """
import sys
from interlock import Lock
lock, hold = Lock(sys.argv[1]), None
for line in sys.stdin:
    word = line.strip()
    if word == "acquire":
        hold = lock.acquire()
    elif word == "try":
        hold = lock.try_acquire()
    elif word == "release":
        hold.release()
    print(hold is not None and hold.held, flush=True)
"""

_FORKER = """
import os, sys
from interlock import Lock, NotHeldError
hold = Lock(sys.argv[1]).acquire()
if os.fork() == 0:
    said = [hold.held]
    for use in (hold.release, hold.assert_held, hold.renew):
        try:
            use()
        except NotHeldError as error:
            said.append("forked child" in str(error))
    print(said, flush=True)
    os._exit(0)
os.wait()
print(hold.held, flush=True)
sys.stdin.readline()
hold.release()
"""


class Peer:
    """Another process that locks when it is told to."""

    def __init__(self, target: str, program: str = _PEER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.tell(word)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class ProcessSuite(Suite):
    """Exclusion, waking and death across processes."""

    suite = "process"
    world: World

    @pytest.fixture
    def peer(self, target: str) -> Iterator[Peer]:
        peer = Peer(target)
        yield peer
        peer.end()

    @scenario
    async def test_excludes_both_ways(self, target: str, peer: Peer) -> None:
        world = self.world
        lock = world.lock(target)
        assert peer.ask("acquire") == "True"
        assert await world.try_acquire(lock) is None
        assert not lock.held
        with pytest.raises(Timeout) as caught:
            await world.acquire(lock, 0.05)
        assert caught.value.holder is None or caught.value.holder.pid == peer.pid
        assert peer.ask("release") == "False"
        async with world.block(lock):
            assert peer.ask("try") == "False"
        assert peer.ask("try") == "True"
        assert idle(target)

    @scenario
    async def test_wakes_when_the_other_lets_go(self, target: str, peer: Peer) -> None:
        for _ in range(5):
            assert peer.ask("acquire") == "True"
            await self._wait_and(target, lambda: peer.ask("release"))
        assert self.residue(target) == []

    @scenario
    async def test_wakes_when_the_other_is_killed(self, target: str, peer: Peer) -> None:
        assert peer.ask("acquire") == "True"
        if not self.traits(target).survives_crash:
            return
        await self._wait_and(target, peer.end)
        assert self.residue(target) == []

    async def _wait_and(self, target: str, act: Any) -> None:
        """Wait for the other process's lock, act when the wait has begun, and get it."""
        world, waits, got = self.world, [], []

        async def wait() -> None:
            waits.append(True)
            async with world.block(await world.acquire(world.lock(target), world.patience)) as hold:
                got.append(hold.waited)

        async with world.group() as group:
            group.start(wait)
            await world.until(lambda: waits and not idle(target))
            await world.pause(0.01)
            assert not got
            act()
            await world.until(lambda: got, "the wake-up")

    @scenario
    async def test_all_waiters_of_this_process_are_served(self, target: str, peer: Peer) -> None:
        world, referee, begun = self.world, Referee(), []

        async def wait() -> None:
            begun.append(True)
            async with world.block(world.lock(target)):
                referee.enter()
                referee.leave()

        assert peer.ask("acquire") == "True"
        async with world.group() as group:
            for _ in range(world.many):
                group.start(wait)
            await world.until(lambda: len(begun) == world.many)
            assert referee.entered == 0
            peer.ask("release")
        assert (referee.entered, referee.overlaps) == (world.many, 0)
        assert idle(target)
        assert self.residue(target) == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @scenario
    async def test_a_forked_child_has_nothing_and_frees_nothing(self, target: str) -> None:
        world = self.world
        forker = Peer(target, _FORKER)
        try:
            assert forker.answer() == "[False, True, True, True]"
            assert forker.answer() == "True"
            assert await world.try_acquire(world.lock(target)) is None
            forker.tell("end")
            async with world.block(await world.acquire(world.lock(target), world.patience)):
                pass
        finally:
            forker.end()


class BlockingProcessSuite(ProcessSuite):
    io = "blocking"
    world = Threads()


class _TaskProcessSuite(ProcessSuite):
    """Cancelled while the process waits for another one: then it is the engine that must leave nothing."""

    @scenario
    async def test_cancelled_at_every_step(self, target: str, peer: Peer) -> None:
        world = self.world
        assert peer.ask("acquire") == "True"
        for moment in range(8):
            async with world.group() as group:

                async def wait() -> None:
                    await world.acquire(world.lock(target))
                    raise AssertionError("acquired what another process holds")

                jobs = [group.start(wait) for _ in range(3)]
                for _ in range(moment):
                    await world.pause()
                for job in jobs:
                    job.cancel()
            assert idle(target)
            assert self.residue(target) == []
        await self._wait_and(target, lambda: peer.ask("release"))

    @scenario
    async def test_cancelling_the_one_that_asks_lets_the_next_ask(self, target: str, peer: Peer) -> None:
        world, got = self.world, []

        async def wait() -> None:
            async with world.block(world.lock(target)):
                got.append(True)

        assert peer.ask("acquire") == "True"
        async with world.group() as group:
            first = group.start(wait)
            await world.until(lambda: not idle(target))
            group.start(wait)
            await world.pause(0.01)
            first.cancel()
            await world.pause(0.01)
            peer.ask("release")
        assert got == [True]
        assert self.residue(target) == []


class AsyncioProcessSuite(_TaskProcessSuite):
    io = "asyncio"
    world = Asyncio()


class TrioProcessSuite(_TaskProcessSuite):
    io = "trio"
    world = Trio()
