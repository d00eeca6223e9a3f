"""Read-write locks and semaphores between processes, and between the worlds of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ... import AsyncRWLock, AsyncSemaphore, ProtocolError, RWLock, Semaphore
from .base import scenario
from .mixed import MixedSuite
from .processes import Peer
from .sharing import _Crowd, _Sharing
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .worlds import World

_PEER = """
import sys
from interlock import RWLock, Semaphore
lock = {make}
holds = []
for line in sys.stdin:
    verb, _, how = line.strip().partition(" ")
    if verb == "lock":
        holds.append(getattr(lock, how)())
    elif verb == "hold":
        getattr(holds[-1], how)()
    if verb == "hold" and how == "release" or holds[-1:] == [None]:
        print(holds.pop(), flush=True)
    else:
        print(getattr(holds[-1], "slot", None) if "Semaphore" in repr(lock) else holds[-1].mode, flush=True)
"""

_LEAVES = {"read": {"read", "update"}, "update": {"read"}, "write": set()}
"""Beside a hold of this mode, those of these modes can be had."""


class _FarSuite(_Sharing):
    make = ""
    world: World

    @pytest.fixture
    def peer(self, target: str) -> Iterator[Peer]:
        peer = Peer(target, _PEER.format(make=self.make))
        yield peer
        peer.end()

    async def _waits_until(self, lock: Any, verb: str, act: Any) -> Any:
        """Call a verb that must wait, act when it does, and have what it then gives."""
        world = self.world
        begun: list[bool] = []
        got: list[Any] = []

        async def wait() -> None:
            begun.append(True)
            got.append(await self._do(lock, verb, world.patience))

        async with world.group() as group:
            group.start(wait)
            await world.until(lambda: begun)
            await world.pause(0.05)
            assert not got, f"{verb} did not wait"
            act()
            await world.until(lambda: got, f"the end of {verb}")
        return got[0]


class RWLockProcessSuite(_FarSuite):
    """Modes between processes, upgrades and downgrades, order, and death."""

    suite = "rwlock process"
    make = "RWLock(sys.argv[1])"

    def _lock(self, target: str) -> Any:
        return (RWLock if isinstance(self.world, Threads) else AsyncRWLock)(target)

    async def _free(self, target: str) -> set[str]:
        found = set()
        for mode in _LEAVES:
            hold = await self._do(self._lock(target), f"try_{mode}")
            if hold is not None:
                found.add(mode)
                await self._do(hold, "release")
        return found

    @scenario
    async def test_what_each_mode_leaves_to_other_processes(self, target: str, peer: Peer) -> None:
        for mode, leaves in _LEAVES.items():
            assert peer.ask(f"lock {mode}") == mode
            assert await self._free(target) == leaves
            peer.ask("hold release")
            hold = await self._do(self._lock(target), mode)
            for other in _LEAVES:
                assert (peer.ask(f"lock try_{other}") == other) is (other in leaves)
                if other in leaves:
                    peer.ask("hold release")
            await self._do(hold, "release")
        self.nothing_left(target)

    @pytest.mark.parametrize("theirs", ["read", "update", "write"])
    @pytest.mark.parametrize("end", ["release", "kill"])
    @scenario
    async def test_a_writer_waits_until_they_let_go_or_die(
        self, target: str, peer: Peer, theirs: str, end: str
    ) -> None:
        peer.ask(f"lock {theirs}")
        act = peer.end if end == "kill" else lambda: peer.ask("hold release")
        hold = await self._waits_until(self._lock(target), "write", act)
        assert hold.mode == "write"
        await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_who_comes_to_read_after_a_writer_waits_behind_it(self, target: str, peer: Peer) -> None:
        other = Peer(target, _PEER.format(make=self.make))
        try:
            assert other.ask("lock read") == "read"

            def act() -> None:
                assert peer.ask("lock try_read") == "None"
                other.ask("hold release")

            hold = await self._waits_until(self._lock(target), "write", act)
            await self._do(hold, "release")
            assert peer.ask("lock try_read") == "read"
        finally:
            other.end()
        self.nothing_left(target)

    @pytest.mark.parametrize("end", ["release", "kill"])
    @scenario
    async def test_an_upgrade_waits_for_readers_of_other_processes(self, target: str, peer: Peer, end: str) -> None:
        hold = await self._do(self._lock(target), "update")
        assert peer.ask("lock read") == "read"
        assert not await self._do(hold, "try_upgrade")
        assert hold.mode == "update"
        await self._waits_until(hold, "upgrade", peer.end if end == "kill" else lambda: peer.ask("hold release"))
        assert hold.mode == "write"
        await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_a_downgrade_lets_other_processes_in(self, target: str, peer: Peer) -> None:
        assert peer.ask("lock write") == "write"
        hold = await self._waits_until(self._lock(target), "read", lambda: peer.ask("hold downgrade"))
        assert hold.mode == "read"
        assert peer.ask("lock try_write") == "None"
        await self._do(hold, "release")
        self.nothing_left(target)


class SemaphoreProcessSuite(_FarSuite):
    """Slots between processes, and death."""

    suite = "semaphore process"
    make = "Semaphore(sys.argv[1], 2)"

    def _semaphore(self, target: str, permits: int = 2, **options: Any) -> Any:
        return (Semaphore if isinstance(self.world, Threads) else AsyncSemaphore)(target, permits, **options)

    @scenario
    async def test_no_more_than_the_permits_and_each_slot_once(self, target: str, peer: Peer) -> None:
        assert peer.ask("lock acquire") == "0"
        hold = await self._do(self._semaphore(target), "acquire")
        assert hold.slot == 1
        assert await self._do(self._semaphore(target), "try_acquire") is None
        assert peer.ask("lock try_acquire") == "None"
        peer.ask("hold release")
        again = await self._do(self._semaphore(target), "try_acquire")
        assert again.slot == 0
        assert peer.ask("lock try_acquire") == "None"
        await self._do(hold, "release")
        assert peer.ask("lock try_acquire") == "1"
        await self._do(again, "release")
        self.nothing_left(target)

    @pytest.mark.parametrize("fair", [False, True])
    @pytest.mark.parametrize("end", ["release", "kill"])
    @scenario
    async def test_a_waiter_gets_the_slot_that_was_let_go(self, target: str, peer: Peer, end: str, fair: bool) -> None:
        mine = await self._do(self._semaphore(target), "acquire")
        assert peer.ask("lock acquire") == "1"
        act = peer.end if end == "kill" else lambda: peer.ask("hold release")
        hold = await self._waits_until(self._semaphore(target, fair=fair), "acquire", act)
        assert (mine.slot, hold.slot) == (0, 1)
        await self._do(mine, "release")
        await self._do(hold, "release")
        self.nothing_left(target)

    @scenario
    async def test_all_must_name_the_same_number(self, target: str, peer: Peer) -> None:
        assert peer.ask("lock acquire") == "0"
        with pytest.raises(ProtocolError):
            await self._do(self._semaphore(target, 3), "try_acquire")
        peer.ask("hold release")
        hold = await self._do(self._semaphore(target, 3), "acquire")
        await self._do(hold, "release")
        self.nothing_left(target)


class _MixedSharing(MixedSuite):
    def _crowd(self, target: str, make: Any, plan: tuple[tuple[str, Any], ...]) -> _Crowd:
        """In every world, each of the plan's (verb, what it counts as) again and again."""
        crowd = _Crowd()

        async def body(world: World) -> None:
            async def work(verb: str, how: Any) -> None:
                lock = make(world, target)
                for _ in range(10):
                    hold = getattr(lock, verb)(world.patience)
                    hold = hold if isinstance(world, Threads) else await hold
                    inside = hold.slot if how is None else how
                    crowd.enter(inside)
                    await world.pause()
                    crowd.leave(inside)
                    ended = hold.release()
                    if ended is not None:
                        await ended

            async with world.group() as group:
                for verb, how in plan:
                    group.start(work, verb, how)

        self._together(body)
        assert self.residue(target) == []
        return crowd


class RWLockMixedSuite(_MixedSharing):
    """Threads, asyncio tasks and trio tasks at one read-write lock."""

    suite = "rwlock mixed"

    def test_exclusion(self, target: str) -> None:
        def make(world: World, target: str) -> Any:
            return (RWLock if isinstance(world, Threads) else AsyncRWLock)(target)

        plan = tuple((mode, mode) for mode in ("read", "read", "update", "write"))
        crowd = self._crowd(target, make, plan)
        assert (crowd.entered, crowd.faults) == (4 * 10 * len(self.worlds), [])


class SemaphoreMixedSuite(_MixedSharing):
    """Threads, asyncio tasks and trio tasks at one semaphore."""

    suite = "semaphore mixed"

    def test_exclusion(self, target: str) -> None:
        def make(world: World, target: str) -> Any:
            return (Semaphore if isinstance(world, Threads) else AsyncSemaphore)(target, 2)

        crowd = self._crowd(target, make, (("acquire", None),) * 3)
        assert (crowd.entered, crowd.faults) == (3 * 10 * len(self.worlds), [])
        assert crowd.most <= 2


class BlockingRWLockProcessSuite(RWLockProcessSuite):
    io = "blocking"
    world = Threads()


class AsyncioRWLockProcessSuite(RWLockProcessSuite):
    io = "asyncio"
    world = Asyncio()


class TrioRWLockProcessSuite(RWLockProcessSuite):
    io = "trio"
    world = Trio()


class BlockingSemaphoreProcessSuite(SemaphoreProcessSuite):
    io = "blocking"
    world = Threads()


class AsyncioSemaphoreProcessSuite(SemaphoreProcessSuite):
    io = "asyncio"
    world = Asyncio()


class TrioSemaphoreProcessSuite(SemaphoreProcessSuite):
    io = "trio"
    world = Trio()
