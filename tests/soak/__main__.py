"""Run storms, and write down what they showed: python -m tests.soak --minutes 10

Each line of the ledger (tests/soak/ledger.jsonl) is one storm: when, of which commit, its seed, what was counted.
Exits with 1 if something went wrong; the line with the seed is there then as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..ledger import Ledger
from .locks import KINDS, OF_FILES
from .storm import Outcome, storm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEDGER = Ledger(Path(__file__).with_name("ledger.jsonl"))
LOCAL = "the default directory for temporary files"
FILES = tuple(kind for kind in KINDS if kind not in ("none", "flock"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=FILES, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together (default: %(default)s)")
    parser.add_argument("--every", type=float, default=0.01, help="seconds between two kills (default: %(default)s)")
    parser.add_argument("--locks", type=int, default=1, help="each worker takes one of so many (default: %(default)s)")
    parser.add_argument(
        "--on", default="", metavar="PLACE", help=f"a filesystem of interlock.testing.lockfs (default: {LOCAL})"
    )
    parser.add_argument(
        "--apart", action="store_true", help="each worker as on a host of its own: nobody can prove another one dead"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--sum", action="store_true", help="print what the ledger holds, and run nothing")
    options = parser.parse_args()
    if options.sum:
        _say_sums()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave neither workers nor mounts
    wrong = False
    for kind in options.kinds:
        seconds = options.minutes * 60 / len(options.kinds)
        locks = 1 if kind in ("asyncio", "rwlock") else options.locks
        with _place(options.on) as paths:
            outcome = storm(
                kind, paths, options.seed, seconds=seconds, every=options.every, locks=locks, apart=options.apart
            )
        _write_down(outcome, options.on, options.apart)
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()
        wrong |= not outcome.right and kind != "none"
    return int(wrong)


@contextmanager
def _place(on: str) -> Iterator[Sequence[str]]:
    if on:
        from interlock.testing.lockfs import evidence

        with evidence.mounted(on) as paths:
            yield paths
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield [directory]


def _write_down(outcome: Outcome, on: str, apart: bool) -> None:
    LEDGER.append({**({"on": on} if on else {}), **({"apart": True} if apart else {}), **outcome.as_dict()})


def sums() -> dict[str, dict[str, int]]:
    """What all storms of a kind have counted together."""
    found: dict[str, dict[str, int]] = {}
    for its in LEDGER.lines():
        of_kind = found.setdefault(its["kind"], dict.fromkeys(("storms", *COUNTS), 0))
        of_kind["storms"] += 1
        for name in COUNTS:
            of_kind[name] += its[name]
    return found


COUNTS = ("holds", "kills", "killed_inside", "overlaps", "regressions", "failures")


def _say_sums() -> None:
    for kind, counts in sums().items():
        _say_sum(kind, counts)
    files = [counts for kind, counts in sums().items() if kind in OF_FILES]
    _say_sum("of files", {name: sum(counts[name] for counts in files) for name in ("storms", *COUNTS)})


def _say_sum(kind: str, counts: dict[str, int]) -> None:
    sys.stdout.write(f"{kind:10} " + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
