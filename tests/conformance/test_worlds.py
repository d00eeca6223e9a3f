"""The worlds of the suite: no error in them is lost, and nothing hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interlock.testing.conformance.worlds import Asyncio, Threads, Trio, World

if TYPE_CHECKING:
    from collections.abc import Generator

WORLDS = pytest.mark.parametrize("world", [Threads(), Asyncio(), Trio()], ids=lambda world: world.name)


class Suspended:
    def __await__(self) -> Generator[None, None, None]:
        yield


def test_a_thread_that_suspends_is_found() -> None:
    async def body() -> None:
        await Suspended()

    with pytest.raises(RuntimeError, match="suspended"):
        Threads().run(body)


@WORLDS
def test_an_error_of_a_contender_is_not_lost(world: World) -> None:
    async def body() -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async with world.group() as group:
            group.start(fail)

    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        world.run(body)


@WORLDS
def test_what_never_happens_fails(world: World) -> None:
    async def body() -> None:
        await world.until(lambda: False, "the impossible")

    world.patience, before = 0.05, world.patience
    try:
        with pytest.raises(AssertionError, match="the impossible did not happen"):
            world.run(body)
    finally:
        world.patience = before
