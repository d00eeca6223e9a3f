"""The answer to a request, for kazoo to set and for one thread to wait for.

kazoo's own results and watches go through a thread each before they reach anybody: half of a handoff's time. Here they
are told in kazoo's thread of the connection, so whoever is told must neither block nor raise.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Answer", "tell_at_once"]


class Answer:
    """`then` is called with it once it is there."""

    __slots__ = ("_lock", "_then", "exception", "there", "value")

    def __init__(self, then: Callable[[Answer], object] | None = None) -> None:
        self.value: Any = None
        self.exception: Exception | None = None
        self.there = False
        self._then = then
        self._lock = allocate_lock()
        self._lock.acquire()

    # what kazoo calls

    def set(self, value: Any = None) -> None:
        if not self.there:
            self.value = value
            self._arrive()

    def set_exception(self, exception: Exception) -> None:
        if not self.there:
            self.exception = exception
            self._arrive()

    def _arrive(self) -> None:
        self.there = True
        self._lock.release()
        if self._then is not None:
            _call(self._then, self)

    # what we call

    def wait(self, seconds: float) -> bool:
        """Is it there within so many seconds?"""
        if not self.there and self._lock.acquire(True, seconds):
            self._lock.release()
        return self.there


def tell_at_once(handler: Any) -> None:
    """Have a client's watches told in its thread of the connection."""
    handler.dispatch_callback = lambda callback: _call(callback.func, *callback.args)


def _call(fn: Callable[..., object], *args: object) -> None:
    try:
        fn(*args)
    except Exception:  # in kazoo's thread it would end the connection
        logging.getLogger("interlock").exception("what was to be done with an answer of zookeeper failed")
