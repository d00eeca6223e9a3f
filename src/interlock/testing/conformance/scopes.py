"""`AsyncHold.scope`: a block of a task that ends with its hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ... import LostError, NotHeldError
from ..._core import lost
from .base import scenario
from .losses import Losses

if TYPE_CHECKING:
    from ... import AsyncHold
    from .worlds import TaskWorld


class Scopes(Losses):
    """A part of `TaskLockSuite`."""

    world: TaskWorld

    @scenario
    async def test_a_scope_is_cancelled_by_the_loss(self, target: str) -> None:
        world = self.world
        inside: list[int] = []
        after: list[int] = []

        async def lose() -> None:
            await world.until(lambda: inside)
            lost.tell(self.claim(target), "taken away")

        async with world.group() as group, world.block(world.lock(target)) as hold:
            group.start(lose)
            with pytest.raises(LostError, match="taken away"):  # noqa: PT012
                async with cast("AsyncHold", hold).scope():
                    inside.append(1)
                    await world.pause(3600)
                    after.append(1)
            await world.pause()  # no cancellation stays behind
        assert (inside, after) == ([1], [])
        self.nothing_left(target)

    @scenario
    async def test_a_scope_passes_everything_else(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)) as both:
            hold = cast("AsyncHold", both)
            async with hold.scope():
                await world.pause()
            with pytest.raises(ZeroDivisionError):
                async with hold.scope():
                    raise ZeroDivisionError
            with pytest.raises(TimeoutError):
                async with world.limit(0.01), hold.scope():
                    await world.pause(3600)
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with hold.scope():
                    lost.tell(self.claim(target), "taken away")
                    raise ZeroDivisionError  # the body's own error is the one that counts
            with pytest.raises(LostError):
                async with hold.scope():
                    await world.pause(3600)
            await world.pause()
        with pytest.raises(NotHeldError):
            hold.scope()
        self.nothing_left(target)

    @scenario
    async def test_a_scope_that_did_not_wait_learns_at_its_end(self, target: str) -> None:
        world = self.world
        async with world.block(world.lock(target)) as hold:
            with pytest.raises(LostError):
                async with cast("AsyncHold", hold).scope():
                    lost.tell(self.claim(target), "taken away")
            await world.pause()
        self.nothing_left(target)
