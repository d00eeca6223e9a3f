"""What a lease needs while it is held: to be renewed in time, and to be known as lost in time.

Theory of operation
-------------------
A lease ends at `claim.deadline`, by the holder's own clock, unless it is renewed before. Its engine renews it
(`Renewable.renew`) and moves the deadline; the keeper only says when. The first renewal is due when a third of the ttl
has gone by, and so on. One that fails is tried again four times as often, until the deadline; then the hold is lost,
whatever a renewal that is still under way may answer.

The keeper has no clock, no thread and no memory of its own to lock: somebody who has (`_wait.keeping`) asks `next` when
to come, and then `due` what is to be done. Renewals are made elsewhere than where this is asked, one at a time per
claim, so a renewal that hangs (a filesystem can) keeps neither the other leases nor the news of the loss.
"""

from __future__ import annotations

from .lost import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .._model import Claim

    class Leased(Protocol):
        """What an engine's claim has for its keeper: seconds, on the clock that the keeper is asked with."""

        deadline: float
        ttl: float

    class Renewable(Protocol):
        """An engine whose holds end by themselves."""

        def renew(self, claim: Claim) -> str:
            """Move `claim.deadline`. Returns why the hold is lost, or "". Raises whatever hindered it: that may
            pass. Called in any thread, also for claims that have ended."""

__all__ = ["Keeper", "Renewable"]

FOREVER = float("inf")
_SHARE = 3
"""Renewals per ttl."""
_AGAIN = 12
"""Tries per ttl, after one that failed."""


class Keeper:
    """The leases of this process. Each method is one or few atomic steps; all but `add` and `remove` are called by
    one thread."""

    def __init__(self) -> None:
        self._times: dict[Claim, list[float]] = {}
        """When to renew. A list of one: a new time for a claim that was removed meanwhile adds it to nothing."""

    def add(self, claim: Claim, now: float) -> None:
        """Keep this claim from now on."""
        self._times[claim] = [now + _leased(claim).ttl / _SHARE]

    def remove(self, claim: Claim) -> None:
        self._times.pop(claim, None)

    def clear(self) -> None:
        """In a forked child: these are the parent's."""
        self._times.clear()

    def next(self) -> float:
        """When to come again; for ever where nothing is kept."""
        times = [min(at[0], _leased(claim).deadline) for claim, at in list(self._times.items())]
        return min(times, default=FOREVER)

    def due(self, now: float) -> list[Claim]:
        """Those to renew now. Those whose time is over are told so, and kept no more."""
        found: list[Claim] = []
        for claim, at in list(self._times.items()):
            if now >= _leased(claim).deadline:
                self.lose(claim, claim.line.engine.lost(claim) or "it was not renewed in time")
            elif now >= at[0]:
                found.append(claim)
                at[0] = now + _leased(claim).ttl / _AGAIN
        return found

    def renewed(self, claim: Claim, now: float) -> None:
        at = self._times.get(claim)
        if at is not None:
            at[0] = now + _leased(claim).ttl / _SHARE

    def lose(self, claim: Claim, reason: str) -> None:
        """It is lost: keep it no more, and tell whoever watches."""
        if self._times.pop(claim, None) is not None:
            tell(claim, reason)


def _leased(claim: Any) -> Leased:
    its: Leased = claim
    return its
