"""What an import costs, against filelock 4.2.11 in the same run: a ratio, because seconds are the machine's.

Both are measured in fresh interpreters, in turns, and compared by their best runs: noise only adds.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .support import need_module

need_module("filelock")

PROGRAM = """
import sys, time
began = time.perf_counter()
{program}
print(time.perf_counter() - began)
"""
LEAST, ROUNDS = 8, 40
"""At most: on a busy machine it takes a while until one of them had a core to itself."""


def cost(program: str) -> float:
    # Whoever measures coverage does so in children too, and mostly in ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(program=program)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return float(result.stdout)


@pytest.mark.parametrize(
    ("mine", "limit"),
    [
        ("import interlock", 0.25),
        ("from interlock import Lock, Timeout", 0.5),
    ],
)
def test_an_import_is_cheap(mine: str, limit: float) -> None:
    import filelock

    if filelock.__version__ != "4.2.11":
        pytest.skip(f"is compared with filelock 4.2.11, not {filelock.__version__}")
    ours = theirs = float("inf")
    for done in range(ROUNDS):
        ours, theirs = min(ours, cost(mine)), min(theirs, cost("import filelock"))
        if ours <= limit * theirs and done >= LEAST:
            break
    assert ours <= limit * theirs, f"{mine}: {ours * 1e3:.2f} ms, import filelock: {theirs * 1e3:.2f} ms"
