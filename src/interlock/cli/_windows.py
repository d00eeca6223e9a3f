"""The command as a child of this process. Windows.

A lock there belongs to the process that took it, and cannot be handed on: if this process is terminated, the
lock is free although the command may still run. Ctrl-C and Ctrl-Break reach both processes: they share a
console.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from .._hold import Hold

assert sys.platform == "win32"


def run_under(hold: Hold, command: Sequence[str]) -> int:
    """Run the command and release the hold; returns the exit status."""
    with hold:
        return run_alone(command)


def run_alone(command: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"interlock: {plain(command[0])}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child decides what they mean
    signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    return child.wait()


def end_like(status: int) -> int:
    """Of what `run_alone` returned, the exit status."""
    return status


def die_of(number: int) -> NoReturn:
    """End as a process that was interrupted."""
    sys.exit(128 + number)
