"""The programs here say what they know, and do nothing else, where their words make no sense."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs look into /proc")

PROGRAMS = ["kinds", "forks", "interrupts", "matrix", "escapes", "traced"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_words(name: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"tests.faults.{name}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    asked = run("--help")
    assert asked.returncode == 0
    assert "usage" in asked.stdout
    for word in ("nonsense", "--nonsense"):
        wrong = run(word)
        assert wrong.returncode == 2, word
        assert not wrong.stdout
        assert word in wrong.stderr
