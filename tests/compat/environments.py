"""Python environments of their own for what other projects publish; made with pip when a test asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "packages" / "filelock-shim"


class Environment:
    """A virtual environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        _run([sys.executable, "-m", "venv", str(directory)], "a virtual environment")
        self.bin = directory / ("Scripts" if sys.platform == "win32" else "bin")
        self.python = str(self.bin / "python")

    def pip(self, *arguments: str) -> None:
        _run([self.python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], f"pip {arguments[-1]}")

    def with_interlock(self) -> Environment:
        """Interlock, and its distribution `filelock` in place of the real one."""
        self.pip("install", str(ROOT))
        self.pip("install", "--no-deps", str(SHIM))
        return self


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        reason = f"needs {what}: {(done.stderr or done.stdout).strip()[-400:]}"
        if os.environ.get("INTERLOCK_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
