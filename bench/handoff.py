"""How long a lock is nobody's when it passes from one process to another that waits for it.

A handoff is counted when the new holder had called acquire before the old one called release; it lasts from
just before that release to the return of that acquire. All waits are timed (60 s), save those of flock(2),
which is the measure. Between a release and the next acquire a contender thinks for half a millisecond, so
that with several contenders and holds of a millisecond nearly every release is a handoff; the runs without
thinking show what barging does. Holding and thinking are sleeps: processes compete for the lock, not for
cores.

Releases that no waiter noticed before a newcomer took the lock are no handoffs. That flatters pollers, who
miss most of them. What that costs shows in Jain's index over the processes and in the longest wait, which is
at most as long as a round.

The subjects take turns in short rounds and their samples are pooled. Contenders are forked from one small
process. Each takes a few turns before the round: the first wait of a process loads what waiting needs (10 to 30 ms of
CPU, which 32 processes at once would spend for most of a round). Then they start together; the first tenth of each
round is not counted.
"""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING, NamedTuple

from .figures import Column, Row, Target, find, jain, median, p99, ratio, target
from .harness import FAILURES, Crew, Plan, clock, progress, why
from .subjects import CONTENDERS, FLOCK, Subject, present

if TYPE_CHECKING:
    from .harness import Child, Wire

TITLE = "Handoff between processes"
COLUMNS = (
    Column("contenders", "processes"),
    Column("hold_ms", "hold, ms", "g"),
    Column("think_ms", "think, ms", "g"),
    Column("subject", "lock"),
    Column("handoffs", "handoffs"),
    Column("p50_us", "p50, µs", ".1f"),
    Column("p99_us", "p99, µs", ".0f"),
    Column("to_flock", "p50 x flock", ".2f"),
    Column("longest_ms", "longest wait, ms", ".0f"),
    Column("jain", "Jain", ".2f"),
    Column("per_second", "acquired/s", ".0f"),
    Column("barged", "barged", ".0%"),
    Column("overtook", "overtook", ".0%"),
)


class Cell(NamedTuple):
    contenders: int
    hold: float  # seconds
    think: float
    seconds: float  # of one round


THINK = 0.0005
BEFORE = 3  # turns of each contender before a round
FEW = 20  # fewer handoffs than this have no median worth telling
FULL = (
    *(Cell(2, hold, THINK, 0.5) for hold in (0, 0.001)),
    *(Cell(8, hold, THINK, 0.5) for hold in (0, 0.001)),
    *(Cell(32, hold, THINK, 0.8) for hold in (0, 0.001)),
    *(Cell(contenders, 0.02, THINK, seconds) for contenders, seconds in ((2, 1.0), (8, 1.5), (32, 3.0))),
    *(Cell(contenders, hold, 0, 0.4) for contenders in (2, 8, 32) for hold in (0, 0.001)),
)
QUICK = (Cell(2, 0.001, THINK, 0.25), Cell(8, 0.001, THINK, 0.25), Cell(8, 0.001, 0, 0.25))

# The board that all contenders of a round share: 64-bit words.
_START, _RELEASED, _HOLDER, _WAITING = 0, 1, 2, 3  # from _WAITING on: since when each contender waits, or 0


def run(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    subjects = present(CONTENDERS, rows)
    cells = QUICK if plan.quick else FULL
    for number, cell in enumerate(cells):
        progress(f"handoff: {number + 1} of {len(cells)}: {cell}")
        rows += _cell(plan, cell, subjects, rounds=1 if plan.quick else 3)
    return rows


def _cell(plan: Plan, cell: Cell, subjects: list[Subject], rounds: int) -> list[Row]:
    pools: dict[str, Pool] = {subject.name: Pool() for subject in subjects}
    for turn in range(rounds):
        for subject in subjects[turn:] + subjects[:turn]:
            pool = pools[subject.name]
            if not pool.failure:
                try:
                    pool.add(_round(plan.path(f"handoff{subjects.index(subject)}"), cell, subject))
                except FAILURES as error:
                    pool.failure = why(error)
    measure = pools[FLOCK.name].p50()
    what = {"contenders": cell.contenders, "hold_ms": cell.hold * 1000, "think_ms": cell.think * 1000}
    return [{**what, "subject": name, **pool.row(cell, measure)} for name, pool in pools.items()]


class Tally(NamedTuple):
    """What one contender saw in one round. All but `acquired` are about the moments it got the lock."""

    acquired: int
    barged: int  # it came after the last release, while another had waited since before
    overtook: int  # another had waited longer
    handoffs: list[int]  # nanoseconds
    longest: int  # nanoseconds of one wait that fell into the time that counts


class Pool:
    """All rounds of one subject in one cell."""

    def __init__(self) -> None:
        self.failure = ""
        self.handoffs: list[float] = []  # microseconds
        self.longest = 0.0  # milliseconds
        self.fairness: list[float] = []  # a round each: pooled counts would hide who starved when
        self.acquired = self.barged = self.overtook = self.rounds = 0

    def add(self, tallies: list[Tally]) -> None:
        self.rounds += 1
        index = jain([tally.acquired for tally in tallies])
        if index is not None:
            self.fairness.append(index)
        for tally in tallies:
            self.handoffs += (nanoseconds / 1e3 for nanoseconds in tally.handoffs)
            self.longest = max(self.longest, tally.longest / 1e6)
            self.acquired += tally.acquired
            self.barged += tally.barged
            self.overtook += tally.overtook

    def p50(self) -> float | None:
        return median(self.handoffs) if len(self.handoffs) >= FEW else None

    def row(self, cell: Cell, measure: float | None) -> Row:
        if self.failure:
            return {"failed": self.failure}
        return {
            "handoffs": len(self.handoffs),
            "p50_us": self.p50(),
            "p99_us": p99(self.handoffs),
            "to_flock": ratio(self.p50(), measure),
            "longest_ms": self.longest,
            "jain": median(self.fairness),
            "jain_least": min(self.fairness, default=None),
            "per_second": self.acquired / (self.rounds * cell.seconds * 0.9),
            "barged": ratio(self.barged, self.acquired),
            "overtook": ratio(self.overtook, self.acquired),
        }


def _round(path: str, cell: Cell, subject: Subject) -> list[Tally]:
    with mmap.mmap(-1, 8 * (_WAITING + cell.contenders)) as memory, Crew() as crew:
        board = memoryview(memory).cast("q")
        try:
            crowd = [
                crew.fork(lambda wire, me=me: subject.run(_contend(path, cell, subject, board, me, wire)))  # type: ignore[misc]
                for me in range(cell.contenders)
            ]
            _all_say(crowd, "there")
            _let_go(crowd)
            _all_say(crowd, "ready")
            board[_START] = clock() + 10_000_000
            _let_go(crowd)
            tallies = [Tally(*child.wire.hear()) for child in crowd]
            for child in crowd:
                crew.end(child)
            return tallies
        finally:
            board.release()


def _all_say(crowd: list[Child], word: str) -> None:
    for child in crowd:
        if child.wire.hear() != word:
            raise AssertionError(f"a contender is not {word}")


def _let_go(crowd: list[Child]) -> None:
    for child in crowd:
        child.wire.say()


async def _contend(path: str, cell: Cell, subject: Subject, board: memoryview, me: int, wire: Wire) -> None:
    acquire, release = subject.make(path)
    waiting = board[_WAITING:]
    sleep = time.sleep
    wire.say("there")
    wire.hear()
    for _ in range(BEFORE):
        token = await acquire()
        sleep(THINK)
        await release(token)
    wire.say("ready")
    wire.hear()
    start = board[_START]
    end = start + int(cell.seconds * 1e9)
    counting = start + int(cell.seconds * 1e8)
    acquired = barged = overtook = 0
    longest = 0
    handoffs = []
    sleep(max(0, start - clock()) / 1e9)
    began = clock()
    while began < end:
        waiting[me] = began
        token = await acquire()
        now = clock()
        waiting[me] = 0
        if board[_HOLDER]:
            raise AssertionError(f"{subject.name}: two holders at once")
        board[_HOLDER] = me + 1
        longest = max(longest, min(now, end) - max(began, counting))
        if counting <= now < end:
            acquired += 1
            released = board[_RELEASED]
            oldest = min(filter(None, waiting.tolist()), default=now)  # since when another waits
            overtook += oldest < began
            if began < released:
                handoffs.append(now - released)
            else:
                barged += oldest < released
        if cell.hold and now < end:
            sleep(cell.hold)
        board[_HOLDER] = 0
        board[_RELEASED] = clock()
        await release(token)
        if cell.think:
            sleep(cell.think)
        began = clock()
    wire.say(Tally(acquired, barged, overtook, handoffs, longest))


def targets(rows: list[Row]) -> list[Target]:
    """Figures of the timed, not-fair lock at the 1 ms hold; fairness at 20 ms as well."""
    found = []
    for contenders, limit in ((2, 1.7), (32, 2.0)):
        for name in ("interlock", "interlock, asyncio"):
            row = find(rows, subject=name, contenders=contenders, hold_ms=1, think_ms=THINK * 1000)
            if row or contenders == 32:
                what = f"handoff p50, {contenders} processes, 1 ms holds, times flock(2): {name}"
                found.append(target(what, row.get("to_flock"), limit))
    for hold in (1, 20):
        row = find(rows, subject="interlock", contenders=32, hold_ms=hold, think_ms=THINK * 1000)
        found.append(target(f"Jain index, 32 processes, {hold} ms holds", row.get("jain"), 0.9, least=True))
    return found
