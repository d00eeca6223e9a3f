"""`python -m tests.network`: what locks do between two hosts on real NFS and SMB.

Two client kernels with `--workers` processes each take turns at locks, some are killed, and a referee counts who was in
together. The locks "none" are the negative control, for at most 10 seconds each. Each storm is a line of the ledger
(tests/network/ledger.jsonl), so that what was counted adds up over runs. The exit status is 1 if one of "none" shows no
overlap, or if any lock of interlock does.

With one lock file, most of the time is that of naps between two tries; with many, of which each worker takes one at
random, the CPU is busy, and there are more holds:

    python -m tests.network --locks none auto --mounts NFSv3 --workers 6 --files 24 --kills 0.5 --seconds 200
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import chaos
from .guests import Guests, missing
from .inside import CLIENTS, LOAD, MOUNTS
from .page import LEDGER, LOCKS, matrix, page, share, sums


def run(plan: dict[str, Any], patience: float) -> dict[str, Any]:
    """Boot, run the plan, end. Raises `TimeoutError` after so many seconds; the guests say shortly before where they
    are, so that the error shows it."""
    plan = {**plan, "patience": patience}
    with tempfile.TemporaryDirectory(prefix="uml-") as scratch, Guests(Path(scratch, "guests"), plan) as guests:
        try:
            return guests.results(patience)
        except BaseException:
            print(guests.logs(), file=sys.stderr)
            raise


def faults(results: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = []
    for cell in results["cells"]:
        where = f"{cell['mount']}, {cell.get('lock')}"
        if "failed" in cell:
            found.append(f"{cell['mount']}: cannot be mounted: {cell['failed']}")
        elif cell["lock"] == "none" and not cell["overlaps"]:
            found.append(f"{where}: the referee saw no overlap where nothing excludes")
        elif cell["lock"] == "none" and not all(_by_client(cell["by_worker"])):
            found.append(f"{where}: the referee does not see the holds of both clients: {cell['by_worker']}")
        elif cell["lock"] not in ("none", "filelock") and (cell["overlaps"] or cell["errors"]):
            found.append(f"{where}: {cell['overlaps']} overlaps, {cell['errors']}")
        elif not cell["holds"] and not cell["refused"]:
            found.append(f"{where}: no holds, and not refused")
    return found


def _by_client(by_worker: list[int]) -> list[int]:
    each = len(by_worker) // CLIENTS
    return [sum(by_worker[client * each : (client + 1) * each]) for client in range(CLIENTS)]


def _storms(options: argparse.Namespace) -> int:
    plan = {name: getattr(options, name) for name in (*LOAD, "mounts", "locks")}
    cells = len(options.mounts) * len(options.locks)
    results = run(plan, 120 + cells * (3 * options.seconds + 60))
    lines = []
    for cell in results["cells"]:
        if "failed" not in cell:
            lines.append({"what": "storm", "kernel": results["kernel"], **{name: plan[name] for name in LOAD}, **cell})
            LEDGER.append(lines[-1])
            print(f"{cell['mount']}, {cell['lock']}: {cell}, most by fewest {share(cell):.2f}", flush=True)
    print(matrix(lines))
    for fault in (found := faults(results)):
        print(fault, file=sys.stderr)
    return 1 if found else 0


def _chaos(options: argparse.Namespace) -> int:
    lines: list[dict[str, Any]] = []

    def keep(cells: list[dict[str, Any]]) -> None:
        for line in chaos.told(cells):
            lines.append(line)
            LEDGER.append(line)
            print(line, flush=True)

    chaos.run((options.chaos or list(chaos.TROUBLES)) * options.again, list(chaos.MOUNTS), list(chaos.LOCKS), tell=keep)
    return 1 if chaos.verdicts(lines)["overlaps"] else 0


def _doctor() -> int:
    """What it says of each mount."""
    for mount, text in chaos.run([], list(MOUNTS), [], doctor=tuple(MOUNTS))["doctor"].items():
        LEDGER.append({"what": "doctor", "mount": mount, **chaos.Peer(text).line()})
        print(mount, text, sep="\n", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.network", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="per lock and mount (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="per client (default: %(default)s)")
    parser.add_argument("--files", type=int, default=1, help="so many locks at once (default: %(default)s)")
    parser.add_argument("--kills", type=float, default=1.0, help="per second and client (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--mounts", nargs="*", default=list(MOUNTS), choices=list(MOUNTS), metavar="MOUNT")
    parser.add_argument("--locks", nargs="*", default=list(LOCKS), choices=LOCKS, metavar="LOCK", help=", ".join(LOCKS))
    parser.add_argument("--chaos", nargs="*", choices=chaos.TROUBLES, metavar="TROUBLE", help="to the hosts; only that")
    parser.add_argument("--again", type=int, default=1, help="how often each trouble (default: %(default)s)")
    parser.add_argument("--doctor", action="store_true", help="only ask `interlock doctor --peer`, on each mount")
    parser.add_argument("--sum", action="store_true", help="print what the ledger holds, and run nothing")
    parser.add_argument("--page", type=Path, help="write the page of the documentation, and run nothing")
    options = parser.parse_args()
    if options.sum or options.page:
        print(sums(LEDGER.lines()))
        if options.page:
            options.page.write_text(page(LEDGER.lines()), encoding="utf-8")
        return 0
    if lacking := missing():
        parser.exit(2, f"needs {', '.join(lacking)}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no guests
    if options.doctor:
        return _doctor()
    return _storms(options) if options.chaos is None else _chaos(options)


if __name__ == "__main__":
    sys.exit(main())
