"""A few daemon threads that make requests for tasks, and release what nobody can wait for.

From an event loop a request is made here, so that the loop goes on meanwhile. A hold that a finalizer, a signal handler
or the end of the process lets go is released here too, so `submit` takes no lock that an interrupted call could hold:
it puts the job into a queue whose `put` is one step in C.
"""

from __future__ import annotations

import atexit
import logging
import time
from _thread import start_new_thread
from itertools import count
from queue import Empty, SimpleQueue

from .._core import fork
from .deaf import deafen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], object]

MOST = 8
"""Threads at most. A request lasts a few seconds where a server hangs; further ones wait for a thread meanwhile."""
_AT_EXIT = 2.0
"""Seconds that the end of the process waits for what was begun."""


class Workers:
    """Threads are started on demand and stay."""

    def __init__(self) -> None:
        self._begin()
        fork.in_child(self._begin)
        atexit.register(self.settle)

    def _begin(self) -> None:
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._numbers = count()
        self._idle: list[None] = []
        self._threads: list[None] = []
        self._unfinished: dict[int, None] = {}
        self._none_starts = False

    def submit(self, job: Job) -> None:
        """Have `job` called in one of the threads. What it raises is logged."""
        self._unfinished[number := next(self._numbers)] = None

        def run() -> None:
            try:
                job()
            except Exception:
                logging.getLogger("interlock").exception("a request in the background failed")
            finally:
                self._unfinished.pop(number, None)

        self._jobs.put(run)
        if len(self._idle) < self._jobs.qsize() and len(self._threads) < MOST:
            try:
                start_new_thread(self._work, (self._jobs,))
            except RuntimeError:  # no more threads; CPython 3.12 starts none once the interpreter ends
                self._none_starts = not self._threads  # then `settle` does it

    def _work(self, jobs: SimpleQueue[Job]) -> None:
        self._threads.append(None)
        deafen()
        while True:
            self._idle.append(None)
            job = jobs.get()
            self._idle.pop()
            job()
            del job

    def settle(self, seconds: float = _AT_EXIT) -> None:
        """Wait until all that was submitted is done, for some seconds at most."""
        until = time.monotonic() + seconds
        while self._none_starts and time.monotonic() < until:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            job()
        while self._unfinished and time.monotonic() < until:
            time.sleep(0.001)


_workers: Workers | None = None


def workers() -> Workers:
    """Those of this process."""
    global _workers
    if _workers is None:
        _workers = Workers()
    return _workers
