"""Thousands of real signals, whose handler raises wherever they strike. A program: `python storm.py SECONDS SEED`, and
with `--careless`, where an acquire that was struck is not undone, the control: it must find what stays behind.

The counter-check of the sweep, which knows by heart where CPython runs signal handlers: here the kernel chooses. An
alarm is set a few microseconds ahead, then locks are taken and released in all ways until it comes; another process
wants the lock all the while. After each alarm the references are dropped, and nothing may be left. Prints a JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from typing import TYPE_CHECKING

from sweep import descriptors, kernel_locks, lines, pooled  # type: ignore[import-not-found]

from interlock import AsyncLock, Lock, RLock, Timeout
from interlock import lock as shells
from interlock._core import arbiter
from interlock._wait import inotify

if TYPE_CHECKING:
    from collections.abc import Callable


class Alarm(BaseException):
    """As KeyboardInterrupt, no `except Exception` stops it."""


struck_in = False
"""Is somebody there who waits to be struck?"""


def ring(*_: object) -> None:
    if struck_in:
        raise Alarm


def with_block(path: str) -> None:
    lock = Lock(path)
    while True:
        with lock:
            pass


def by_hand(path: str) -> None:
    while True:
        hold = Lock(path).acquire(5)
        hold.assert_held()
        hold.release()


def nested(path: str) -> None:
    lock = RLock(path, timeout=5)
    while True:
        with lock, lock.acquire():
            with lock:
                pass


def attempts(path: str) -> None:
    while True:
        hold = Lock(path).try_acquire()
        if hold is not None:
            hold.release()


def in_order(path: str) -> None:
    lock = Lock(path, fair=True)
    while True:
        with lock:
            pass


def impatient(path: str) -> None:
    while True:
        try:
            Lock(path).acquire(0.0001).release()
        except Timeout:
            pass


def tasks(path: str) -> None:
    async def one() -> None:
        async with AsyncLock(path):
            pass

    async def main() -> None:
        while True:
            await one()

    asyncio.run(main())


ENOUGH = 400

WAYS: list[Callable[[str], None]] = [with_block, by_hand, nested, attempts, in_order, impatient, tasks]


def rival(path: str) -> int:
    """Another process that takes turns with us, and now and then stays away."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    chance = random.Random(7)
    while os.getppid() == parent:
        with Lock(path):
            time.sleep(chance.choice([0, 0, 0.0001, 0.001]))
        time.sleep(chance.choice([0, 0.0001, 0.005]))
    os._exit(0)


def strike(way: Callable[[str], None], path: str, delay: float) -> None:
    global struck_in
    struck_in = True
    try:
        signal.setitimer(signal.ITIMER_REAL, delay, 5.0)  # again, should nobody have noticed
        way(path)
    except Alarm:
        struck_in = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def leftovers(path: str, before: dict[str, str]) -> list[str]:
    problems = []
    if arbiter.turns:
        problems.append("a claim keeps the turn")
    if any(line.queue for line in lines()):
        problems.append("a place keeps queueing")
    # An event loop interrupted while it is made or closed leaks its own.
    ours = [what for fd, what in descriptors().items() if fd not in pooled() and fd not in before]
    ours = [what for what in ours if what.endswith(".lock") or what == "anon_inode:[eventfd]"]
    if ours:
        problems.append(f"descriptors leak: {ours}")
    if inotify._instance is not None and inotify._instance._watchers:
        problems.append("a watcher stays")
    return problems


def storm(seconds: float, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    swallowed = 0
    failures: list[str] = []
    counts = dict.fromkeys((way.__name__ for way in WAYS), 0)

    def swallow(what: sys.UnraisableHookArgs) -> None:
        nonlocal swallowed  # struck inside a finalizer, or in a callback of the garbage collector
        if not issubclass(what.exc_type, Alarm):
            return
        swallowed += 1
        # Again, and not by an interval from the first: on a busy machine the second strike of that would meet the
        # finalizer that undoes what the first one broke, at its entry, where nothing in Python can resist.
        signal.setitimer(signal.ITIMER_REAL, 0.001, 5.0)

    sys.unraisablehook = swallow
    signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(os.path.realpath(directory), "x.lock")
        other = rival(path)
        try:
            for way in WAYS:  # warm up
                strike(way, path, 0.01)
            gc.collect()
            gc.freeze()
            before = {fd: what for fd, what in descriptors().items() if fd not in pooled()}
            end = time.monotonic() + seconds
            late = end + 60  # on a slow machine
            while len(failures) < 10 and (
                time.monotonic() < end or (time.monotonic() < late and sum(counts.values()) < ENOUGH)
            ):
                way = chance.choice(WAYS)
                strike(way, path, chance.uniform(0.00001, 0.0005))
                counts[way.__name__] += 1
                problems = leftovers(path, before)
                if problems:  # in a cycle, perhaps
                    gc.collect()
                    problems = leftovers(path, before)
                if problems:
                    failures.append(f"{way.__name__}: {problems}")
                    arbiter.turns.clear()
                    for line in lines():
                        line.queue.clear()
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # what `swallow` has asked for comes too late
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
        if kernel_locks(directory):
            failures.append(f"{kernel_locks(directory)} locks in the kernel")
        try:
            Lock(path).acquire(2).release()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(f"the next acquire: {error}")
    return {"interruptions": sum(counts.values()), "ways": counts, "swallowed": swallowed, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int)
    parser.add_argument("--careless", action="store_true", help="undo nothing: the control, which must fail")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # dropping holds and coroutines is what this program does
    if options.careless:
        vars(shells)["abandon"] = lambda claim: None
    found = storm(options.seconds, options.seed)
    print(json.dumps(found), flush=True)
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()
