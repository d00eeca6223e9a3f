"""`interlock top`: the locks below a directory, live."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import dataclass

import click

from .._inspect import by_files
from .._report import duration
from ._common import Number, complain
from ._text import age, clock, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._report import Party, Report

ENTRIES = 50_000
"""Names below the directory that one survey reads at most."""

SURVEY_SECONDS = 1.0
"""Seconds that a survey may take."""

SURVEY_SHARE = 0.03
"""Of one core, for surveys."""

LOOK_SHARE = 0.1
"""Of one core, for looking: the table is read less often than asked where there are very many processes."""

LEASE = ".interlock"
MARKER = re.compile("lock|lck", re.IGNORECASE)
NAMES = 3
"""Waiters named per lock."""


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option("--once", is_flag=True, help="Print the table once, uncut, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print everything once as JSON, for programs.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=Number("a time in seconds", 0.1, 3600),
    default=1.0,
    show_default=True,
    help="Time between two looks.",
)
def top(directory: str, once: bool, as_json: bool, interval: float) -> None:
    """Show who holds and who waits for the locks below DIRECTORY, again and again; "q" or Ctrl-C ends it.

    Shown are the locks on files that flock(2) sees: interlock's, filelock's, flock(1)'s; leases (marker://), and the
    markers of SoftFileLock in files whose names contain "lock" or "lck", of both of which a new one may take some
    seconds to appear. The most contended come first. ">" and "<" in front of a time: it is no longer than that. Where
    the output is no terminal, the table is printed once.

    \b
    Exit status:
      0  the table was shown
      1  it cannot be: this system does not tell who holds a lock
      2  the command line is wrong
    """
    watch = Watch(os.path.realpath(directory))
    if sys.platform != "linux" or not os.path.exists("/proc/locks"):
        complain("this system does not tell who holds a lock: there is no /proc/locks")
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(watch.look().as_dict(), indent=2))
    elif once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        click.echo(text(watch.look()))
    else:
        try:
            from ._screen import show
        except ImportError:
            complain('the live table needs the package rich: pip install "interlock[cli]"; --once does without it')
            sys.exit(1)
        show(watch, interval)


@dataclass(frozen=True)
class Look:
    """What was seen at one moment."""

    directory: str
    at: float
    reports: tuple[Report, ...]
    complete: bool
    """Could the processes of all users be seen?"""
    searched: bool
    """Were all names below the directory read in search of leases and markers?"""

    def as_dict(self) -> dict[str, Any]:
        return {
            "directory": self.directory,
            "at": self.at,
            "complete": self.complete,
            "searched": self.searched,
            "locks": [report.as_dict() for report in self.reports],
        }


def all_users() -> bool:
    """Does /proc show this process everybody's descriptors?"""
    return sys.platform != "win32" and os.geteuid() == 0


class Watch:
    """Looks at the locks below a directory. Locks of the kernel need no look into it; what leases and markers there
    are, and where the locked files of other users lie, is found by a survey of its names from time to time."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._names: dict[int, str] = {}
        self._files: list[str] = []
        """Paths that have the log of a lease beside them, or may be markers."""
        self._searched = False
        self._next = 0.0

    def look(self) -> Look:
        """Costs milliseconds; now and then a second where there are very many files."""
        if time.monotonic() >= self._next:
            self._survey()
        found = [*self._of_kernel(), *self._of_files()]
        found.sort(key=lambda report: (-len(report.waiters), report.resource))
        return Look(self.root, time.time(), tuple(found), all_users(), self._searched)

    def _of_kernel(self) -> list[Report]:
        if sys.platform != "linux":
            return []
        from ..engines.kernel import overview

        return overview.below(self.root, self._names)

    def _survey(self) -> None:
        began = time.monotonic()
        self._names, self._files, self._searched = {}, [], True
        want_names = not all_users()
        for number, entry in enumerate(_walk(self.root)):
            if number >= ENTRIES or time.monotonic() - began > SURVEY_SECONDS:
                self._searched = False
                break
            if entry.name.endswith(LEASE) and entry.is_dir(follow_symlinks=False):
                self._files.append(entry.path.removesuffix(LEASE))
                continue
            if MARKER.search(entry.name) and _small(entry):
                self._files.append(entry.path)
            if want_names:
                self._names[entry.inode()] = entry.path
        now = time.monotonic()
        self._next = now + max(2.0, (now - began) / SURVEY_SHARE)

    def _of_files(self) -> Iterator[Report]:
        for path in dict.fromkeys(self._files):
            report = by_files(path, path)
            if report is not None:
                yield report


def _small(entry: os.DirEntry[str]) -> bool:
    """May it be a marker?"""
    try:
        return entry.is_file(follow_symlinks=False) and 0 < entry.stat(follow_symlinks=False).st_size <= 1024
    except OSError:
        return False


def _walk(root: str) -> Iterator[os.DirEntry[str]]:
    """All below, breadth first, no links followed; not what is in the log of a lease."""
    directories = [root]
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(LEASE):
                        directories.append(entry.path)
        except OSError:  # not readable, or gone meanwhile
            continue


COLUMNS = ("LOCK", "PID", "USER", "MODE", "SINCE", "FOR", "COMMAND", "WAIT", "LONGEST", "WAITERS")


def rows(look: Look) -> Iterator[tuple[str, ...]]:
    """One per holder, the first of a lock also with its path and its waiters. Safe for a terminal."""
    for report in look.reports:
        lock = os.path.relpath(report.resource, look.directory)
        waits = _waits(report.waiters)
        for holder in report.holders or (None,):
            yield tuple(plain(cell) for cell in (lock, *_holder(holder), *waits))
            lock, waits = "", ("", "", "")


def _holder(party: Party | None) -> tuple[str, ...]:
    if party is None:
        return ("-", "", "", "", "", "")
    mode = party.mode or "?"
    mode += "" if party.slot is None else f" {party.slot}"
    mode += ", inherited" if party.inherited else ""
    return (str(party.pid or "?"), party.user or "?", mode, clock(party), age(party), party.command or "?")


def _waits(waiters: tuple[Party, ...]) -> tuple[str, ...]:
    if not waiters:
        return ("0", "", "")
    known = [party.waited for party in waiters if party.waited is not None]
    named = ", ".join(f"{party.pid or '?'} {party.command}".strip() for party in waiters[:NAMES])
    more = f", and {len(waiters) - NAMES} more" if len(waiters) > NAMES else ""
    return (str(len(waiters)), duration(max(known)).replace(" ", "") if known else "?", named + more)


def notes(look: Look) -> str:
    """What one must know to read the table."""
    told = []
    if not look.complete:
        told.append("other users' processes are seen in part")
    if not look.searched:
        told.append("too many files: not all leases and markers are seen")
    return "; ".join(told)


def text(look: Look) -> str:
    """The whole table, as wide as it is."""
    cells = [COLUMNS, *rows(look)]
    if len(cells) == 1:
        lines = [f"{plain(look.directory)}: no lock below it is held or waited for"]
    else:
        widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
        lines = [_padded(row, widths) for row in cells]
    return "\n".join([*lines, *([f"({notes(look)})"] if notes(look) else [])])


def _padded(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
