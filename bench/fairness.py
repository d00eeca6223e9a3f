"""How fair fair=True is, and what it costs: 32 processes at one lock, while one in ten waiters is killed.

Every contender writes down when it asked, when it stood in the queue, when it got the lock and when it let go. At every
tenth acquisition a killer picks a process that waits and kills it with SIGKILL, and another process takes its place.
From the records: Jain's index over the acquisitions per place; how often a wait was overtaken by somebody who came
later; the time from a release to the next acquire where that had been asked for before. Between a release and the next
acquire a contender sleeps half a millisecond. What was asked for in the first tenth of a round is not counted.

Who came later: a contender arrives when its ticket is taken, which is when the kernel has its byte-range lock. So it
stands from when that call has returned, and came no earlier than when the call was made; whoever got the lock at once
came when it asked, and stood when it got it. A wait is overtaken by those who got the lock before it and came after it
stood. Also counted is by when they asked: between that and the ticket a busy machine may stop a process for as long as
it likes, and nobody can know of it. Two that ask within `CLOSE` of each other count as together there.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import signal
import struct
import time
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import Column, Row, Target, find, jain, median, p99, ratio, target
from .harness import clock, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Plan

TITLE = "Fairness: 32 processes, one in ten waiters killed"
COLUMNS = (
    Column("hold_ms", "hold, ms", "g"),
    Column("subject", "lock"),
    Column("acquired", "acquired"),
    Column("kills", "waiters killed"),
    Column("jain", "Jain", ".4f"),
    Column("overtaken", "a wait was overtaken at most"),
    Column("overtaken_asked", "by who asked later"),
    Column("p50_us", "handoff p50, µs", ".1f"),
    Column("p99_us", "handoff p99, µs", ".0f"),
    Column("to_unfair", "p50 x unfair", ".2f"),
)
CONTENDERS = 32
THINK = 0.0005
CLOSE = 2_000_000  # ns
_RECORD = struct.Struct("qqqqqq")
_WAITING = 1


class Record(NamedTuple):
    place: int
    asked: int
    came: int  # not before this
    stood: int  # not after this
    got: int
    released: int


def run(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for hold, seconds in ((0.001, 4.0), (0.02, 30.0)) if not plan.quick else ((0.001, 1.5),):
        unfair = None
        for subject, fair, kill in (("not fair", False, False), ("fair", True, False), ("fair, kills", True, True)):
            progress(f"fairness: {hold * 1000:g} ms, {subject}")
            records, kills = contest(plan.path(f"fairness{len(rows)}"), hold, seconds, fair=fair, kill=kill)
            times = handoffs(records)
            p50 = median(times)
            unfair = p50 if not fair else unfair
            rows.append(
                {
                    "hold_ms": hold * 1000,
                    "subject": subject,
                    "acquired": len(records),
                    "kills": kills,
                    "jain": evenness(records),
                    "overtaken": max(overtaken(records), default=0),
                    "overtaken_asked": max(overtaken_asked(records), default=0),
                    "p50_us": p50,
                    "p99_us": p99(times),
                    "to_unfair": ratio(p50, unfair),
                }
            )
    return rows


def contest(
    path: str, hold: float, seconds: float, *, fair: bool, kill: bool, contenders: int = CONTENDERS
) -> tuple[list[Record], int]:
    """The records of a contest, and how many waiters were killed in it."""
    chance = random.Random(1)
    _load(path + ".other")
    with mmap.mmap(-1, 8 * contenders) as memory, open(path + ".records", "ab+", buffering=0) as out:
        board = memoryview(memory).cast("q")
        start = clock() + 200_000_000
        end = start + int(seconds * 1e9)
        children = [_fork(path, hold, fair, board, place, out.fileno(), end) for place in range(contenders)]
        kills = 0
        try:
            while kill and clock() < end:
                time.sleep(0.002)
                acquired = os.fstat(out.fileno()).st_size // _RECORD.size
                waiting = [place for place in range(contenders) if board[place] == _WAITING]
                if kills < acquired // 10 and waiting:
                    place = chance.choice(waiting)
                    os.kill(children[place], signal.SIGKILL)
                    os.waitpid(children[place], 0)
                    board[place] = 0
                    kills += 1
                    children[place] = _fork(path, hold, fair, board, place, out.fileno(), end)
        finally:
            for child in children:
                os.waitpid(child, 0)
            board.release()
        out.seek(0)
        found = [Record(*record) for record in _RECORD.iter_unpack(out.read())]
    begin = start + int(seconds * 1e8)
    return sorted((record for record in found if record.asked > begin), key=lambda record: record.got), kills


def _load(path: str) -> None:
    """Wait once. A process's first wait loads modules between the asking and the ticket: that is not what is timed."""
    from interlock import Lock, Timeout

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(Timeout):
        Lock(path, fair=True).acquire(timeout=0.001)
    os.close(descriptor)


def _fork(path: str, hold: float, fair: bool, board: memoryview, place: int, out: int, end: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        from interlock import Lock

        _load(f"{path}.other{place}")
        ticket = _watch_tickets()
        lock = Lock(path, fair=fair)
        while clock() < end:
            board[place] = _WAITING
            ticket.clear()
            asked = clock()
            mine = lock.acquire(timeout=60)
            got = clock()
            board[place] = 0
            time.sleep(hold)
            released = clock()
            mine.release()
            came, stood = ticket or (asked, got)
            os.write(out, _RECORD.pack(place, asked, came, stood, got, released))
            time.sleep(THINK)
    finally:
        os._exit(0)


def _watch_tickets() -> list[int]:
    """A list that holds, once a ticket was taken, when that call was made and when it had returned."""
    from interlock.engines.kernel import tickets

    times: list[int] = []
    enter = tickets.enter

    def timed(ops: Any, fd: int) -> int:
        before = clock()
        ticket = enter(ops, fd)
        times[:] = before, clock()
        return ticket

    tickets.enter = timed
    return times


def evenness(records: list[Record]) -> float | None:
    counts = dict.fromkeys(range(CONTENDERS), 0)
    for record in records:
        counts[record.place] = counts.get(record.place, 0) + 1
    return jain(list(counts.values()))


def overtaken(records: list[Record]) -> list[int]:
    """For each wait: how many got the lock before it who had come after it stood. `records` in the order of `got`."""
    return [
        sum(other.came > record.stood for other in _before(records, at, record.stood))
        for at, record in enumerate(records)
    ]


def overtaken_asked(records: list[Record]) -> list[int]:
    """For each wait: how many got the lock before it who had asked later."""
    return [
        sum(other.asked > record.asked + CLOSE for other in _before(records, at, record.asked))
        for at, record in enumerate(records)
    ]


def _before(records: list[Record], at: int, since: int) -> Iterator[Record]:
    """Those who got the lock before this one, but after `since`; the last first."""
    return takewhile(lambda other: other.got >= since, reversed(records[:at]))


def handoffs(records: list[Record]) -> list[float]:
    """Microseconds from a release to the next acquire, where that had been asked for before."""
    return [
        (after.got - before.released) / 1000
        for before, after in pairwise(records)
        if after.asked < before.released
    ]


def targets(rows: list[Row]) -> list[Target]:
    found: list[Target] = []
    for hold in sorted({row["hold_ms"] for row in rows}):
        killed = find(rows, hold_ms=hold, subject="fair, kills")
        fair = find(rows, hold_ms=hold, subject="fair")
        found += [
            target(f"fair, {hold:g} ms, kills: Jain's index", killed.get("jain"), 0.99, least=True),
            target(f"fair, {hold:g} ms, kills: a wait was overtaken at most", killed.get("overtaken"), 1),
            target(f"fair, {hold:g} ms: handoff p50, times the unfair one", fair.get("to_unfair"), 3),
        ]
    return found
