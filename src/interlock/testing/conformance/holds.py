"""What a thread or task may do with what it holds: wait for itself, re-enter, drop it, look at it, send it away."""

from __future__ import annotations

import gc
import json
import os
import pickle
import time
from contextlib import AsyncExitStack

import pytest

from ... import DeadlockError, NotHeldError, Timeout, inspect
from .base import Referee, Suite, queued, scenario


class OwnHolds(Suite):
    """The second half of `LockSuite`."""

    @scenario
    async def test_waiting_for_oneself_is_a_deadlock(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        async with world.block(lock) as hold:
            for again in (lock, world.lock(target), world.lock(target, timeout=None)):
                with pytest.raises(DeadlockError, match="for ever"):
                    await world.acquire(again)
            with pytest.raises(DeadlockError):
                async with world.block(lock):
                    raise AssertionError("entered twice")
            assert hold.held
            assert not await world.other_gets(target)
        self.nothing_left(target)

    @scenario
    async def test_with_a_timeout_it_is_a_timeout(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)) as hold:
            with pytest.raises(Timeout):
                await world.acquire(world.lock(target), 0.05)
            assert await world.try_acquire(world.lock(target)) is None
            assert hold.held
        self.nothing_left(target)

    @scenario
    async def test_reentrant(self, target: str) -> None:
        world = self.world
        lock, twin = world.rlock(target), world.rlock(target)
        async with AsyncExitStack() as stack:
            holds = [await stack.enter_async_context(world.block(each)) for each in (lock, lock, twin, lock)]
            holds.append(await world.acquire(twin))
            extra = await world.try_acquire(lock)
            assert extra is not None
            assert len({id(hold) for hold in holds}) == 5
            await world.release(extra)
            with pytest.raises(NotHeldError):
                await world.release(extra)
            await world.release(holds.pop())
            assert all(hold.held for hold in holds)
            assert not await world.other_gets(target)
        self.nothing_left(target)
        assert await world.other_gets(target)

    @scenario
    async def test_reentrant_holds_count_in_any_order(self, target: str) -> None:
        world = self.world
        lock = world.rlock(target)
        holds = [await world.acquire(lock) for _ in range(3)]
        for number in (0, 2, 1):
            assert not await world.other_gets(target)
            await world.release(holds[number])
            assert not holds[number].held
        assert await world.other_gets(target)
        self.nothing_left(target)

    @scenario
    async def test_reentrant_excludes_others(self, target: str) -> None:
        world, referee = self.world, Referee()
        lock = world.rlock(target)

        async def work() -> None:
            for _ in range(10):
                async with world.block(lock):
                    referee.enter()
                    async with world.block(lock):
                        await world.pause()
                    referee.leave()

        async with world.group() as group:
            for _ in range(6):
                group.start(work)
        assert (referee.entered, referee.overlaps) == (60, 0)
        self.nothing_left(target)

    @scenario
    async def test_a_plain_lock_does_not_reenter_a_reentrant_hold(self, target: str) -> None:
        world = self.world
        async with world.block(world.rlock(target)):
            with pytest.raises(DeadlockError):
                await world.acquire(world.lock(target))
            assert await world.try_acquire(world.lock(target)) is None
        self.nothing_left(target)

    @scenario
    async def test_nobody_inherits_the_hold_of_one_that_ended(self, target: str) -> None:
        """Numbers of threads are given out again. Their holds are not."""
        world = self.world
        lock = world.rlock(target)
        hold = await world.elsewhere(world.acquire, lock)
        assert hold.held
        for _ in range(5):
            assert await world.elsewhere(world.try_acquire, lock) is None
        with pytest.raises(Timeout):
            await world.elsewhere(world.acquire, lock, 0.01)
        await world.release(hold)
        self.nothing_left(target)

    # ---- what is dropped, shown, stored

    @scenario
    async def test_a_dropped_hold_is_released_with_a_warning(self, target: str) -> None:
        world, referee = self.world, Referee()

        async def wait() -> None:
            async with world.block(world.lock(target)):
                referee.enter()
                referee.leave()

        async with world.group() as group:
            hold = await world.acquire(world.lock(target))
            group.start(wait)
            await world.until(lambda: queued(target) == 1)
            with pytest.warns(ResourceWarning, match="dropped without release"):  # noqa: PT031
                del hold
                gc.collect()
        assert referee.entered == 1
        self.nothing_left(target)

    @scenario
    async def test_inspect(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        free = lock.inspect()
        assert free.holders == ()
        assert free.engine == self.engine
        async with world.block(lock):
            for report in (lock.inspect(), inspect(target)):
                assert report.resource == target
                assert [party.pid for party in report.holders] == [os.getpid()]
                assert report.holders[0].since is not None
                assert report.holders[0].since_exact
                assert abs(time.time() - report.holders[0].since) < 30.0
                assert json.loads(json.dumps(report.as_dict()))["holders"][0]["pid"] == os.getpid()
        assert inspect(target).holders == ()
        self.nothing_left(target)

    @scenario
    async def test_repr(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        assert repr(target) in repr(lock)
        assert "not held" in repr(lock)
        async with world.block(lock) as hold:
            assert "not held" not in repr(lock)
            assert "held for" in repr(hold)
            assert repr(target) in repr(hold)
        assert "released" in repr(hold)

    @scenario
    async def test_locks_can_be_pickled_and_holds_not(self, target: str) -> None:
        world = self.world
        for lock in (world.lock(target, timeout=0), world.rlock(target, timeout=0)):
            again = pickle.loads(pickle.dumps(lock))  # noqa: S301 - made one line above
            assert type(again) is type(lock)
            async with world.block(lock) as hold:
                assert again.held
                with pytest.raises(Timeout):
                    await world.elsewhere(world.acquire, again)
                with pytest.raises(TypeError):
                    pickle.dumps(hold)
        self.nothing_left(target)
