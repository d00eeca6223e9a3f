"""How long a lock stays nobody's after kill -9 of its holder: from just before the kill to the next acquire.

The waiter is another process that has waited for 10 to 70 ms (at random, so that pollers are met at any
point of their nap). The time includes the holder's dying, which is the same for all subjects: the kernel
tears down its memory before it closes its files. The subjects take turns, in groups of ten kills.
"""

from __future__ import annotations

import signal
import time
from random import Random
from typing import TYPE_CHECKING

from .figures import Column, Row, Target, find, median, p99, ratio, target
from .harness import FAILURES, Child, ChildError, Crew, Plan, clock, progress, why
from .subjects import ASYNCIO, FAIR, FILELOCK, FLOCK, INTERLOCK, LEASE, Subject, present

if TYPE_CHECKING:
    from .harness import Wire

TITLE = "kill -9 of the holder, until a waiter has the lock"
COLUMNS = (
    Column("subject", "lock"),
    Column("kills", "kills"),
    Column("p50_ms", "p50, ms", ".2f"),
    Column("p99_ms", "p99, ms", ".2f"),
    Column("most_ms", "most, ms", ".2f"),
    Column("to_flock", "p50 x flock", ".2f"),
)
GROUP = 10


def run(plan: Plan) -> list[Row]:
    kills = 20 if plan.quick else 200
    rows: list[Row] = []
    subjects = present((FLOCK, INTERLOCK, FAIR, ASYNCIO, LEASE, FILELOCK), rows)
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    failures: dict[str, str] = {}
    random = Random(1)
    for done in range(0, kills, GROUP):
        for number, subject in enumerate(subjects):
            if subject.name not in failures:
                try:
                    samples[subject.name] += _group(plan.path(f"kill{number}"), subject, random)
                except FAILURES as error:
                    failures[subject.name] = why(error)
        if (done + GROUP) % 50 == 0:
            progress(f"kill: {done + GROUP} of {kills} each")
    measure = median(samples[FLOCK.name])
    for name, mine in samples.items():
        if name in failures:
            rows.append({"subject": name, "failed": failures[name]})
            continue
        figures = {"p50_ms": median(mine), "p99_ms": p99(mine), "most_ms": max(mine)}
        rows.append({"subject": name, "kills": len(mine), **figures, "to_flock": ratio(figures["p50_ms"], measure)})
    return rows


def _group(path: str, subject: Subject, random: Random) -> list[float]:
    """Milliseconds, of a few kills in front of one waiter."""
    with Crew() as crew:
        waiter = crew.fork(lambda wire: subject.run(_wait(path, subject, wire)))
        waiter.wire.hear()
        _one(crew, path, subject, waiter, 0.05)  # the waiter's first wait imports and opens; not counted
        return [_one(crew, path, subject, waiter, random.uniform(0.01, 0.07)) for _ in range(GROUP)]


def _one(crew: Crew, path: str, subject: Subject, waiter: Child, wait: float) -> float:
    holder = crew.fork(lambda wire: subject.run(_hold(path, subject, wire)))
    holder.wire.hear()
    waiter.wire.say()
    waiter.wire.hear()
    time.sleep(wait)
    killed = clock()
    crew.end(holder, kill=True)
    began, acquired = waiter.wire.hear()
    if not began < killed < acquired:
        raise ChildError(f"{subject.name}: acquired a lock that was held")
    return float(acquired - killed) / 1e6


async def _hold(path: str, subject: Subject, wire: Wire) -> None:
    acquire, _ = subject.make(path)
    token = await acquire()
    wire.say("held")
    signal.pause()
    del token


async def _wait(path: str, subject: Subject, wire: Wire) -> None:
    acquire, release = subject.make(path)
    wire.say("ready")
    while True:
        wire.hear()
        wire.say("about to wait")
        began = clock()
        token = await acquire()
        acquired = clock()
        await release(token)
        wire.say([began, acquired])


def targets(rows: list[Row]) -> list[Target]:
    found = []
    for subject in (INTERLOCK, FAIR, ASYNCIO):
        value = find(rows, subject=subject.name).get("p99_ms")
        found.append(target(f"kill -9 of the holder to acquired, p99, ms: {subject.name}", value, 3.0))
    value = find(rows, subject=LEASE.name).get("most_ms")
    return [*found, target(f"kill -9 of the holder to acquired, most, ms: {LEASE.name}", value, 50.0)]
