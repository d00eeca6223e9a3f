"""A hold that is lost: told once, to everybody who asked, and by an event; whatever engine finds it out."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from ... import LostError, NotHeldError
from ..._core import lost
from ..._core.arbiter import turns
from .base import Suite, scenario

if TYPE_CHECKING:
    from ..._model import Claim


class Losses(Suite):
    """A part of `LockSuite`."""

    def claim(self, target: str) -> Claim:
        return turns[self.line(target)]

    @scenario
    async def test_a_loss_is_told_once_to_all(self, target: str) -> None:
        world = self.world
        told: list[str] = []
        async with world.block(world.lock(target)) as hold:
            hold.on_lost(told.append)
            hold.on_lost(told.append)
            assert not hold.lost
            assert hold.lost.reason == ""
            assert not hold.lost.wait(0)
            claim = self.claim(target)
            lost.tell(claim, "it was taken away")  # and with that its turn
            lost.tell(claim, "once more")
            assert hold.lost
            assert hold.lost.wait()
            assert hold.lost.reason == "it was taken away"
            assert told == ["it was taken away"] * 2
            hold.on_lost(told.append)
            assert told == ["it was taken away"] * 3
            with pytest.raises(LostError, match="taken away"):
                hold.assert_held()
            with pytest.raises(LostError):
                await world.renew(hold)
        assert hold.lost.reason == "it was taken away"
        self.nothing_left(target)

    @scenario
    async def test_a_release_is_no_loss(self, target: str) -> None:
        world = self.world
        told: list[str] = []
        async with world.block(world.lock(target)) as hold:
            hold.on_lost(told.append)
        async with world.block(world.lock(target)) as other:
            assert not hold.lost
            assert not hold.lost.wait(1.0)  # ends at once
            with pytest.raises(NotHeldError):
                hold.on_lost(told.append)
            assert not other.lost
        gc.collect()
        assert told == []
        self.nothing_left(target)

    @scenario
    async def test_a_callback_that_fails_hurts_nobody(self, target: str, caplog: pytest.LogCaptureFixture) -> None:
        world = self.world
        told: list[str] = []

        def fail(_reason: str) -> None:
            raise RuntimeError("of the callback")

        async with world.block(world.lock(target)) as hold:
            hold.on_lost(fail)
            hold.on_lost(told.append)
            lost.tell(self.claim(target), "gone")
        assert told == ["gone"]
        assert "of the callback" in caplog.text
        self.nothing_left(target)
