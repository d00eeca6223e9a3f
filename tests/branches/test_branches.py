"""What is run in the test, in a child, and in a member of a crew is counted, and what is not run is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ..mutants.choose import Choice
from .__main__ import CONFIG, SOURCE, count
from .figures import figures, missing

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import subprocess, sys
from interlock import Lock, RWLock
from interlock.testing.conformance.crew import Crew, acquire

def test_in_this_process():
    with Lock("memory://branches#one", timeout=0):
        pass

def test_in_a_child(tmp_path):
    program = "import sys, interlock\\nwith interlock.Semaphore(sys.argv[1], 2): pass"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], check=True)

def test_in_a_member(tmp_path):
    with Crew() as crew:
        crew.hire("asyncio").do(acquire, str(tmp_path / "l"), 1.0, "", {"primitive": "marker", "ttl": 5.0})
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counted on Linux")


def test_all_that_runs_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "test_some.py"
    program.write_text(TESTS)
    counted = tmp_path / "counted"
    assert "3 passed" in count(str(program), 100.0, counted)
    rows = _rows(counted, capsys)
    assert 0 < rows["memory"][1] < rows["memory"][0]
    assert 0 < rows["kernel"][1] < rows["kernel"][0], "of a child"
    assert 0 < rows["marker"][1] < rows["marker"][0], "of a member"
    assert rows["redis"][1] == rows["redis"][0], "and what nothing runs"
    missing(counted, CONFIG, SOURCE, "kernel/readwrite")
    assert "engines/kernel/readwrite.py:1: not run" not in capsys.readouterr().out
    assert _names(counted, "engines/memory.py") == {"test_some.py::test_in_this_process"}
    assert _names(counted, "engines/kernel/slots.py") == {"test_some.py"}, "a child's lines are its file's"


def _rows(counted: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[int]]:
    figures(counted, CONFIG, SOURCE)
    lines = capsys.readouterr().out.splitlines()[1:]
    return {line[:16].strip(): [int(word) for word in line[16:].split()[:4]] for line in lines}


def _names(counted: Path, module: str) -> set[str]:
    return {run.name.rpartition("/")[2] for run in Choice(counted).runs(module, range(1, 1000))}
