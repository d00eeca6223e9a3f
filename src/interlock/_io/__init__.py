"""The only code that knows how to wait: `blocking` for threads, `asyncio` and `trio` for tasks (loaded on use)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._model import TaskIO


def running() -> TaskIO:
    """The io of the event loop that runs the caller. Raises `RuntimeError` outside of asyncio and trio."""
    if "trio" in sys.modules:
        from . import trio

        if trio.is_running():
            return trio.io
    from . import asyncio

    return asyncio.io_of_running_loop()
