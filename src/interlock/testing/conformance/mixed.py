"""Threads, asyncio tasks and trio tasks of one process, all at one lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .base import Referee, Suite, idle, queued
from .worlds import Asyncio, Threads, Trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .worlds import World


class MixedSuite(Suite):
    """The worlds exclude each other and wake each other."""

    suite = "mixed"
    io = "mixed"
    worlds: tuple[World, ...] = (Threads(), Asyncio(), Trio())
    world = worlds[0]

    def _together(self, body: Callable[[World], Coroutine[Any, Any, None]]) -> list[threading.Thread]:
        """Run `body` in every world at once, each in a thread of its own."""
        errors: list[BaseException] = []

        def run(world: World) -> None:
            try:
                world.run(body, world)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads = [threading.Thread(target=run, args=(world,), daemon=True) for world in self.worlds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * self.world.patience)
            assert not thread.is_alive(), "a world hangs"
        if errors:
            raise errors[0]
        return threads

    def test_each_waits_for_each(self, target: str) -> None:
        """One world holds, the others wait; then the next one holds."""
        for holder in self.worlds:
            referee = Referee()
            held = threading.Event()

            async def body(world: World, holder: World = holder, referee: Referee = referee, held: Any = held) -> None:
                if world is holder:
                    async with world.block(world.lock(target)):
                        referee.enter(world.name)
                        held.set()
                        await world.until(lambda: queued(target) == len(self.worlds) - 1, "the others in line")
                        referee.leave()
                else:
                    await world.until(held.is_set)
                    async with world.block(world.lock(target)):
                        referee.enter(world.name)
                        await world.pause()
                        referee.leave()

            self._together(body)
            assert referee.order[0] == holder.name
            assert sorted(map(str, referee.order)) == sorted(world.name for world in self.worlds)
            assert referee.overlaps == 0
            assert idle(target)
            assert self.residue(target) == []

    def test_exclusion(self, target: str) -> None:
        referee = Referee()

        async def body(world: World) -> None:
            async def work() -> None:
                for _ in range(15):
                    async with world.block(world.lock(target)):
                        referee.enter(world.name)
                        await world.pause()
                        referee.leave()

            async with world.group() as group:
                for _ in range(4):
                    group.start(work)

        self._together(body)
        assert (referee.entered, referee.overlaps) == (4 * 15 * len(self.worlds), 0)
        assert idle(target)
        assert self.residue(target) == []
