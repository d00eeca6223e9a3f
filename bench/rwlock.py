"""What a reader pays when nobody writes: RWLock's read hold against bare system calls and filelock's ReadWriteLock.

The subjects take turns as in `uncontended`, whose loop this is, and so is the measure: open, flock, unlock, close.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import uncontended
from .figures import Column, Row, Target, find, median, target
from .subjects import missing
from .uncontended import BARE, Entry

if TYPE_CHECKING:
    from .harness import Plan
    from .uncontended import Slice

TITLE = "Read-write locks and semaphores, uncontended: one acquire and release"
COLUMNS = (
    Column("subject", "lock"),
    Column("us", "µs", ".2f"),
    Column("best_us", "best µs", ".2f"),
    Column("to_bare", "x bare", ".2f"),
    Column("to_filelock", "times as fast as filelock", ".1f"),
)
READ = "interlock RWLock, read"
FILELOCK = "filelock ReadWriteLock, read_lock"


def _calling(verb: Any) -> Slice:
    async def many(times: int) -> None:
        for _ in range(times):
            with verb():
                pass

    return many


def _rw(path: str, verb: str) -> Slice:
    from interlock import RWLock

    return _calling(getattr(RWLock(path), verb))


def _semaphore(path: str) -> Slice:
    from interlock import Semaphore

    semaphore = Semaphore(path, 4)
    return _calling(lambda: semaphore)


def _filelock(path: str) -> Slice:
    from filelock import ReadWriteLock

    return _calling(ReadWriteLock(path + ".db").read_lock)


ENTRIES = (
    Entry(BARE, None, uncontended._bare),
    Entry(READ, "interlock", lambda path: _rw(path, "read")),
    Entry("interlock RWLock, update", "interlock", lambda path: _rw(path, "update")),
    Entry("interlock RWLock, write", "interlock", lambda path: _rw(path, "write")),
    Entry("interlock Semaphore, with", "interlock", _semaphore),
    Entry(FILELOCK, "filelock", _filelock),
)


def run(plan: Plan) -> list[Row]:
    absent = {entry.name: missing(entry.package) for entry in ENTRIES}
    able = [entry for entry in ENTRIES if absent[entry.name] is None]
    rounds = asyncio.run(uncontended._rounds(plan, able))
    rows: list[Row] = [
        {"subject": name, "missing": why} for name, why in absent.items() if why is not None
    ]
    for name, mine in rounds.items():
        row: Row = {"subject": name, "us": median(mine), "best_us": min(mine)}
        row["to_bare"] = median([a / b for a, b in zip(mine, rounds[BARE], strict=True)])
        if FILELOCK in rounds:
            row["to_filelock"] = median([b / a for a, b in zip(mine, rounds[FILELOCK], strict=True)])
        rows.append(row)
    return rows


def targets(rows: list[Row]) -> list[Target]:
    row = find(rows, subject=READ)
    return [
        target("uncontended read hold, times the bare system calls", row.get("to_bare"), 2.5),
        target("uncontended read hold, times as fast as filelock's", row.get("to_filelock"), 20, least=True),
    ]
