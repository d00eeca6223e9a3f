"""The verbs of an engine, without locks, queues and timeouts around them.

Claims of two `Line` objects on one key know nothing of each other in this process, so to the engine they are
contenders of two processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._core.acquire import acquire
from ..._core.arbiter import Line
from ..._errors import UnsupportedError
from .base import Referee, Suite, scenario
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from ..._model import IO, Claim, Engine


class Contender:
    """One claim on a line of its own, and the stake that the acquire loop drives."""

    def __init__(self, line: Line, fair: bool = False) -> None:
        self.line = Line(line.engine, line.key, line.resource)
        self.engine: Engine = line.engine
        self.claim: Claim = self.engine.claim(self.line, self, fair)
        self.tries = 0
        self.granted = False

    async def try_acquire(self, io: IO, deadline: float = 0.0) -> bool:
        """Once. A deadline that has passed makes it the only try."""
        granted = await self.engine.try_acquire(io, self.claim, deadline)
        self.tries += 1
        return granted

    async def wait(self, io: IO, until: float) -> None:
        await self.engine.wait(io, self.claim, until)

    async def withdraw(self, io: IO) -> None:
        await self.engine.withdraw(io, self.claim)

    async def release(self, io: IO) -> None:
        self.granted = False
        await self.engine.release(io, self.claim)

    async def acquire(self, io: IO, seconds: float) -> bool:
        self.granted = await acquire(io, self, io.now() + seconds)
        return self.granted


class EngineSuite(Suite):
    """Grant, contention, release, withdrawal, waiting: what `interlock._model.Engine` promises."""

    suite = "engine"

    def contender(self, target: str, fair: bool = False) -> Contender:
        return Contender(self.line(target), fair)

    @scenario
    async def test_free_is_granted_and_taken_is_contended(self, target: str) -> None:
        io = self.world.io()
        one, two = self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        assert one.claim.since > 0
        assert not await two.try_acquire(io)
        assert two.claim.since == 0
        await two.withdraw(io)
        await one.release(io)
        assert self.residue(target) == []

    @scenario
    async def test_release_frees_and_may_be_repeated(self, target: str) -> None:
        io = self.world.io()
        one, two = self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        await one.release(io)
        await one.release(io)
        assert await two.try_acquire(io)
        await two.release(io)
        assert self.residue(target) == []

    @scenario
    async def test_release_removes_only_its_own(self, target: str) -> None:
        io = self.world.io()
        one, two, three = self.contender(target), self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        await one.release(io)
        assert await two.try_acquire(io)
        await one.release(io)
        await one.withdraw(io)
        one.engine.drop(one.claim)
        assert not await three.try_acquire(io)
        assert two.engine.lost(two.claim) == ""
        await three.withdraw(io)
        await two.release(io)

    @scenario
    async def test_withdrawing_a_loser_disturbs_nobody(self, target: str) -> None:
        io = self.world.io()
        one, two, three = self.contender(target), self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        assert not await two.try_acquire(io)
        await two.withdraw(io)
        await two.withdraw(io)
        assert not await three.try_acquire(io)
        await three.withdraw(io)
        await one.release(io)
        assert self.residue(target) == []

    @scenario
    async def test_withdrawing_a_winner_undoes_the_win(self, target: str) -> None:
        io = self.world.io()
        one, two = self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        await one.withdraw(io)
        assert await two.try_acquire(io)
        two.engine.drop(two.claim)
        two.engine.drop(two.claim)
        assert self.residue(target) == []

    @scenario
    async def test_a_claim_that_never_tried_can_be_dropped(self, target: str) -> None:
        io = self.world.io()
        one, two = self.contender(target), self.contender(target)
        assert await one.try_acquire(io)
        two.engine.drop(two.claim)
        await self.contender(target).withdraw(io)
        assert one.engine.lost(one.claim) == ""
        await one.release(io)

    @scenario
    async def test_the_short_way_agrees_with_the_loop(self, target: str) -> None:
        io = self.world.io()
        one, two, three = self.contender(target), self.contender(target), self.contender(target)
        assert await one.try_acquire(io)  # some engines make what they lock at the first try only
        await one.release(io)
        assert two.engine.try_now(two.claim, 0.0)
        assert two.claim.since > 0
        assert not three.engine.try_now(three.claim, 0.0)
        assert not await three.try_acquire(io)
        await two.release(io)
        assert await three.try_acquire(io)
        await three.release(io)
        assert self.residue(target) == []

    @scenario
    async def test_wait_never_oversleeps(self, target: str) -> None:
        io = self.world.io()
        late = []
        for _ in range(5):  # once may be the machine's fault
            one, two = self.contender(target), self.contender(target)
            assert await one.try_acquire(io)
            until = io.now() + 0.1
            while io.now() < until:
                assert not await two.try_acquire(io, until)
                await two.wait(io, until)
            late.append(io.now() - until)
            await two.withdraw(io)
            await one.release(io)
            if late[-1] < 1.0:
                break
        assert min(late) < 1.0, late
        assert self.residue(target) == []

    @scenario
    async def test_a_waiter_is_woken_by_the_release(self, target: str) -> None:
        io, world = self.world.io(), self.world
        for _ in range(5):
            one, two = self.contender(target), self.contender(target)
            assert await one.try_acquire(io)
            async with world.group() as group:
                group.start(self._waiter, two)
                await world.until(lambda: two.tries >= 2, "the second try of the waiter")  # noqa: B023
                await one.release(io)
                await world.until(lambda: two.granted, "the grant")  # noqa: B023
            await two.release(io)
        assert self.residue(target) == []

    async def _waiter(self, contender: Contender) -> None:
        assert await contender.acquire(self.world.io(), 10 * self.world.patience)

    @scenario
    async def test_wakes_at_once_where_it_waits_for_events(self, target: str) -> None:
        if self.traits(target).wait != "events":
            return
        io, world = self.world.io(), self.world
        late = 0
        for _ in range(20):
            one, two = self.contender(target), self.contender(target)
            assert await one.try_acquire(io)
            async with world.group() as group:
                group.start(self._waiter, two)
                await world.until(lambda: two.tries >= 2, "the second try of the waiter")  # noqa: B023
                await world.pause(0.002)
                released = io.now()
                await one.release(io)
            late += two.claim.since - released > 0.25
            await two.release(io)
        assert late <= 3, f"{late} of 20 waiters were not woken by the event"

    @scenario
    async def test_a_waiter_that_gives_up_passes_its_wake_up_on(self, target: str) -> None:
        io, world = self.world.io(), self.world
        for _ in range(5):
            one, two, three = self.contender(target), self.contender(target), self.contender(target)
            assert await one.try_acquire(io)
            far = io.now() + world.patience
            assert not await two.try_acquire(io, far)  # asks, subscribes, asks again, and never looks any more
            await two.wait(io, io.now())
            assert not await two.try_acquire(io, far)
            async with world.group() as group:
                group.start(self._waiter, three)
                await world.until(lambda: three.tries >= 2, "the second try of the waiter")  # noqa: B023
                await one.release(io)
                await two.withdraw(io)
            assert three.granted
            await three.release(io)
        assert self.residue(target) == []

    @scenario
    async def test_many_are_served_one_at_a_time(self, target: str) -> None:
        world, referee = self.world, Referee()

        async def work() -> None:
            for _ in range(10):
                contender = self.contender(target)
                assert await contender.acquire(world.io(), world.patience)
                referee.enter()
                await world.pause()
                referee.leave()
                await contender.release(world.io())

        async with world.group() as group:
            for _ in range(8):
                group.start(work)
        assert (referee.entered, referee.overlaps) == (80, 0)
        assert self.residue(target) == []

    def arrived(self, line: Line, waiters: int) -> bool:
        """Do so many wait, to the engine? To be overwritten where what was sent may arrive later."""
        return True

    @scenario
    async def test_fair_claims_are_granted_in_order(self, target: str) -> None:
        io, world = self.world.io(), self.world
        line = self.line(target)
        try:
            line.engine.require_fair(line.key)
        except UnsupportedError:
            assert self.traits(target).fair != "fifo"
            return
        holder = self.contender(target, fair=True)
        assert await holder.try_acquire(io)
        order: list[int] = []
        waiters = [self.contender(target, fair=True) for _ in range(5)]

        async def wait(number: int) -> None:
            await self._waiter(waiters[number])
            order.append(number)
            await waiters[number].release(world.io())

        async with world.group() as group:
            for number, waiter in enumerate(waiters):
                group.start(wait, number)
                await world.until(lambda: waiter.tries >= 2, "the second try of the waiter")  # noqa: B023
                await world.until(lambda: self.arrived(line, number + 1), "the waiter's arrival")  # noqa: B023
            await holder.release(io)
        assert order == [0, 1, 2, 3, 4]
        assert self.residue(target) == []

    @scenario
    async def test_tokens_rise_if_it_fences(self, target: str) -> None:
        io = self.world.io()
        tokens = []
        for _ in range(3):
            contender = self.contender(target)
            assert await contender.try_acquire(io)
            if hasattr(contender.engine, "assign_token"):
                contender.engine.assign_token(contender.claim)
            tokens.append(contender.claim.token)
            await contender.release(io)
        if self.traits(target).fences:
            assert all(isinstance(token, int) for token in tokens)
            assert tokens == sorted(set(tokens), key=tokens.index)
            assert tokens[0] < tokens[1] < tokens[2]  # type: ignore[operator]
        else:
            assert tokens == [None, None, None]

    @scenario
    async def test_reports(self, target: str) -> None:
        io = self.world.io()
        one = self.contender(target)
        free = one.engine.inspect(one.line)
        assert (free.engine, free.resource, free.holders) == (self.engine, one.line.resource, ())
        assert await one.try_acquire(io)
        held = one.engine.inspect(one.line)
        assert len(held.holders) == 1 or not held.complete
        holder, hint = one.engine.blame(one.line)
        assert holder is None or holder.pid is None or holder.pid > 0
        assert isinstance(hint, str)
        await one.release(io)
        assert one.engine.inspect(one.line).holders == ()

    def test_traits_are_of_the_known_kinds(self, target: str) -> None:
        traits = self.traits(target)
        assert traits.name == self.engine
        assert traits.family in ("session", "lease")
        assert traits.excludes in ("threads", "processes", "hosts")
        assert traits.fair in ("no starvation", "fifo")
        assert traits.rows()["name"] == traits.name


class BlockingEngineSuite(EngineSuite):
    io = "blocking"
    world = Threads()


class AsyncioEngineSuite(EngineSuite):
    io = "asyncio"
    world = Asyncio()


class TrioEngineSuite(EngineSuite):
    io = "trio"
    world = Trio()
