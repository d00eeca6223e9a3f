"""The catalogue at the size of a large build cache: 100,000 builds of 2,000 packages in one index of 175 MB.

    python -m bench.catalogue                  # makes the index (some 15 s), then measures
    python -m bench.catalogue --json FILE --check

Measured are whole commands in processes of their own, with their peak memory: the web site, and one page. And within
one process: a page once the index is read, over many packages. `--check` ends with 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.catalogue.indexes import write_big_index

from interlock.catalogue import page, read

TARGETS = {"site_s": 60.0, "site_mib": 1024.0, "page_ms_max": 50.0}


def run(*words: str) -> tuple[float, float]:
    """Seconds and peak MiB of one `interlock catalogue` command."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "interlock", "catalogue", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"interlock catalogue {words[0]} ended with {child.returncode}")
    return took, usage.ru_maxrss / 1024


def pages(index: Path, count: int) -> dict[str, float]:
    """Milliseconds for single pages once the index is read; each package is rendered once, so nothing is warm."""
    began = time.perf_counter()
    catalogue = read([f"root={index}"])
    reading = time.perf_counter() - began
    names = list(catalogue.packages())
    times = []
    for name in random.Random(1).sample(names, min(count, len(names))):
        began = time.perf_counter()
        page(catalogue, name, "develop")
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    return {"read_s": reading, "page_ms_median": times[len(times) // 2], "page_ms_max": times[-1]}


def measure(directory: Path, packages: int, entries: int) -> dict[str, Any]:
    index = directory / "index.json"
    write_big_index(index, packages, entries)
    found: dict[str, Any] = {"packages": packages, "entries": entries, "index_mb": index.stat().st_size / 1e6}
    found["site_s"], found["site_mib"] = run("site", str(directory / "site"), "--source", f"root={index}", "--quiet")
    files = [path for path in (directory / "site").rglob("*") if path.is_file()]
    found["site_files"], found["site_mb"] = len(files), sum(path.stat().st_size for path in files) / 1e6
    name = f"package-{packages // 2:04d}"
    found["command_page_s"], found["command_page_mib"] = run("page", name, "--ref", "x", "--source", f"root={index}")
    return found | pages(index, 500)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="end with 1 if a target was missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interlock-catalogue-") as directory:
        found = measure(Path(directory), options.packages, options.entries)
    found["python"], found["cores"], found["load_after"] = sys.version.split()[0], os.cpu_count(), os.getloadavg()[0]
    missed = [name for name, limit in TARGETS.items() if found[name] >= limit]
    for name, value in found.items():
        goal = f"  (target: under {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name:18} {value:.2f}{goal}" if isinstance(value, float) else f"{name:18} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
