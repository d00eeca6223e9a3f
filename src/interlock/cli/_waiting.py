"""While a command waits for its lock, somebody must say so: for what, and on whom."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress

from ._text import plain, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core.arbiter import Line

FIRST = 0.25
"""Seconds of waiting that are nobody's business. Then a person would begin to wonder."""

_SECOND = 2.0
_LONGEST = 60.0


@contextmanager
def saying_so(line: Line, limit: float, quiet: bool) -> Iterator[None]:
    """Around an acquire. `limit` is its timeout."""
    if quiet:
        yield
        return
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(line, limit, done), daemon=True)
    start_deaf(teller)
    try:
        yield
    finally:
        done.set()
        teller.join(1.0)  # who does not read standard error must not keep the command from running


def start_deaf(thread: threading.Thread) -> None:
    """A thread inherits its signal mask; none of the process's signals is for this one."""
    if sys.platform == "win32":
        thread.start()
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _tell(line: Line, limit: float, done: threading.Event) -> None:
    pause, next_pause = FIRST, _SECOND
    ends: float | None = limit
    while not done.wait(pause):
        holder, _hint = line.engine.blame(line)
        if holder is not None and holder.pid == os.getpid():  # we have just got it
            return
        _write(f"interlock: {plain(waiting(line.resource, holder, _others(line), ends))}\n")
        ends = None
        pause, next_pause = next_pause, min(next_pause * 2, _LONGEST)


def _others(line: Line) -> int:
    if sys.platform == "win32" or line.remote:
        return 0
    from ..engines.kernel import holders

    return holders.waiting(line) - 1


def _write(text: str) -> None:
    with suppress(OSError):  # closed, or a full disk: no reason to stop waiting
        os.write(2, text.encode(errors="replace"))
