"""`Lock`, `RLock` and their async twins on an engine, by contenders of one process."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest

from ... import NotHeldError, Timeout, UnsupportedError
from .base import Referee, queued, scenario
from .holds import OwnHolds
from .losses import Losses

if TYPE_CHECKING:
    from .worlds import AnyHold, Group


class LockSuite(OwnHolds, Losses):
    """What users see of a lock, whatever engine is below."""

    suite = "lock"

    # ---- acquire, release

    @scenario
    async def test_acquire_excludes_until_release(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        assert not lock.held
        hold = await world.acquire(lock)
        assert hold.held
        assert lock.held
        assert not await world.other_gets(target)
        await world.release(hold)
        assert not hold.held
        assert not lock.held
        self.nothing_left(target)
        assert await world.other_gets(target)
        self.nothing_left(target)

    @scenario
    async def test_try_acquire(self, target: str) -> None:
        world = self.world
        hold = await world.try_acquire(world.lock(target))
        assert hold is not None
        assert await world.try_acquire(world.lock(target)) is None
        assert not await world.other_gets(target)
        await world.release(hold)
        self.nothing_left(target)

    @scenario
    async def test_block(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        for _ in range(2):
            async with world.block(lock) as hold:
                assert hold.held
                assert not await world.other_gets(target)
            assert not hold.held
            self.nothing_left(target)

    @scenario
    async def test_block_of_a_hold(self, target: str) -> None:
        world = self.world
        hold = await world.acquire(world.lock(target))
        async with world.block(hold) as same:
            assert same is hold
        assert not hold.held
        self.nothing_left(target)

    @scenario
    async def test_an_error_leaves_the_block_and_the_lock(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        with pytest.raises(ZeroDivisionError):
            async with world.block(lock):
                _ = 1 / 0
        with pytest.raises(ZeroDivisionError):
            async with world.block(await world.acquire(lock)):
                _ = 1 / 0
        self.nothing_left(target)

    @scenario
    async def test_a_block_may_be_released_early(self, target: str) -> None:
        """Also by others who use the same lock object meanwhile: leaving the block releases nobody else's hold."""
        world = self.world
        lock = world.lock(target)
        state = {"inside": False, "go": False, "held": False}

        async def other() -> None:
            async with world.block(lock) as hold:
                state["inside"] = True
                await world.until(lambda: state["go"])
                state["held"] = hold.held

        async with world.group() as group:
            async with world.block(lock) as first:
                await world.release(first)
                group.start(other)
                await world.until(lambda: state["inside"])
            assert lock.held
            state["go"] = True
        assert state["held"]
        self.nothing_left(target)

    @scenario
    async def test_a_block_may_be_released_by_a_block(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)
        state = {"inside": False, "go": False, "held": False}

        async def other() -> None:
            async with world.block(lock) as hold:
                state["inside"] = True
                await world.until(lambda: state["go"])
                state["held"] = hold.held

        async with world.group() as group:
            async with world.block(lock) as first:
                async with world.block(first):
                    pass
                assert not first.held
                group.start(other)
                await world.until(lambda: state["inside"])
            assert lock.held
            state["go"] = True
        assert state["held"]
        self.nothing_left(target)

    @scenario
    async def test_a_block_may_end_elsewhere_than_it_began(self, target: str) -> None:
        """Generators with a block inside do that, and so do the frameworks that run them."""
        world = self.world
        for kind in (world.lock, world.rlock):
            lock = kind(target)
            for early in (False, True, False):
                block = world.block(lock)
                hold = await world.elsewhere(block.__aenter__)
                if early:
                    await world.release(hold)
                await world.elsewhere(block.__aexit__, None, None, None)
                assert not hold.held
                self.nothing_left(target)
            async with world.block(lock):
                assert not await world.other_gets(target)
            self.nothing_left(target)

    @scenario
    async def test_released_twice(self, target: str) -> None:
        world = self.world
        hold = await world.acquire(world.lock(target))
        await world.release(hold)
        with pytest.raises(NotHeldError, match="released before"):
            await world.release(hold)
        second = await world.acquire(world.lock(target))
        with pytest.raises(NotHeldError):
            await world.release(hold)
        with pytest.raises(NotHeldError):
            hold.assert_held()
        with pytest.raises(NotHeldError):
            await world.renew(hold)
        assert second.held
        assert not await world.other_gets(target)
        await world.release(second)
        self.nothing_left(target)

    @scenario
    async def test_assert_held_renew_lost(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)) as hold:
            hold.assert_held()
            await world.renew(hold)
            assert not hold.lost
        assert not hold.lost

    @scenario
    async def test_released_by_another_contender(self, target: str) -> None:
        world = self.world
        hold = await world.acquire(world.lock(target))
        await world.elsewhere(world.release, hold)
        assert not hold.held
        self.nothing_left(target)
        assert await world.other_gets(target)

    @scenario
    async def test_tokens(self, target: str) -> None:
        world = self.world
        tokens: list[Any] = []
        for _ in range(3):
            async with world.block(world.lock(target)) as hold:
                tokens.append(hold.token)
        if self.traits(target).fences:
            assert tokens[0] < tokens[1] < tokens[2]
        else:
            assert tokens == [None, None, None]

    # ---- timeouts

    @scenario
    async def test_timeout_zero_is_one_attempt(self, target: str) -> None:
        world = self.world
        async with world.block(await world.acquire(world.lock(target), 0)):
            began = time.monotonic()
            with pytest.raises(Timeout):
                await world.elsewhere(world.acquire, world.lock(target), 0)
            assert time.monotonic() - began < 15
        self.nothing_left(target)

    @scenario
    async def test_timeout_says_what_how_long_and_who(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)):
            began = time.monotonic()
            with pytest.raises(Timeout) as caught:
                await world.elsewhere(world.acquire, world.lock(target), 0.1)
            assert 0.1 <= time.monotonic() - began < 15
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert error.resource == target
        assert 0.1 <= error.waited < 15
        assert target in str(error)
        assert isinstance(error.hint, str)
        if error.holder is not None:
            assert error.holder.pid == os.getpid()
            assert str(error.holder.pid) in str(error)
        else:
            assert self.traits(target).excludes == "hosts"
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made one line above
        assert (str(again), again.holder) == (str(error), error.holder)
        self.nothing_left(target)

    @scenario
    async def test_the_timeout_of_the_lock_and_of_the_call(self, target: str) -> None:
        world = self.world
        impatient = world.lock(target, timeout=0)
        state = {"got": False}

        async def patient() -> None:
            async with world.block(await world.acquire(impatient, None)):
                state["got"] = True

        async with world.group() as group, world.block(world.lock(target)):
            with pytest.raises(Timeout):
                await world.elsewhere(world.acquire, impatient)
            group.start(patient)
            await world.until(lambda: queued(target) == 1)
            assert not state["got"]
        assert state["got"]
        self.nothing_left(target)

    @scenario
    async def test_bad_timeouts(self, target: str) -> None:
        world = self.world
        bad: list[tuple[Any, type[Exception]]] = [
            (-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError), ([], TypeError),
        ]  # fmt: skip
        for timeout, error in bad:
            with pytest.raises(error):
                await world.acquire(world.lock(target), timeout)
            with pytest.raises(error):
                world.lock(target, timeout=timeout)
        self.nothing_left(target)

    @scenario
    async def test_waited(self, target: str) -> None:
        world = self.world
        box: list[float] = []

        async def wait() -> None:
            async with world.block(world.lock(target)) as hold:
                box.append(hold.waited)

        async with world.group() as group:
            hold = await world.acquire(world.lock(target))
            group.start(wait)
            await world.until(lambda: queued(target) == 1)
            await world.pause(0.05)
            await world.release(hold)
        assert hold.waited < 15
        assert 0.05 <= box[0] < 30

    # ---- waiting

    async def _waiters(self, group: Group, target: str, number: int, referee: Referee, **options: Any) -> None:
        """Start waiters one after the other, each when the one before it stands in line."""
        world = self.world

        async def wait(who: int) -> None:
            async with world.block(world.lock(target, **options)):
                referee.enter(who)
                await world.pause()
                referee.leave()

        for who in range(number):
            group.start(wait, who)
            await world.until(lambda: queued(target) == who + 1, "a place in the line")  # noqa: B023

    @scenario
    async def test_first_come_first_served(self, target: str) -> None:
        referee = Referee()
        async with self.world.group() as group, self.world.block(self.world.lock(target)):
            await self._waiters(group, target, 8, referee)
        assert referee.order == list(range(8))
        assert referee.overlaps == 0
        self.nothing_left(target)

    @scenario
    async def test_fair_is_in_order_or_refused(self, target: str) -> None:
        referee = Referee()
        try:
            lock = self.world.lock(target, fair=True)
        except UnsupportedError:
            assert self.traits(target).fair != "fifo"
            return
        async with self.world.group() as group, self.world.block(lock):
            await self._waiters(group, target, 4, referee, fair=True)
        assert referee.order == list(range(4))
        self.nothing_left(target)

    @scenario
    async def test_one_that_gives_up_in_the_line_leaves_it_in_order(self, target: str) -> None:
        world, referee = self.world, Referee()
        gave_up: list[Timeout] = []

        async def give_up() -> None:
            try:
                await world.acquire(world.lock(target), 0.05)
            except Timeout as error:
                gave_up.append(error)

        async def behind(who: int) -> None:
            async with world.block(world.lock(target)):
                referee.enter(who)
                referee.leave()

        async with world.group() as group, world.block(world.lock(target)):
            group.start(give_up)
            await world.until(lambda: queued(target) == 1)
            for who in range(3):
                group.start(behind, who)
                await world.until(lambda: queued(target) + len(gave_up) == who + 2)  # noqa: B023
            await world.until(lambda: gave_up)
        assert referee.order == [0, 1, 2]
        self.nothing_left(target)

    @scenario
    async def test_many_waiters_are_all_served(self, target: str) -> None:
        world, referee = self.world, Referee()

        async def wait() -> None:
            async with world.block(world.lock(target)):
                referee.enter()
                referee.leave()

        async with world.group() as group, world.block(world.lock(target)):
            for _ in range(world.many):
                group.start(wait)
            await world.until(lambda: queued(target) == world.many, "all in line")
        assert (referee.entered, referee.overlaps) == (world.many, 0)
        self.nothing_left(target)

    @scenario
    async def test_exclusion(self, target: str) -> None:
        """Waiting, timed and trying contenders, on shared and on own lock objects."""
        world, referee = self.world, Referee()
        shared, attempts = world.lock(target), [0]

        async def work(who: int) -> None:
            lock = shared if who % 2 else world.lock(target)
            for turn in range(20):
                attempts[0] += 1
                hold: AnyHold | None
                if turn % 3 == 0:
                    hold = await world.acquire(lock)
                elif turn % 3 == 1:
                    hold = await world.acquire(lock, world.patience)
                else:
                    hold = await world.try_acquire(lock)
                    if hold is None:
                        continue
                referee.enter()
                await world.pause()
                referee.leave()
                await world.release(hold)

        async with world.group() as group:
            for who in range(8):
                group.start(work, who)
        assert referee.overlaps == 0
        assert 8 * 14 <= referee.entered <= 160
        self.nothing_left(target)
