"""Many processes that publish into one store while they are killed, and what must be true afterwards.

    python -m tests.store.storm --entries 1000 --kill-every 1          # the long form
    python -m tests.store.storm --entries 1000 --kill-every 1 --lie    # with a lock that always succeeds

A killed process is started again, and goes on with what it has not acknowledged; so in the end all builds are there,
and the index must be, byte for byte, the one of a single process that published them one by one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from interlock.store import Store, Verified

from .support import numbered

VIEWS = ("cpu", "cuda", "rocm")


class Liar:
    """A lock that is always granted, to everybody."""

    def __init__(self, name: str) -> None:
        self.name = name

    def acquire(self, timeout: float | None = None) -> Liar:
        return self

    def try_acquire(self) -> Liar:
        return self

    def release(self) -> None:
        pass


def views_of(number: int) -> list[str]:
    return [view for bit, view in enumerate(VIEWS) if number >> bit & 1]


def open_store(root: str, lie: bool, durable: bool) -> Store:
    return Store(root, lock=Liar if lie else None, durable=durable)


# ---- a publisher


def publisher(root: str, acks: str, first: int, step: int, last: int, lie: bool, durable: bool) -> None:
    """Publish every `step`th build; note the hash of each that was acknowledged."""
    store = open_store(root, lie, durable)
    out = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    done = os.fstat(out).st_size // 33
    for number in range(first + step * done, last, step):
        entry = store.put(*numbered(number), views=views_of(number))
        os.write(out, f"{entry.hash}\n".encode())
    store.index()
    with open(acks + ".retries", "a", encoding="ascii") as file:
        file.write(f"{store.chain.retries}\n")


# ---- the storm


class Outcome(NamedTuple):
    acknowledged: list[str]
    kills: int
    retries: int
    seconds: float
    before: Verified
    """What verify found."""
    after: Verified
    """And after it had repaired."""


MOST_KILLS = 100
"""Then they are let be: on a machine that takes as long to start them as they have to live, it would have no end."""


def storm(
    place: str, entries: int, publishers: int, kill_every: float, lie: bool, durable: bool, seed: int = 0
) -> Outcome:
    root = os.path.join(place, "store")
    chance = random.Random(seed)
    running: dict[int, subprocess.Popen[bytes]] = {}

    def start(first: int) -> None:
        acks = os.path.join(place, f"acks{first}")
        command = [sys.executable, "-m", "tests.store.storm", "--publisher", root, acks, str(first), str(publishers)]
        command += ["--entries", str(entries)] + ["--lie"] * lie + ["--durable"] * durable
        running[first] = subprocess.Popen(command)

    began = time.monotonic()
    kills = 0
    try:
        for first in range(publishers):
            start(first)
        next_kill = time.monotonic() + kill_every
        while running:
            for first, process in list(running.items()):
                status = process.poll()
                if status == 0:
                    del running[first]
                elif status is not None:
                    assert status == -signal.SIGKILL, f"a publisher ended with {status}"
                    start(first)
            if running and kills < MOST_KILLS and time.monotonic() >= next_kill:
                next_kill = time.monotonic() + kill_every
                os.kill(chance.choice(list(running.values())).pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.005)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    acknowledged: list[str] = []
    retries = 0
    for first in range(publishers):
        with open(os.path.join(place, f"acks{first}"), encoding="ascii") as file:
            acknowledged += file.read().split()
        with open(os.path.join(place, f"acks{first}.retries"), encoding="ascii") as file:
            retries += sum(map(int, file.read().split()))
    store = open_store(root, lie, durable)
    before = store.verify()
    after = store.verify(repair=True, grace=0)
    return Outcome(acknowledged, kills, retries, seconds, before, after)


def serial(place: str, entries: int) -> Store:
    """The same builds, by one process, one by one."""
    store = Store(os.path.join(place, "serial"), durable=False)
    for number in range(entries):
        store.put(*numbered(number), views=views_of(number))
    store.index()
    return store


def check(place: str, entries: int, outcome: Outcome) -> None:
    """Raise AssertionError unless nothing was lost."""
    store = Store(os.path.join(place, "store"))
    assert len(set(outcome.acknowledged)) == entries
    for number in range(entries):
        document, archive = numbered(number)
        build = store.get(document["spec"]["nodes"][0]["hash"])
        assert build is not None, f"build {number} was acknowledged and is lost"
        with build:
            assert build.read() == archive
            assert set(views_of(number)) <= set(build.entry.views)
    assert outcome.after.clean, outcome.after.problems
    left = store.verify()
    assert left.problems == (), left.problems
    alone = serial(place, entries)
    store.index()
    for view in (None, *VIEWS):
        assert store.snapshot().document(view) == alone.snapshot().document(view)
        with open(store.layout.pointer(view), "rb") as one, open(alone.layout.pointer(view), "rb") as other:
            assert one.read().split(b'"generation"')[0] == other.read().split(b'"generation"')[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--publisher", nargs=4)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--kill-every", type=float, default=1.0)
    parser.add_argument("--lie", action="store_true")
    parser.add_argument("--durable", action="store_true")
    options = parser.parse_args()
    if options.publisher:
        root, acks, first, step = options.publisher
        publisher(root, acks, int(first), int(step), options.entries, options.lie, options.durable)
        return
    with tempfile.TemporaryDirectory(prefix="interlock-storm-") as place:
        outcome = storm(place, options.entries, 8, options.kill_every, options.lie, True)
        check(place, options.entries, outcome)
    print(
        f"{options.entries} builds by 8 processes in {outcome.seconds:.1f} s, {outcome.kills} kills, "
        f"{outcome.retries} retries of those that ended; verify found {len(outcome.before.problems)} problems and "
        f"{len(outcome.before.notes)} notes, after repair none; nothing lost, the index is the serial run's"
    )


if __name__ == "__main__":
    main()
