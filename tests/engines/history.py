"""What fighters write down, and whether it may be so.

A fighter appends one line per event to a file of its own: a kill leaves what was written. A fenced write is one
appended line of a file that all share: so there is one order of them, and a fence is played over it afterwards.

Times are `time.monotonic()`, one clock for all processes of a machine: of a grant taken *after* acquire returned, of a
write *before* the holder asked whether it still holds. So spans are shorter than what the holder had, and two of them
that overlap are two holders.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock.testing.checkers import Span, overlaps, regressions

if TYPE_CHECKING:
    from collections.abc import Iterable

WRITES = "register"


class Hold(NamedTuple):
    """One hold of one fighter."""

    who: str
    token: int
    got: float
    writes: list[float]
    """When it was asked, before each write, whether it still held; and it did."""
    used: list[float]
    """Those of the writes that the fence admitted."""
    lost: float | None
    """When it was asked and said that it had lost."""
    released: float | None


class Verdict(NamedTuple):
    holds: int
    used: int
    writes: int
    lost: int
    """Holds that were lost, and said so."""
    unaware: int
    """Holds that went on to write after another one had been granted, and were not told. Must be 0."""
    fenced: int
    """Writes that only the fence stopped: the process was stopped between the question and the write."""
    excused: int
    faults: list[str]


class Log:
    """Of one fighter."""

    def __init__(self, directory: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._mine = os.open(os.path.join(directory, f"fighter.{os.getpid()}"), flags, 0o644)
        self._register = os.open(os.path.join(directory, WRITES), flags, 0o644)

    def note(self, what: str, at: float, *more: object) -> None:
        os.write(self._mine, (" ".join(map(str, (what, at, *more))) + "\n").encode())

    def write(self, token: int, asked: float) -> None:
        """A fenced write."""
        os.write(self._register, f"{token} {os.getpid()} {asked}\n".encode())


def read(directory: str) -> list[Hold]:
    """All holds, from what is written there."""
    admitted = set()
    highest = 0
    for line in _lines(os.path.join(directory, WRITES)):
        token, who, asked = line
        if int(token) >= highest:
            highest = int(token)
            admitted.add((int(token), who, float(asked)))
    holds: list[Hold] = []
    for name in sorted(os.listdir(directory)):
        if not name.startswith("fighter."):
            continue
        who = name.partition(".")[2]
        for what, at, *more in _lines(os.path.join(directory, name)):
            if what == "got":
                holds.append(Hold(who, int(more[0]), float(at), [], [], None, None))
            elif what == "write":
                holds[-1].writes.append(float(at))
                if (holds[-1].token, who, float(at)) in admitted:
                    holds[-1].used.append(float(at))
            elif what == "lost":
                holds[-1] = holds[-1]._replace(lost=float(at))
            elif what == "released":
                holds[-1] = holds[-1]._replace(released=float(at))
    return holds


def _lines(path: str) -> list[Any]:
    try:
        with open(path) as file:
            return [line.split() for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def judge(holds: Iterable[Hold], excused: Iterable[tuple[float, float]] = ()) -> Verdict:
    """`excused`: windows of time in which the table of promises says that a hold can be lost in silence, and a token go
    back (a server that forgets was restarted)."""
    holds = sorted(holds, key=lambda hold: hold.got)
    windows = list(excused)
    spans = [Span(hold.got, hold.used[-1], hold.who, False, hold.token) for hold in holds if hold.used]
    faults = [*overlaps(spans), *regressions(Span(*_extent(hold), hold.who, False, hold.token) for hold in holds)]
    said: list[str] = []
    pardoned = 0
    for fault in faults:
        if any(begin <= fault.later.start <= end for begin, end in windows):
            pardoned += 1
        else:
            said.append(f"{fault.what}: {fault.earlier} / {fault.later}")
    unaware = 0
    for number, hold in enumerate(holds):
        # the next grant with a greater token: from then on this one was somebody else's
        later = next((other.got for other in holds[number + 1 :] if other.token > hold.token), None)
        late = [at for at in hold.writes if later is not None and at > later]
        if late and not any(begin <= late[0] <= end for begin, end in windows):
            unaware += 1
            said.append(f"{hold.who} wrote with {hold.token} at {late[0]:.6f}, unaware of a grant at {later:.6f}")
    return Verdict(
        holds=len(holds),
        used=len(spans),
        writes=sum(len(hold.writes) for hold in holds),
        lost=sum(hold.lost is not None for hold in holds),
        unaware=unaware,
        fenced=sum(len(hold.writes) - len(hold.used) for hold in holds),
        excused=pardoned,
        faults=said,
    )


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several locks, each with a history of its own."""
    every = list(verdicts)
    counts = [sum(numbers) for numbers in zip(*(each[:-1] for each in every), strict=True)]
    return Verdict._make([*counts, [fault for each in every for fault in each.faults]])


def _extent(hold: Hold) -> tuple[float, float]:
    return hold.got, max([hold.got, *hold.used])


def now() -> float:
    return time.monotonic()
