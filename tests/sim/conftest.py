"""The simulated kernel speaks POSIX constants; nothing here runs on Windows."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []


@pytest.fixture(scope="module", autouse=True)
def _what_was_left_in_the_middle_ends_here() -> Iterator[None]:
    """Contenders left in the middle of a schedule are garbage in cycles, and complain when they are collected:
    here, and not in the middle of somebody else's test."""
    yield
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
