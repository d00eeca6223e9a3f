"""The marker engine keeps the promises of an engine, in every world. No target of `Lock` leads to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock._core.arbiter import Line, line_for
from interlock.engines.marker import engine
from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path


class Marker:
    engine = "marker"

    def make_target(self, directory: Path) -> str:
        return str(directory / "new" / "marker")

    def line(self, target: str) -> Line:
        found: Any = engine()
        return line_for(found, target, target)


class TestBlockingEngine(Marker, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Marker, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Marker, conformance.TrioEngineSuite):
    pass
