"""Ctrl-C anywhere: nothing stays behind, in the kernel or in the process. The work is done by `sweep` and `storm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from ..support import need_module
from .kinds import SCENARIOS as KINDS

HERE = os.path.dirname(os.path.abspath(__file__))

SCENARIOS = {
    # and how many points there are at least; fewer means that the sweep has gone blind
    "Acquire": 5,
    "AcquireTimed": 5,
    "AcquireAll": 40,
    "AcquireAllBusy": 100,
    "AcquireNew": 50,
    "AsyncAcquire": 20,
    "AsyncContended": 150,
    "AsyncWith": 20,
    "Contended": 150,
    "ContendedBefore": 150,
    "ContendedBlind": 100,
    "ContendedFair": 150,
    "ContendedHere": 50,
    "ContendedLonger": 200,
    "ContendedReplaced": 200,
    "Drain": 8,
    "ExitBefore": 5,
    "ExitHold": 5,
    "ReadAcquire": 10,
    "ReadWith": 20,
    "Reenter": 10,
    "Release": 5,
    "ReleaseAll": 15,
    "ReleaseBefore": 8,
    "ReleaseDropped": 5,
    "ReleaseInner": 2,
    "ReleaseWaited": 20,
    "TimesOut": 200,
    "TimesOutBefore": 200,
    "TimesOutHere": 50,
    "TryAcquire": 30,
    "TryContended": 30,
    "With": 8,
    "WithHold": 10,
    "WithNested": 30,
}

BETWEEN_CHECKS = {
    # A descriptor is in nobody's hands here, between two opcodes with no look at signals in between.
    "engines/kernel/__init__.py KernelEngine.drop",  # claim.fd = None; close(fd)
    "engines/kernel/__init__.py KernelEngine.try_now",  # for claim.fd in map(open, ...)
    "engines/kernel/readwrite.py Readers.try_now",
    "engines/kernel/ops.py Ops.lift",
    "engines/kernel/ops.py Ops.open_lock_file",
    "_io/blocking.py _Wake.clear",  # in a finalizer, where the interpreter swallows exceptions
}


RAISING = {
    # The instruction that begins an `except` block; between it and the one that raised there is no look at signals.
    "together.py acquire_all",
}


def run(program: str, *words: str, timeout: float = 100, status: int = 0) -> list[dict[str, Any]]:
    command = [sys.executable, os.path.join(HERE, program), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout)
    assert done.returncode == status
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_interrupt_at_any_point_leaves_nothing(scenario: str) -> None:
    (result,) = run("sweep.py", scenario)
    print(f"{scenario}: interrupted at {result['points']} points")
    assert result["failures"] == []
    assert result["points"] >= SCENARIOS[scenario]


@pytest.mark.parametrize("scenario", KINDS)
def test_an_interrupt_of_any_kind_leaves_nothing(scenario: str) -> None:
    command = [sys.executable, "-m", "tests.faults.kinds", scenario]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=100, check=True
    )
    result = json.loads(done.stdout)
    print(f"{scenario}: interrupted at {result['points']} points")
    assert result["failures"] == []
    assert result["points"] >= 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_exception_at_any_opcode_of_acquire_leaves_no_lock() -> None:
    """Also where CPython never runs a signal handler: no lock, no turn, no watch; a descriptor only in known places."""
    # Timeouts spend their opcodes on reading /proc.
    names = [name for name in SCENARIOS if name.startswith(("Acquire", "Contended", "ReadAcquire", "Try"))]
    results = run("sweep.py", "--all", *names, timeout=860)
    assert len(results) == len(names) > 10
    for result in results:
        for failure in result["failures"]:
            if _place(failure["point"]) in RAISING and ":None " in failure["point"]:
                continue
            assert _place(failure["point"]) in BETWEEN_CHECKS, failure
            assert [problem.partition(":")[0] for problem in failure["problems"]] == ["descriptors leak"], failure
    print(f"interrupted at {sum(result['points'] for result in results)} opcodes")


def _place(point: str) -> str:
    where, _, rest = point.partition(":")
    return f"{where} {rest.split()[1]}"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_real_signals_leaves_nothing(seed: int) -> None:
    (result,) = run("storm.py", "2.5", str(seed))
    print(f"{result['interruptions']} interruptions: {result['ways']}")
    assert result["interruptions"] > 300
    assert all(result["ways"].values())


def test_a_storm_upon_a_careless_acquire_is_told() -> None:
    """The control: what was struck is not undone."""
    (result,) = run("storm.py", "1", "3", "--careless", status=1)
    assert any("a claim keeps the turn" in failure for failure in result["failures"])


def test_beside_filelock() -> None:
    """The same sweep, of both: it sees what filelock leaves behind, and nothing of ours."""
    need_module("filelock")
    command = [sys.executable, "-m", "tests.faults.interrupts", "--json", "signals"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200, check=True)
    rows = {(row["subject"].split()[0], row["verb"]): row for row in json.loads(done.stdout)}
    assert [rows["interlock", "acquire"][what] for what in ("held", "leaked")] == [0, 0]
    assert rows["interlock", "release"]["leaked"] == 0
    assert rows["interlock", "acquire"]["points"] > 50
    assert rows["filelock", "acquire"]["held"] > 10
