"""What importing costs, in fresh interpreters that take turns: milliseconds from the statement to its end.

The interpreter's own start is not counted, and what it has imported by then costs nobody anything. A first
run of each, not counted, writes the bytecode and warms the file cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from .figures import Column, Row, Target, find, median, ratio, target
from .harness import Plan, progress
from .subjects import missing

TITLE = "Import, in a fresh interpreter"
COLUMNS = (
    Column("subject", "statement"),
    Column("ms", "ms", ".2f"),
    Column("least_ms", "least ms", ".2f"),
    Column("modules", "modules loaded"),
    Column("to_filelock", "x `import filelock`", ".2f"),
)
IMPORT = "import interlock"
CONSTRUCT = "from interlock import Lock; Lock(path)"
FILELOCK = "import filelock"

_PROGRAM = """\
import json, sys, time
path = sys.argv[1]
before = set(sys.modules)
start = time.perf_counter_ns()
{statement}
took = time.perf_counter_ns() - start
print(json.dumps([took / 1e6, len(set(sys.modules) - before)]))
"""


class Entry(NamedTuple):
    statement: str
    package: str


ENTRIES = (
    Entry(IMPORT, "interlock"),
    Entry(CONSTRUCT, "interlock"),
    Entry("from interlock import Lock; Lock(path).acquire().release()", "interlock"),
    Entry("from interlock import AsyncLock; AsyncLock(path)", "interlock"),
    Entry(FILELOCK, "filelock"),
    Entry("from filelock import FileLock; FileLock(path)", "filelock"),
    Entry("from filelock import FileLock; l = FileLock(path); l.acquire(); l.release()", "filelock"),
    Entry("import portalocker", "portalocker"),
    Entry("import fasteners", "fasteners"),
)


def run(plan: Plan) -> list[Row]:
    times = 5 if plan.quick else 21
    absent = {entry.statement: missing(entry.package) for entry in ENTRIES}
    able = [entry for entry in ENTRIES if absent[entry.statement] is None]
    samples: dict[str, list[float]] = {entry.statement: [] for entry in able}
    modules: dict[str, int] = {}
    progress(f"import: {times} fresh interpreters for each of {len(able)} statements")
    for number in range(times + 1):
        for entry in able:
            took, modules[entry.statement] = _fresh(entry.statement, plan.path("import.lock"))
            if number:
                samples[entry.statement].append(took)
    measure = median(samples.get(FILELOCK, []))
    rows: list[Row] = []
    for entry in ENTRIES:
        statement = entry.statement
        if statement not in samples:
            rows.append({"subject": statement, "missing": absent[statement]})
            continue
        took = median(samples[statement]) or 0.0
        figures = {"ms": took, "least_ms": min(samples[statement]), "modules": modules[statement]}
        rows.append({"subject": statement, **figures, "to_filelock": ratio(took, measure)})
    return rows


def _fresh(statement: str, path: str) -> tuple[float, int]:
    # -P: this directory is not on the path, as it is not for a user
    command = [sys.executable, "-P", "-c", _PROGRAM.format(statement=statement), path]
    took, modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return took, modules


def targets(rows: list[Row]) -> list[Target]:
    return [
        target(f"`{statement}`, times `import filelock`", find(rows, subject=statement).get("to_filelock"), 0.25)
        for statement in (IMPORT, CONSTRUCT)
    ]
