"""`interlock who`: the holders and waiters of one lock."""

from __future__ import annotations

import json
import sys

import click

from .._errors import LockError
from .._inspect import inspect
from ._common import complain, line_of, reason
from ._text import table


@click.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON, for programs.")
def who(target: str, as_json: bool) -> None:
    """Tell who holds the lock TARGET and who waits for it.

    Takes no lock and creates no file. One line per process: "holds" is who locked, "inherits" a process that
    got the lock from it (and keeps it, should the first one die), "waits" one that wants it, with its position
    POS in the queue. SINCE and FOR tell when that began; with ">" and "<" it is no longer than that: the kernel does
    not record it, "interlock run" does. WAITED is how long it waits or had to. "?" is what the system does not
    tell.

    \b
    Exit status:
      0  the report was printed, whether the lock is held or free
      1  TARGET cannot be looked at: no permission, not a lock file, a setting that makes no sense
      2  the command line is wrong
    """
    line_of(target, 1)
    try:
        report = inspect(target)
    except (LockError, OSError) as error:
        complain(reason(error, target))
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
        return
    click.echo(table(report))
