"""What a crowd of asyncio tasks in one process costs that waits for a lock that another process holds.

Measured: how long after the release until each task has had the lock, how many threads the process needed,
and the CPU time it used while all waited. The measure is a plain flock(2) in a thread per task. portalocker
and fasteners have nothing for asyncio.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import Column, Row, Target, find, target
from .harness import FAILURES, ChildError, Crew, Plan, clock, progress, why
from .subjects import OPEN, TIMEOUT, missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from .harness import Wire

    Locks = Callable[[], AbstractAsyncContextManager[Any]]  # a new lock object, to enter

TITLE = "asyncio tasks of one process, waiting for another process"
COLUMNS = (
    Column("subject", "lock"),
    Column("tasks", "tasks"),
    Column("served", "served"),
    Column("seconds", "all served in, s", ".3f"),
    Column("us_each", "µs each", ".0f"),
    Column("threads", "threads"),
    Column("cpu_waiting", "% of a core while waiting", ".1f"),
)


class Entry(NamedTuple):
    name: str
    package: str | None
    locks: Callable[[str, int], Locks]  # of a path and the number of tasks


def _threads(path: str, tasks: int) -> Locks:
    pool = ThreadPoolExecutor(max_workers=tasks)

    def acquire() -> int:
        fd = os.open(path, OPEN, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    @asynccontextmanager
    async def lock() -> AsyncIterator[None]:
        fd = await asyncio.get_running_loop().run_in_executor(pool, acquire)
        try:
            yield
        finally:
            os.close(fd)

    return lock


def _interlock(path: str, _: int, fair: bool = False) -> Locks:
    from interlock import AsyncLock

    return lambda: AsyncLock(path, timeout=TIMEOUT, fair=fair)


def _filelock(path: str, _: int) -> Locks:
    from filelock import AsyncFileLock

    return lambda: AsyncFileLock(path, timeout=TIMEOUT)


ENTRIES = (
    Entry("flock(2), a thread each", None, _threads),
    Entry("interlock AsyncLock", "interlock", _interlock),
    Entry("interlock AsyncLock, fair=True", "interlock", lambda path, tasks: _interlock(path, tasks, fair=True)),
    Entry("filelock AsyncFileLock", "filelock", _filelock),
)


def run(plan: Plan) -> list[Row]:
    tasks = 100 if plan.quick else 1000
    rows: list[Row] = []
    for number, entry in enumerate(ENTRIES):
        reason = missing(entry.package)
        if reason is not None:
            rows.append({"subject": entry.name, "missing": reason})
            continue
        progress(f"tasks: {tasks} tasks: {entry.name}")
        try:
            rows.append({"subject": entry.name, **_measure(plan.path(f"tasks{number}"), entry, tasks)})
        except FAILURES as error:
            rows.append({"subject": entry.name, "failed": why(error)})
    return rows


def _measure(path: str, entry: Entry, tasks: int) -> Row:
    with Crew() as crew:
        child = crew.fork(lambda wire: asyncio.run(_crowd(entry.locks(path, tasks), tasks, wire)))
        fd = os.open(path, OPEN, 0o666)  # after the fork: the child has no copy
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            child.wire.say("begin to wait")
            waiting = child.wire.hear()
            if waiting["served"]:
                raise ChildError(f"{entry.name}: acquired a lock that was held")
            released = clock()
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)
        ended = child.wire.hear()
        crew.end(child)
    seconds = (ended["last"] - released) / 1e9
    return {
        "tasks": tasks,
        "served": ended["served"],
        "seconds": seconds,
        "us_each": seconds / tasks * 1e6,
        "threads": max(waiting["threads"], ended["threads"]),
        "cpu_waiting": waiting["cpu"],
    }


async def _crowd(locks: Locks, tasks: int, wire: Wire) -> None:
    served = inside = threads = 0

    async def one() -> None:
        nonlocal served, inside, threads
        try:
            async with locks():
                inside += 1
                if inside != 1:
                    raise AssertionError("two holders at once")
                threads = max(threads, _threads_now())
                await asyncio.sleep(0)  # so that others could come in, if anything let them
                inside -= 1
                served += 1
        except TimeoutError:  # not served
            pass

    wire.hear()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(one())
        await asyncio.sleep(0.5)  # past the first attempts
        began, cpu = clock(), time.process_time_ns()
        await asyncio.sleep(1)
        used = 100 * (time.process_time_ns() - cpu) / (clock() - began)
        wire.say({"served": served, "threads": _threads_now(), "cpu": used})
    wire.say({"served": served, "last": clock(), "threads": threads})


def _threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


def targets(rows: list[Row]) -> list[Target]:
    row = find(rows, subject="interlock AsyncLock")
    return [
        target("asyncio tasks left unserved", row["tasks"] - row["served"] if row.get("tasks") else None, 0),
        target("threads of a process with waiting asyncio tasks", row.get("threads"), 1),
    ]
