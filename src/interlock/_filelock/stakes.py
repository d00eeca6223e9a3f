"""What the core's acquire loop drives for a facade lock."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from . import options
from .errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .._core.acquire import Stake
    from .._model import IO
    from .api import BaseFileLock
    from .state import FileLockContext

LOGGER = logging.getLogger("filelock")
DEBUG = logging.DEBUG


class HookStake:
    """A stake of a lock that is known by its hooks only."""

    def __init__(self, lock: BaseFileLock, context: FileLockContext, poll_interval: float) -> None:
        self._lock = lock
        self._context = context
        self._poll_interval = poll_interval
        self._ready = False

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        if not self._ready:  # once: a directory that vanishes later must not be made again beside a holder
            self._ready = True
            await self._lock._aside(io, self._make_directory)
        await self._lock._attempt(io)
        return self._context.lock_file_fd is not None

    def _make_directory(self) -> None:
        directory = os.path.dirname(self._lock._lock_path)
        if directory and not os.path.isdir(directory):
            os.makedirs(directory, exist_ok=True)

    async def wait(self, io: IO, until: float) -> None:
        await self._lock._nap(io, until, self._poll_interval)

    async def withdraw(self, io: IO) -> None:
        if self._context.lock_file_fd is not None:
            await self._lock._let_go(io, self._context)


class Watched:
    """A stake, and what its owner wants to happen between tries."""

    __slots__ = ("_blind", "_cancel_check", "_lock", "_poll_interval", "_stake", "_wait")

    def __init__(
        self,
        stake: Stake,
        lock: BaseFileLock,
        poll_interval: float,
        cancel_check: Callable[[], bool] | None,
        wait: float = options.FOREVER,
    ) -> None:
        self._stake = stake
        self._lock = lock
        self._poll_interval = poll_interval
        self._cancel_check = cancel_check
        self._wait = wait

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        if await self._stake.try_acquire(io, deadline):
            return True
        if self._wait and self._cancel_check is not None and self._cancel_check():
            LOGGER.debug("Cancellation requested for lock %s on %s", id(self._lock), self._lock.lock_file)
            raise Cancelled(self._lock.lock_file)
        return False

    async def wait(self, io: IO, until: float) -> None:
        if LOGGER.isEnabledFor(DEBUG):
            LOGGER.debug(
                "Lock %s not acquired on %s, waiting %s seconds ...",
                id(self._lock), self._lock.lock_file, until - io.now(),
            )  # fmt: skip
        if self._cancel_check is not None or _is_blind(self._stake):
            until = min(until, io.now() + self._poll_interval)
        await self._stake.wait(io, until)

    async def withdraw(self, io: IO) -> None:
        await self._stake.withdraw(io)


def _is_blind(stake: Stake) -> bool:
    """Does an engine nap here, because its events cannot be trusted? Then the user's interval bounds the nap."""
    claim = getattr(stake, "claim", None)
    return claim is not None and getattr(claim, "parker", None) is not None and claim.instance is None


def on_this_stack(frame: FrameType | None) -> bool:
    caller: FrameType | None = sys._getframe(1) if frame is not None else None
    while caller is not None:
        if caller is frame:
            return True
        caller = caller.f_back
    return False
