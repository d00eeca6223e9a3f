"""Markdown from results: `python -m bench.table bench/results/*.json`; `--summary`: one line per lock."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .figures import Column, Row, Target

MODULES = {  # the benchmarks, in the order in which they are run and shown
    "uncontended": "uncontended",
    "import": "imports",
    "handoff": "handoff",
    "kill": "kill",
    "waiters_cpu": "waiters_cpu",
    "tasks": "tasks",
    "store": "store",
    "rwlock": "rwlock",
    "fairness": "fairness",
    "engines": "engines",
}


def module(name: str) -> Any:
    return import_module(f"{__package__}.{MODULES[name]}")


def _grid(heading: list[str], lines: Iterable[list[str]]) -> str:
    out = ["| " + " | ".join(heading) + " |", "|" + " --- |" + " ---: |" * (len(heading) - 1)]
    out += ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join(out)


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    return "-" if value is None else format(value, column.style)


def rows(name: str, found: list[Row]) -> str:
    """All rows of one benchmark. Who could not take part has a line that says why."""
    columns = module(name).COLUMNS
    lines = []
    for row in found:
        cells = [_cell(row, column) for column in columns]
        trouble = row.get("missing") or row.get("failed")
        if trouble:
            kind = "missing" if row.get("missing") else "FAILED"
            at = next(index for index, column in enumerate(columns) if column.key == "subject")
            cells[at] += f" ({kind}: {trouble})"
        lines.append(cells)
    return _grid([column.heading for column in columns], lines)


def targets(found: list[Target]) -> str:
    lines = []
    for one in found:
        value = "-" if one["value"] is None else f"{one['value']:.2f}"
        limit = ("at least " if one["least"] else "at most ") + f"{one['limit']:g}"
        verdict = {True: "met", False: "**missed**", None: "not measured"}[one["met"]]
        lines.append([one["what"], value, limit, verdict])
    return _grid(["target", "measured", "limit", "verdict"], lines)


def where(facts: Row) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    return (
        f"{facts['implementation']} {facts['python']} on {facts['system']} {facts['kernel']} "
        f"({facts['architecture']}), {facts['cores']} cores, {facts['filesystem']}, "
        f"load {facts['load']} before; {versions}." + (" A quick run: too short to quote." if facts["quick"] else "")
    )


def section(name: str, runs: list[Row]) -> str:
    parts = [f"### {module(name).TITLE}"]
    for run in runs:
        parts += [where(run["environment"]), rows(name, run["rows"]), targets(run["targets"])]
    return "\n\n".join(parts) + "\n"


# ---- one table for the front page

_TWO = {"contenders": 2, "hold_ms": 1, "think_ms": 0.5}
_CROWD = {"contenders": 32, "hold_ms": 1, "think_ms": 0.5}
_SUMMARY: tuple[tuple[str, str, dict[str, float], str, str], ...] = (
    # heading, benchmark, which rows (besides the subject), key, style
    ("uncontended, µs", "uncontended", {}, "us", ".1f"),
    ("handoff p50, 2 processes, µs", "handoff", _TWO, "p50_us", ".0f"),
    ("32 processes, µs", "handoff", _CROWD, "p50_us", ".0f"),
    ("longest wait, 32 processes, ms", "handoff", _CROWD, "longest_ms", ".0f"),
    ("Jain, 32 processes", "handoff", _CROWD, "jain", ".2f"),
    ("kill -9 to acquired, p99, ms", "kill", {}, "p99_ms", ".1f"),
    ("100 waiters, % of a core", "waiters_cpu", {}, "percent", ".1f"),
    ("import, ms", "import", {}, "ms", ".1f"),
)
_NAMES = {  # of the same lock in the benchmarks that have another name for it
    "flock(2), blocking": {"uncontended": "open, flock, unlock, close"},
    "interlock": {"uncontended": "interlock Lock, with", "import": "import interlock"},
    "interlock, fair=True": {},
    "interlock, asyncio": {"uncontended": "interlock AsyncLock, async with"},
    "filelock": {"uncontended": "filelock FileLock, with", "import": "import filelock"},
    "portalocker": {"uncontended": "portalocker Lock, with", "import": "import portalocker"},
    "fasteners": {"uncontended": "fasteners InterProcessLock, with", "import": "import fasteners"},
}


def summary(results: dict[str, list[Row]]) -> str:
    """The first run of each benchmark, a line per lock."""
    from .figures import find

    lines = []
    for lock, names in _NAMES.items():
        line = [lock]
        for _, name, which, key, style in _SUMMARY:
            found = results[name][0]["rows"] if name in results else []
            value = find(found, subject=names.get(name, lock), **which).get(key)
            line.append("-" if value is None else format(value, style))
        lines.append(line)
    return _grid(["lock", *(column[0] for column in _SUMMARY)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description="Markdown tables from results.")
    parser.add_argument("files", nargs="+", help="JSON files that `python -m bench` wrote")
    parser.add_argument("--summary", action="store_true", help="one table, a line per lock")
    options = parser.parse_args()
    results: dict[str, list[Row]] = {}
    for name in options.files:
        with open(name, encoding="utf-8") as file:
            result = json.load(file)
        if "runs" in result:  # else it is no benchmark's: the table of filesystems
            results[result["bench"]] = result["runs"]
    if options.summary:
        print(where(next(iter(results.values()))[0]["environment"]), summary(results), sep="\n\n")
        return
    print("\n".join(section(name, results[name]) for name in MODULES if name in results), end="")


if __name__ == "__main__":
    main()
