"""From samples to figures, and from figures to verdicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]


class Target(TypedDict):
    """A figure that interlock promises to reach, and what was measured."""

    what: str
    value: float | None
    limit: float
    least: bool  # is the limit a least value (or, as most often, a greatest)?
    met: bool | None  # None: not measured in this run


class Column(NamedTuple):
    """A column of a table: a key of the rows, its heading, and the format of its values."""

    key: str
    heading: str
    style: str = ""


def target(what: str, value: float | None, limit: float, *, least: bool = False) -> Target:
    """Judge a value, if there is one."""
    met = None if value is None else (value >= limit if least else value <= limit)
    return Target(what=what, value=value, limit=limit, least=least, met=met)


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile: a value that was measured, never one in between. None without samples."""
    if not samples:
        return None
    return sorted(samples)[max(0, math.ceil(len(samples) * share) - 1)]


def median(samples: Sequence[float]) -> float | None:
    return percentile(samples, 0.5)


def p99(samples: Sequence[float]) -> float | None:
    """The 99th percentile, where there are enough samples to have one."""
    return percentile(samples, 0.99) if len(samples) >= 100 else None


def jain(counts: Sequence[int]) -> float | None:
    """Jain's fairness index: 1 when all got the same, 1/n when one got everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else None


def ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def find(rows: Sequence[Row], **wanted: object) -> Row:
    """The one row with these values; empty if there is none."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})
