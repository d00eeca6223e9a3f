"""`inspect`: who holds and who waits, without touching the lock."""

from __future__ import annotations

import os
from dataclasses import replace

from ._errors import LockError
from ._target import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core.arbiter import Line
    from ._report import Report


def inspect(target: str | os.PathLike[str]) -> Report:
    """Tell who holds `target` and who waits for it, from the engine's own tables; takes no lock, creates no file.

    Of a path it tells all: who holds its file by a lock of the kernel, whom a marker that stands there names
    (`SoftFileLock`, interlock's and filelock's), who has a claim on it (the strict one), who has or wants its lease.
    It is a picture of one moment, for people and for log lines; do not decide on it whether a lock is free.
    """
    line = resolve(target, kind="")
    report: Report = line.engine.inspect(line)
    if line.engine.traits.name != "kernel":
        return report
    other = by_files(line.key, line.resource)
    if other is None:
        return report
    if not report.holders and not report.waiters:
        return replace(other, resource=report.resource, facts={**report.facts, **other.facts})
    return replace(
        report,
        holders=(*report.holders, *other.holders),
        waiters=(*report.waiters, *other.waiters),
        facts={**report.facts, **other.facts},
    )


def by_files(path: str, resource: str) -> Report | None:
    """What files say of the lock at a path (canonical): a lease's log, or a marker. None: neither says anything."""
    found: Report
    try:
        if os.path.isdir(f"{path}.interlock"):
            lease: Line = resolve(path, primitive="marker", kind="")
            found = lease.engine.inspect(lease)
        elif not 0 < os.lstat(path).st_size <= 1024:
            return None
        elif (what := _content(path)) == "owner":
            from ._core.arbiter import Line as Place
            from .engines.marker import engine

            marker = engine()
            found = marker.inspect(Place(marker, path, resource))
        elif what == "sentinel":
            from ._report import Report
            from .engines.marker.people import holders_of_strict

            found = Report(resource, "marker", holders=holders_of_strict(path), enforced=True)
        else:
            return None
    except (LockError, OSError, ValueError):
        return None
    return found if found.holders or found.waiters else None


def _content(path: str) -> str:
    from .engines.marker import records

    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags | getattr(os, "O_NOATIME", 0))  # to look at a file of the user's leaves no trace
    except PermissionError:  # it is another's, who may see that it was read
        fd = os.open(path, flags)
    try:
        return records.parse(os.read(fd, records.MAX_SIZE + 1))[0]
    finally:
        os.close(fd)
