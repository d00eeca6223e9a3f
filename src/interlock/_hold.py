"""What a caller has after acquiring: `Hold` and `AsyncHold`; and `Loss`, their end that nobody asked for."""

from __future__ import annotations

import warnings
from time import monotonic

from ._core.arbiter import alive, granted, turn_of, turns, wake_first
from ._core.lost import tell
from ._errors import LostError, NotHeldError, named
from ._io import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Any, TypeVar

    from ._model import Claim

    H = TypeVar("H", bound="_BaseHold")
    T = TypeVar("T")

__all__ = ["AsyncHold", "Hold", "Loss"]


class Loss:
    """Has the world taken a hold away? True once it has, and from then on.

    As a bool it *asks* (the filesystem, or the lease's clock) at each use; `wait` and `Hold.on_lost` are told.
    """

    __slots__ = ("_claim",)

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def reason(self) -> str:
        """Why it is lost, for people; empty while it is not, and after a release that came first."""
        claim = self._claim
        if not claim.told and claim.depth:
            reason = claim.line.engine.lost(claim)
            if reason and claim.depth:  # released meanwhile: then what was seen is somebody else's
                tell(claim, reason)
        return claim.told

    def __bool__(self) -> bool:
        return bool(self.reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the hold is lost (True), or until it is released, or for `timeout` seconds
        (`None`: no limit): False."""
        from ._loss import wait

        return wait(self._claim, timeout)

    def __repr__(self) -> str:
        return f"<lost: {self.reason}>" if self else "<not lost>"


class _BaseHold:
    """The facts of a hold. It belongs to the process that acquired it, not to a thread: any of its threads may
    release it. A forked child has none of its parent's holds."""

    __slots__ = ("__weakref__", "_claim", "_was")

    _claim: Claim | None
    """None once released; `_was` remembers it then, for messages. Set by `hold_on`; there is no `__init__`,
    which alone would be 2 % of an uncontended acquire and release."""
    _was: Claim

    @property
    def resource(self) -> str:
        """What is locked, as it was first named in this process."""
        return (self._claim or self._was).line.resource

    @property
    def owner(self) -> object:
        """The thread (its ident) or the task that acquired."""
        return (self._claim or self._was).owner

    @property
    def waited(self) -> float:
        """Seconds between the call of acquire and the grant; 0.0 where the lock was free at once."""
        claim = self._claim or self._was
        return claim.since - claim.began if claim.began else 0.0

    @property
    def token(self) -> int | None:
        """The fencing token of this hold: an integer greater than that of every earlier hold of the resource, over
        processes, restarts and kills. `None` where the engine gives none (lock files on Windows), and while the hold is
        shared with others (`RWLock` in a mode other than write).

        A lock file's token is given when it is first asked for, and kept in `NAME.token` beside it. Then this raises
        `NotHeldError` after the release, `LostError` if the lock was taken away, `UnsupportedError` where that file may
        not be written, `ProtocolError` where it is something else, and the kernel's `OSError`.
        """
        claim = self._claim or self._was
        if claim.mode != "write":
            return None
        if claim.token is None:
            assign = getattr(claim.line.engine, "assign_token", None)
            if assign is not None:
                self._require_held()
                assign(claim)
        return claim.token

    @property
    def held(self) -> bool:
        """Is this hold unreleased, and of this process? Says nothing about `lost`."""
        claim = self._claim
        return claim is not None and alive(claim)

    @property
    def lost(self) -> Loss:
        """Has the world taken the lock away (its file unlinked or replaced, its lease run out)? An event: true once it
        has, with a `reason`; `wait(timeout)` blocks until then. As a bool it asks anew at each use."""
        return Loss(self._claim or self._was)

    def on_lost(self, callback: Callable[[str], object]) -> None:
        """Have `callback(reason)` called once if the lock is taken away before it is released; at once if it was.

        It runs in whatever thread notices: a helper thread of this library, or one that asks. So it should be short;
        what it raises is logged (logger `interlock`). On a lock file the loss is noticed by events, on filesystems
        without them within a second or so. Raises `NotHeldError` if this hold is not held.
        """
        from ._loss import call_back

        self._require_held()
        call_back(self._claim or self._was, callback)

    def assert_held(self) -> None:
        """Raise `NotHeldError` if released or inherited by fork, `LostError` if the lock was taken away.

        True at the moment of the check; only a fencing token protects a later write.
        """
        claim = self._require_held()
        if claim.told:
            raise LostError(f"{self.resource} is lost: {claim.told}")
        try:
            reason = claim.line.engine.lost(claim)
        except OSError as error:
            named(error, claim.line.key)
            raise
        if reason and claim.depth:
            tell(claim, reason)
            raise LostError(f"{self.resource} is lost: {reason}")

    def _renew(self) -> None:
        self.assert_held()
        claim = self._claim or self._was
        engine: Any = claim.line.engine
        reason = engine.renew(claim) if hasattr(engine, "renew") else ""
        if reason:
            tell(claim, reason)
            raise LostError(f"{self.resource} is lost: {reason}")

    def _require_held(self) -> Claim:
        claim = self._claim
        if claim is None or not alive(claim):
            raise NotHeldError(f"{self.resource} is not held: {self._why_not()}")
        return claim

    def _why_not(self) -> str:
        if self._claim is None:
            return "this hold was released before"
        return "this process is a forked child, and the hold is its parent's"

    def _let_go(self, later: bool = False) -> bool:
        """Release, or do nothing and return False if this hold is not held. `later`: where that is a request to a
        server, have it made in the background."""
        claim = self._claim
        if claim is None or not (turns.get(claim.line) is claim or claim in granted):
            return False
        # From here to `claim.depth` nothing is called, so no other thread comes in between: it would release the same
        # hold, and close a descriptor that is somebody else's by then.
        if self._claim is None:
            return False
        depth = claim.depth
        self._was = claim
        try:
            self._claim = None
            claim.depth = depth - 1
            if depth == 1:
                if not later:
                    claim.line.let_go(claim)
                end(claim)
        except BaseException:  # an interrupt, as nothing else is raised in there: once more, to the end
            self._claim = None
            claim.depth = depth - 1
            if depth == 1:
                end(claim)
            raise
        return True

    def _not_held(self) -> NotHeldError:
        return NotHeldError(f"{self.resource} cannot be released: {self._why_not()}")

    def __del__(self) -> None:
        try:
            if self._claim is None:
                return
            resource = self.resource
        except AttributeError:  # interrupted while it was made: `acquire` has undone the claim
            return
        if self._let_go(later=True):
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
            state = f"held for {monotonic() - (self._claim or self._was).since:.3f} s"
        return f"<{type(self).__name__} {self.resource!r} {state}>"

    def __reduce__(self) -> str:
        raise TypeError("a hold belongs to one process and cannot be pickled")


class Hold(_BaseHold):
    """A lock held. Use it as a context manager, or call `release`; a hold that is dropped unreleased is released
    by the garbage collector with a `ResourceWarning`."""

    __slots__ = ()

    def release(self) -> None:
        """Let go. Raises `NotHeldError` when it was released before, or in a forked child; then nothing happens."""
        claim = self._claim
        if claim is None or claim.depth != 1:
            if not self._let_go():
                raise self._not_held()
            return
        # As in `Lock.__exit__`: nothing was called since `_claim` was read.
        self._was = claim
        try:
            self._claim = None
            claim.depth = 0
            line = claim.line
            line.let_go(claim)
            if turn_of(line) is claim:
                del turns[line]
            else:
                granted.pop(claim, None)
            if line.queue:
                wake_first(line)
        except BaseException:
            self._claim = None
            claim.depth = 0
            end(claim)
            raise

    def renew(self) -> None:
        """Make sure that the hold goes on: a lease gets its whole ttl anew, which a keeper does by itself anyway. A
        session lock never expires; there this is `assert_held()`.

        Raises `LostError`, `NotHeldError`, and what hinders the renewal of a lease (`OSError`, `EngineError`).
        """
        self._renew()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()


class AsyncHold(_BaseHold):
    """`Hold` for tasks: `release` and `renew` are awaited."""

    __slots__ = ()

    async def release(self) -> None:
        """Let go. Raises `NotHeldError` when it was released before, or in a forked child; then nothing happens."""
        if not await self._leave():
            raise self._not_held()

    async def _leave(self, why: type[BaseException] | None = None) -> bool:
        """`_let_go`, awaited where it is a request to a server. `why`: what ends the block of the hold, if anything."""
        claim = self._claim
        if claim is None or claim.depth != 1 or not claim.line.remote or why is GeneratorExit or not alive(claim):
            return self._let_go(later=True)
        # Nothing was awaited since `_claim` was read.
        self._was = claim
        self._claim = None
        claim.depth = 0
        try:
            io = running()
            await io.shield(claim.line.engine.release(io, claim))
        finally:
            end(claim)
        return True

    async def renew(self) -> None:
        """Make sure that the hold goes on: a lease gets its whole ttl anew, which a keeper does by itself anyway. A
        session lock never expires; there this is `assert_held()`.

        Raises `LostError`, `NotHeldError`, and what hinders the renewal of a lease (`OSError`, `EngineError`).
        """
        await on_server(self._claim or self._was, self._renew)

    def scope(self) -> AbstractAsyncContextManager[None]:
        """`async with hold.scope():` a block that is cancelled when the lock is taken away, and raises `LostError`.

        It also raises it at its end if the lock is lost by then. An error of the block itself, and a cancellation from
        outside, pass unchanged. Raises `NotHeldError` if this hold is not held.
        """
        from ._loss import scope

        return scope(self._require_held())

    async def __aenter__(self) -> AsyncHold:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(kind)


async def on_server(claim: Claim, fn: Callable[..., T], *args: object) -> T:
    """`fn` of a claim, called by a task: in a worker thread where that is a request to a server."""
    if claim.line.remote:
        return await running().work(fn, *args)
    return fn(*args)


def end(claim: Claim) -> None:
    """Give back what the last hold on a claim held. Every step may be done twice."""
    line = claim.line
    line.engine.drop(claim)
    if turns.get(line) is claim:
        del turns[line]
    else:
        granted.pop(claim, None)
    if line.queue:
        wake_first(line)


def hold_on(kind: type[H], claim: Claim) -> H:
    """The hold of a won claim."""
    hold = kind()
    hold._claim = claim
    return hold
