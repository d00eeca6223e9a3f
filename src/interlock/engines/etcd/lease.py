"""The lease of this process on one server: all that its claims have there ends with it.

To the process's keeper a lease is a claim: it has a ttl, a deadline, and an engine that renews it. When it is lost,
all that are held under it are, and they are told; those that wait enter the queue anew under the next. The deadline
is taken before the request that grants or renews, on the keeper's clock; so the holder knows of the end before the
server does, which counts from when the request arrived.

A lease that nobody has used for a while is retired: it takes no new claims, and is revoked when the last has left. At
exit it is revoked, so that nothing stays behind.

Threads that need the first lease at the same moment each open one, and agree on one of them; nobody holds a mutex.
"""

from __future__ import annotations

import atexit
import os

from ..._core import fork
from ..._core.arbiter import Line
from ..._core.lost import tell, watch
from ..._core.observe import Story
from ..._errors import EngineError
from ..._model import Claim
from ..._wait.keeping import keeping, now
from ..._wait.workers import workers
from .client import PATIENCE, LeaseMissing, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .client import Client
    from .entries import EtcdClaim

__all__ = ["Lease", "Leases"]

_COUNTED = 0.95
"""Of the ttl: clocks do not run equally fast."""
_IDLE = 20.0
"""Seconds after which an unused lease is retired; at least its ttl."""
_AT_EXIT = 1.0


class Lease(Claim):
    """One lease. `claims`: of all that have, or may have, something under it."""

    def __init__(self, line: Line, ttl: float) -> None:
        self.line = line
        self.owner = self
        self.id = int.from_bytes(os.urandom(8), "big") >> 1 or 1
        self.ttl = ttl
        self.deadline = 0.0
        self.used = now()
        self.gone = ""
        self.retired = False
        self.claims: dict[EtcdClaim, None] = {}
        self.undone: dict[bytes, Callable[[], object]] = {}
        """By key: requests that must still be made, of claims that have ended."""
        self.story = Story(0)
        self.story.lost = True  # observers are told of the holds, not of this

    def lost(self) -> str:
        """Why it is not to be counted on; "" while it is."""
        if self.gone:
            return self.gone
        if now() < self.deadline:
            return ""
        return (
            f"its lease of {self.ttl:g} s was not renewed in time: the process or its machine stood still, or etcd did"
            " not answer"
        )


class Leases:
    """The one lease of this process, its predecessors, and its successors. To the keeper it is their engine."""

    def __init__(self, client: Client, ttl: float) -> None:
        self.client = client
        self.ttl = ttl
        me: Any = self
        self._line = Line(me, client.public, client.public)
        self._begin()
        fork.in_child(self._begin)
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        self._current: Lease | None = None
        self._after: dict[Lease | None, Lease] = {}

    def join(self, claim: EtcdClaim) -> Lease:
        """The claim's from now on, until `part`. Raises `EngineError`."""
        while True:
            lease = self._current
            if lease is None or lease.retired or lease.lost():
                lease = self._open(lease)
            lease.claims[claim] = None
            lease.used = now()
            claim.lease = lease
            if not lease.retired and not lease.gone:
                return lease
            self.part(claim)

    def part(self, claim: EtcdClaim) -> None:
        lease, claim.lease = claim.lease, None
        if lease is not None:
            lease.used = now()
            lease.claims.pop(claim, None)

    def claims(self) -> list[EtcdClaim]:
        leases = {self._current, *self._after.values()}
        return [claim for lease in leases if lease is not None for claim in list(lease.claims)]

    def _open(self, before: Lease | None) -> Lease:
        lease = Lease(self._line, self.ttl)
        began = now()
        try:
            answer = self.client.call("/v3/lease/grant", {"TTL": str(int(self.ttl)), "ID": str(lease.id)})
            lease.ttl = float(number(answer, "TTL") or self.ttl)
        except EngineError as error:
            if "lease already exists" not in str(error):  # else: granted, and the answer was lost
                raise
        lease.deadline = began + lease.ttl * _COUNTED
        chosen = self._after.setdefault(before, lease)
        if chosen is not lease:
            workers().submit(lambda: self._revoke(lease))
            return chosen
        watch(lease, lambda reason: self._ended(lease, reason))
        keeping().keep(lease)
        self._current = lease
        self._after.pop(lease, None)
        for old in [old for old in self._after if old is not None and old is not before]:
            self._after.pop(old, None)
        return lease

    # ---- what the keeper asks of an engine

    def renew(self, claim: Claim) -> str:
        """See `_core.keeper.Renewable`."""
        assert isinstance(claim, Lease)
        lease = claim
        if lease.gone:
            return lease.gone
        if not lease.claims and (lease.retired or now() - lease.used > max(_IDLE, lease.ttl)):
            lease.retired = True
            if not lease.claims:  # who joined in between saw that it is retired, or is seen here
                keeping().forget(lease)
                lease.gone = "it was not needed any more"
                self._revoke(lease)
                return ""
        began = now()
        try:
            answer = self.client.call("/v3/lease/keepalive", {"ID": str(lease.id)}, limit=max(lease.ttl / 3, 0.5))
        except LeaseMissing:
            answer = {}
        ttl = number(answer.get("result", {}), "TTL")
        reason = lease.lost()
        if not reason and ttl <= 0:
            reason = "etcd has ended its lease: it was revoked, or not renewed in time"
        if reason:
            return reason
        lease.ttl = float(ttl)
        lease.deadline = began + ttl * _COUNTED
        self._catch_up(lease)
        return ""

    def lost(self, claim: Claim) -> str:
        assert isinstance(claim, Lease)
        return claim.lost()

    def _catch_up(self, lease: Lease) -> None:
        for key, request in list(lease.undone.items()):
            request()
            lease.undone.pop(key, None)

    # ---- its end

    def lose(self, lease: Lease, reason: str) -> None:
        """It was found to be gone by another request."""
        keeping().forget(lease)
        tell(lease, reason)

    def _ended(self, lease: Lease, reason: str) -> None:
        if lease.gone:
            return
        lease.gone = reason
        for claim in list(lease.claims):
            parker = claim.parker
            if claim.since:
                claim.gone = claim.gone or reason
                tell(claim, reason)
            elif parker is not None:
                parker.unpark()
        workers().submit(lambda: self._revoke(lease))  # should the server still have it: nobody must wait for its end

    def _revoke(self, lease: Lease, limit: float = PATIENCE) -> None:
        try:
            self.client.call("/v3/lease/revoke", {"ID": str(lease.id)}, limit=limit)
        except EngineError:  # it has ended already, or will
            pass

    def close(self) -> None:
        """Revoke it unless it is in use."""
        lease = self._current
        if lease is not None and not lease.gone:
            lease.retired = True
            if not lease.claims:
                keeping().forget(lease)
                lease.gone = "it was not needed any more"
                self._revoke(lease)

    def _at_exit(self) -> None:
        for lease in {self._current, *self._after.values()}:
            if lease is not None and not lease.gone:
                keeping().forget(lease)
                lease.gone = "its process ends"
                self._revoke(lease, _AT_EXIT)
