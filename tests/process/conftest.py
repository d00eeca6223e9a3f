"""Fixtures for tests with real processes. Every process started here is ended here, by its id."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ..support import need, need_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform == "linux":
    from .workers import Worker

    @pytest.fixture
    def spawn() -> Iterator[Callable[..., Worker]]:
        """Starts workers; whatever is left of them at the end is killed."""
        workers: list[Worker] = []

        def start(*options: str) -> Worker:
            workers.append(Worker(*options))
            return workers[-1]

        yield start
        for worker in workers:
            worker.close()
else:  # /proc is their oracle
    collect_ignore = [
        "test_children.py",
        "test_exit.py",
        "test_fork.py",
        "test_holder_names.py",
        "test_kill.py",
        "test_replace.py",
        "test_resources.py",
        "test_signals.py",
        "test_top.py",
        "test_waiting.py",
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a lock file is going to be."""
    return os.path.join(os.path.realpath(tmp_path), "x.lock")


@pytest.fixture
def trio() -> None:
    """For tests that use it in a process of their own."""
    need_module("trio")


@pytest.fixture
def namespaces() -> None:
    """For tests that mount, or lower limits, where nobody else sees it."""
    done = subprocess.run([need("unshare"), "-rm", "true"], capture_output=True, text=True, timeout=100)
    if done.returncode:
        reason = f"needs user and mount namespaces: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("INTERLOCK_REQUIRE_ALL") else pytest.skip)(reason)
