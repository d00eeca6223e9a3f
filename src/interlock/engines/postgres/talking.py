"""Who talks on a connection: one at a time, and no longer than its function runs.

A mutex that is taken by one function and given back by another has gaps in which Ctrl-C can strike: CPython runs signal
handlers when a function is entered, after a call, and when a loop jumps back. One is closed here: `map` calls the
mutex's `acquire` and the result is stored with no look at signals in between. The others cannot be closed (the entry
into `leave`, and the return to whoever called), so what they leave is found out: the frame of the one who talks is
noted, and when that frame has ended without giving the mutex back, the next one has it.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Talking"]

_LOOK = 0.25
"""Seconds after which one that waits for its turn looks whether the other one is still there."""


class Talking:
    """The right to talk, as `enter` and `leave`."""

    torn = False

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.lock = allocate_lock()
        self._finding_out = allocate_lock()
        self.user = 0  # the thread that has `lock`
        self.talker: FrameType | None = None

    def enter(self, seconds: float, of: int = 0) -> bool:
        """Take the right to talk, for the function that calls this, or the one so many calls above it.

        False: another thread talks for so long, or this very one was interrupted in it.
        """
        frame, me, limit = sys._getframe(of + 1), get_ident(), monotonic() + seconds
        taken = False
        try:
            for taken in map(self.lock.acquire, (False,)):  # noqa: B007
                break
            while not taken:
                if self._abandoned(frame, me):
                    return True
                left = limit - monotonic()
                if self.user == me or left <= 0:
                    return False
                for taken in map(self.lock.acquire, (True,), (min(left, _LOOK),)):  # noqa: B007
                    break
            self.user, self.talker = me, frame
        except BaseException:
            if taken and self.talker is not frame:
                self.lock.release()
            raise
        return True

    def _abandoned(self, frame: FrameType, me: int) -> bool:
        """Take it from one that was interrupted and has not given it back."""
        with self._finding_out:
            talker = self.talker
            if talker is None or not self.lock.locked() or not _ended(talker):
                return False
            self.torn = True  # nobody knows how far it came
            self.user, self.talker = me, frame
            return True

    def leave(self) -> None:
        self.user, self.talker = 0, None
        self.lock.release()


def _ended(frame: FrameType) -> bool:
    """Has the function returned or raised? One that runs, also in another thread, cannot be cleared."""
    try:
        frame.clear()
    except RuntimeError:
        return False
    return True
