"""The command `interlock`. It needs click, which the extra `cli` brings; the library does not."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process; returns, or exits with, its status."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("interlock: the command line needs click: pip install 'interlock[cli]'", file=sys.stderr)
        return 2
    _open_standard_streams()
    from ._commands import interlock
    from ._common import CANNOT_LOCK

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        interlock(prog_name="interlock", windows_expand_args=False)  # ends with SystemExit
    except OSError as error:
        print(f"interlock: {error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        return CANNOT_LOCK
    except Exception as error:  # noqa: BLE001 - a status of 1 would say that somebody else holds the lock
        print(f"interlock: internal error: {error!r}", file=sys.stderr)
        return CANNOT_LOCK
    return 0


def _open_standard_streams() -> None:
    """Daemons and cron close them. The lock file's descriptor must not become standard output; nor the command's:
    what is opened here is not inherited."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process
