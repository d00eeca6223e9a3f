"""Read-write locks and semaphores on an engine that has them, by contenders of one process, in every world."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from ... import (
    AsyncRWLock,
    AsyncSemaphore,
    DeadlockError,
    NotHeldError,
    ProtocolError,
    RWLock,
    Semaphore,
    Timeout,
    UnsupportedError,
)
from ..._core.arbiter import granted, lines, turns
from .base import Suite, scenario
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from .worlds import World


class _Crowd:
    """Counts who is inside in which mode, and whether they may be together."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.inside: list[Any] = []
        self.most = 0
        self.faults: list[str] = []
        self.entered = 0

    def enter(self, how: Any) -> None:
        with self._mutex:
            others = list(self.inside)
            alone = how == "write" or "write" in others or (how != "read" and how in others)
            if others and alone:
                self.faults.append(f"{how} beside {others}")
            self.inside.append(how)
            self.most = max(self.most, len(self.inside))
            self.entered += 1

    def leave(self, how: Any) -> None:
        with self._mutex:
            self.inside.remove(how)


class _Sharing(Suite):
    """What the two suites need."""

    async def _do(self, target: Any, verb: str, *args: object) -> Any:
        """Call a verb that is awaited in worlds of tasks."""
        answer = getattr(target, verb)(*args)
        return answer if isinstance(self.world, Threads) else await answer

    def nothing_left(self, target: str) -> None:
        assert not granted
        assert not turns
        assert not any(line.queue for line in lines())
        assert self.residue(target) == []


class RWLockSuite(_Sharing):
    """Modes, upgrades, order."""

    suite = "rwlock"

    def _lock(self, target: str, **options: Any) -> Any:
        return (RWLock if isinstance(self.world, Threads) else AsyncRWLock)(target, **options)

    async def _taken(self, target: str) -> str:
        """The modes that another contender cannot have now."""

        async def look() -> str:
            found = []
            for mode in ("read", "update", "write"):
                hold = await self._do(self._lock(target), f"try_{mode}")
                if hold is None:
                    found.append(mode)
                else:
                    await self._do(hold, "release")
            return " ".join(found)

        return await self.world.elsewhere(look)

    @scenario
    async def test_what_each_mode_leaves_to_others(self, target: str) -> None:
        lock = self._lock(target)
        for mode, taken in (("read", "write"), ("update", "update write"), ("write", "read update write")):
            hold = await self._do(lock, mode)
            assert (hold.mode, lock.held) == (mode, mode)
            assert await self._taken(target) == taken
            await self._do(hold, "release")
            with pytest.raises(NotHeldError):
                await self._do(hold, "release")
            assert lock.held is None
            assert await self._taken(target) == ""
        self.nothing_left(target)

    @scenario
    async def test_up_and_down(self, target: str) -> None:
        hold = await self._do(self._lock(target), "update")
        await self._do(hold, "upgrade")
        assert await self._taken(target) == "read update write"
        await self._do(hold, "downgrade", "update")
        assert await self._taken(target) == "update write"
        assert await self._do(hold, "try_upgrade")
        await self._do(hold, "downgrade")
        assert await self._taken(target) == "write"
        with pytest.raises(UnsupportedError):
            await self._do(hold, "upgrade")
        await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_an_upgrade_waits_for_readers(self, target: str) -> None:
        world = self.world
        reader = await world.elsewhere(self._do, self._lock(target), "read")
        hold = await self._do(self._lock(target), "update")
        assert not await self._do(hold, "try_upgrade")
        with pytest.raises(Timeout):
            await self._do(hold, "upgrade", 0.02)
        assert hold.mode == "update"
        assert await self._taken(target) == "update write"
        done: list[bool] = []

        async def upgrade() -> None:
            await self._do(hold, "upgrade")
            done.append(True)

        async with world.group() as group:
            group.start(upgrade)
            await self._until_shut(target)
            assert not done
            await self._do(reader, "release")
        assert hold.mode == "write"
        await self._do(hold, "release")
        self.nothing_left(target)

    async def _until_shut(self, target: str) -> None:
        """Until new readers wait behind somebody."""
        for _ in range(20_000):
            if "read" in await self._taken(target):
                return
            await self.world.pause(0.001)
        raise AssertionError("new readers are let in for ever")

    @scenario
    async def test_readers_do_not_pass_a_writer_that_waits(self, target: str) -> None:
        seen = []
        for _ in range(4):  # a busy machine may leave the writer asleep, and a reader takes the free lock
            seen.append(await self._in_order(target))
            if seen[-1] == ["write", "read", "read"]:
                return
        raise AssertionError(seen)

    async def _in_order(self, target: str) -> list[str]:
        """Who gets it when, of a writer and of readers that come after it."""
        world = self.world
        order: list[str] = []
        first = await self._do(self._lock(target), "read")

        async def go(mode: str) -> None:
            hold = await self._do(self._lock(target), mode)
            order.append(mode)
            await self._do(hold, "release")

        async with world.group() as group:
            group.start(go, "write")
            await self._until_shut(target)
            group.start(go, "read")
            group.start(go, "read")
            await world.pause(0.02)
            assert order == []
            await self._do(first, "release")
        self.nothing_left(target)
        return order

    @scenario
    async def test_waiting_for_oneself(self, target: str) -> None:
        lock = self._lock(target)
        for mine, wanted in (("read", "write"), ("update", "update"), ("write", "read")):
            hold = await self._do(lock, mine)
            with pytest.raises(DeadlockError):
                await self._do(lock, wanted)
            with pytest.raises(Timeout):
                await self._do(lock, wanted, 0.01)
            await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_a_crowd(self, target: str) -> None:
        world, crowd = self.world, _Crowd()

        async def live(number: int) -> None:
            lock = self._lock(target)
            for turn in range(6):
                mode = ("read", "read", "update", "write")[(number + turn) % 4]
                hold = await self._do(lock, mode)
                crowd.enter(mode)
                await world.pause()
                if mode == "update":
                    crowd.leave(mode)
                    await self._do(hold, "upgrade")
                    mode = "write"
                    crowd.enter(mode)
                    await world.pause()
                crowd.leave(mode)
                await self._do(hold, "release")

        async with world.group() as group:
            for number in range(8):
                group.start(live, number)
        assert crowd.faults == []
        assert crowd.entered == 8 * 6 + 12
        self.nothing_left(target)


class SemaphoreSuite(_Sharing):
    """Counting, slots, disagreement."""

    suite = "semaphore"

    def _semaphore(self, target: str, permits: int, **options: Any) -> Any:
        return (Semaphore if isinstance(self.world, Threads) else AsyncSemaphore)(target, permits, **options)

    @scenario
    async def test_so_many_and_no_more(self, target: str) -> None:
        semaphore = self._semaphore(target, 3)
        holds = [await self._do(semaphore, "acquire") for _ in range(3)]
        assert sorted(hold.slot for hold in holds) == [0, 1, 2]
        assert await self._do(semaphore, "try_acquire") is None
        with pytest.raises(DeadlockError):
            await self._do(semaphore, "acquire")
        with pytest.raises(Timeout):
            await self._do(semaphore, "acquire", 0.01)
        await self._do(holds[1], "release")
        again = await self._do(semaphore, "acquire")
        assert again.slot == holds[1].slot
        for hold in (holds[0], again, holds[2]):
            await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_another_number_is_refused(self, target: str) -> None:
        hold = await self._do(self._semaphore(target, 2), "acquire")
        with pytest.raises(ProtocolError, match="of 2 permits"):
            await self._do(self._semaphore(target, 3), "acquire")
        await self._do(hold, "release")
        self.nothing_left(target)

    @pytest.mark.parametrize("fair", [False, True])
    @scenario
    async def test_a_crowd(self, target: str, fair: bool) -> None:
        world, crowd = self.world, _Crowd()

        async def live() -> None:
            semaphore = self._semaphore(target, 3, fair=fair)
            for _ in range(6):
                hold = await self._do(semaphore, "acquire")
                crowd.enter(hold.slot)
                await world.pause()
                crowd.leave(hold.slot)
                await self._do(hold, "release")

        async with world.group() as group:
            for _ in range(8):
                group.start(live)
        assert crowd.faults == []
        assert crowd.entered == 48
        assert crowd.most <= 3
        self.nothing_left(target)


class BlockingRWLockSuite(RWLockSuite):
    io = "blocking"
    world: World = Threads()


class AsyncioRWLockSuite(RWLockSuite):
    io = "asyncio"
    world: World = Asyncio()


class TrioRWLockSuite(RWLockSuite):
    io = "trio"
    world: World = Trio()


class BlockingSemaphoreSuite(SemaphoreSuite):
    io = "blocking"
    world: World = Threads()


class AsyncioSemaphoreSuite(SemaphoreSuite):
    io = "asyncio"
    world: World = Asyncio()


class TrioSemaphoreSuite(SemaphoreSuite):
    io = "trio"
    world: World = Trio()
