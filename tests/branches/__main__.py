"""Which branches of the engines do the tests run? python -m tests.branches

Runs each test file that concerns the engines in a process of its own, counts lines and branches in it and in its
children, and prints a figure for each engine. What was counted stays in .coverage-branches/, with the test that ran
each line: `python -m tests.mutants` chooses its tests by that.

    python -m tests.branches                   run all, then report (about an hour on two cores)
    python -m tests.branches tests/sim ...     run only these again, keep what was counted of the others
    python -m tests.branches --report          only report
    python -m tests.branches --missing redis   which lines and branches are not run
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import interlock

from .figures import figures, missing
from .plugin import TIMES

ROOT = Path(__file__).parents[2]
COUNTED = ROOT / ".coverage-branches"
SOURCE = Path(interlock.__file__).parent
CONFIG = Path(__file__).with_name("coveragerc")

PLACES = [
    "tests/test_*.py", "tests/sim/test_*.py", "tests/conformance/test_*.py", "tests/engines/test_*.py",
    "tests/process/test_*.py", "tests/faults/test_*.py", "tests/security/test_*.py",
    "tests/compat/test_soft.py", "tests/compat/test_strict.py", "tests/compat/test_lease.py",
]  # fmt: skip
# of other things, and slow under a tracer, or at odds with it: they trace by themselves
WITHOUT = {
    "tests/test_docs_tables.py", "tests/test_otel.py", "tests/test_import_cost.py", "tests/test_servers.py",
    "tests/engines/test_application.py", "tests/engines/test_every_url.py", "tests/engines/test_postgres_talking.py",
    "tests/faults/test_forks.py", "tests/faults/test_interrupts.py", "tests/faults/test_traced.py",
    "tests/process/test_trace.py",
}  # fmt: skip


def files() -> list[str]:
    found = sorted(str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place))
    return [name for name in found if name not in WITHOUT]


def count(name: str, limit: float, counted: Path = COUNTED) -> str:
    """Run one test file; what it ran replaces what was counted of it before. Returns pytest's last line."""
    place = counted / name.replace("/", "-").removesuffix(".py")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    environment = {**os.environ, TIMES: str(place / "times"), "COVERAGE_FILE": str(place / ".coverage")}
    command = [
        sys.executable, "-m", "coverage", "run", f"--rcfile={CONFIG}", f"--context={name}",
        "-m", "pytest", "-q", "-p", "tests.branches.plugin", "-p", "no:randomly", "-p", "no:cacheprovider", name,
    ]  # fmt: skip
    with open(place / "output", "wb") as output:
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not done after {limit:g} s"
    combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={CONFIG}", str(place)]
    subprocess.run(combine, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
    return (place / "output").read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.branches", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="test files, or folders of them")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--missing", metavar="WORD", help="what is not run, of modules with this in their path")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one file (default: %(default)s)")
    options = parser.parse_args()
    if not options.report and options.missing is None:
        chosen = [name for name in files() if not options.names or name.startswith(tuple(options.names))]
        for name in chosen:
            began = time.monotonic()
            said = count(name, options.limit)
            print(f"{name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    if not any(COUNTED.glob("*/.coverage*")):
        sys.exit(f"nothing is counted: there is no {COUNTED.name}/ of an earlier run")
    if options.missing is not None:
        missing(COUNTED, CONFIG, SOURCE, options.missing)
    else:
        figures(COUNTED, CONFIG, SOURCE)


if __name__ == "__main__":
    main()
