"""What a caller has after acquiring: `Hold` and `AsyncHold`."""

from __future__ import annotations

import warnings
from time import monotonic

from ._core.arbiter import give_back, turns
from ._errors import LostError, NotHeldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ._model import Claim

__all__ = ["AsyncHold", "Hold"]


class _BaseHold:
    """The facts of a hold. It belongs to the process that acquired it, not to a thread: any of its threads may
    release it. A forked child has none of its parent's holds."""

    __slots__ = ("__weakref__", "_claim", "_released", "waited")

    waited: float
    """Seconds between the call of acquire and the grant; 0.0 where the lock was free at once."""

    def __init__(self, claim: Claim, waited: float = 0.0, released: bool = False) -> None:
        self._released = released
        self._claim = claim
        self.waited = waited

    @property
    def resource(self) -> str:
        """What is locked, as the user named it."""
        return self._claim.line.resource

    @property
    def token(self) -> int | None:
        """The fencing token, strictly increasing per resource, or `None`: the engine of paths gives none."""
        return getattr(self._claim, "token", None)

    @property
    def held(self) -> bool:
        """Is this hold unreleased, and of this process? Says nothing about `lost`."""
        claim = self._claim
        return not self._released and turns.get(claim.line) is claim

    @property
    def lost(self) -> bool:
        """Has the world taken the lock away (its file unlinked or replaced)? Asks the filesystem at each call."""
        return self.held and bool(self._claim.line.engine.lost(self._claim))

    def assert_held(self) -> None:
        """Raise `NotHeldError` if released or inherited by fork, `LostError` if the lock was taken away.

        True at the moment of the check; only a fencing token protects a later write.
        """
        if not self.held:
            raise NotHeldError(f"{self.resource} is not held: {self._why_not()}")
        reason = self._claim.line.engine.lost(self._claim)
        if reason:
            raise LostError(f"{self.resource} is lost: {reason}")

    def _why_not(self) -> str:
        if self._released:
            return "this hold was released before"
        return "this process is a forked child, and the hold is its parent's"

    def _release(self) -> None:
        claim = self._claim
        if self._released or turns.get(claim.line) is not claim:
            raise NotHeldError(f"{self.resource} cannot be released: {self._why_not()}")
        if claim.depth > 1:
            self._released = True
            claim.depth -= 1
            return
        try:
            claim.line.engine.drop(claim)
        finally:
            self._released = True
            give_back(claim)

    def __del__(self) -> None:
        try:
            if self._released:
                return
            resource = self.resource
        except AttributeError:  # interrupted while it was made: `acquire` has undone the claim
            return
        if self.held:
            self._release()
            warnings.warn(
                f"the hold on {resource} was dropped without release(); the lock is free now",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        if not self.held:
            state = self._why_not()
        else:
            state = f"held for {monotonic() - self._claim.since:.3f} s"
        return f"<{type(self).__name__} {self.resource!r} {state}>"

    def __reduce__(self) -> str:
        raise TypeError("a hold belongs to one process and cannot be pickled")


class Hold(_BaseHold):
    """A lock held. Use it as a context manager, or call `release`; a hold that is dropped unreleased is released
    by the garbage collector with a `ResourceWarning`."""

    __slots__ = ()

    def release(self) -> None:
        """Let go. Raises `NotHeldError` when it was released before, or in a forked child; then nothing happens."""
        self._release()

    def renew(self) -> None:
        """Make sure that the hold goes on. A session lock never expires, so this is `assert_held()`."""
        self.assert_held()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held:
            self._release()


class AsyncHold(_BaseHold):
    """`Hold` for tasks: `release` and `renew` are awaited."""

    __slots__ = ()

    async def release(self) -> None:
        """Let go. Raises `NotHeldError` when it was released before, or in a forked child; then nothing happens."""
        self._release()

    async def renew(self) -> None:
        """Make sure that the hold goes on. A session lock never expires, so this is `assert_held()`."""
        self.assert_held()

    async def __aenter__(self) -> AsyncHold:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held:
            self._release()
