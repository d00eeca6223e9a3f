"""What locks, read-write locks and semaphores on etcd have in common: entering the queue, leaving it, waiting in it.

Theory of operation
-------------------
A contender makes a key of its own, its entry, under the lease of its process, and reads the queue in the same
transaction. If its entry is granted (`_queue`), it holds: one trip where the lock is free. The entry's
`create_revision` is the token. Else it waits until the server tells of the entries that concern it (`watch`), and
reads the queue again. Nobody believes to hold what it has not read: an entry that is gone, as the lease has ended, is
made anew, at the end.

A single attempt on an exclusive lock makes its entry only if there is none, so it leaves nothing behind and disturbs
nobody.

Requests may be made twice, and one whose answer was lost may still be under way when its claim has long been withdrawn,
held up in a server that was suspended. It would make an entry that nobody knows, and that stands until the lease ends.
So a claim counts its requests that were sent and not answered (`pending`). If there may be such a one when the claim
leaves, it leaves a note (`t/IDENT`) that the entry must not be made any more, which every such request looks for. The
note goes with the lease.

What cannot be removed because the server does not answer is removed when the lease is renewed again; or the lease ends.
"""

from __future__ import annotations

import os
from time import monotonic

from ..._address import name_of
from ..._core.lost import tell
from ..._errors import EngineError, ProtocolError
from ..._model import Traits
from ..._report import Report
from ..._wait.workers import workers
from .. import _queue
from ..remote import RemoteEngine
from .client import LeaseMissing, number, text
from .entries import Entry, EtcdClaim, directory, party, queue_of, record, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._core.arbiter import Line
    from ..._model import IO
    from ..._report import Party
    from .lease import Lease
    from .server import Server

__all__ = ["Base", "Queue"]

NAP = 5.0
"""Seconds after which a waiter looks although nothing was told."""
BLIND_NAP = 1.0
"""Where nothing can be told."""
_TRIES = 10
"""Entries that were made and gone: then something is wrong that a further one does not mend."""


class Queue(list[Entry]):
    """The entries of a lock, read at `revision`, and the slots that are taken there."""

    def __init__(self, answer: dict[str, Any], ranges: list[dict[str, Any]]) -> None:
        super().__init__(queue_of(ranges[0]))
        self.revision = number(answer["header"], "revision")
        self.slots = ranges[1].get("kvs", []) if len(ranges) > 1 else []

    def place(self, claim: EtcdClaim) -> int:
        """Of its entry; -1: it is not there."""
        return next((where for where, entry in enumerate(self) if entry.key == claim.key), -1)


class Base(RemoteEngine):
    """The engine of one kind of entry."""

    claim_type = EtcdClaim
    puts = False
    """Does a change of an entry let others in? Who waits to write waits for those that leave."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.address)
        self.server = server
        self.options = server.options
        self.ttl = server.ttl
        self.traits = Traits(
            name="etcd",
            family="lease",
            excludes="hosts",
            fair="fifo",
            fences=True,
            survives_crash=True,
            wait="events",
            abilities=("rwlock", "semaphore"),
            frozen="lost after the ttl",
            restart="kept, as long as the lease is: it goes on when a majority of the cluster is back",
            failover="kept: a lease is what a majority of the cluster says",
            token_back="after a restore from a snapshot",  # noqa: S106 - it is no password
            connections="one for each thread that makes a request at the moment, and one for all waits",
        )

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def claim(self, line: Line, owner: object, fair: bool) -> Any:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    # ---- acquire

    def try_now(self, claim: EtcdClaim, timeout: float) -> bool:
        if not self._try(claim, timeout <= 0):
            claim.known = claim.entered
            return False
        claim.since = monotonic()
        return True

    async def try_acquire(self, io: IO, claim: EtcdClaim, deadline: float) -> bool:
        last = io.now() >= deadline
        known, claim.known = claim.known, False
        if known and not last:
            return False
        if not await io.work(self._try, claim, last):
            return False
        claim.since = io.now()
        return True

    def _try(self, claim: EtcdClaim, last: bool) -> bool:
        for _ in range(_TRIES):
            queue = self._look(claim) if claim.entered else self._enter(claim, last)
            if queue is None:
                return False
            place = queue.place(claim)
            if place < 0 or claim.lease is None or claim.lease.lost():
                self._start_anew(claim, queue)
                continue
            claim.token, claim.mod = queue[place].create, queue[place].mod
            if self._decide(claim, queue, place):
                self._stop_waiting(claim)
                return True
            return False
        raise EngineError(f"{claim.line.resource}: etcd ends leases, or entries are removed, faster than they are made")

    def _enter(self, claim: EtcdClaim, alone: bool) -> Queue | None:
        """Make the entry, and read the queue. None: not made, as the lock is taken and it would have to be `alone`."""
        lease = claim.lease
        if lease is None:
            lease = self.server.leases.join(claim)
            name = name_of(claim.line.key)
            claim.ident = f"{lease.id:016x}{os.urandom(8).hex()}"
            claim.base = directory(self.server.root, name)
            claim.key = claim.base + b"e/" + claim.ident.encode()
            claim.value = record(claim, name)
        entries = whole(claim.base + b"e/")
        free = {"target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        compare = [{"key": text(key), **free} for key in (claim.key, _note(claim))]
        alone = alone and claim.mode == "write" and not claim.counted
        if alone:
            compare.append({**entries, **free})  # true of all entries where there are none
        ranges = self._ranges(claim)
        put = {"request_put": {"key": text(claim.key), "value": text(claim.value), "lease": str(lease.id)}}
        body = {"compare": compare, "success": [put, *ranges], "failure": ranges}
        try:
            answer = self.server.client.call("/v3/kv/txn", body, tally=claim)
        except LeaseMissing:
            self.server.leases.lose(lease, "etcd has ended its lease: it was revoked, or not renewed in time")
            return Queue({"header": {}}, [{}])
        queue = _queue_in(answer)
        if not alone or answer.get("succeeded") or queue.place(claim) >= 0:
            claim.entered = True  # before it is taken off: an interrupt in between must not hide it
        claim.pending -= 1
        return queue if claim.entered else None

    def _ranges(self, claim: EtcdClaim) -> list[dict[str, Any]]:
        return [{"request_range": whole(claim.base + b"e/")}]

    def _look(self, claim: EtcdClaim) -> Queue:
        return _queue_in(self.server.client.call("/v3/kv/txn", {"success": self._ranges(claim)}))

    def _start_anew(self, claim: EtcdClaim, queue: Queue) -> None:
        """Its entry, or its lease, is gone."""
        lease = claim.lease
        if lease is not None and not lease.lost() and claim.pending:
            self._leave(claim)  # what is still under way must not make it again
        self._stop_waiting(claim)
        self.server.leases.part(claim)
        claim.entered = claim.marked = False
        claim.pending = 0

    def _decide(self, claim: EtcdClaim, queue: Queue, place: int) -> bool:
        """Is it granted? If not, say whom it waits for."""
        other = _queue.foreign(queue, place)
        if other is not None:
            self._leave(claim)  # now: who asks next, for the right kind, must not find it
            raise ProtocolError(
                f"{claim.line.resource} is in use as {_kind(other)}, and this is {_kind(queue[place])}: all who use it"
                " must agree, or use another name"
            )
        self._wait_for(claim, queue, _queue.concern(queue, place))
        return not _queue.blockers(queue, place)

    def _wait_for(self, claim: EtcdClaim, queue: Queue, entries: Any) -> None:
        claim.concern = frozenset([claim.key, *(entry.key for entry in entries)])
        claim.seen = queue.revision

    # ---- waiting

    async def wait(self, io: IO, claim: EtcdClaim, until: float) -> None:
        """The first call only subscribes: try again."""
        if not claim.entered:
            return
        parker = claim.parker
        first = parker is None
        if parker is None:
            parker = claim.parker = io.parker()
        if claim.watch is None:
            self.server.listener.attach(claim, claim.base + b"e/", self.puts)
        watch = claim.watch
        assert watch is not None
        if watch.tells(claim.seen):
            claim.known = first
            if not first:
                await io.park(parker, min(until, io.now() + NAP))
        elif not watch.live_from:
            await io.park(parker, min(until, io.now() + BLIND_NAP))

    def _stop_waiting(self, claim: EtcdClaim) -> None:
        claim.parker = None
        if not claim.guarded:
            self.server.listener.detach(claim)

    # ---- the end of it

    def _gone(self, claim: EtcdClaim) -> list[dict[str, Any]]:
        """What is to be deleted."""
        return [{"request_delete_range": {"key": text(claim.key)}}]

    def _leave(self, claim: EtcdClaim) -> None:
        """Remove what it has on the server, or see to it that it will be."""
        lease = claim.lease
        if lease is None:
            return
        claim.guarded = False
        self._stop_waiting(claim)
        if not lease.gone and (claim.entered or claim.pending):
            path, body = self._departure(claim, lease)

            def depart() -> None:
                self.server.client.call(path, body)

            try:
                depart()
            except LeaseMissing:
                pass
            except EngineError:
                lease.undone[claim.key] = depart
            except BaseException:  # interrupted: once more, in the background
                self.drop(claim)
                raise
        self.server.leases.part(claim)
        claim.pending = 0

    def _departure(self, claim: EtcdClaim, lease: Lease) -> tuple[str, dict[str, Any]]:
        gone = self._gone(claim)
        if not claim.pending and len(gone) == 1:
            return "/v3/kv/deleterange", gone[0]["request_delete_range"]
        return "/v3/kv/txn", self._withdrawal(claim, lease, gone)

    def _withdrawal(self, claim: EtcdClaim, lease: Lease, gone: list[dict[str, Any]]) -> dict[str, Any]:
        if not claim.pending:
            return {"success": gone}
        note = {"request_put": {"key": text(_note(claim)), "value": "", "lease": str(lease.id)}}
        if claim.pending > 1 or claim.entered:
            return {"success": [*gone, note]}
        made = {"key": text(claim.key), "target": "CREATE", "result": "GREATER", "create_revision": "0"}
        return {"compare": [made], "success": gone, "failure": [note]}

    async def release(self, io: IO, claim: EtcdClaim) -> None:
        await io.work(self._leave, claim)

    async def withdraw(self, io: IO, claim: EtcdClaim) -> None:
        if claim.lease is not None:
            await io.work(self._leave, claim)

    def let_go(self, claim: EtcdClaim) -> None:
        self._leave(claim)

    def drop(self, claim: EtcdClaim) -> None:
        if claim.lease is not None:
            workers().submit(lambda: self._leave(claim))

    def disown(self, claim: EtcdClaim) -> None:
        claim.lease = claim.watch = claim.parker = None

    # ---- while it is held

    def lost(self, claim: EtcdClaim) -> str:
        lease = claim.lease
        if claim.gone or lease is None:
            return claim.gone or "it is not held"
        claim.gone = lease.lost()
        return claim.gone

    def renew(self, claim: EtcdClaim) -> str:
        """Renew the lease now. Returns why the hold is lost, or ""."""
        lease = claim.lease
        reason = self.lost(claim)
        if reason or lease is None:
            return reason
        reason = self.server.leases.renew(lease)
        if reason:
            self.server.leases.lose(lease, reason)
        return reason

    def watch_loss(self, claim: EtcdClaim) -> None:
        """Be told if its entry is removed by others."""
        claim.guarded = True
        if claim.watch is None and claim.lease is not None:
            self.server.listener.attach(claim, claim.base + b"e/", False)
        reason = self.lost(claim)
        if reason and claim.depth:  # while it was being granted: then nobody was told
            tell(claim, reason)

    # ---- for people

    def inspect(self, line: Line) -> Report:
        base = directory(self.server.root, name_of(line.key))
        queue = queue_of(self.server.client.call("/v3/kv/range", whole(base + b"e/")))
        facts = {"server": self.server.client.public, "keys": base.decode(), "ttl": f"{self.ttl:g} s"}
        own = {claim.key: claim for claim in self.server.claims()}
        holders: list[Party] = []
        waiters: list[Party] = []
        for place, entry in enumerate(queue):
            if _queue.granted(queue, place):
                holders.append(party(entry, None, own.get(entry.key)))
            else:
                waiters.append(party(entry, len(waiters) + 1, own.get(entry.key)))
        return Report(line.resource, "etcd", tuple(holders), tuple(waiters), enforced=True, facts=facts)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        try:
            report = self.inspect(line)
        except EngineError:
            return None, ""
        hint = f"a lease on {self.server.client.public}; it ends when its process is not heard of for its ttl"
        return (report.holders[0], hint) if report.holders else (None, "")

    def close(self) -> None:
        self.server.close()


def _note(claim: EtcdClaim) -> bytes:
    return claim.base + b"t/" + claim.ident.encode()


def _queue_in(answer: dict[str, Any]) -> Queue:
    responses = answer.get("responses", [])
    return Queue(answer, [each["response_range"] for each in responses if "response_range" in each])


def _kind(entry: Entry) -> str:
    return f"a semaphore of {entry.permits} permits" if entry.permits else "a lock"
