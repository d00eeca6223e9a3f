"""What only tasks can do: be cancelled at every point where they wait, and wait by the hundred without a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ... import AsyncLock, Timeout
from ..._io import running
from .base import Referee, idle, queued, scenario
from .locks import LockSuite
from .scopes import Scopes
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from .worlds import Job, TaskWorld

MOMENTS = 8
"""Points of the event loop's time, from the start of a waiter on, at which it is cancelled."""


_HERE = object()


class _Suspended:
    def __await__(self) -> Generator[object, None, None]:
        yield _HERE


class _UntilSuspended:
    """Awaits a coroutine, what it needs of the event loop included, until it comes to `_Suspended`; leaves it there."""

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, None]:
        pending = self._coroutine.send(None)
        while pending is not _HERE:
            pending = self._coroutine.send((yield pending))


class BlockingLockSuite(LockSuite):
    io = "blocking"
    world = Threads()


class TaskLockSuite(Scopes, LockSuite):
    """Cancellation leaves nothing held, nobody in line and no wake-up lost."""

    world: TaskWorld

    async def _cancelled(self, target: str, moment: int, act: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        """Start a waiter, let `moment` steps of the loop go by, act on it. It must end, leaving nothing."""
        world = self.world
        ended: list[str] = []

        async def wait() -> None:
            try:
                async with world.block(world.lock(target)):
                    ended.append("got it")
            finally:
                ended.append("ended")

        async with world.group() as group:
            job = group.start(wait)
            for _ in range(moment):
                await world.pause()
            await act(job)
            await world.until(lambda: not queued(target), "the end of the waiter")
        assert ended in ([], ["ended"], ["got it", "ended"])  # []: cancelled before its first step

    @scenario
    async def test_cancelled_while_it_waits(self, target: str) -> None:
        async def cancel(job: Job) -> None:
            job.cancel()

        for moment in range(MOMENTS):
            async with self.world.block(self.world.lock(target)) as hold:
                await self._cancelled(target, moment, cancel)
                assert hold.held
            self.nothing_left(target)
            assert await self.world.other_gets(target)

    @scenario
    async def test_cancelled_when_the_lock_is_free(self, target: str) -> None:
        async def cancel(job: Job) -> None:
            job.cancel()

        for moment in range(MOMENTS):
            await self._cancelled(target, moment, cancel)
            self.nothing_left(target)

    @scenario
    async def test_cancelled_in_the_step_of_the_grant(self, target: str) -> None:
        world = self.world
        for first in ("release", "cancel"):
            for moment in range(MOMENTS):
                hold = await world.acquire(world.lock(target))

                async def both(job: Job, hold: Any = hold, first: str = first) -> None:
                    if first == "cancel":
                        job.cancel()
                    await world.release(hold)
                    if first == "release":
                        job.cancel()

                await self._cancelled(target, moment, both)
                self.nothing_left(target)
                assert await world.other_gets(target)

    @scenario
    async def test_the_wake_up_of_a_cancelled_waiter_reaches_the_next(self, target: str) -> None:
        world = self.world
        for moment in range(MOMENTS):
            referee = Referee()
            jobs: list[Job] = []

            async def wait(referee: Referee = referee) -> None:
                async with world.block(world.lock(target)):
                    referee.enter()
                    referee.leave()

            async with world.group() as group:
                hold = await world.acquire(world.lock(target))
                for number in range(4):
                    jobs.append(group.start(wait))
                    await world.until(lambda: queued(target) == number + 1)  # noqa: B023
                await world.release(hold)
                for job in jobs[:3]:
                    job.cancel()
                    for _ in range(moment):
                        await world.pause()
            assert 1 <= referee.entered <= 4
            assert referee.overlaps == 0
            self.nothing_left(target)

    @scenario
    async def test_deadlines_around_it(self, target: str) -> None:
        world = self.world
        lock = world.lock(target)

        async def within(outer: float, inner: float, own: float | None) -> None:
            async with world.limit(outer), world.limit(inner):
                await world.acquire(lock, own)

        async with world.block(world.lock(target)) as hold:
            for outer, inner, own in ((0.02, 9, None), (9, 0.02, None), (9, 9, 0.02), (0.02, 0.02, 0.02), (0, 0, 0)):
                with pytest.raises(TimeoutError) as caught:
                    await world.elsewhere(within, outer, inner, own)
                if own == 0.02 and inner == 9:
                    assert isinstance(caught.value, Timeout)
                assert not queued(target)
            assert hold.held
        self.nothing_left(target)

    @scenario
    async def test_a_block_that_is_cancelled_releases(self, target: str) -> None:
        world = self.world
        inside: list[str] = []

        async def hold_on() -> None:
            async with world.block(world.lock(target)):
                inside.append("entered")
                await world.pause(3600)

        async with world.group() as group:
            job = group.start(hold_on)
            await world.until(lambda: inside)
            assert not await world.other_gets(target)
            job.cancel()
        self.nothing_left(target)

    @scenario
    async def test_an_error_of_a_sibling_cancels_the_waiter(self, target: str) -> None:
        world = self.world

        async def fail() -> None:
            await world.until(lambda: queued(target) == 2)
            raise ZeroDivisionError

        async def wait() -> None:
            await world.acquire(world.lock(target))
            raise AssertionError("acquired what is held")

        hold = await world.acquire(world.lock(target))
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with world.group() as group:
                group.start(wait)
                group.start(wait)
                group.start(fail)
        assert caught.group_contains(ZeroDivisionError)
        assert not caught.group_contains(AssertionError)
        assert not queued(target)
        await world.release(hold)
        self.nothing_left(target)

    @scenario
    async def test_waiting_takes_no_thread(self, target: str) -> None:
        world = self.world

        async def wait() -> None:
            async with world.block(world.lock(target)):
                pass

        threads = threading.active_count()
        async with world.group() as group, world.block(world.lock(target)):
            for _ in range(world.many):
                group.start(wait)
            await world.until(lambda: queued(target) == world.many)
            assert threading.active_count() < threads + world.many / 2  # others' may come and go
        self.nothing_left(target)

    @scenario
    async def test_a_coroutine_closed_inside_its_block_releases(self, target: str) -> None:
        world = self.world
        inside: list[bool] = []

        async def body() -> None:
            async with world.block(world.lock(target)):
                inside.append(True)
                await _Suspended()

        coroutine = body()
        await _UntilSuspended(coroutine)
        assert inside
        assert not await world.other_gets(target)
        await world.elsewhere(self._close_in_a_thread, coroutine)
        await world.until(lambda: idle(target))
        self.nothing_left(target)

    async def _close_in_a_thread(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Where no event loop runs, as at the end of one."""
        thread = threading.Thread(target=coroutine.close)
        thread.start()
        await self.world.until(lambda: not thread.is_alive())

    def test_outside_of_an_event_loop(self, target: str) -> None:
        with pytest.raises(RuntimeError):
            AsyncLock(target).acquire().send(None)
        self.nothing_left(target)


class TrioLockSuite(TaskLockSuite):
    io = "trio"
    world = Trio()

    @scenario
    async def test_shielded_scopes_hold_a_cancellation_back(self, target: str) -> None:
        import trio
        import trio.testing

        world, got = self.world, []

        async def wait(scope: trio.CancelScope) -> None:
            with scope, trio.CancelScope(shield=True):
                async with world.block(world.lock(target)):
                    got.append(True)

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery, world.block(world.lock(target)):
            nursery.start_soon(wait, scope)
            await world.until(lambda: queued(target) == 1)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert queued(target) == 1
        assert got == [True]
        self.nothing_left(target)


class _Thrown:
    """Awaits a coroutine and throws a cancellation into it at its k-th suspension, before the event loop sees what
    it waits for (`late`: when that has come, in the same step)."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], k: int, late: bool) -> None:
        self._coroutine = coroutine
        self._k = k
        self._late = late
        self.thrown = False

    def __await__(self) -> Generator[Any, Any, object]:
        step = 0
        error: BaseException | None = None
        try:
            while True:
                pending = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
                error = None
                step += 1
                if step == self._k and not self._late:
                    error = self._cancellation()
                    continue
                try:
                    yield pending
                except BaseException as raised:  # noqa: BLE001 - forwarded
                    error = raised
                if step == self._k and self._late:
                    error = self._cancellation()
        except StopIteration as end:
            return end.value

    def _cancellation(self) -> asyncio.CancelledError:
        self.thrown = True
        return asyncio.CancelledError()


class AsyncioLockSuite(TaskLockSuite):
    io = "asyncio"
    world = Asyncio()

    @scenario
    async def test_thrown_at_every_suspension(self, target: str) -> None:
        world = self.world
        for late in (False, True):
            for k in range(1, 100):
                thrown = await self._throw(target, k, late)
                self.nothing_left(target)
                assert await world.other_gets(target)
                if not thrown:
                    break
            assert 1 < k < 99, "a contended acquire suspends at least once, and not for ever"

    async def _throw(self, target: str, k: int, late: bool) -> bool:
        """One contended acquire, cancelled at step k. False: it has fewer steps, and got the lock."""
        world = self.world
        lock = world.lock(target)
        holder = await world.acquire(world.lock(target))
        stepped: list[_Thrown] = []

        async def wait() -> None:
            stepped.append(_Thrown(world.acquire(lock), k, late))
            hold: Any
            try:
                hold = await stepped[0]
            except asyncio.CancelledError:
                assert stepped[0].thrown
                return
            await world.release(hold)

        async with world.group() as group:
            group.start(wait)
            for _ in range(5):
                await world.pause()
            await world.release(holder)
        return stepped[0].thrown

    @scenario
    async def test_wait_for(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)):

            async def wait(own: float | None, outer: float) -> None:
                await asyncio.wait_for(world.acquire(world.lock(target), own), outer)

            for own, outer in ((None, 0.02), (9, 0.02), (0.02, 9), (0, 0), (None, 0)):
                with pytest.raises(TimeoutError):
                    await world.elsewhere(wait, own, outer)
            assert not queued(target)
        hold = await asyncio.wait_for(world.acquire(world.lock(target)), 9)
        await world.release(hold)
        self.nothing_left(target)

    @scenario
    async def test_wait_for_at_the_very_moment_of_the_grant(self, target: str) -> None:
        world = self.world
        for moment in range(MOMENTS):
            holder = await world.acquire(world.lock(target))
            task = asyncio.ensure_future(world.acquire(world.lock(target)))
            for _ in range(moment):
                await asyncio.sleep(0)
            await world.release(holder)
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            if isinstance(results[0], BaseException):
                assert isinstance(results[0], asyncio.CancelledError)
            else:
                await world.release(results[0])
            self.nothing_left(target)

    def test_a_closed_loop_blocks_nobody(self, target: str) -> None:
        """A task may be left in the line by a loop that was closed over it. Those behind it are served."""
        loop = asyncio.new_event_loop()
        left: list[asyncio.Task[Any]] = []

        async def leave_one() -> None:
            lock = AsyncLock(target)
            left.append(asyncio.ensure_future(lock.acquire()))
            await self.world.until(lambda: queued(target))

        def run_and_close() -> None:
            loop.run_until_complete(leave_one())
            loop.close()

        async def hold_and_go() -> None:
            world = self.world
            hold = await world.acquire(world.lock(target))
            thread = threading.Thread(target=run_and_close)
            thread.start()
            await world.until(lambda: not thread.is_alive())
            assert queued(target) == 1
            await world.release(hold)
            assert await world.other_gets(target)

        asyncio.run(hold_and_go())
        left.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
        assert idle(target)

    @scenario
    async def test_the_running_io_is_asyncio(self, target: str) -> None:
        assert type(running()) is type(self.world.io())
