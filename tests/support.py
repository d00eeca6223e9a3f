"""What several tests need: child processes that talk, and tools that may be missing."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import NoReturn


def missing(reason: str) -> NoReturn:
    """Something that a test needs is not here: it is skipped with the reason, or fails where all must run."""
    if os.environ.get("INTERLOCK_REQUIRE_ALL"):
        pytest.fail(reason + ", and INTERLOCK_REQUIRE_ALL is set")
    pytest.skip(reason)


def need(tool: str) -> str:
    """The path of an outside program. Without it the test is skipped with the reason, or fails where all must run."""
    found = shutil.which(tool)
    if found is None:
        missing(f"needs the program {tool!r}")
    return found


def need_module(name: str) -> None:
    """The same for a Python package; at the top of a module, for all its tests."""
    if os.environ.get("INTERLOCK_REQUIRE_ALL"):
        import_module(name)
    else:
        pytest.importorskip(name)


def need_root() -> None:
    """For tests with files and processes of several users."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        missing("needs root, to be two users")


def need_lockfs() -> None:
    """For tests on the fault filesystem."""
    from interlock.testing.lockfs import available

    reason = available()
    if reason:
        missing(reason)
