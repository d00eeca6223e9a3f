"""`Lock`, `RLock` and their async twins: shells that hold the user's options and take no decision."""

from __future__ import annotations

from os import environ
from time import monotonic

from ._core.acquire import acquire, run
from ._core.arbiter import Place, abandon, granted, take_turn, turn_of, turns, wake_first
from ._deadline import seconds
from ._errors import DeadlockError, Timeout
from ._hold import AsyncHold, Hold, end, hold_on
from ._identity import me
from ._io import running
from ._target import refuse_to_pickle, resolve, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final, Literal, TypeVar

    from ._model import IO, Claim
    from ._report import Report

    class Unset: ...

    H = TypeVar("H", Hold, AsyncHold)

__all__ = ["AsyncLock", "AsyncRLock", "Lock", "RLock"]

FOREVER = float("inf")
_UNSET: Final[Unset] = object()  # type: ignore[assignment]


class _BaseLock:
    """The options of a lock and what both worlds share. Not a lock by itself."""

    __slots__ = ("__weakref__", "_blocks", "_fair", "_line", "_primitive", "_resource", "_timeout")
    _reentrant = False

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        fair: bool = False,
        ttl: float | None = None,
        primitive: Literal["auto", "flock", "dual", "local", "marker"] = "auto",
    ) -> None:
        """Name a lock; nothing is opened or locked yet.

        `target` is the path of a lock file (made with its parent directories at the first acquire, never
        written, never deleted; a relative path is taken from the directory that is current now) or an URL:
        `file:///directory#name`, `marker:///directory#name`, `memory://#name`, or of a lock server, as
        `redis://host/0#name`: see the docs' page of each engine for its URLs, options and promises.

        `timeout` (seconds; `None`: for ever; 0: one attempt) is used where `acquire` is given none.
        `fair=True`: strictly in order of arrival, at the price of throughput; raises `UnsupportedError` where
        the platform has no such queue.

        `primitive` says how a path is locked: `"auto"` by what is known of its filesystem (`flock` on local ones),
        `"flock"`, `"dual"` (flock(2) and an OFD range together), `"local"` (flock, and this host is the only one that
        uses the place), `"marker"` (a lease, for filesystems whose own locks do not hold). A setting of the user's
        (`INTERLOCK_PRIMITIVE`, `interlock.conf`) goes before it. Where the choice does not exclude, `acquire` raises
        `UnsupportedError`. `ttl` (seconds, 30 where left out) is for leases: so long after its last renewal a hold
        lasts whose owner's host has died. A lock file is held until released: there a `ttl` raises `UnsupportedError`.

        Raises `TypeError` and `ValueError` for arguments of the wrong kind or range.
        """
        self._blocks: list[Any] = []  # the holds of the open `with` blocks
        self._timeout = seconds(timeout)
        self._fair = fair
        self._primitive = primitive
        self._line = resolve(target, fair=fair, ttl=ttl, primitive=primitive)
        self._resource = shown(target)

    @property
    def resource(self) -> str:
        """What is locked, as the user named it."""
        return self._resource

    @property
    def held(self) -> bool:
        """Does this process hold the resource now, by whatever lock object?"""
        claim = turns.get(self._line)
        return claim is not None and claim.since > 0

    def inspect(self) -> Report:
        """Who holds and who waits; see `interlock.inspect`."""
        return self._line.engine.inspect(self._line)

    def _held_by(self, owner: object) -> Claim | None:
        """The claim that this thread or task holds on the line already, if any."""
        claim = turns.get(self._line)
        return claim if claim is not None and claim.owner is owner and claim.since else None

    def _leave_block(self, who: Callable[[], object]) -> None:
        """Release what the `with` block that ends has, unless its body did, or a fork took it away."""
        self._block_to_leave(who)._let_go()

    def _block_to_leave(self, who: Callable[[], object]) -> Any:
        """The hold of the block that ends.

        With one block open it is that one's, whoever leaves it: a generator may end its block in another thread or
        task than it began it in. More than one are open on an object where it is re-entrant, or where bodies
        released early: then it is the caller's innermost, else one that is held.
        """
        blocks = self._blocks
        while blocks:
            if len(blocks) == 1:
                hold = blocks[0]
            else:
                owner = who()
                now = list(blocks)
                mine = [hold for hold in now if hold.owner is owner]
                hold = (mine or [hold for hold in now if hold.held] or now)[-1]
            try:
                blocks.remove(hold)
            except ValueError:  # another thread took it for its own
                continue
            return hold
        raise RuntimeError(f"the end of a `with` block on {self.resource} that was not entered")

    def _self_deadlock(self) -> DeadlockError:
        return DeadlockError(
            f"{self.resource} is held by this very thread or task: it would wait for itself for ever. "
            f"Release the first hold, give a timeout, or use {'AsyncRLock' if isinstance(self, AsyncLock) else 'RLock'}"
        )

    def _refuse_own_tasks(self, claim: Claim) -> None:
        """A thread that blocks here stops its event loop, and the call that a signal handler interrupted: it would
        wait for ever for what these hold or wait for."""
        first = turns.get(self._line)
        ahead = [first] if first is not None and first is not claim else []
        if any(other.thread is me.token for other in (*ahead, *(place.claim for place in tuple(self._line.queue)))):
            raise DeadlockError(
                f"{self.resource} is held or waited for by a task, or by an interrupted call, of this very thread, "
                "which cannot go on while this call blocks it. Use AsyncLock here too, or give a timeout"
            )

    def _timed_out(self, waited: float) -> Timeout:
        holder, hint = self._line.engine.blame(self._line)
        return Timeout(self.resource, waited, holder, hint)

    async def _timed_out_async(self, waited: float) -> Timeout:
        return await running().work(self._timed_out, waited) if self._line.remote else self._timed_out(waited)

    def __repr__(self) -> str:
        state = "held by this process" if self.held else "not held by this process"
        return f"<{type(self).__name__} {self.resource!r} {state}>"

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_pickle(self._line)
        # A relative path means the same file wherever it is unpickled.
        target = self._resource if "://" in self._resource else self._line.key
        timeout = None if self._timeout == FOREVER else self._timeout
        options = {"primitive": self._primitive, **getattr(self._line.engine, "options", {})}
        return _rebuild, (type(self), target, timeout, self._fair, options)


def _rebuild(
    kind: type[_BaseLock], target: str, timeout: float | None, fair: bool, options: dict[str, Any]
) -> _BaseLock:
    return kind(target, timeout=timeout, fair=fair, **options)


class Lock(_BaseLock):
    """Mutual exclusion on a path or a named resource, between threads, processes and everybody who locks it.

    Not re-entrant: waiting without a timeout for what the same thread holds raises `DeadlockError`.
    One object may be shared by threads. A hold may be released by another thread than the one that acquired it.
    """

    __slots__ = ()

    def acquire(self, timeout: float | Unset | None = _UNSET) -> Hold:
        """Wait for the lock and return the hold.

        `timeout`: seconds, `None` for ever, 0 one attempt; left out, the lock's own. Raises `Timeout` (with the
        holder's name where the system knows it), `DeadlockError`, `UnsafePathError` or `UnsupportedError` for a
        path that cannot be locked, and the kernel's own `OSError`. Whatever is raised, KeyboardInterrupt
        included, nothing is held then.
        """
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        line = self._line
        claim = line.engine.claim(line, me.token, self._fair)
        try:
            if (
                not line.queue
                and take_turn(line, claim) is claim
                and line.engine.try_now(claim, limit)
            ):
                return hold_on(Hold, claim)
            return self._wait(claim, limit)
        except BaseException:
            abandon(claim)
            raise

    def try_acquire(self) -> Hold | None:
        """One attempt, without waiting. `None`: somebody else holds it."""
        line = self._line
        claim = line.engine.claim(line, me.token, self._fair)
        try:
            return self._contend(claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    def _wait(self, claim: Claim, limit: float) -> Hold:
        hold = self._contend(claim, limit)
        if hold is None:
            raise self._timed_out(monotonic() - claim.began)
        return hold

    def _contend(self, claim: Claim, limit: float) -> Hold | None:
        from ._io.blocking import io

        claim.began = began = monotonic()
        mine = self._held_by(claim.owner)
        if mine is not None:
            again = _reenter(Hold, mine) if self._reentrant else None
            if again is not None:
                return again
            if limit == FOREVER and not self._reentrant:
                raise self._self_deadlock()
        if limit == FOREVER:
            self._refuse_own_tasks(claim)
        if run(acquire(io, Place(io, claim), began + limit)):
            return hold_on(Hold, claim)
        return None

    def __enter__(self) -> Hold:
        # `acquire` again, and `Hold.release` in `__exit__`, with fewer calls between: everybody's hot path.
        line = self._line
        engine = line.engine
        claim: Any = line.claim_type()  # type: ignore[misc]
        claim.line = line
        claim.owner = me.token
        claim.fair = self._fair
        claim.depth = 1
        claim.since = 0.0
        claim.fd = claim.instance = None  # as `KernelEngine.claim` does; to other engines' claims it means nothing
        try:
            if not line.queue and take_turn(line, claim) is claim and engine.try_now(claim, self._timeout):
                hold = Hold()
                hold._claim = claim
            else:
                hold = self._wait(claim, self._timeout)
            self._blocks.append(hold)
            return hold
        except BaseException:
            abandon(claim)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        blocks = self._blocks
        if len(blocks) != 1:  # a body has released early, and another thread entered; or a forked child did
            self._leave_block(_this_thread)
            return
        hold = blocks.pop()
        claim = hold._claim
        # None: the body released it. Not 1: an RLock has re-entered; or this is a forked child.
        if claim is None or claim.depth != 1:
            hold._let_go()
            return
        # Nothing was called since `_claim` was read, so no other thread releases the same hold; see `Hold._let_go`.
        hold._was = claim
        try:
            hold._claim = None
            claim.depth = 0
            line = claim.line
            line.let_go(claim)
            if turn_of(line) is claim:
                del turns[line]
            else:  # it was lost
                granted.pop(claim, None)
            if line.queue:
                wake_first(line)
        except BaseException:
            hold._claim = None
            claim.depth = 0
            end(claim)
            raise


class RLock(Lock):
    """`Lock`, re-entrant per thread: who holds it may acquire it again, and must release as often.

    Any `RLock` on the same resource re-enters, not only the same object.
    """

    __slots__ = ()
    _reentrant = True

    def __enter__(self) -> Hold:
        hold = self.acquire()
        try:
            self._blocks.append(hold)
            return hold
        except BaseException:
            hold._let_go()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_block(_this_thread)


class AsyncLock(_BaseLock):
    """`Lock` for tasks of asyncio and trio: the same verbs, awaited. No thread per waiter; the two worlds exclude
    each other and threads. Cancelling an acquire leaves nothing held. The owner that `DeadlockError` speaks of
    is the task.
    """

    __slots__ = ()

    async def acquire(self, timeout: float | Unset | None = _UNSET) -> AsyncHold:
        """Wait for the lock and return the hold; see `Lock.acquire` for arguments and errors."""
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        io = running()
        line = self._line
        claim = line.engine.claim(line, io.owner(), self._fair)
        claim.thread = me.token
        try:
            if (
                not line.remote
                and not line.queue
                and take_turn(line, claim) is claim
                and line.engine.try_now(claim, limit)
            ):
                return hold_on(AsyncHold, claim)
            hold = await self._contend(io, claim, limit)
            if hold is not None:
                return hold
        except BaseException:
            abandon(claim)
            raise
        raise await self._timed_out_async(monotonic() - claim.began)

    async def try_acquire(self) -> AsyncHold | None:
        """One attempt, without waiting. `None`: somebody else holds it."""
        io = running()
        line = self._line
        claim = line.engine.claim(line, io.owner(), self._fair)
        claim.thread = me.token
        try:
            return await self._contend(io, claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    async def _contend(self, io: IO, claim: Claim, limit: float) -> AsyncHold | None:
        claim.began = began = monotonic()
        mine = self._held_by(claim.owner)
        if mine is not None:
            again = _reenter(AsyncHold, mine) if self._reentrant else None
            if again is not None:
                return again
            if limit == FOREVER and not self._reentrant:
                raise self._self_deadlock()
        if await acquire(io, Place(io, claim), began + limit):
            return hold_on(AsyncHold, claim)
        return None

    async def __aenter__(self) -> AsyncHold:
        hold = await self.acquire()
        try:
            self._blocks.append(hold)
            return hold
        except BaseException:
            hold._let_go()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block_to_leave(_this_task)._leave(kind)


class AsyncRLock(AsyncLock):
    """`AsyncLock`, re-entrant per task."""

    __slots__ = ()
    _reentrant = True


def _this_thread() -> object:
    return me.token


def _this_task() -> object:
    return running().owner()


def _reenter(kind: type[H], claim: Claim) -> H | None:
    """One more hold on a claim; None if another thread has just released the last one. Nothing is called between the
    look at `depth` and the last store, so neither a thread nor a signal handler comes in between."""
    hold = kind()
    hold._claim = None
    hold._was = claim
    if claim.depth:
        claim.depth += 1
        hold._claim = claim
        return hold
    return None


if environ.get("INTERLOCK_CHECK_ORDER", "0") != "0":
    from ._order import check_order

    check_order()
