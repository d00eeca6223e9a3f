"""What the commands share: how a TARGET is read, how trouble is told, which exit status it has."""

from __future__ import annotations

import click

from .._errors import LockError
from .._target import resolve
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._core.arbiter import Line

CANNOT_LOCK = 125
"""The status that env(1), nice(1) and timeout(1) have for trouble of their own; 126 and 127 are theirs,
too."""


def line_of(target: str) -> Line:
    try:
        line = resolve(target)
    except (LockError, ValueError) as error:
        raise click.BadParameter(plain(str(error)), param_hint="TARGET") from None
    if line.engine.traits.excludes == "threads":
        raise click.BadParameter(
            f"{plain(target)}: a lock in memory is known to one process only; give a path or a file:// URL",
            param_hint="TARGET",
        )
    return line


def reason(error: Exception, target: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or target}: {error.strerror}"
    return str(error)


def complain(text: str) -> None:
    click.echo(f"interlock: {plain(text)}", err=True)
