"""Which wrong changes of the protocols do the tests find? python -m tests.mutants --number 60

A sample, by a seed, of the mutants of the modules that decide who gets a lock. Each runs the tests of its module until
one fails; a run that takes ten times as long as it may is found too. Prints who survived, which may be right as it is:
not every change is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .mutate import mutants

ROOT = Path(__file__).parents[2]
CORE = ["tests/test_acquire.py", "tests/test_arbiter.py", "tests/test_memory.py", "tests/sim/test_memory.py"]
QUEUE = ["tests/test_tickets.py", "tests/test_patience.py", "tests/test_kernel_waiting.py", "tests/sim/test_kernel.py"]
SHARED = ["tests/test_rwlock.py", "tests/test_semaphore.py", "tests/sim/test_shared.py"]
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
    "engines/marker/lease_log.py": ["tests/test_lease.py", "tests/sim/test_lease.py"],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--number", type=int, default=60, help="how many mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one mutant (default: %(default)s)")
    options = parser.parse_args()
    everyone = [
        (module, what, source)
        for module in MODULES
        for what, source in mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8"))
    ]
    chosen = random.Random(options.seed).sample(everyone, min(options.number, len(everyone)))
    found = 0
    for number, (module, what, source) in enumerate(chosen, 1):
        by = fate(module, source, options.limit)
        found += bool(by)
        print(f"{number:3} {module}: {what}: {by or 'SURVIVES'}", flush=True)
    print(f"{found} of {len(chosen)} found, of {len(everyone)} that there are")


def fate(module: str, source: str, limit: float) -> str:
    """Which tests find it; empty: none."""
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory, "interlock")
        shutil.copytree(ROOT / "src/interlock", package)
        (package / module).write_text(source, encoding="utf-8")
        for tests in MODULES[module]:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", tests]
            environment = {**os.environ, "PYTHONPATH": directory}
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as run:
                try:
                    if run.wait(limit):
                        return tests
                except subprocess.TimeoutExpired:
                    run.kill()
                    return f"{tests}, which does not end"
    return ""


if __name__ == "__main__":
    main()
