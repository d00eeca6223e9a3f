"""What the commands share: how a TARGET is read, how trouble is told, which exit status it has."""

from __future__ import annotations

import errno
import sys

import click

from .._deadline import FOREVER
from .._errors import LockError, SettingError
from .._target import resolve
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._core.arbiter import Line

CANNOT_LOCK = 125
"""The status that env(1), nice(1) and timeout(1) have for trouble of their own; 126 and 127 are theirs,
too."""


def line_of(target: str, trouble: int = CANNOT_LOCK) -> Line:
    """`trouble`: the exit status if it is not the command line that is wrong."""
    try:
        line = resolve(target)
    except (SettingError, OSError) as error:
        complain(reason(error, target))
        sys.exit(trouble)
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
        hint = _HINTS.get(error.errno or 0, "") if "(" not in error.strerror else ""
        return f"{error.filename or target}: {error.strerror}{hint}"
    return str(error)


_HINTS = {
    errno.EISDIR: " (a file is wanted, such as one in that directory)",
    errno.ENOTDIR: " (a part of the path is a file, or a directory is wanted)",
    errno.EACCES: " (this user may not: look at the rights of it, and of the directories on the way)",
    errno.EROFS: " (choose a place that can be written)",
}
"""What the user can do, where the system's words leave that open and nobody has said more."""


def refuse_empty(command: tuple[str, ...]) -> None:
    """What is no name of a program, whatever is in PATH."""
    if not command[0]:
        complain("the command is an empty word: a variable that is not set, perhaps")
        sys.exit(127)


def complain(text: str) -> None:
    click.echo(f"interlock: {plain(text)}", err=True)


class Number(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click
    """The value of an option: `what` it is, from `least` to `most`; `instead` tells what else the user can do."""

    name = "number"

    def __init__(
        self, what: str, least: float = 0, most: float = FOREVER, *, whole: bool = False, instead: str = ""
    ) -> None:
        self._least, self._most, self._whole = least, most, whole
        upto = " on" if most == FOREVER else f" to {most:.12g}"
        self._wanted = f"{what} is a number from {least:g}{upto}" + (f"; {instead}" if instead else "")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = int(value) if self._whole else float(value)
        except ValueError:
            number = float("nan")
        if self._least <= number <= self._most:
            return number
        return self.fail(f"{plain(str(value))!r}: {self._wanted}", param, ctx)


SECONDS = Number("a time in seconds")
TIMEOUT = Number("a time in seconds", instead="0 is one attempt, and without --timeout it waits for ever")
