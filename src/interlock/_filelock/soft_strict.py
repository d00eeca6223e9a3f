"""`StrictSoftFileLock`: strict claims behind filelock's names."""

from __future__ import annotations

import os
import random
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Literal, NoReturn

from .._errors import named
from ..engines.marker.claims import ClaimsError, StrictClaims
from . import options
from .api import BaseFileLock
from .errors import SoftFileLockProtocolError
from .meta import canonical

if TYPE_CHECKING:
    from .._model import IO
    from .state import FileLockContext

__all__ = ["StrictSoftFileClaim", "StrictSoftFileClaimState", "StrictSoftFileLock"]

StrictSoftFileClaimState = Literal["intent", "held"]


@dataclass(frozen=True)
class StrictSoftFileClaim:
    """One published claim: `state` is "held" for an owner, "intent" for a contender. `start` tells processes with the
    same pid apart."""

    name: str
    state: StrictSoftFileClaimState
    token: str
    pid: int
    hostname: str
    start: int | None = None


class StrictSoftFileLock(BaseFileLock):
    """A lock of published claims that is never broken by inference: what a crash leaves behind stays until somebody
    calls `force_break`. Needs hard links."""

    _on_acquired_supported = False
    _lifetime_unsupported_reason = "a strict claim is never broken by age, only by force_break()"
    _in_the_way: tuple[object, float] | None = None

    def _settle(self) -> None:
        self._claims_of: weakref.WeakKeyDictionary[FileLockContext, StrictClaims] = weakref.WeakKeyDictionary()

    def _acquire(self) -> None:
        context = self._context
        path = self._lock_path
        mine = self._claims_of.get(context)
        if mine is not None and mine.path != path:
            mine.withdraw()
            mine = None
        if mine is None:
            mine = self._claims_of[context] = self._view(path)
        try:
            self._attempt_with(mine)
        except ClaimsError as error:
            self._refuse(error)
        except OSError as error:
            named(error, path)
            raise

    def _attempt_with(self, mine: StrictClaims) -> None:
        context = self._context
        try:
            if mine.attempt(self._unchanged_for):
                assert mine.sentinel is not None
                context.lock_file_fd = mine.sentinel.fd
        except Exception:
            raise
        except BaseException:  # an interrupt, which may have come after the claims were published, or while they went
            if context.lock_file_fd is None:
                mine.withdraw()
            raise

    def _release(self) -> None:
        context = self._context
        mine = self._claims_of.get(context)
        try:
            if mine is not None:
                mine.withdraw()
            elif context.lock_file_fd is not None:
                os.close(context.lock_file_fd)
        except OSError as error:
            named(error, self._lock_path)
            if mine is None or not mine.published:
                context.lock_file_fd = None
                if self._settings.close_error_policy == "suppress":
                    return
            raise
        context.lock_file_fd = None

    async def _nap(self, io: IO, until: float, poll_interval: float) -> None:
        """Contenders that look at the same time keep each other out: each takes a time of its own."""
        nap = poll_interval * (0.5 + random.random())
        await io.park(io.parker(), min(until, io.now() + nap))

    def _unchanged_for(self, status: os.stat_result) -> float:
        now, key = monotonic(), (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if self._in_the_way is None or self._in_the_way[0] != key:
            self._in_the_way = key, now
        return now - self._in_the_way[1]

    def _view(self, path: str) -> StrictClaims:
        mode = self._context.mode
        return StrictClaims(path, 0o666 if mode == options.UNSET_MODE else mode)

    def _refuse(self, error: ClaimsError) -> NoReturn:
        raise SoftFileLockProtocolError(self.lock_file, error.claim, error.reason) from error

    def _looking(self) -> StrictClaims:
        return self._view(self._context.path or canonical(self.lock_file))

    @property
    def claims(self) -> tuple[StrictSoftFileClaim, ...]:
        """The claims that keep others out."""
        try:
            return tuple(StrictSoftFileClaim(*claim) for claim in self._looking().read())
        except ClaimsError as error:
            self._refuse(error)

    @property
    def lock_path_occupant(self) -> str | None:
        """What is at the lock's path in place of the sentinel: the marker of a plain soft lock, say."""
        try:
            sentinel, _, what = self._looking().occupant()
        except FileNotFoundError:
            return None
        if sentinel is None:
            return what
        sentinel.close()
        return None

    def force_break(self, claim_name: str) -> None:
        """Remove one claim by its name in `claims`; its owner, if it lives, no longer excludes anybody.

        Raises `ValueError` for what is no claim's name, `FileNotFoundError` where there is none of this name.
        """
        try:
            self._looking().remove(claim_name)
        except ClaimsError as error:
            self._refuse(error)
