"""Which wrong changes of the protocols do the tests find? python -m tests.mutants --number 60

A sample, by a seed, of the mutants of the modules that decide who gets a lock. Each meets the tests that run the
changed lines, the fastest first, until one fails; a test that takes ten times as long as it did has found it too. Which
tests run which lines is what `python -m tests.branches` has counted. Prints who survived. Not every change is wrong:
those that are known to change nothing, with the reason, are in `equivalent`, and meet no test.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ..branches.__main__ import COUNTED
from .choose import Choice, Run, batches
from .equivalent import reasons
from .mutate import Mutant, mutants

ROOT = Path(__file__).parents[2]
CORE = ["tests/test_acquire.py", "tests/test_arbiter.py", "tests/test_memory.py", "tests/sim/test_memory.py"]
QUEUE = ["tests/test_tickets.py", "tests/test_patience.py", "tests/test_kernel_waiting.py", "tests/sim/test_kernel.py"]
SHARED = [
    "tests/test_range_bytes.py", "tests/test_ranges.py", "tests/test_rwlock.py", "tests/test_semaphore.py",
    "tests/sim/test_shared.py",
]  # fmt: skip
MODULES: dict[str, list[str]] = {
    "_core/acquire.py": CORE,
    "_core/arbiter.py": CORE,
    "engines/_queue.py": ["tests/test_queue.py", *CORE],
    "engines/_memory_entries.py": CORE,
    "engines/kernel/tickets.py": QUEUE,
    "engines/kernel/patience.py": QUEUE,
    "engines/kernel/ranges.py": SHARED,
    "engines/kernel/readwrite.py": SHARED,
    "engines/kernel/slots.py": SHARED,
    "engines/marker/lease_log.py": ["tests/test_lease_log.py", "tests/test_lease.py", "tests/sim/test_lease.py"],
}


FIRST = 10.0
"""Seconds of the first batch of tests that a mutant meets; most are found by it."""


class Found(NamedTuple):
    by: str
    """The first test that failed, or what came instead; empty: none."""
    tried: int
    """How many tests, and files, ran."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=60, help="how many mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="start", help="skip so many of the sample")
    parser.add_argument("--module", default="", help="only of modules with this in their path")
    parser.add_argument("--without", default=None, help="none of modules with this in their path")
    parser.add_argument("--lines", type=int, nargs="*", help="only those that begin in these lines")
    parser.add_argument("--control", action="store_true", help="the modules as they are: nothing may be found")
    parser.add_argument("--tests", type=float, default=120.0, help="seconds of tests for each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so long")
    options = parser.parse_args()
    everyone = []
    equal: dict[tuple[str, str], str] = {}
    for module in MODULES:
        made = mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8"))
        equal.update({(module, what): why for what, why in reasons(module, made).items()})
        if options.without is None or options.without not in module:
            everyone += [(module, mutant) for mutant in made]
    random.Random(options.seed).shuffle(everyone)
    chosen = [
        (module, mutant)
        for module, mutant in everyone
        if options.module in module and (not options.lines or mutant.place[0] in options.lines)
    ][options.start :][: options.number]
    choice = Choice(COUNTED)
    if not choice.all:
        parser.error("nothing is counted: run python -m tests.branches first")
    if options.control:
        _control([module for module in MODULES if options.module in module], choice, options.tests)
        return
    found = right = tried = 0
    limit = time.monotonic() + options.seconds
    for number, (module, mutant) in enumerate(chosen, options.start + 1):
        if time.monotonic() > limit:
            break
        tried += 1
        why = equal.get((module, mutant.what))
        if why is not None:
            right += 1
            print(f"{number:3} {module}: {mutant.what}: CHANGES NOTHING: {why}", flush=True)
            continue
        began = time.monotonic()
        fate = meet(module, mutant, choice.runs(module, mutant.lines), options.tests)
        found += bool(fate.by)
        said = fate.by or f"SURVIVES {fate.tried} tests"
        print(f"{number:3} {module}: {mutant.what}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{found} of {tried - right} found; {right} more change nothing; of {len(everyone)} that there are")


def _control(modules: list[str], choice: Choice, seconds: float) -> None:
    """A test that fails without a mutant finds nothing."""
    for module in modules:
        source = (ROOT / "src/interlock" / module).read_text(encoding="utf-8")
        lines = range(1, len(source.splitlines()) + 1)
        same = Mutant((1, 1), "", "", source, frozenset(lines))
        fate = meet(module, same, choice.runs(module, lines), seconds)
        print(f"{module}: {fate.by or f'nothing found by {fate.tried} tests'}", flush=True)


def meet(module: str, mutant: Mutant, runs: list[Run], seconds: float = 120.0) -> Found:
    """The mutant, in a copy of the package, against the tests that run its lines: so many seconds of them, as they take
    under coverage where nothing is wrong."""
    tried = 0
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # some tests are another user for a while, who imports too
        package = Path(directory, "interlock")
        shutil.copytree(ROOT / "src/interlock", package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / module).write_text(mutant.source, encoding="utf-8")
        for batch in batches(runs, MODULES.get(module, []), (FIRST, seconds - FIRST)):
            tried += len(batch)
            by = _run(batch, directory)
            if by:
                return Found(by, tried)
    return Found("", tried)


def _run(batch: list[Run], directory: str) -> str:
    """Returns who found it. A change of a constant can change the names of tests that have it as their parameter."""
    slowest, all_of_them = max(run.seconds for run in batch), sum(run.seconds for run in batch)
    names = [run.name for run in batch]
    for tests in (names, list(dict.fromkeys(name.partition("[")[0] for name in names))):
        code, said = _pytest(tests, directory, 10 + 10 * slowest, 60 + 10 * all_of_them)
        if code == 0:
            return ""
        if code is None:
            return f"{names[0]} or one after it, which does not end"
        if code != 5 and "ERROR: not found" not in said and "ERROR: file or directory not found" not in said:
            failed = [line for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
            return failed[0].partition(" - ")[0].partition(" ")[2] if failed else f"pytest, which ended with {code}"
    raise SystemExit(f"these tests are gone; run python -m tests.branches again:\n{said[-2000:]}")


def _pytest(tests: list[str], directory: str, timeout: float, limit: float) -> tuple[int | None, str]:
    """Its exit code, none if it does not end, and what it said."""
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:randomly", "-p", "no:cacheprovider",
        f"--timeout={timeout:.0f}", *tests,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": directory}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as pytest:
            try:
                code: int | None = pytest.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(pytest.pid)
        output.seek(0)
        return code, output.read()


def _end(group: int) -> None:
    """What the tests of a mutant left running."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main()
