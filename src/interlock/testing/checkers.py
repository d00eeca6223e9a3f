"""Was a history of holds a right one? From recorded intervals, in O(n log n), with no search.

Record for each hold the time *after* acquire returned and the time *before* release was called, by one clock
(monotonic; of one host). In between the holder certainly had the lock, so mutual exclusion is the disjointness of
the intervals, and nothing more elaborate is needed. A holder that was killed had the lock at least until it was
killed. Intervals that only touch do not overlap.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Span(NamedTuple):
    """One hold: from `start` to `end` by `who`; `shared` with other shared ones, with the fencing token it got."""

    start: float
    end: float
    who: object = None
    shared: bool = False
    token: int | None = None


class Fault(NamedTuple):
    """What is wrong with `later`, given `earlier`."""

    what: str
    earlier: Span
    later: Span


def overlaps(history: Iterable[Span], permits: int = 1) -> Iterator[Fault]:
    """Spans that began while too many were held: more than `permits` exclusive ones, or a shared and an exclusive.

    One fault for each span that should not have been granted.
    """
    shared: list[tuple[float, int, Span]] = []
    exclusive: list[tuple[float, int, Span]] = []
    for number, span in enumerate(sorted(history, key=lambda span: (span.start, span.end))):
        if span.end < span.start:
            raise ValueError(f"{span} ends before it starts")
        for held in (shared, exclusive):
            while held and held[0][0] <= span.start:
                heappop(held)
        if span.shared:
            if exclusive:
                yield Fault("shared while held exclusively", exclusive[0][2], span)
            heappush(shared, (span.end, number, span))
        else:
            if shared:
                yield Fault("exclusive while shared", shared[0][2], span)
            elif len(exclusive) >= permits:
                yield Fault(f"more than {permits} at once", exclusive[0][2], span)
            heappush(exclusive, (span.end, number, span))


def regressions(history: Iterable[Span]) -> Iterator[Fault]:
    """Fencing tokens that are not above those of all spans that had ended before: a late writer would not be told."""
    fenced = [span for span in history if span.token is not None]
    ended = sorted(fenced, key=lambda span: span.end)
    highest: Span | None = None
    at = 0
    for span in sorted(fenced, key=lambda span: (span.start, span.end)):
        while at < len(ended) and ended[at].end <= span.start:
            if ended[at] is not span and (highest is None or ended[at].token > highest.token):  # type: ignore[operator]
                highest = ended[at]
            at += 1
        if highest is not None and span.token <= highest.token:  # type: ignore[operator]
            yield Fault(f"token {span.token} after token {highest.token}", highest, span)


def check(history: Iterable[Span], permits: int = 1) -> int:
    """Raise `AssertionError` with the first faults and their number; returns the number of spans checked."""
    spans = list(history)
    faults = [*overlaps(spans, permits), *regressions(spans)]
    if faults:
        shown = "\n".join(f"{fault.what}: {fault.earlier} / {fault.later}" for fault in faults[:5])
        raise AssertionError(f"{len(faults)} faults in {len(spans)} holds:\n{shown}")
    return len(spans)
