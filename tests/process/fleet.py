"""Workers that count one file up under whatever lock, the history that they write, and its checker.

Each increment appends "begin ID N" to the history, replaces the counter's N by N + 1, and appends "end ID N+1", all
under the lock. A worker may be killed anywhere in between. So whatever happened to the lock is written down:

- two at once: a line of somebody who is not the last to have begun (the dead write none);
- an increment lost or made twice: a "begin" that does not read what the one before left.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

SHELL = """
read n <counter
[ "$n" -lt "$2" ] || exit 0
echo "begin $1 $n" >>history
n=$((n + 1))
echo $n >"counter.$1"
mv "counter.$1" counter
echo "end $1 $n" >>history
"""
"""One increment, for locks that run commands: sh -c SHELL sh ID TARGET."""


# ---- in the worker


def increment(name: str, target: int, chance: random.Random) -> bool:
    """Count up once, slowly now and then, and be killed now and then. False: the target is reached."""

    def risk() -> None:
        if sys.platform != "win32" and chance.random() < 0.015:
            os.kill(os.getpid(), signal.SIGKILL)

    with open("counter", encoding="ascii") as file:
        count = int(file.read())
    if count >= target:
        return False
    history = os.open("history", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(history, f"begin {name} {count}\n".encode())
        risk()
        with open(f"counter.{name}", "w", encoding="ascii") as file:
            file.write(f"{count + 1}\n")
        if chance.random() < 0.3:
            time.sleep(0.001)
        os.rename(f"counter.{name}", "counter")
        risk()
        os.write(history, f"end {name} {count + 1}\n".encode())
    finally:
        os.close(history)
    risk()
    return True


def count_with(make: Callable[[], AbstractContextManager[object]], name: str, target: int) -> None:
    chance = random.Random(name)
    serial, more = 0, True
    while more:
        with make():
            more = increment(f"{name}-{serial}", target, chance)
        serial += 1


def count_with_tasks(name: str, target: int) -> None:
    import asyncio

    from interlock import AsyncLock

    async def count(task: int) -> None:
        chance = random.Random(f"{name}-{task}")
        serial, more = 0, True
        while more:
            async with AsyncLock("lock"):
                more = increment(f"{name}-{task}-{serial}", target, chance)
            serial += 1

    async def all_of_them() -> None:
        await asyncio.gather(*(count(task) for task in range(3)))

    asyncio.run(all_of_them())


def main(kind: str, name: str, target: int) -> None:
    if kind == "asyncio":
        count_with_tasks(name, target)
    elif kind == "filelock":
        import filelock

        count_with(lambda: filelock.FileLock("lock", poll_interval=0.002), name, target)
    elif kind == "nothing":
        from contextlib import nullcontext

        count_with(nullcontext, name, target)
    else:
        from interlock import Lock

        lock = Lock("lock", fair=kind == "fair")
        count_with(lambda: lock, name, target)


# ---- in the test


class Tally(NamedTuple):
    final: int
    finished: list[str]
    died_counted: list[str]
    died_uncounted: list[str]


def check(history: Iterable[str], final: int) -> Tally:
    """Raise AssertionError where two were in at once, or where an increment was lost or made twice."""
    tally = Tally(final, [], [], [])
    begun: set[str] = set()
    inside, count = "", 0
    for line in [*history, f"begin the-end {final}"]:
        verb, name, text = line.split()
        number = int(text)
        if verb == "begin":
            assert name not in begun, f"{name} began twice"
            begun.add(name)
            if inside and number == count + 1:
                tally.died_counted.append(inside)
            else:
                assert number == count, f"{name} found {number}; {count} had been counted"
                if inside:
                    tally.died_uncounted.append(inside)
            inside, count = name, number
        else:
            assert name == inside, f"{name} was still in when {inside or 'nobody'} was the last to have begun"
            assert number == count + 1, f"{name} counted from {count} to {number}"
            tally.finished.append(name)
            inside, count = "", number
    assert len(tally.finished) + len(tally.died_counted) == final
    return tally


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
