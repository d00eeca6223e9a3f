"""What a contender for a marker brings: its terms, and its stake."""

from __future__ import annotations

import stat
import sys

from ..._model import Claim
from . import identity, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any

    from ..._model import Parker
    from ..kernel import Instance

__all__ = ["BORN", "FOREVER", "MarkerClaim", "Terms"]

FOREVER = float("inf")
BORN = stat.S_ISVTX if sys.platform == "linux" else 0
"""With this bit a marker of ours is created, so that an empty one can be told from others'."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Terms:
    """What a contender writes, and on which terms it breaks others' markers."""

    __slots__ = ("born", "duration", "explicit", "lifetime", "mode", "record")

    def __init__(
        self,
        record: bytes,
        mode: int = 0o666,
        explicit: bool = False,
        lifetime: float | None = None,
        duration: float | None = None,
    ) -> None:
        self.record = record
        # Contenders act on what the marker says: nobody else may write it.
        self.mode = mode & ~_OTHERS_WRITE
        self.born = self.mode | BORN
        self.explicit = explicit
        self.lifetime = lifetime
        self.duration = duration


class MarkerClaim(Claim):
    """A stake in a marker. `fd` is our own marker; `aside` its name while a take-over is under way."""

    fd: int | None = None
    aside = ""
    terms: Terms
    found: tuple[int, int] | None = None  # (device, inode) of the marker that is in the way
    due = FOREVER  # when the marker in the way may become breakable by standing still
    parker: Parker | None = None
    instance: Instance | None = None
    watched: tuple[int, int] | None = None
    wd = 0
    echo = 0
    waiting: deque[MarkerClaim] | None = None  # those of this process that wait for this marker, in order
    looks = False  # it is the first of them, and has subscribed as such

    def __init__(self, line: Any = None, owner: object = None, terms: Terms | None = None) -> None:
        self.line = line
        self.owner = owner
        self.terms = Terms(records.plain(identity.me())) if terms is None else terms

    def is_first(self) -> bool:
        """Of those of this process that wait for this marker, is it the one that has to look for all?"""
        waiting = self.waiting
        try:
            return waiting is not None and waiting[0] is self
        except IndexError:
            return False
