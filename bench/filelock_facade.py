"""What filelock's names cost here and there: the facade against filelock itself, in one run, microseconds per hold.

    python -m bench.filelock_facade [--directory DIR] [--quick]

JSON on standard output. The subjects take turns in short slices, so whatever else the machine does hits all of them;
a round is the least of several slices, and a ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from importlib import import_module, metadata
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Slice = Callable[[int], None]

WANTED = {"FileLock": 5.0, "SoftFileLock": 5.0, "ReadWriteLock read": 5.0, "ReadWriteLock write": 5.0}
PLAIN = "interlock.Lock"


def ours(name: str) -> Any:
    from interlock._filelock import HOME

    name = "UnixFileLock" if name == "FileLock" else name
    return getattr(import_module("interlock._filelock." + HOME[name]), name)


def theirs(name: str) -> Any:
    return getattr(import_module("filelock"), name)


def with_block(lock: Any) -> Slice:
    def many(times: int) -> None:
        for _ in range(times):
            with lock:
                pass

    return many


def with_method(enter: Callable[[], Any]) -> Slice:
    def many(times: int) -> None:
        for _ in range(times):
            with enter():
                pass

    return many


def subjects(directory: str) -> dict[str, Slice]:
    from interlock import Lock

    found: dict[str, Slice] = {PLAIN: with_block(Lock(f"{directory}/plain"))}
    for side, get in (("interlock", ours), ("filelock", theirs)):
        found[f"{side} FileLock"] = with_block(get("FileLock")(f"{directory}/{side}.lock"))
        found[f"{side} SoftFileLock"] = with_block(get("SoftFileLock")(f"{directory}/{side}.soft"))
        readwrite = get("ReadWriteLock")(f"{directory}/{side}.db")
        found[f"{side} ReadWriteLock read"] = with_method(readwrite.read_lock)
        found[f"{side} ReadWriteLock write"] = with_method(readwrite.write_lock)
    return found


def timed(many: Slice, times: int) -> float:
    start = time.perf_counter_ns()
    many(times)
    return (time.perf_counter_ns() - start) / times / 1000


def measure(directory: str, rounds: int) -> dict[str, list[float]]:
    slices = subjects(directory)
    times = {}
    for name, many in slices.items():
        many(50)
        times[name] = max(5, int(1000 / timed(many, 50)))
    result: dict[str, list[float]] = {name: [] for name in slices}
    for _ in range(rounds):
        least = dict.fromkeys(slices, float("inf"))
        for _ in range(8):
            for name, many in slices.items():
                least[name] = min(least[name], timed(many, times[name]))
        for name, value in least.items():
            result[name].append(value)
    return result


def ratio(one: list[float], other: list[float]) -> float:
    return round(median(a / b for a, b in zip(one, other, strict=True)), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where to lock (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        rounds = measure(directory, 10 if options.quick else 60)
    faster = {kind: ratio(rounds[f"filelock {kind}"], rounds[f"interlock {kind}"]) for kind in WANTED}
    report = {
        "python": platform.python_version(),
        "system": platform.system(),
        "filelock": metadata.version("filelock"),
        "microseconds": {name: round(median(values), 2) for name, values in rounds.items()},
        "times_as_fast_as_filelock": faster,
        "wanted": WANTED,
        "file_lock_to_plain_lock": ratio(rounds["interlock FileLock"], rounds[PLAIN]),
    }
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0 if all(faster[kind] >= least for kind, least in WANTED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
