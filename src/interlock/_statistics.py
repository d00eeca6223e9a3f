"""`statistics`: how often, how long waited and how long held, per lock of this process."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ._observe import Event, observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Histogram", "LockStatistics", "Statistics", "statistics"]

BOUNDS = tuple(step * 10.0**power for power in range(-6, 4) for step in (1, 2, 5))
"""Upper bounds of the buckets, in seconds: 1 µs, 2 µs, 5 µs, ... 5000 s. What is longer is in one more bucket."""

MOST = 10_000
"""Locks that are counted by themselves; further ones are counted together, as the lock ""."""

_BATCH = 512


@dataclass
class Histogram:
    """Durations in seconds. `counts[i]` are those not longer than `BOUNDS[i]` (and longer than the bound before);
    the last is for longer ones."""

    count: int = 0
    total: float = 0.0
    longest: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.counts[bisect_left(BOUNDS, seconds)] += 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """An upper bound of the quantile, `share` from 0 to 1: the bound of the bucket it is in."""
        if not 0 <= share <= 1:
            raise ValueError(f"a quantile's share is between 0 and 1, not {share}")
        rank, seen = share * self.count, 0
        for bound, number in zip((*BOUNDS, self.longest), self.counts, strict=True):
            seen += number
            if number and seen >= rank:
                return min(bound, self.longest)
        return 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; only the buckets that are not empty, by their upper bounds."""
        names = [f"{bound:g}" for bound in BOUNDS] + ["inf"]
        buckets = {name: number for name, number in zip(names, self.counts, strict=True) if number}
        return {"count": self.count, "total": self.total, "longest": self.longest, "buckets": buckets}


@dataclass
class LockStatistics:
    """Of one lock. `waits` counts the acquires and upgrades that had to wait, `withdrawn` those that went without.
    `wait` has the time of every acquire and upgrade (0 where nobody was in the way), `hold` that of every release:
    from the grant on, in whatever modes."""

    acquired: int = 0
    upgraded: int = 0
    downgraded: int = 0
    waits: int = 0
    withdrawn: int = 0
    released: int = 0
    lost: int = 0
    wait: Histogram = field(default_factory=Histogram)
    hold: Histogram = field(default_factory=Histogram)

    @property
    def contention(self) -> float:
        """The share of attempts that met somebody else, 0 to 1."""
        attempts = self.acquired + self.upgraded + self.withdrawn
        return min(1.0, max(self.waits, self.withdrawn) / attempts) if attempts else 0.0

    def count(self, event: Event) -> None:
        if event.kind == "waiting":
            self.waits += 1
        elif event.kind == "acquired":
            self.acquired += 1
            self.wait.add(event.waited)
        elif event.kind == "upgraded":
            self.upgraded += 1
            self.wait.add(event.waited)
        elif event.kind == "downgraded":
            self.downgraded += 1
        elif event.kind == "withdrawn":
            self.withdrawn += 1
        elif event.kind == "released":
            self.released += 1
            self.hold.add(event.held)
        elif event.kind == "lost":
            self.lost += 1

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        names = ("acquired", "upgraded", "downgraded", "waits", "withdrawn", "released", "lost")
        plain = {name: getattr(self, name) for name in names}
        return {**plain, "contention": self.contention, "wait": self.wait.as_dict(), "hold": self.hold.as_dict()}


class Statistics:
    """What `statistics` returns: counts until `stop()`, or the end of a `with` block. A forked child starts at zero."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._clear()
        self._observation = observe(self._note)

    def _clear(self) -> None:
        self._locks: dict[str, LockStatistics] = {}
        self._notes: deque[Event] = deque()
        self._counting = threading.Lock()

    def _note(self, event: Event) -> None:
        # A signal handler or a finalizer may come here in the middle of a count: a note is one atomic step, and who
        # cannot count now leaves it to the next.
        if event.pid != self._pid:
            self._pid = event.pid
            self._clear()
        self._notes.append(event)
        if len(self._notes) >= _BATCH and self._counting.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._counting.release()

    def _count(self) -> None:
        while self._notes:
            event = self._notes.popleft()
            name = event.resource
            if name not in self._locks and len(self._locks) >= MOST:
                name = ""
            self._locks.setdefault(name, LockStatistics()).count(event)

    def locks(self) -> dict[str, LockStatistics]:
        """By resource: a copy of what was counted so far."""
        if os.getpid() != self._pid:
            return {}
        with self._counting:
            self._count()
            return deepcopy(self._locks)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {name: lock.as_dict() for name, lock in self.locks().items()}

    def stop(self) -> None:
        """Count no more; what was counted stays readable. Idempotent."""
        self._observation.stop()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def statistics() -> Statistics:
    """Begin to count what the locks of this process do: acquires, waits, how long was waited and held.

    Each call counts for itself, from zero. Costs nothing before the first call and after the last `stop()`.
    """
    return Statistics()
