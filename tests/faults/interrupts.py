"""KeyboardInterrupt at every opcode of acquire and release, filelock too: python -m tests.faults.interrupts

Both take a new lock file per point. "Held": the interrupted call is over, the lock object is still there, and the
kernel's table has a lock on the file. "Leaked": the object was dropped and the garbage collected, and a descriptor of
the file is still open. "Signals" are the points where CPython runs signal handlers (see `sweep`), "opcodes" are all.
`signals` or `opcodes` as an argument measures only these, --json prints JSON. Linux; a minute.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock

from interlock import Lock

from . import sweep
from .words import parser

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "interlock Lock": (Lock, sweep.LIBRARY),
    f"filelock {filelock.__version__} FileLock": (filelock.FileLock, os.path.dirname(filelock.__file__) + os.sep),
}


class Row(NamedTuple):
    subject: str
    verb: str
    where: str
    points: int
    held: int
    leaked: int


def in_kernel(path: str) -> bool:
    try:
        inode = os.stat(path).st_ino
    except FileNotFoundError:
        return False
    with open("/proc/locks", encoding="ascii") as table:
        return any(int(line.split()[-3].split(":")[2]) == inode for line in table)


def call_and_keep(act: Callable[[], object], kept: list[object]) -> None:
    """To drop what is returned is no part of the measurement: that has a sweep of its own."""
    kept.append(act())


def strike(make: Callable[[str], Any], verb: str, path: str, at: int) -> tuple[bool, bool, bool]:
    """(was there an n-th point, is the lock held after it, does a descriptor leak)"""
    lock = make(path)
    hold = lock.acquire() if verb == "release" else None
    kept: list[object] = []
    bomb = sweep.Bomb(at)
    act = lock.acquire if hold is None else getattr(lock, "release", None) or hold.release
    interrupted = bomb.run(partial(call_and_keep, act, kept))
    held = interrupted and in_kernel(path)
    point = bool(bomb.point)
    del lock, hold, bomb, act, kept
    gc.collect(0)
    mine = [fd for fd, what in sweep.descriptors().items() if what.partition(" (deleted)")[0] == path]
    if mine:
        gc.collect()
        mine = [fd for fd, what in sweep.descriptors().items() if what.partition(" (deleted)")[0] == path]
    for fd in mine:
        os.close(int(fd))
    return point, held, bool(mine) and point


def measure(subject: str, verb: str, where: str) -> Row:
    make, library = SUBJECTS[subject]
    sweep.LIBRARY, sweep.Bomb.everywhere = library, where == "opcodes"
    points = held = leaked = 0
    with tempfile.TemporaryDirectory() as made:
        directory = os.path.realpath(made)
        for warm in range(3):
            strike(make, verb, f"{directory}/warm{warm}.lock", -1)
        gc.collect()
        gc.freeze()
        beyond = at = 0
        while beyond < 3:
            at += 1
            there, kept, lost = strike(make, verb, f"{directory}/{at}.lock", at)
            beyond = 0 if there else beyond + 1
            points, held, leaked = points + there, held + kept, leaked + lost
    return Row(subject, verb, where, points, held, leaked)


def rows(*places: str) -> list[Row]:
    return [
        measure(subject, verb, where) for where in places for verb in ("acquire", "release") for subject in SUBJECTS
    ]


def main() -> None:
    words = parser(__doc__, "WHERE", ["signals", "opcodes"])
    words.add_argument("--json", action="store_true", help="print JSON")
    options = words.parse_args()
    warnings.simplefilter("ignore")  # dropping locks that are held is what this program does
    sys.unraisablehook = lambda _: None  # struck inside a finalizer
    table = rows(*options.names)
    if options.json:
        print(json.dumps([row._asdict() for row in table]))
        return
    print("| interrupted in | at | lock | points | held | leaked |\n|---|---|---|---:|---:|---:|")
    for row in table:
        print(f"| {row.verb} | {row.where} | {row.subject} | {row.points:,} | {row.held:,} | {row.leaked:,} |")


if __name__ == "__main__":
    main()
