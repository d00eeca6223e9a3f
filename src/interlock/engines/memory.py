"""Locks that live in this process's memory: for tests, and for code whose target is sometimes an URL.

Excludes threads and tasks of one process, nobody else. The queue of the arbiter is all the waiting that it needs;
the engine's own waiting matters where claims come without an arbiter, as in the simulator.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from .._core.arbiter import known
from .._model import Claim, Traits
from .._report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._core.arbiter import Line
    from .._model import IO, Mode, Parker
    from .._report import Party


class MemoryClaim(Claim):
    parker: Parker | None = None


class MemoryEngine:
    """Grants in order of arrival. One dictionary entry is the lock; taking it is one atomic step."""

    claim_type = MemoryClaim

    def __init__(self) -> None:
        self._grants: dict[str, MemoryClaim] = {}
        self._queues: dict[str, deque[MemoryClaim]] = {}
        self._tokens: dict[str, int] = {}
        self._others: dict[str, Any] = {}
        self.traits = Traits(
            name="memory",
            family="session",
            excludes="threads",
            fair="fifo",
            fences=True,
            survives_crash=True,
            wait="events",
            abilities=("rwlock", "semaphore"),
        )

    def sharing(self, mode: Mode, key: str) -> Any:
        """The engine of read-write locks in this mode."""
        return self._siblings()[mode]

    def counting(self, key: str) -> Any:
        """The engine of semaphores."""
        return self._siblings()["semaphore"]

    def _siblings(self) -> dict[str, Any]:
        if not self._others:
            from ._memory_entries import Lists, Modes, Permits

            shared, counted = Lists(), Lists()
            modes: tuple[Mode, ...] = ("read", "update", "write")
            made: dict[str, Any] = {mode: Modes(shared, mode) for mode in modes}
            # One step: threads may come here together.
            self._others.setdefault("all", {**made, "semaphore": Permits(counted)})
        siblings: dict[str, Any] = self._others["all"]
        return siblings

    def refuse_mix(self, key: str, kind: str, path: str) -> None:
        """Locks of different kinds on one name would not exclude each other."""
        if not kind or not (self._others or kind != "lock"):
            return
        others = {
            "lock": [self],
            "semaphore": [self._siblings()["semaphore"]],
            "rwlock": [self._siblings()[mode] for mode in ("read", "update", "write")],
        }
        for other, engines in others.items():
            if other != kind and any(known(engine, key) for engine in engines):
                raise ValueError(f"{path} is used as a {other} in this process, so it cannot be a {kind}: name it anew")

    def claim(self, line: Line, owner: object, fair: bool) -> MemoryClaim:
        claim = MemoryClaim()
        claim.line = line
        claim.owner = owner
        return claim

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def try_now(self, claim: MemoryClaim, timeout: float) -> bool:
        key = claim.line.key
        if self._grants.setdefault(key, claim) is not claim:
            return False
        self._granted(key, claim)
        return True

    def _granted(self, key: str, claim: MemoryClaim) -> None:
        if claim.token is None:
            claim.token = self._tokens[key] = self._tokens.get(key, 0) + 1
        claim.since = monotonic()
        self._leave(claim)

    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        key = claim.line.key
        if io.now() < deadline and self._first(key) not in (None, claim):
            return False
        if await io.call(self._grants.setdefault, key, claim) is not claim:
            return False
        await io.call(self._granted, key, claim)
        return True

    async def wait(self, io: IO, claim: MemoryClaim, until: float) -> None:
        if claim.parker is None:
            claim.parker = io.parker()
            await io.call(self._queues.setdefault(claim.line.key, deque()).append, claim)
            return  # subscribed: now try again
        await io.park(claim.parker, until)

    async def release(self, io: IO, claim: MemoryClaim) -> None:
        await io.call(self.drop, claim)

    async def withdraw(self, io: IO, claim: MemoryClaim) -> None:
        await io.call(self.drop, claim)

    def drop(self, claim: MemoryClaim) -> None:
        key = claim.line.key
        self._leave(claim)
        if self._grants.get(key) is claim:
            del self._grants[key]
        first = self._first(key)
        parker = None if first is None else first.parker
        if parker is not None:
            parker.unpark()

    def _first(self, key: str) -> MemoryClaim | None:
        queue = self._queues.get(key)
        try:
            return queue[0] if queue else None
        except IndexError:  # it left the queue since we looked
            return None

    def _leave(self, claim: MemoryClaim) -> None:
        if claim.parker is not None:
            claim.parker = None
            try:
                self._queues[claim.line.key].remove(claim)
            except (KeyError, ValueError):
                pass

    def disown(self, claim: MemoryClaim) -> None:
        """A forked child has a copy of all this memory, and nobody to share it with."""
        self.drop(claim)

    def lost(self, claim: MemoryClaim) -> str:
        return "" if self._grants.get(claim.line.key) is claim else "its entry is gone"

    def inspect(self, line: Line) -> Report:
        siblings = self._others.get("all", {})
        for kind in ("read", "semaphore"):
            if kind in siblings:
                report: Report = siblings[kind].inspect(line)
                if report.holders or report.waiters:
                    return report
        from dataclasses import replace

        from .._parties import own

        holder, _ = self.blame(line)
        waiting = [place.claim for place in tuple(line.queue)]
        waiters = tuple(replace(own(claim), position=place) for place, claim in enumerate(waiting, 1))
        return Report(line.resource, "memory", (holder,) if holder else (), waiters, enforced=True)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        claim = self._grants.get(line.key)
        if claim is None:
            return None, ""
        from .._parties import own

        return own(claim), "in this process"


engine = MemoryEngine()
