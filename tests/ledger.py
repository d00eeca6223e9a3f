"""Ledgers: a line of JSON for each long run, so that what was counted adds up over runs and releases."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Ledger:
    """A file of them. Nothing in it names a machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, counted: dict[str, Any]) -> None:
        """With the date, the commit, and what it ran on."""
        line = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": self._commit(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release().partition('-')[0]}",
            **counted,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def _commit(self) -> str:
        """The last one that changed the library."""
        command = ["git", "-C", os.fspath(ROOT), "log", "-1", "--abbrev=12", "--format=%h", "--", "src"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"
