"""The simulated kernel speaks POSIX constants; nothing here runs on Windows."""

from __future__ import annotations

import contextlib
import gc
import importlib
import pkgutil
import sys
from typing import TYPE_CHECKING

import pytest

import interlock

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "win32":
    # Loaded when first needed, they would keep the simulated tables that they found then in the place of the real ones.
    for found in pkgutil.walk_packages(interlock.__path__, "interlock."):
        if found.name.startswith(("interlock._f", "interlock._h", "interlock._o", "interlock.engines.kernel")):
            with contextlib.suppress(ImportError, AssertionError):  # of another platform
                importlib.import_module(found.name)

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
