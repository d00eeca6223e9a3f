"""The store's locks. They save work; what is true is decided by link(2), see `chain` and `files`.

So a writer waits for one only for a while, and then goes on without: a stopped holder stops nobody for long, and a
lock that lies costs retries.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from .. import Lock, LostError, NotHeldError, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 5.0
"""Seconds that a writer waits for a lock that only saves retries."""


class Held(Protocol):
    def release(self) -> None: ...


class LockLike(Protocol):
    """What is used of a lock."""

    def acquire(self, timeout: float | None = ...) -> Held: ...

    def try_acquire(self) -> Held | None: ...


class Locks:
    """Locks by name, at a place: a directory, an URL of an engine, or whatever `make` makes."""

    def __init__(self, place: str | Callable[[str], LockLike], prefix: str = "") -> None:
        self._place, self._prefix = place, prefix

    def named(self, name: str) -> LockLike:
        place = self._place
        if callable(place):
            return place(name)
        if "://" in place:
            base, _, fragment = place.partition("#")
            return Lock(f"{base}#{quote(fragment + self._prefix + name, safe='')}")
        return Lock(os.path.join(place, f"{name}.lock"))

    @contextmanager
    def briefly(self, name: str, patience: float = PATIENCE) -> Iterator[bool]:
        """Held for the block if it can be had in time; the block runs in any case."""
        try:
            hold = self.named(name).acquire(patience)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            release(hold)

    @contextmanager
    def attempt(self, name: str) -> Iterator[bool]:
        """True: held for the block. False: somebody else holds it, leave the work to them."""
        hold = self.named(name).try_acquire()
        if hold is None:
            yield False
            return
        try:
            yield True
        finally:
            release(hold)


def release(hold: Held) -> None:
    """Let go, also of a lease that was lost meanwhile."""
    with suppress(NotHeldError, LostError):  # it was for speed, and that is over
        hold.release()
