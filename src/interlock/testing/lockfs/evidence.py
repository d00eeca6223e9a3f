"""On which filesystem does which lock exclude? Measured: `python -m interlock.testing.lockfs.evidence`.

Every kind of lock contends on every filesystem of the harness: four processes on two mounts of it, killed again and
again, watched by a referee (`referee`). On each filesystem a control without any lock must overlap, or else the referee
saw nothing there. The status is 1 if a control did not, or if interlock's `auto` overlapped anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module, metadata

from .client import LockFS, available
from .disks import DISKS, disk, missing, read_only
from .modes import MODES
from .refusal import refuse_locks

if sys.platform == "linux":
    from .contenders import KINDS, contend
    from .referee import Result, Trial

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any

assert sys.platform == "linux"

CONTROL = "no lock"
OURS = ("auto", "flock", "ofd", "dual", "marker")
_REFUSALS = ("UnsupportedError", "UnsafePathError", "EngineError", "ProtocolError", "ValueError", "EROFS")
"""What says that there is no lock to be had here, and why. All other errors are failures."""


# ---- where


def places() -> dict[str, str]:
    """Every filesystem of the harness, and what it is."""
    found = {name: mode.plays for name, mode in MODES.items()}
    found["glusterfs"] = "a network filesystem that keeps its word, and is called fuse.glusterfs"
    found["errno-524"] = "Lustre clients whose flock says ENOTSUPP, 524 (by a filter on system calls)"
    found |= dict.fromkeys(DISKS, "the real one, at two places by a bind mount")
    found["read-only"] = "ext4 remounted read-only; there is no lock file yet"
    return found


def absent(place: str) -> str:
    """Why this filesystem cannot be had here; empty if it can."""
    if place in DISKS or place == "read-only":
        return missing("ext4" if place == "read-only" else place)
    return available()


@contextmanager
def mounted(place: str) -> Iterator[list[str]]:
    """The two paths at which a fresh one is mounted."""
    with ExitStack() as stack:
        where = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        if place in DISKS or place == "read-only":
            paths = list(stack.enter_context(disk("ext4" if place == "read-only" else place, where)))
            if place == "read-only":
                read_only(*paths)
            yield paths
            return
        mode = MODES.get(place, MODES["coherent"])
        kind = "fuse.glusterfs" if place == "glusterfs" else "fuse.lockfs"
        fs = stack.enter_context(LockFS(os.path.join(where, "disk")))
        yield [fs.mount(os.path.join(where, name), mode, kind=kind).path for name in ("one", "two")]


# ---- one trial


def _contend(kind: str, paths: list[str], refuse: bool, place: int, referee: socket.socket) -> None:
    if refuse:
        refuse_locks()
    contend(kind, os.path.join(paths[place % len(paths)], kind.replace(" ", "-") + ".lock"), referee)


def trial(
    place: str, kind: str, *, holds: int, kill_every: int = 200, seconds: float = 60, processes: int = 4
) -> Result:
    """One kind of lock on one filesystem."""
    run: Trial | None = None
    try:
        with mounted(place) as paths:
            contenders = partial(_contend, kind, paths, place == "errno-524")
            run = Trial(contenders, count=processes, holds=holds, kill_every=kill_every, seconds=seconds)
            try:
                return run.run()
            finally:
                run.bury(1)
    finally:
        if run is not None:
            run.bury()  # those who hung in the kernel: their filesystem is gone now


def verdict(result: Result) -> str:
    """One word for what was seen."""
    if result.unavailable:
        return "unavailable"
    if result.overlaps:
        return "overlaps"
    if result.hung or (not result.holds and not result.errors):
        return "hangs"
    if result.holds:
        return "excludes"
    return "refuses" if set(result.errors) <= set(_REFUSALS) else "fails"


# ---- all of them


def measure(
    chosen: list[str],
    kinds: list[str],
    *,
    holds: int,
    beside: int,
    seconds: tuple[float, float],
    say: Callable[[str], object],
) -> list[dict[str, Any]]:
    """`holds` for interlock's `auto`, `beside` for everybody else, at most `seconds` (auto, others) each."""
    with suppress(ImportError):
        import_module("filelock")  # once, and not in every contender
    import_module("interlock.lock")
    rows = []
    for place in chosen:
        reason = absent(place)
        if reason:
            say(f"{place}: left out, {reason}")
            continue
        for kind in [CONTROL, *kinds]:
            want = 400 if kind == CONTROL else holds if kind == "auto" else beside
            if kind == CONTROL and place == "read-only":
                continue  # nobody gets in there at all
            limit = seconds[kind != "auto"]
            result = trial(place, kind, holds=want, kill_every=0 if kind == CONTROL else 200, seconds=limit)
            row = {"place": place, "kind": kind, "verdict": verdict(result), "wanted": want, **asdict(result)}
            row["first_error"] = _scrub(result.first_error)
            rows.append(row)
            say(f"{place:15} {kind:13} {_cell(row)}  {row['seconds']:.1f} s  {row['first_error'][:100]}")
    return rows


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """What must not be."""
    wrong = []
    for row in rows:
        if row["kind"] == CONTROL and row["verdict"] != "overlaps":
            wrong.append(f"{row['place']}: the control did not overlap, so nothing is shown there")
        if row["kind"] == "auto" and row["verdict"] in ("overlaps", "hangs", "fails"):
            wrong.append(f"{row['place']}: interlock {row['verdict']}: {row['first_error']}")
    return wrong


def _cell(row: dict[str, Any]) -> str:
    word = row["verdict"]
    errors = ", ".join(f"{count} {name}" for name, count in sorted((row["errors"] | row["release_errors"]).items()))
    if word == "unavailable":
        return "-"
    if word in ("refuses", "fails"):
        return f"{word}: {', '.join(sorted(row['errors']))}"
    text = f"{word} {row['overlaps']:,}/{row['holds']:,}"
    if word == "hangs" and not row["holds"]:
        text = "hangs"
    if row["kills"]:
        text += f", {row['kills']:,} kills"
    return text + (f" ({errors})" if errors else "")


def table(rows: list[dict[str, Any]], facts: dict[str, str]) -> str:
    """The page of the docs."""
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != CONTROL]
    found = {(row["place"], row["kind"]): row for row in rows}
    names = [f"`{kind}`" if kind in OURS else kind for kind in kinds]
    names = [f"filelock {facts['filelock']} {name}" if "FileLock" in name else name for name in names]
    control = sum(row["overlaps"] for row in rows if row["kind"] == CONTROL)
    lines = [
        "<!-- Generated by python -m interlock.testing.lockfs.evidence; do not edit. -->",
        "# Which lock excludes on which filesystem",
        "",
        "Measured, not read: four processes on two mounts of each filesystem (two hosts) contend for one lock, are",
        "killed again and again, and are watched by a referee that trusts no clock. Columns in code are interlock's",
        "`primitive=`, `auto` is its default; the first two are bare system calls. A cell says *overlaps / holds*:",
        "how often somebody came in while another one was inside (a lower bound). Without any lock the same run",
        f"overlapped {control:,} times, on every filesystem that can be written. Counts in parentheses are calls that",
        "failed with an error, which is what some of these filesystems are for.",
        "",
        "These are imitations, on FUSE and on local disks. Real NFS and SMB are measured in",
        "[](networks-measured.md); on a real GPFS or Lustre interlock has not been run: what `auto` chooses there",
        "rests on documentation and reports, see [](concepts/filesystems.md).",
        "",
        f"interlock {facts['interlock']}, Python {facts['python']}, Linux {facts['kernel']}.",
        "",
        "| filesystem | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    what = places()
    for place in dict.fromkeys(row["place"] for row in rows):
        cells = [_cell(found[place, kind]) if (place, kind) in found else "" for kind in kinds]
        cells = [f"**{cell}**" if cell.startswith(("overlaps", "hangs")) else cell for cell in cells]
        lines.append(f"| `{place}` | " + " | ".join(cells) + " |")
    lines += ["", "What they are:", ""]
    lines += [f"- `{place}`: {what[place]}" for place in dict.fromkeys(row["place"] for row in rows)]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] == "auto" and row["first_error"]:
            reasons.setdefault(_plain(row["first_error"]), []).append(f"`{row['place']}`")
    if reasons:
        lines += ["", "What `auto` says where it refuses, or where something failed:", ""]
        lines += [f"- {', '.join(where)}: {reason}" for reason, where in reasons.items()]
    return "\n".join(lines) + "\n"


def _scrub(text: str) -> str:
    """An error's words without the temporary directory of that trial, and whichever of the two mounts it was."""
    made = re.escape(os.path.join(tempfile.gettempdir(), tempfile.gettempprefix()))
    return re.sub(made + r"\w+(/ext4)?/(one|two)\b", "DIR", text)


def _plain(text: str) -> str:
    """An error's words on a page, with no markup."""
    return _scrub(text).replace("|", "\\|").replace("*", "\\*").replace("<", "\\<").replace("[", "\\[")


def main() -> int:
    everywhere = places()
    parser = argparse.ArgumentParser(prog="python -m interlock.testing.lockfs.evidence", description=__doc__)
    parser.add_argument("--holds", type=int, default=2000, help="for interlock's auto (default: %(default)s)")
    parser.add_argument("--beside", type=int, default=1000, help="for all the other kinds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for auto at most (default: %(default)s)")
    parser.add_argument("--beside-seconds", type=float, default=20, help="for others at most (default: %(default)s)")
    parser.add_argument("--places", nargs="+", choices=list(everywhere), default=list(everywhere), metavar="NAME")
    others = [kind for kind in KINDS if kind != CONTROL]
    parser.add_argument("--kinds", nargs="+", choices=others, default=others, metavar="KIND")
    parser.add_argument("--json", metavar="FILE", help="write everything that was counted")
    parser.add_argument("--table", metavar="FILE", help="write the page of the docs")
    options = parser.parse_args()
    facts = {"interlock": _version("interlock"), "filelock": _version("filelock"),
             "python": platform.python_version(), "kernel": platform.release().partition("-")[0]}  # fmt: skip
    rows = measure(
        options.places,
        options.kinds,
        holds=options.holds,
        beside=options.beside,
        seconds=(options.seconds, options.beside_seconds),
        say=_say,
    )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"facts": facts, "trials": rows}, file, indent=1)
            file.write("\n")
    if options.table:
        with open(options.table, "w", encoding="utf-8") as file:
            file.write(table(rows, facts))
    wrong = faults(rows)
    for line in wrong:
        _say(f"WRONG: {line}")
    return 1 if wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
