"""Which tests can find a wrong change of these lines: those that run them, as `python -m tests.branches` counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from coverage import CoverageData

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Run(NamedTuple):
    """One test, or a whole file whose children run the lines."""

    name: str
    seconds: float

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class Counted:
    """What was counted of one test file."""

    def __init__(self, place: Path) -> None:
        self._data = CoverageData(basename=str(place / ".coverage"))
        self._data.read()
        self.seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._server = 0.0
        """Seconds of the longest setup: of a server, which starts for any of the file's tests."""
        for line in (place / "times").read_text(encoding="utf-8").splitlines():
            seconds, outcome, when, name = line.split("\t", 3)
            if when == "setup" and float(seconds) > 1.0:
                self._server = max(self._server, float(seconds))
            self.seconds[name] = self.seconds.get(name, 0.0) + float(seconds)
            if outcome == "failed":
                self._failed.add(name)

    def runs(self, module: str, lines: Iterable[int]) -> Iterator[Run]:
        """Who runs one of these lines of the module."""
        path = next((path for path in self._data.measured_files() if path.endswith(f"/interlock/{module}")), None)
        if path is None:
            return
        by_line = self._data.contexts_by_lineno(path)
        contexts = {context for line in lines for context in by_line.get(line, ())}
        names = {context.partition("|")[2] for context in contexts}
        tests = sorted(name for name in names - self._failed if name in self.seconds)
        for name in tests:
            yield Run(name, self.seconds[name] + self._server)
        if "" in names and not tests and not self._failed and self.seconds:
            # by an import, or by its children
            yield Run(next(iter(self.seconds)).partition("::")[0], sum(self.seconds.values()))


class Choice:
    """Of everything that was counted."""

    def __init__(self, counted: Path) -> None:
        places = [path.parent for path in sorted(counted.glob("*/.coverage"))]
        self.all = [Counted(place) for place in places if (place / "times").exists()]

    def runs(self, module: str, lines: Iterable[int]) -> list[Run]:
        return [run for each in self.all for run in each.runs(module, lines)]


def batches(runs: Iterable[Run], first: list[str], lengths: tuple[float, ...]) -> list[list[Run]]:
    """In the order in which they are to run: those of the module's own files before others, the fastest first. A batch
    is as long as `lengths` says; what is beyond the last is left out."""
    order = sorted(runs, key=lambda run: (run.file not in first, run.seconds, run.name))
    found: list[list[Run]] = []
    for length in lengths:
        batch: list[Run] = []
        later = []
        left = length
        for run in order:
            if run.seconds <= left and len(batch) < 200:
                batch.append(run)
                left -= run.seconds
            else:
                later.append(run)
        if batch:
            found.append(batch)
        order = later
    return found
