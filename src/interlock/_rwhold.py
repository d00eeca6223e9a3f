"""What a caller has of a read-write lock: `RWHold` and `AsyncRWHold`."""

from __future__ import annotations

import os
from time import monotonic

from ._core import arbiter
from ._core.acquire import acquire, run
from ._core.arbiter import granted, wake_first
from ._deadline import FOREVER, seconds
from ._errors import DeadlockError, Timeout, UnsupportedError
from ._hold import AsyncHold, Hold, _BaseHold, end, on_server
from ._io import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Literal, Self

    from ._core.arbiter import Line
    from ._model import IO, Claim, Mode
    from ._report import Party, Report

__all__ = ["MODES", "AsyncRWHold", "RWHold", "holding", "timed_out", "together"]

MODES: tuple[Mode, ...] = ("read", "update", "write")

changing: dict[Claim, object] = {}
"""Whose mode is being changed, and by what: two changes of one hold at once would each undo the other's."""


class _Upgrade:
    """The stake of an upgrade: the claim itself. It takes no turn: only one claim can be an updater."""

    def __init__(self, claim: Claim, began: float) -> None:
        self._claim = claim
        self._engine: Any = claim.line.engine
        self._was = claim.mode
        self._began = began
        self._waits = False

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        granted: bool = await self._engine.upgrade(io, self._claim)
        if granted:
            self._tell("upgraded", monotonic())
        return granted

    async def wait(self, io: IO, until: float) -> None:
        if not self._waits:
            self._waits = True
            self._tell("waiting", self._began)
        await self._engine.wait(io, self._claim, until)

    async def withdraw(self, io: IO) -> None:
        try:
            await self._engine.stay(io, self._claim)
        finally:
            self._tell("withdrawn", monotonic())

    def _tell(self, kind: str, when: float) -> None:
        told = arbiter.listener
        if told is not None:
            told.changing(kind, self._claim, self._was, when, self._began)


class _Modes(_BaseHold):
    """What the holds of both worlds know of their mode."""

    __slots__ = ()

    @property
    def mode(self) -> Mode:
        """`"read"`, `"update"` or `"write"`."""
        return self._was_or_is().mode

    def _was_or_is(self) -> Claim:
        return self._claim or self._was

    def _in_the_middle(self) -> UnsupportedError:
        return UnsupportedError(
            f"the mode of this hold on {self.resource} is being changed by another thread or task; "
            "change it by one at a time"
        )

    def _to_upgrade(self, claim: Claim, limit: float) -> bool:
        """Raises if it may not be upgraded. False: nothing is to be done."""
        self.assert_held()
        if claim.mode == "write":
            return False
        if claim.mode == "read":
            raise UnsupportedError(
                f"{self.resource} is held for reading, and only update() can be upgraded: "
                "two readers that both did would wait for each other"
            )
        if limit == FOREVER and any(
            other.owner is claim.owner and other is not claim for other in holding(claim.line)
        ):
            raise DeadlockError(
                f"{self.resource} is also held for reading by this very thread or task: "
                "the upgrade would wait for that for ever"
            )
        return True

    def _downgrade(self, to: Mode) -> None:
        if to not in ("read", "update"):
            raise ValueError(f"a hold is downgraded to 'read' or 'update', not to {to!r}")
        self.assert_held()
        claim = self._require_held()  # another thread may release it at any time
        me = object()
        try:
            if changing.setdefault(claim, me) is not me:
                raise self._in_the_middle()
            self._give_up(claim, to)
        finally:
            try:  # no calls, before which a signal might interrupt
                if changing[claim] is me:
                    del changing[claim]
            except KeyError:
                pass

    def _give_up(self, claim: Claim, to: Mode) -> None:
        if MODES.index(to) > MODES.index(claim.mode):
            raise ValueError(f"{self.resource} is held for {claim.mode}: {to!r} would be an upgrade")
        was = claim.mode
        if was != to or claim.untold:
            engine: Any = claim.line.engine
            when = monotonic()
            engine.downgrade(claim, to)
            told = arbiter.listener
            if told is not None:
                told.changing("downgraded", claim, was, when)


class RWHold(_Modes, Hold):
    """A read-write lock held, in one of its modes."""

    __slots__ = ()

    def upgrade(self, timeout: float | None = None) -> None:
        """Make an update hold a write hold, without letting go in between: wait until the readers have left.

        Readers that come meanwhile wait. `timeout`: seconds, `None` for ever. Raises `Timeout` (the hold is then
        still an update hold), `UnsupportedError` for a read hold and while another thread or task changes the mode of
        this hold, `NotHeldError`, also if it is released meanwhile, `DeadlockError`; and `LostError` if somebody who
        does not use `RWLock` has taken the lock in the middle. Of a write hold: nothing happens.
        """
        limit = seconds(timeout)
        began = monotonic()
        if not self._upgrade(began, limit):
            raise timed_out(self._was_or_is().line, self.resource, monotonic() - began, "upgrade")

    def try_upgrade(self) -> bool:
        """One attempt, without waiting. False: somebody reads. Raises what `upgrade` does."""
        return self._upgrade(monotonic(), 0.0)

    def _upgrade(self, began: float, limit: float) -> bool:
        from ._io.blocking import io

        claim = self._require_held()
        me = object()
        try:
            if changing.setdefault(claim, me) is not me:
                raise self._in_the_middle()
            return not self._to_upgrade(claim, limit) or run(acquire(io, _Upgrade(claim, began), began + limit))
        finally:
            try:  # no calls, before which a signal might interrupt
                if changing[claim] is me:
                    del changing[claim]
            except KeyError:
                pass

    def downgrade(self, to: Literal["read", "update"] = "read") -> None:
        """Go on with less, at once and without letting go in between: others may read; with `"read"` another one may
        update. Raises `ValueError` for what would be more, `NotHeldError`, `LostError`, and `UnsupportedError` while
        another thread or task changes the mode of this hold (a waiting upgrade, say)."""
        self._downgrade(to)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        claim = self._claim
        if claim is None or claim.depth != 1:
            self._let_go()
            return
        # As in `Hold.release`: nothing was called since `_claim` was read.
        self._was = claim
        try:
            self._claim = None
            claim.depth = 0
            line = claim.line
            line.let_go(claim)
            granted.pop(claim, None)
            if line.queue:
                wake_first(line)
        except BaseException:
            self._claim = None
            claim.depth = 0
            end(claim)
            raise


class AsyncRWHold(_Modes, AsyncHold):
    """`RWHold` for tasks: its verbs are awaited."""

    __slots__ = ()

    async def upgrade(self, timeout: float | None = None) -> None:
        """See `RWHold.upgrade`. Cancelled, it stays an update hold."""
        limit = seconds(timeout)
        began = monotonic()
        if not await self._upgrade(began, limit):
            claim = self._was_or_is()
            raise await on_server(claim, timed_out, claim.line, self.resource, monotonic() - began, "upgrade")

    async def try_upgrade(self) -> bool:
        """One attempt, without waiting. False: somebody reads. Raises what `upgrade` does."""
        return await self._upgrade(monotonic(), 0.0)

    async def _upgrade(self, began: float, limit: float) -> bool:
        io = running()
        claim = self._require_held()
        me = object()
        try:
            if changing.setdefault(claim, me) is not me:
                raise self._in_the_middle()
            return not self._to_upgrade(claim, limit) or await acquire(io, _Upgrade(claim, began), began + limit)
        finally:
            try:  # no calls, before which a signal might interrupt
                if changing[claim] is me:
                    del changing[claim]
            except KeyError:
                pass

    async def downgrade(self, to: Literal["read", "update"] = "read") -> None:
        """See `RWHold.downgrade`."""
        await on_server(self._claim or self._was, self._downgrade, to)

    async def __aenter__(self) -> Self:
        return self


def holding(line: Line) -> list[Claim]:
    """What this process holds of a read-write lock, in any mode; `line` is one of its three."""
    return [claim for claim in tuple(granted) if claim.line.key == line.key and hasattr(claim.line.engine, "upgrade")]


def together(one: Mode, other: Mode) -> bool:
    return "write" not in (one, other) and "read" in (one, other)


def timed_out(line: Line, resource: str, waited: float, mode: Mode | Literal["upgrade"]) -> Timeout:
    """Names who was in the way: a holder that excludes this mode, else one that waits and is not to be passed."""
    try:
        report = line.engine.inspect(line)
    except OSError:
        return Timeout(resource, waited)
    for holder in report.holders:
        if _excludes(holder.mode, mode):
            return Timeout(resource, waited, holder, _hint(line, report, holder))
    for waiter in report.waiters:
        if mode != "upgrade" and _excludes(waiter.mode, mode):
            who = {"write": "a writer", "update": "an updater"}.get(waiter.mode, "somebody")
            return Timeout(resource, waited, None, f"{who} waits before you: {waiter}")
    return Timeout(resource, waited, None, report.facts.get("cycle", ""))


def _excludes(its: str, mode: str) -> bool:
    """`its` may be unknown."""
    if mode == "upgrade":
        return its != "update"
    return mode == "write" or its not in ("read", "update", "permit") or its == mode == "update"


def _hint(line: Line, report: Report, holder: Party) -> str:
    if holder.pid == os.getpid():
        return "in this process"
    _, hint = line.engine.blame(line)  # finds a cycle in which this process was, until it gave up
    return report.facts.get("cycle", "") if hint == "in this process" else hint
