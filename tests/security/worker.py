"""One process that is attacked: makes the place, lets an entry run into it, and says what came of it.

A worker may hang, or be told to do what only root can; `Team` ends it then, and starts another.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
import warnings
from typing import Any, NamedTuple

from .plants import PLANTS, PRECIOUS, VICTIM, facts

LIMIT = 60.0
"""Seconds after which a cell counts as one that hangs: far beyond what a slow machine needs."""


class Verdict(NamedTuple):
    """`kind`: "granted" (nothing was raised), "refused", "timeout" (it was taken for somebody's lock), "hangs", "died".
    `harmed`: how what was planted changed; `robbed`: what changed in the directory of the victim."""

    kind: str
    error: str
    text: str
    seconds: float
    harmed: str
    robbed: str


def attack(entry: str, plant: str, beside: str, directory: str) -> dict[str, Any]:
    from .entries import CONTROLS, ENTRIES, FILELOCK

    (its,) = (each for each in (*ENTRIES, *FILELOCK, *CONTROLS) if each.name == entry)
    (put,) = (each.put for each in PLANTS if each.name == plant)
    place = os.path.join(directory, "place")
    treasury = os.path.join(directory, "treasury")
    os.mkdir(place)
    os.mkdir(treasury)
    victim = os.path.join(treasury, VICTIM)
    with open(victim, "wb") as file:
        file.write(PRECIOUS)
    path = os.path.join(place, "a")
    spot = os.path.join(place, beside.format("a")) if beside else path
    os.makedirs(os.path.dirname(spot), exist_ok=True)
    put(spot, victim)
    before, rich = facts(spot), wealth(treasury)
    kind = error = text = ""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            its.act(path)
        kind = "granted"
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is the answer
        kind, error, text = "refused", type(raised).__name__, str(raised)
        timed_out = isinstance(raised, TimeoutError) or "was not acquired" in text or "is held by" in text
        if timed_out and not isinstance(raised, subprocess.TimeoutExpired):
            kind = "timeout"
    seconds = time.monotonic() - began
    after, left = facts(spot), wealth(treasury)
    harmed = "" if before == after else f"{before} became {after}"
    robbed = "" if rich == left else f"{rich} became {left}"
    return {"kind": kind, "error": error, "text": text, "seconds": seconds, "harmed": harmed, "robbed": robbed}


def wealth(treasury: str) -> list[tuple[str, object]]:
    """What is in the victims' directory, but for the number of links: who replaces one name takes one away."""
    found: list[tuple[str, object]] = []
    for name in sorted(os.listdir(treasury)):
        path = os.path.join(treasury, name)
        (seen,) = facts(path).values()
        assert isinstance(seen, list)
        found.append((name, seen[:3] + seen[4:]))
    return found


class Team:
    """A worker, and the next one if that hangs."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.process: subprocess.Popen[str] | None = None
        self.count = 0

    def ask(self, entry: str, plant: str, beside: str = "") -> Verdict:
        self.count += 1
        directory = os.path.join(self.root, f"{self.count}")
        os.mkdir(directory)
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.security.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([entry, plant, beside, directory]) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return Verdict(**json.loads(line))
        self.close()
        return Verdict("hangs" if not ready else "died", "", "", LIMIT, "", "")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        shutil.rmtree(self.root, ignore_errors=True)


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(attack(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
