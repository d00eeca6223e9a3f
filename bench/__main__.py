"""Run as `python -m bench NAME` from the root of the repository, with interlock[bench] installed."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from . import table
from .harness import Plan, environment, progress

if TYPE_CHECKING:
    from .figures import Row

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> int:
    options = _options()
    names = list(table.MODULES) if "all" in options.names else list(dict.fromkeys(options.names))
    pythons = options.python or [sys.executable]
    files = _files(options.json, names) if options.json else {}
    bad = False
    for name in names:
        if len(names) == 1 and not options.python:
            runs = [_run(name, options.dir, options.quick)]
        else:  # each in a small process of its own: what one has loaded or started does not touch the next
            runs = [_run_apart(python, name, options.dir, options.quick) for python in pythons]
        print(table.section(name, runs), flush=True)
        if options.json:
            _write(files[name], {"bench": name, "runs": runs})
        bad = bad or any(_bad(run, options.check) for run in runs)
    return int(bad)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure interlock and its peers.")
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*table.MODULES, "all"],
        metavar="NAME",
        help=", ".join(table.MODULES) + ", or all",
    )
    parser.add_argument("--json", metavar="FILE", help="write the results (into a directory: NAME.json each)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs; not to quote")
    parser.add_argument("--python", action="append", metavar="EXE", help="run under this interpreter; may be repeated")
    parser.add_argument(
        "--dir", metavar="DIR", help="where the lock files are: choose the filesystem (default: temporary)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args()


def _files(where: str, names: list[str]) -> dict[str, str]:
    """Where each result goes. What cannot be written is told now, not when all has run."""
    try:
        if len(names) > 1:
            os.makedirs(where, exist_ok=True)
        one = len(names) == 1 and not os.path.isdir(where)
        files = {name: where if one else os.path.join(where, f"{name}.json") for name in names}
        for file in files.values():
            with open(file, "a", encoding="utf-8"):
                pass
    except OSError as error:
        raise SystemExit(f"--json {where}: {error.filename}: {error.strerror}; nothing was run") from None
    return files


def _run(name: str, directory: str | None, quick: bool) -> Row:
    bench = table.module(name)
    gc.freeze()  # nothing loaded so far is walked, and so copied, in the forked children
    with tempfile.TemporaryDirectory(prefix="interlock-bench-", dir=directory) as place:
        plan = Plan(place, quick)
        facts = environment(plan)
        began = time.monotonic()
        rows = bench.run(plan)
    return {
        "environment": facts,
        "seconds": round(time.monotonic() - began, 1),
        "rows": rows,
        "targets": bench.targets(rows),
    }


def _run_apart(python: str, name: str, directory: str | None, quick: bool) -> Row:
    progress(f"{name}, under {os.path.basename(python)}")
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        file = os.path.join(place, "result.json")
        command = [python, "-m", "bench", name, "--json", file]
        command += ["--quick"] if quick else []
        command += ["--dir", os.path.abspath(directory)] if directory else []
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        try:
            with open(file, encoding="utf-8") as result:
                run: Row = json.load(result)["runs"][0]
        except (FileNotFoundError, ValueError):  # or it is empty
            raise SystemExit(f"{name} did not run under {python}") from None
    return run


def _write(file: str, result: Row) -> None:
    with open(file, "w", encoding="utf-8") as out:
        json.dump(result, out, indent=1)
        out.write("\n")


def _bad(run: Row, check: bool) -> bool:
    """Did a lock fail? And, if asked: was a target missed?"""
    failed = any("failed" in row for row in run["rows"])
    return failed or (check and any(target["met"] is False for target in run["targets"]))


if __name__ == "__main__":
    sys.exit(main())
