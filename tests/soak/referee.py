"""The page of memory that all processes of a storm share, and what they write there: see `storm`. Those of
`tests.network` share it between their kernels."""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING

from .locks import OF_FILES, PERMITS

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITE, READ = 1, 2

_STOP, _HEAD = 0, 1
TOKEN, KILLED, TAKEN, TOOK = range(4)
"""Of a lock: its highest token; when a holder was killed; of which kill that is, that somebody has entered after; and
the nanoseconds between."""
_OF_LOCK = 4
INSIDE, DOOMED, HOLDS, OVERLAPS, REGRESSIONS, FAILURES = range(6)
"""Of a worker."""
_OF_WORKER = 6


class Cells:
    """Each cell is written by one process at a time."""

    def __init__(
        self, workers: int, kind: str, locks: int = 1, *, often: bool = False, page: mmap.mmap | None = None
    ) -> None:
        """`often`: there are few holds, so more of them last. `page`: memory that is shared already."""
        size = 8 * (_HEAD + locks * _OF_LOCK + workers * _OF_WORKER)
        self._at = memoryview(mmap.mmap(-1, size) if page is None else page)[:size].cast("q")
        self.workers = workers
        self.locks = locks
        self._first = _HEAD + locks * _OF_LOCK
        # One hold of so many lasts longer, so that holders are killed too.
        self._stays = 4 if often else 20 if kind in OF_FILES else 50
        self._most = PERMITS if kind == "semaphore" else 1

    def at(self, worker: int, what: int) -> int:
        return self._at[self._first + worker * _OF_WORKER + what]

    def put(self, worker: int, what: int, value: int) -> None:
        self._at[self._first + worker * _OF_WORKER + what] = value

    def count(self, worker: int, what: int) -> None:
        self._at[self._first + worker * _OF_WORKER + what] += 1

    def sum(self, what: int) -> int:
        return sum(self.at(worker, what) for worker in range(self.workers))

    def of_lock(self, lock: int, what: int) -> int:
        return self._at[_HEAD + lock * _OF_LOCK + what]

    def put_lock(self, lock: int, what: int, value: int) -> None:
        self._at[_HEAD + lock * _OF_LOCK + what] = value

    @property
    def stopped(self) -> bool:
        return bool(self._at[_STOP])

    def stop(self) -> None:
        self._at[_STOP] = 1

    def clear(self) -> None:
        """Nobody works."""
        for number in range(len(self._at)):
            self._at[number] = 0

    # ---- what a worker says

    def enter(self, me: int, mode: int, lock: int = 0) -> None:
        self.count(me, HOLDS)  # before the mode: so whoever has the same number of holds is in the same one
        self.put(me, INSIDE, mode | lock << 2)
        first = self._others(me, mode, lock)
        if len(first) >= self._most and len(first & self._others(me, mode, lock)) >= self._most:
            self.count(me, OVERLAPS)
        killed = self.of_lock(lock, KILLED)
        if killed and not self.at(me, DOOMED):
            self.put_lock(lock, TOOK, time.monotonic_ns() - killed)
            self.put_lock(lock, TAKEN, killed)
            self.put_lock(lock, KILLED, 0)
        if self.at(me, HOLDS) % self._stays == 0:
            time.sleep(0.001)

    def _others(self, me: int, mode: int, lock: int) -> set[tuple[int, int]]:
        """Who else is inside, and in which of its holds. One look takes time: of two that it finds, the first may have
        left before the second came. Who is in two looks by the same hold was inside all the time between them."""
        found = set()
        for worker in range(self.workers):
            doomed = self.at(worker, DOOMED)  # before its mode, which is cleared first
            which = self.at(worker, HOLDS)
            its = self.at(worker, INSIDE)
            if worker != me and its and not doomed and its >> 2 == lock and WRITE in (its & 3, mode):
                found.add((worker, which))
        return found

    def look_at(self, me: int, token: int, lock: int = 0) -> None:
        if token <= self.of_lock(lock, TOKEN):
            self.count(me, REGRESSIONS)
        self.put_lock(lock, TOKEN, token)

    def leave(self, me: int) -> None:
        self.put(me, INSIDE, 0)


class Takeovers:
    """How long it took from the kill of a holder until the next one was inside: kept by who kills.

    It stamps the lock before it kills. If the victim was in the same hold when it was dead, then nobody can have
    entered rightly before its death, and the next to enter reads the stamp. Else nothing is learnt."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._pending: dict[int, int] = {}
        self._found: list[float] = []

    def before(self, victim: int) -> tuple[int, int]:
        """The victim is doomed already. Returns what `after` wants to know."""
        cells = self._cells
        hold = cells.at(victim, INSIDE), cells.at(victim, HOLDS)
        if hold[0]:
            lock = hold[0] >> 2
            self._collect(lock)
            self._pending[lock] = time.monotonic_ns()
            cells.put_lock(lock, KILLED, self._pending[lock])
        return hold

    def after(self, victim: int, hold: tuple[int, int]) -> None:
        """The victim is dead."""
        cells, lock = self._cells, hold[0] >> 2
        if not hold[0]:
            return
        if hold != (cells.at(victim, INSIDE), cells.at(victim, HOLDS)):
            del self._pending[lock]
            cells.put_lock(lock, KILLED, 0)
        elif not cells.of_lock(lock, KILLED) and cells.of_lock(lock, TAKEN) != self._pending[lock]:
            cells.put_lock(lock, KILLED, self._pending[lock])  # the victim has cleared it, meaning the one before

    def _collect(self, lock: int) -> None:
        if lock in self._pending and self._cells.of_lock(lock, TAKEN) == self._pending[lock]:
            self._found.append(self._cells.of_lock(lock, TOOK) / 1e9)
            del self._pending[lock]

    def open(self) -> bool:
        """Is there a lock whose dead holder has no successor yet?"""
        for lock in range(self._cells.locks):
            self._collect(lock)
        return bool(self._pending)

    def sorted(self) -> list[float]:
        """Seconds. Where nobody entered until now, the time until now."""
        waiting = self.open()
        now = time.monotonic_ns()
        return sorted([*self._found, *(self._still(now) if waiting else ())])

    def _still(self, now: int) -> Iterator[float]:
        return ((now - stamp) / 1e9 for stamp in self._pending.values())


def at_share(times: list[float], share: float) -> float:
    """The quantile of a sorted list; 0 of an empty one."""
    return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0
