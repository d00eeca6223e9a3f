"""Read-write locks and semaphores: the same queue, with other rules of who goes together."""

from __future__ import annotations

import json

from ..._errors import EngineError, LostError
from .. import _queue
from .client import plain, text
from .core import Base, Queue, _queue_in
from .entries import EtcdClaim, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import IO, Mode
    from .server import Server

__all__ = ["Modes", "Permits"]

_TRIES = 10


class ReadClaim(EtcdClaim):
    mode: Mode = "read"


class UpdateClaim(EtcdClaim):
    mode: Mode = "update"


class Modes(Base):
    """One mode of the read-write locks. Upgrades and downgrades change the value of the entry, and keep its place."""

    def __init__(self, server: Server, mode: Mode) -> None:
        super().__init__(server)
        self.claim_type = {"read": ReadClaim, "update": UpdateClaim, "write": EtcdClaim}[mode]
        self.puts = mode != "write"

    async def upgrade(self, io: IO, claim: EtcdClaim) -> bool:
        return await io.work(self._upgrade, claim)

    def _upgrade(self, claim: EtcdClaim) -> bool:
        if claim.untold:
            self._weaken(claim, claim.mode)
        queue = self._look(claim) if claim.marked else self._rewrite(claim, upgrading=True)
        claim.marked = True
        place = self._own(claim, queue)
        hinderers = _queue.hinderers(queue, place)
        if not hinderers:
            self._stop_waiting(claim)
            claim.mode = "write"
            return True
        idents = frozenset(entry.ident for entry in hinderers)
        if not idents <= claim.awaits:
            claim.awaits = idents
            queue = self._rewrite(claim, upgrading=True, awaits=sorted(idents))
        self._wait_for(claim, queue, hinderers)
        return False

    async def stay(self, io: IO, claim: EtcdClaim) -> None:
        if claim.marked and claim.mode == "update":
            await io.work(self._stay, claim)

    def _stay(self, claim: EtcdClaim) -> None:
        self._stop_waiting(claim)
        self._weaken(claim, "update")

    def downgrade(self, claim: EtcdClaim, mode: Mode) -> None:
        """To others it is weaker when the server has been told."""
        self._weaken(claim, mode)

    def _weaken(self, claim: EtcdClaim, mode: Mode) -> None:
        claim.mode, claim.untold = mode, True  # if the answer is lost, others may be in already
        self._rewrite(claim, mode=mode, upgrading=False)
        claim.marked, claim.awaits, claim.untold = False, frozenset(), False

    def _own(self, claim: EtcdClaim, queue: Queue) -> int:
        """The place of a claim that holds. Raises `LostError`."""
        place = queue.place(claim)
        reason = self.lost(claim)
        if not reason and (place < 0 or queue[place].create != claim.token):
            reason = claim.gone = "its entry was removed by somebody else"
        if reason:
            raise LostError(f"{claim.line.resource} is lost: {reason}")
        return place

    def _rewrite(self, claim: EtcdClaim, **state: Any) -> Queue:
        """Change what the entry of a holder says, and read the queue in the same transaction.

        Only from the state that is known: so one such request that is late cannot undo a later one.
        """
        facts = {**json.loads(claim.value), "awaits": [], **state}
        value = json.dumps(facts).encode()
        lease = claim.lease
        for _ in range(_TRIES):
            reason = self.lost(claim)
            if reason or lease is None:
                raise LostError(f"{claim.line.resource} is lost: {reason}")
            same = {"key": text(claim.key), "target": "MOD", "result": "EQUAL", "mod_revision": str(claim.mod)}
            put = {"request_put": {"key": text(claim.key), "value": text(value), "lease": str(lease.id)}}
            ranges = self._ranges(claim)
            body = {"compare": [same], "success": [put, *ranges], "failure": ranges}
            queue = _queue_in(self.server.client.call("/v3/kv/txn", body))
            mine = queue[self._own(claim, queue)]
            claim.mod = mine.mod
            if mine.value == value:
                claim.value = value
                return queue
        raise EngineError(f"{claim.line.resource}: its entry on etcd is changed by somebody else, all the time")


class PermitClaim(EtcdClaim):
    counted = True
    slot_key = b""


class Permits(Base):
    """Semaphores. The first so many of the queue hold; each takes the lowest free slot, by making the slot's key."""

    claim_type = PermitClaim

    def _ranges(self, claim: EtcdClaim) -> list[dict[str, Any]]:
        return [{"request_range": whole(claim.base + kind)} for kind in (b"e/", b"s/")]

    def _decide(self, claim: EtcdClaim, queue: Queue, place: int) -> bool:
        while super()._decide(claim, queue, place):
            taken = {int(plain(kv["key"]).rpartition(b"/")[2]): plain(kv.get("value", "")) for kv in queue.slots}
            mine = claim.ident.encode()
            slot = next((slot for slot, whose in taken.items() if whose == mine), None)
            if slot is None:
                # Those before us hold at most all but one, and who left took its slot along.
                slot = next((slot for slot in range(claim.permits) if slot not in taken), None)
                if slot is None:
                    # One whose entry was removed by somebody else: it goes with its owner's release, or lease.
                    self._wait_for(claim, queue, queue[:place])
                    return False
                queue = self._take(claim, slot)
                place = queue.place(claim)
                if place < 0:
                    return False  # it is gone, and made anew at the next attempt
                continue
            claim.slot = slot
            assert isinstance(claim, PermitClaim)
            claim.slot_key = _slot_key(claim, slot)
            return True
        return False

    def _take(self, claim: EtcdClaim, slot: int) -> Queue:
        """Make the slot's key. A copy of the request that comes late, by another way, must not make a second one."""
        lease = claim.lease
        assert lease is not None
        key = _slot_key(claim, slot)
        compare = [
            {"key": text(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"},
            {"key": text(claim.key), "target": "CREATE", "result": "EQUAL", "create_revision": str(claim.token)},
        ]
        put = {"request_put": {"key": text(key), "value": text(claim.ident.encode()), "lease": str(lease.id)}}
        assert isinstance(claim, PermitClaim)
        claim.slot_key = key
        slots = whole(claim.base + b"s/")
        free = {**slots, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        not_mine = {**slots, "target": "VALUE", "result": "NOT_EQUAL", "value": text(claim.ident.encode())}
        # Of no keys at all, etcd takes no comparison of values for true.
        others = {"request_txn": {"compare": [not_mine], "success": [put]}}
        put_first = {"request_txn": {"compare": [free], "success": [put], "failure": [others]}}
        body = {"compare": compare, "success": [put_first, *self._ranges(claim)], "failure": self._ranges(claim)}
        return _queue_in(self.server.client.call("/v3/kv/txn", body))

    def _gone(self, claim: EtcdClaim) -> list[dict[str, Any]]:
        """The slot only if it is its own: whether it was taken may not be known."""
        assert isinstance(claim, PermitClaim)
        gone = super()._gone(claim)
        if claim.slot_key:
            key, mine = text(claim.slot_key), text(claim.ident.encode())
            compare = [{"key": key, "target": "VALUE", "result": "EQUAL", "value": mine}]
            gone.append({"request_txn": {"compare": compare, "success": [{"request_delete_range": {"key": key}}]}})
        return gone


def _slot_key(claim: EtcdClaim, slot: int) -> bytes:
    return claim.base + f"s/{slot}".encode()
