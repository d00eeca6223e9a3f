"""Threads of ours take no signal: the program may have blocked its own signals, to take them one by one."""

from __future__ import annotations

import signal  # not in the thread: one that starts while a lock is taken would import it then
import sys

__all__ = ["deafen"]


def deafen() -> None:
    """Called by a thread at its start."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
