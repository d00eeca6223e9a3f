"""`RWLock` and `AsyncRWLock`: many readers, one updater beside them, or one writer."""

from __future__ import annotations

from time import monotonic

from ._core.acquire import acquire, run
from ._core.arbiter import Place, abandon, granted, line_for, share, turns, wake_first
from ._deadline import FOREVER, seconds
from ._errors import DeadlockError, UnsupportedError
from ._hold import hold_on
from ._identity import me
from ._io import running
from ._rwhold import MODES, AsyncRWHold, RWHold, holding, timed_out, together
from ._target import refuse_to_pickle, resolve, shown
from .lock import _UNSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Any

    from ._core.arbiter import Line
    from ._errors import Timeout
    from ._model import Claim, Mode
    from ._report import Report
    from .lock import Unset

__all__ = ["Acquiring", "AsyncRWHold", "AsyncRWLock", "RWHold", "RWLock"]

class Acquiring:
    """What a call of an `AsyncRWLock` gives: `await` it for the hold, or `async with` it for a block."""

    __slots__ = ("_begin", "_hold")

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, AsyncRWHold]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, None, AsyncRWHold]:
        return self._begin().__await__()

    async def __aenter__(self) -> AsyncRWHold:
        self._hold = await self._begin()
        return self._hold

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hold._leave(kind)


class _BaseRWLock:
    """The options of a read-write lock. Not a lock by itself."""

    __slots__ = ("__weakref__", "_key", "_lines", "_reading", "_resource", "_timeout", "_ttl")

    def __init__(
        self, target: str | os.PathLike[str], *, timeout: float | None = None, ttl: float | None = None
    ) -> None:
        """Name a lock; nothing is opened or locked yet.

        `target` is what `Lock` takes: the path of a lock file, or an URL. On a path it needs Linux and a local
        filesystem, else `UnsupportedError`. Readers need no more than a lock file that they may read.
        `timeout` (seconds; `None`: for ever; 0: one attempt) is used where a call is given none. `ttl` is for leases,
        as in `Lock`.
        """
        self._timeout = seconds(timeout)
        self._ttl = ttl
        line = resolve(target, ttl=ttl, kind="rwlock")
        engine: Any = line.engine
        if not hasattr(engine, "sharing"):
            raise UnsupportedError(f"{line.resource}: {engine.traits.name} has no read-write locks; use Lock")
        self._lines: dict[Mode, Line] = {
            mode: line_for(engine.sharing(mode, line.key), line.key, line.resource) for mode in MODES
        }
        for each in self._lines.values():
            each.secret = line.secret
        self._reading = self._lines["read"]
        self._resource = shown(target)
        self._key = line.key

    @property
    def resource(self) -> str:
        """What is locked, as the user named it."""
        return self._resource

    @property
    def held(self) -> Mode | None:
        """The strongest mode in which this process holds it now, by whatever lock object; `None`: in none."""
        modes = [claim.mode for claim in holding(self._reading)]
        return max(modes, key=MODES.index, default=None)

    def inspect(self) -> Report:
        """Who holds and who waits; see `interlock.inspect`."""
        return self._reading.engine.inspect(self._reading)

    def _limit(self, claim: Claim, limit: float) -> float:
        """How long to wait at most. Whoever holds already would for ever wait for itself, or for somebody who waits
        for it: it gets what can be had at once, or `DeadlockError`."""
        if limit < FOREVER:
            return limit
        mine = [other for other in holding(claim.line) if other.owner is claim.owner]
        for other in mine:
            if not together(claim.mode, other.mode):
                raise DeadlockError(
                    f"{self.resource} is held for {other.mode} by this very thread or task: it would wait for itself "
                    f"for ever. {'Upgrade that hold' if other.mode == 'update' else 'Release that hold first'}, "
                    "or give a timeout"
                )
        return 0.0 if mine else limit

    def _failed(self, claim: Claim, limit: float, allowed: float) -> None:
        """After an attempt in vain."""
        if allowed < limit:
            raise DeadlockError(
                f"{self.resource} is held by this very thread or task, and more of it is not to be had at once: "
                "who waits for it may be waiting for this one. Release the first hold, or give a timeout"
            )

    def _timed_out(self, mode: Mode, waited: float) -> Timeout:
        return timed_out(self._reading, self._resource, waited, mode)

    def __repr__(self) -> str:
        held = self.held
        state = "not held by this process" if held is None else f"held by this process for {held}"
        return f"<{type(self).__name__} {self.resource!r} {state}>"

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_pickle(self._reading)
        target = self._resource if "://" in self._resource else self._key
        return _rebuild, (type(self), target, None if self._timeout == FOREVER else self._timeout, self._ttl)


class RWLock(_BaseRWLock):
    """Any number of readers, or one writer; and beside readers one updater, who may become the writer.

    Threads, tasks and processes all exclude each other, and a `Lock` on the same path excludes them all. Nothing is
    re-entrant. Writers do not starve: who comes to read while one waits, waits behind it.

    with RWLock("index.lock").read() as hold: ...
    """

    __slots__ = ()

    def read(self, timeout: float | Unset | None = _UNSET) -> RWHold:
        """Wait for the right to read, and return the hold: beside other readers and an updater.

        `timeout`: seconds, `None` for ever, 0 one attempt; left out, the lock's own. Raises what `Lock.acquire`
        raises; `DeadlockError` also where this thread holds already, and would have to wait for more.
        """
        # `_acquire`, with fewer calls between
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        line = self._reading
        engine = line.engine
        claim: Claim = engine.claim(line, me.token, False)
        try:
            if not line.queue and turns.setdefault(line, claim) is claim and engine.try_now(claim, limit):
                granted[claim] = None
                del turns[line]
                if line.queue:
                    wake_first(line)
                hold = RWHold()
                hold._claim = claim
                return hold
            return self._wait(claim, limit)
        except BaseException:
            abandon(claim)
            raise

    def update(self, timeout: float | Unset | None = _UNSET) -> RWHold:
        """Wait for the right to read and later, by `hold.upgrade()`, to write: one at a time, beside readers."""
        return self._acquire("update", timeout)

    def write(self, timeout: float | Unset | None = _UNSET) -> RWHold:
        """Wait for the right to write: alone. Needs a lock file that may be written."""
        return self._acquire("write", timeout)

    def try_read(self) -> RWHold | None:
        """One attempt, without waiting. `None`: somebody writes, or waits to write while others read."""
        return self._try("read")

    def try_update(self) -> RWHold | None:
        """One attempt, without waiting. `None`: as `try_read`, or somebody updates."""
        return self._try("update")

    def try_write(self) -> RWHold | None:
        """One attempt, without waiting. `None`: somebody holds."""
        return self._try("write")

    def _acquire(self, mode: Mode, timeout: float | Unset | None) -> RWHold:
        limit = self._timeout if timeout is _UNSET else seconds(timeout)
        line = self._lines[mode]
        claim = line.engine.claim(line, me.token, False)
        try:
            return self._wait(claim, limit)
        except BaseException:
            abandon(claim)
            raise

    def _try(self, mode: Mode) -> RWHold | None:
        line = self._lines[mode]
        claim = line.engine.claim(line, me.token, False)
        try:
            return self._contend(claim, 0.0)
        except BaseException:
            abandon(claim)
            raise

    def _wait(self, claim: Claim, limit: float) -> RWHold:
        hold = self._contend(claim, limit)
        if hold is None:
            raise self._timed_out(claim.mode, monotonic() - claim.began)
        return hold

    def _contend(self, claim: Claim, limit: float) -> RWHold | None:
        from ._io.blocking import io

        claim.began = began = monotonic()
        allowed = self._limit(claim, limit)
        if allowed == FOREVER:
            self._refuse_own_tasks(claim)
        if run(acquire(io, Place(io, claim), began + allowed)):
            share(claim)
            return hold_on(RWHold, claim)
        self._failed(claim, limit, allowed)
        return None

    def _refuse_own_tasks(self, claim: Claim) -> None:
        """A thread that blocks here stops its event loop, and would wait for ever for what a task of that holds."""
        first = turns.get(claim.line)
        ahead = [*(place.claim for place in tuple(claim.line.queue)), *([first] if first is not None else [])]
        ahead += [other for other in holding(claim.line) if not together(claim.mode, other.mode)]
        if any(other.thread is me.token for other in ahead if other is not claim):
            raise DeadlockError(
                f"{self.resource} is held or waited for by a task, or by an interrupted call, of this very thread, "
                "which cannot go on while this call blocks it. Use AsyncRWLock here too, or give a timeout"
            )


class AsyncRWLock(_BaseRWLock):
    """`RWLock` for tasks of asyncio and trio. `await` the verbs for a hold, or `async with` them:

    async with AsyncRWLock("index.lock").read() as hold: ...
    """

    __slots__ = ()

    def read(self, timeout: float | Unset | None = _UNSET) -> Acquiring:
        """See `RWLock.read`. Cancelled, it leaves nothing held."""
        return Acquiring(lambda: self._acquire("read", timeout))

    def update(self, timeout: float | Unset | None = _UNSET) -> Acquiring:
        """See `RWLock.update`."""
        return Acquiring(lambda: self._acquire("update", timeout))

    def write(self, timeout: float | Unset | None = _UNSET) -> Acquiring:
        """See `RWLock.write`."""
        return Acquiring(lambda: self._acquire("write", timeout))

    async def try_read(self) -> AsyncRWHold | None:
        """See `RWLock.try_read`."""
        return await self._begin("read", 0.0)

    async def try_update(self) -> AsyncRWHold | None:
        """See `RWLock.try_update`."""
        return await self._begin("update", 0.0)

    async def try_write(self) -> AsyncRWHold | None:
        """See `RWLock.try_write`."""
        return await self._begin("write", 0.0)

    async def _acquire(self, mode: Mode, timeout: float | Unset | None) -> AsyncRWHold:
        began = monotonic()
        hold = await self._begin(mode, self._timeout if timeout is _UNSET else seconds(timeout))
        if hold is None:
            waited = monotonic() - began
            if self._reading.remote:
                raise await running().work(self._timed_out, mode, waited)
            raise self._timed_out(mode, waited)
        return hold

    async def _begin(self, mode: Mode, limit: float) -> AsyncRWHold | None:
        io = running()
        line = self._lines[mode]
        claim = line.engine.claim(line, io.owner(), False)
        claim.thread = me.token
        try:
            claim.began = began = monotonic()
            allowed = self._limit(claim, limit)
            if await acquire(io, Place(io, claim), began + allowed):
                share(claim)
                return hold_on(AsyncRWHold, claim)
            self._failed(claim, limit, allowed)
        except BaseException:
            abandon(claim)
            raise
        return None


def _rebuild(kind: type[_BaseRWLock], target: str, timeout: float | None, ttl: float | None = None) -> _BaseRWLock:
    return kind(target, timeout=timeout, ttl=ttl)
