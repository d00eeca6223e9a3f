"""What waiting costs: the CPU time of a hundred processes that wait for a lock, in percent of a core.

Judged by /proc/PID/schedstat, in nanoseconds. What user and system time in /proc/PID/stat add up to is shown too,
but that counts whole ticks of 10 ms per process: for light waiters, who all began alike, it may be well off either
way. At the end the holder lets go and every waiter must get the lock: that shows that they did wait.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .figures import Column, Row, Target, find, target
from .harness import FAILURES, Crew, Plan, clock, progress, why
from .subjects import CONTENDERS, Subject, present

if TYPE_CHECKING:
    from .harness import Wire

TITLE = "CPU time of processes that wait for a held lock"
COLUMNS = (
    Column("subject", "lock"),
    Column("waiters", "waiters"),
    Column("seconds", "seconds", ".0f"),
    Column("percent", "% of a core", ".2f"),
    Column("percent_ticks", "% by ticks", ".2f"),
    Column("drained_s", "all served in, s", ".2f"),
)


def run(plan: Plan) -> list[Row]:
    waiters, seconds = (20, 1.0) if plan.quick else (100, 10.0)
    rows: list[Row] = []
    for number, subject in enumerate(present(CONTENDERS, rows)):
        progress(f"waiters_cpu: {waiters} waiters for {seconds:g} s: {subject.name}")
        try:
            rows.append(_measure(plan.path(f"waiters{number}"), subject, waiters, seconds))
        except FAILURES as error:
            rows.append({"subject": subject.name, "failed": why(error)})
    return rows


def _measure(path: str, subject: Subject, waiters: int, seconds: float) -> Row:
    with Crew() as crew:
        holder = crew.fork(lambda wire: subject.run(_hold(path, subject, wire)))
        holder.wire.hear()
        crowd = [crew.fork(lambda wire: subject.run(_wait(path, subject, wire))) for _ in range(waiters)]
        for child in crowd:
            child.wire.hear()
        time.sleep(0.3 if seconds < 5 else 2)  # past what the first wait of a process imports and opens
        began = clock()
        before = _cpu([child.pid for child in crowd])
        time.sleep(seconds)
        after = _cpu([child.pid for child in crowd])
        lasted = (clock() - began) / 1e9
        began = clock()
        holder.wire.say()
        for child in crowd:
            child.wire.hear()
        drained = (clock() - began) / 1e9
        for child in (holder, *crowd):
            crew.end(child)
    used, ticks = (after[0] - before[0]) / 1e9, (after[1] - before[1]) / os.sysconf("SC_CLK_TCK")
    return {
        "subject": subject.name,
        "waiters": waiters,
        "seconds": seconds,
        "percent": 100 * used / lasted,
        "percent_ticks": 100 * ticks / lasted,
        "drained_s": drained,
    }


async def _hold(path: str, subject: Subject, wire: Wire) -> None:
    acquire, release = subject.make(path)
    token = await acquire()
    wire.say("held")
    wire.hear()
    await release(token)


async def _wait(path: str, subject: Subject, wire: Wire) -> None:
    acquire, release = subject.make(path)
    wire.say("about to wait")
    await release(await acquire())
    wire.say("served")


def _cpu(pids: list[int]) -> tuple[int, int]:
    """Together used since they began: nanoseconds by the scheduler, and user and system ticks."""
    nanoseconds = ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            nanoseconds += int(file.read().split()[0])
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return nanoseconds, ticks


def targets(rows: list[Row]) -> list[Target]:
    found = []
    for name in ("interlock", "interlock, fair=True", "interlock, asyncio"):
        value = find(rows, subject=name).get("percent")
        found.append(target(f"CPU of the waiters together, % of a core: {name}", value, 2.0))
    return found
