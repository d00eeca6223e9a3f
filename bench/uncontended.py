"""What a lock costs that nobody else wants: microseconds per acquire and release.

All subjects take turns in one process, in slices of about a millisecond, so that whatever else the machine
does hits all alike. A round is the least of a few slices; reported is the median of the rounds, and ratios
are the median of the ratios within each round.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import Column, Row, Target, find, median, target
from .harness import Plan, clock, progress
from .subjects import OPEN, missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Slice = Callable[[int], Awaitable[None]]

TITLE = "Uncontended: one acquire and release"
COLUMNS = (
    Column("subject", "lock"),
    Column("us", "µs", ".2f"),
    Column("best_us", "best µs", ".2f"),
    Column("to_bare", "x bare", ".2f"),
    Column("to_filelock", "times as fast as filelock", ".1f"),
)
BARE = "open, flock, unlock, close"
WITH = "interlock Lock, with"
FLOOR = "the same and fstat, a class, with"
FILELOCK = "filelock FileLock, with"


class Entry(NamedTuple):
    name: str
    package: str | None
    make: Callable[[str], Slice]  # of a path: what does the thing so many times


def _bare(path: str) -> Slice:
    async def many(times: int) -> None:
        for _ in range(times):
            fd = os.open(path, OPEN, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    return many


class _Floor:
    """What `with` costs at least in Python: the bare system calls, and the fstat without which a lock on a file that
    was replaced between open and lock would count. It has no threads, timeouts, forks or Ctrl-C in mind: not a lock
    to use, but what is between it and `Lock` is what those cost."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> _Floor:
        fd = self._fd = os.open(self._path, OPEN, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd)[3] != 1:
            raise FileNotFoundError(self._path)
        return self

    def __exit__(self, *error: object) -> None:
        fd = self._fd
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _with(lock: Any) -> Slice:
    async def many(times: int) -> None:
        for _ in range(times):
            with lock:
                pass

    return many


def _async_with(lock: Any) -> Slice:
    async def many(times: int) -> None:
        for _ in range(times):
            async with lock:
                pass

    return many


def _verbs(lock: Any) -> Slice:
    async def many(times: int) -> None:
        for _ in range(times):
            hold = lock.acquire()
            hold.release()

    return many


def _lock(path: str) -> Any:
    from interlock import Lock

    return Lock(path)


def _rlock(path: str) -> Any:
    from interlock import RLock

    return RLock(path)


def _async_lock(path: str) -> Any:
    from interlock import AsyncLock

    return AsyncLock(path)


def _filelock(path: str) -> Any:
    from filelock import FileLock

    return FileLock(path)


def _async_filelock(path: str) -> Any:
    from filelock import AsyncFileLock

    return AsyncFileLock(path)


def _portalocker(path: str) -> Any:
    from portalocker import Lock

    return Lock(path)


def _fasteners(path: str) -> Any:
    from fasteners import InterProcessLock

    return InterProcessLock(path)


ENTRIES = (
    Entry(BARE, None, _bare),
    Entry(FLOOR, None, lambda path: _with(_Floor(path))),
    Entry(WITH, "interlock", lambda path: _with(_lock(path))),
    Entry("interlock Lock, acquire and release", "interlock", lambda path: _verbs(_lock(path))),
    Entry("interlock RLock, with", "interlock", lambda path: _with(_rlock(path))),
    Entry("interlock AsyncLock, async with", "interlock", lambda path: _async_with(_async_lock(path))),
    Entry(FILELOCK, "filelock", lambda path: _with(_filelock(path))),
    Entry("filelock AsyncFileLock, async with", "filelock", lambda path: _async_with(_async_filelock(path))),
    Entry("portalocker Lock, with", "portalocker", lambda path: _with(_portalocker(path))),
    Entry("fasteners InterProcessLock, with", "fasteners", lambda path: _with(_fasteners(path))),
)


def run(plan: Plan) -> list[Row]:
    absent = {entry.name: missing(entry.package) for entry in ENTRIES}
    able = [entry for entry in ENTRIES if absent[entry.name] is None]
    rounds = asyncio.run(_rounds(plan, able))
    rows: list[Row] = []
    for entry in ENTRIES:
        if entry not in able:
            rows.append({"subject": entry.name, "missing": absent[entry.name]})
            continue
        mine = rounds[entry.name]
        row: Row = {"subject": entry.name, "us": median(mine), "best_us": min(mine)}
        row["to_bare"] = median([a / b for a, b in zip(mine, rounds[BARE], strict=True)])
        if FILELOCK in rounds:
            row["to_filelock"] = median([b / a for a, b in zip(mine, rounds[FILELOCK], strict=True)])
        rows.append(row)
    return rows


async def _rounds(plan: Plan, entries: list[Entry]) -> dict[str, list[float]]:
    """Microseconds per acquire and release: for each subject, one figure per round."""
    slices = {entry.name: entry.make(plan.path(f"uncontended{at}")) for at, entry in enumerate(entries)}
    times = {name: await _calibrate(many) for name, many in slices.items()}
    rounds: dict[str, list[float]] = {name: [] for name in slices}
    order = list(slices)
    shuffle = Random(1).shuffle
    how_many = 15 if plan.quick else 120
    for number in range(how_many):
        least = dict.fromkeys(slices, float("inf"))
        for _ in range(8):
            shuffle(order)
            for name in order:
                least[name] = min(least[name], await _time(slices[name], times[name]))
        for name, value in least.items():
            rounds[name].append(value)
        if number % 40 == 39:
            progress(f"uncontended: {number + 1} of {how_many} rounds")
    return rounds


async def _time(many: Slice, times: int) -> float:
    start = clock()
    await many(times)
    return (clock() - start) / times / 1000


async def _calibrate(many: Slice) -> int:
    """How many of it are about a millisecond."""
    await many(50)
    return max(3, int(1000 / await _time(many, 50)))


def targets(rows: list[Row]) -> list[Target]:
    row = find(rows, subject=WITH)
    return [
        target("uncontended `with lock:`, times the bare system calls", row.get("to_bare"), 1.8),
        target("uncontended `with lock:`, times as fast as filelock", row.get("to_filelock"), 8, least=True),
    ]
