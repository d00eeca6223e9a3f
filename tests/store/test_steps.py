"""A slice of the kills in `steps`, whose command does them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("writers are forked and killed", allow_module_level=True)

from . import steps


@pytest.mark.slow
@pytest.mark.parametrize("name", steps.SCENARIOS)
def test_killed_at_a_step(name: str) -> None:
    command = [sys.executable, "-m", "tests.store.steps", "--every", "20", name]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) > 20, "there were steps"
