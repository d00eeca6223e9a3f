"""The engine of SQLite's byte ranges keeps the promises of an engine, in every world. No target leads to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock._core.arbiter import Line, line_for
from interlock.engines.sqlite_ranges import engine
from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path


class Ranges:
    engine = "sqlite ranges"

    def make_target(self, directory: Path) -> str:
        return str(directory / "a.db")

    def line(self, target: str) -> Line:
        found: Any = engine()
        return line_for(found, target, target)


class TestBlockingEngine(Ranges, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Ranges, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Ranges, conformance.TrioEngineSuite):
    pass
