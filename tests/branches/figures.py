"""Adds up what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import coverage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from coverage.results import Analysis

ENGINES = {
    "core": ["_core/"],
    "memory": ["engines/memory", "engines/_memory"],
    "remote, queue": ["engines/remote", "engines/_queue", "engines/__init__"],
    "sqlite ranges": ["engines/sqlite_ranges"],
    **{name: [f"engines/{name}/"] for name in ("kernel", "marker", "redis", "postgres", "etcd", "zookeeper")},
}


class Figure(NamedTuple):
    lines: int
    missing_lines: int
    branches: int
    missing_branches: int


def summed(counted: Path, config: Path) -> coverage.Coverage:
    """All test files together."""
    data = counted / "all"
    data.unlink(missing_ok=True)
    found = coverage.Coverage(data_file=str(data), config_file=str(config))
    parts = [str(path) for path in counted.glob("*/.coverage")]
    found.combine(parts, keep=True)
    found.save()
    return found


def analyses(found: coverage.Coverage, source: Path) -> dict[str, Analysis]:
    """Of each module, by its path below the package."""
    paths = [path for place in ("engines", "_core") for path in sorted((source / place).rglob("*.py"))]
    return {str(path.relative_to(source)): found._analyze(str(path)) for path in paths}


def figures(counted: Path, config: Path, source: Path) -> None:
    """A row for each engine."""
    every = analyses(summed(counted, config), source)
    print(f"{'engine':16} {'lines':>7} {'not run':>8} {'branches':>9} {'not taken':>9} {'branches taken':>15}")
    for engine, places in [*ENGINES.items(), ("all", [""])]:
        figure = _figure(each for name, each in every.items() if name.startswith(tuple(places)))
        taken = 100 * (1 - figure.missing_branches / max(figure.branches, 1))
        print(f"{engine:16} {figure[0]:7} {figure[1]:8} {figure[2]:9} {figure[3]:9} {taken:14.1f}%")


def _figure(found: Iterable[Analysis]) -> Figure:
    numbers = [each.numbers for each in found]
    return Figure(
        sum(each.n_statements for each in numbers),
        sum(each.n_missing for each in numbers),
        sum(each.n_branches for each in numbers),
        sum(each.n_missing_branches for each in numbers),
    )


def missing(counted: Path, config: Path, source: Path, word: str) -> None:
    """Line by line: what is not run, and which way is never taken."""
    for name, each in analyses(summed(counted, config), source).items():
        if word not in name:
            continue
        text = (source / name).read_text(encoding="utf-8").splitlines()
        for line in sorted(each.missing):
            print(f"{name}:{line}: not run: {text[line - 1].strip()}")
        for line, ways in sorted(each.missing_branch_arcs().items()):
            if line not in each.missing:
                print(f"{name}:{line}: never to {ways}: {text[line - 1].strip()}")
