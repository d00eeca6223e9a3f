"""The one acquire loop of the project, written once for threads, tasks and the simulator."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, Protocol, TypeVar

    from .._model import IO

    T = TypeVar("T")

    class Stake(Protocol):
        """What the loop drives: a place in this process's line (`arbiter.Place`), or a bare engine claim."""

        async def try_acquire(self, io: IO, deadline: float) -> bool: ...
        async def wait(self, io: IO, until: float) -> None: ...
        async def withdraw(self, io: IO) -> None: ...


async def acquire(io: IO, stake: Stake, deadline: float) -> bool:
    """Try, and wait between tries, until granted (True) or until a try that began after `deadline` failed (False).

    Whatever else ends it (cancellation, KeyboardInterrupt, an engine's error), the stake is withdrawn first:
    the caller then holds nothing, and nobody waits on its account.
    """
    granted = False
    try:
        while True:
            last = io.now() >= deadline
            granted = await stake.try_acquire(io, deadline)
            if granted or last:
                return granted
            await stake.wait(io, deadline)
    except GeneratorExit:  # the task's coroutine is closed, and may not suspend any more
        granted = True  # for the block below: there is nothing to be awaited
        _begin(stake.withdraw(io))
        raise
    except BaseException:
        granted = False
        raise
    finally:
        if not granted:
            await io.shield(stake.withdraw(io))


def _begin(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it as far as it goes without suspending. Where an engine's request is under way then, that goes on in its
    worker thread; and closing the coroutine drops the claim."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine whose io never suspends (`_io.blocking`) to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("blocking io suspended: an engine awaited something that is not its io")
