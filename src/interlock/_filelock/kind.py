"""What a kind of lock defines, and what it gets where it does not."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from .knobs import Knobs
from .stakes import HookStake

if TYPE_CHECKING:
    from .._core.acquire import Stake
    from .._model import IO, Claim
    from .state import FileLockContext


class Kind(Knobs):
    """The hooks of users' subclasses, `_acquire` and `_release`, and those of our own kinds."""

    @abstractmethod
    def _acquire(self) -> None:
        """One attempt, without waiting: sets `self._context.lock_file_fd` when the lock was acquired."""
        raise NotImplementedError

    @abstractmethod
    def _release(self) -> None:
        """Let go and set `self._context.lock_file_fd` to None."""
        raise NotImplementedError

    def _try_break_expired_lock(self) -> None:
        """Before each attempt: soft kinds with a `lifetime` remove what is too old."""

    def _unprobeable_holder(self) -> str | None:
        """For `Timeout`: the recorded holder, if this host cannot tell whether it lives."""
        return None

    async def _nap(self, io: IO, until: float, poll_interval: float) -> None:
        """Between two attempts of a kind that is known by its hooks only."""
        await io.park(io.parker(), min(until, io.now() + poll_interval))

    def _stake(self: Any, io: IO, context: FileLockContext, poll_interval: float, claim: Claim | None) -> Stake:
        """What the acquire loop drives. `claim`: what `_grab` began with, if it was tried."""
        return HookStake(self, context, poll_interval)

    def _begin(self, context: FileLockContext) -> Claim | None:
        """A claim for `_grab`, without any outside effect; None: the lock's path needs a closer look."""
        return None

    def _grab(self, context: FileLockContext, claim: Claim) -> bool:
        """The uncontended path, which lets those who wait pass first."""
        return False
