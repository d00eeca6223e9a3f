"""The command `interlock`. It needs click, which the extra `cli` brings; the library does not."""

from __future__ import annotations

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
    from ._commands import interlock

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    interlock(prog_name="interlock", windows_expand_args=False)  # ends with SystemExit
    return 0
