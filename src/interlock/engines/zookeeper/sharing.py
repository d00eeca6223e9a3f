"""Read-write locks and semaphores: the same queue, with other rules of who goes together."""

from __future__ import annotations

from time import monotonic

from ..._errors import EngineError, LostError, ProtocolError
from .core import Base
from .entries import Entry, Queue, ZooKeeperClaim, record
from .session import PATIENCE, Disconnected, Session, SessionOver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import IO, Mode
    from .ensemble import Ensemble

__all__ = ["Modes", "Permits"]

_EPHEMERAL, _SEQUENTIAL = 1, 2


class ReadClaim(ZooKeeperClaim):
    mode: Mode = "read"


class UpdateClaim(ZooKeeperClaim):
    mode: Mode = "update"


class Modes(Base):
    """One mode of the read-write locks. How upgrades go: see `entries`."""

    def __init__(self, ensemble: Ensemble, mode: Mode) -> None:
        super().__init__(ensemble)
        self.claim_type = {"read": ReadClaim, "update": UpdateClaim, "write": ZooKeeperClaim}[mode]

    async def upgrade(self, io: IO, claim: ZooKeeperClaim) -> bool:
        return await io.work(self._upgrade, claim)

    def _upgrade(self, claim: ZooKeeperClaim) -> bool:
        if claim.untold:
            self.downgrade(claim, claim.mode)
        limit = monotonic() + PATIENCE
        while True:
            session = self._held(claim)
            try:
                session.await_up(limit)
                claim.marked_on = session
                hindrance = self._mark(session, claim) or self._announce(session, claim)
            except Disconnected as error:
                claim.marks = True  # which of the nodes are there is not known
                if monotonic() >= limit:
                    raise session.unreachable(str(error)) from None
            except SessionOver:
                pass  # then it is lost
            else:
                self._held(claim)
                claim.blocker = hindrance
                if not hindrance:
                    claim.mode = "write"
                    claim.parker = None
                return not hindrance

    def _held(self, claim: ZooKeeperClaim) -> Session:
        reason = self.lost(claim)
        if reason or claim.session is None:
            raise LostError(f"{claim.line.resource} is lost: {reason}")
        return claim.session

    def _mark(self, session: Session, claim: ZooKeeperClaim) -> str:
        """See to it that the queue has the upgrade's node, once; what hinders the upgrade."""
        if claim.marks:
            self._unmark(session, claim)
        requests: list[Any] = [self.kazoo.GetChildren(claim.parent, None)]
        if not claim.marker:
            path = f"{claim.parent}/x-{claim.guid}-"
            requests.insert(0, self.kazoo.Create2(path, b"", self.server.acl, _EPHEMERAL | _SEQUENTIAL))
            claim.marks = True
        *made, children = session.ask(*requests)
        for answer in made:
            if isinstance(answer, Exception):
                raise self.ensemble.failed("the upgrade cannot be announced", answer)
            claim.marker = answer[0].rpartition("/")[2]
            claim.marks = False
        return self._hindrance(claim, children)

    def _announce(self, session: Session, claim: ZooKeeperClaim) -> str:
        path = f"{claim.parent}/as-w.{claim.guid}"
        _, children = session.ask(
            self.kazoo.Create2(path, b"", self.server.acl, _EPHEMERAL), self.kazoo.GetChildren(claim.parent, None)
        )
        hindrance = self._hindrance(claim, children)
        if hindrance:
            session.ask(self.kazoo.Delete(path, -1))
        elif not isinstance(children, list) or f"as-w.{claim.guid}" not in children:
            raise EngineError(f"{self.server.public}: the upgrade of {claim.line.resource} could not be announced")
        else:
            claim.extra = (*claim.extra, f"as-w.{claim.guid}")
        return hindrance

    def _hindrance(self, claim: ZooKeeperClaim, children: Any) -> str:
        own = Queue([] if isinstance(children, Exception) else children)
        entries = {entry.name: entry for entry in own.of(claim.guid)}
        if claim.name not in entries:
            claim.gone = claim.gone or "its entry was removed by somebody else"
            self._held(claim)
        if claim.marker not in entries:
            raise EngineError(f"{self.server.public}: the mark of the upgrade of {claim.line.resource} was removed")
        return own.hinders_upgrade(entries[claim.marker])

    def _unmark(self, session: Session, claim: ZooKeeperClaim) -> None:
        """Remove whatever an upgrade that was not completed has left."""
        _, children = session.ask(self.kazoo.Sync(claim.parent), self.kazoo.GetChildren(claim.parent, None))
        names = [] if isinstance(children, Exception) else children
        left = [name for name in names if name == f"as-w.{claim.guid}" or name.startswith(f"x-{claim.guid}-")]
        if left:
            session.ask(*(self.kazoo.Delete(f"{claim.parent}/{name}", -1) for name in left))
        claim.marker, claim.marks = "", False

    async def stay(self, io: IO, claim: ZooKeeperClaim) -> None:
        if claim.mode == "update":
            await io.work(self._stay, claim)

    def _stay(self, claim: ZooKeeperClaim) -> None:
        session, claim.marked_on = claim.marked_on, None  # not `claim.session`: it may have been lost, and parted from
        claim.parker = None
        claim.blocker = claim.watched = ""
        if session is None:
            return
        try:
            self._unmark(session, claim)
        except Disconnected:
            claim.marks = True  # readers wait for longer than they must: until the next upgrade, or the release
            if claim.gone or claim.given_up or claim.session is None:
                self._clean_up(session, claim)
        except SessionOver:
            pass

    def _clean_up(self, session: Session, claim: ZooKeeperClaim) -> None:
        """Have removed what an upgrade made after the nodes of its hold, which was lost, had been removed."""
        left = self.claim(claim.line, claim.owner, False)
        left.guid, left.parent, left.session, left.unsure = claim.guid, claim.parent, session, True
        parent = session.parents.get(claim.parent)
        if parent is not None:
            parent[0] += 1
        session.claims[left] = None
        session.leave_over([left])

    def downgrade(self, claim: ZooKeeperClaim, mode: Mode) -> None:
        """To others it is weaker once the server has been told."""
        session, was = self._held(claim), claim.mode
        requests: list[Any] = []
        extra = [name for name in claim.extra if not name.startswith("as-w.")]
        if mode == "read" or not claim.marker:
            extra.append(f"as-{mode[0]}.{claim.guid}")
            requests.append(self.kazoo.Create2(f"{claim.parent}/{extra[-1]}", b"", self.server.acl, _EPHEMERAL))
            requests.append(self.kazoo.SetData(f"{claim.parent}/{claim.name}", record(claim), -1))
        if claim.marker:
            requests.append(self.kazoo.Delete(f"{claim.parent}/as-w.{claim.guid}", -1))
            requests.append(self.kazoo.Delete(f"{claim.parent}/{claim.marker}", -1))
        claim.mode, claim.untold = mode, True  # if the answer is lost, others may be in already
        limit = monotonic() + PATIENCE
        while True:
            try:
                session.await_up(limit)
                session.ask(*requests)  # each of them may be made twice
                break
            except Disconnected as error:
                if monotonic() >= limit:
                    raise session.unreachable(f"{error}; others may see {claim.line.resource} held for {was}") from None
            except SessionOver:
                break
        claim.marker, claim.extra, claim.untold = "", tuple(extra), False


class PermitClaim(ZooKeeperClaim):
    herald: Any = None


class Permits(Base):
    """Semaphores. The first so many of the queue hold; each takes the lowest free slot by making that slot's node.

    Whoever waits for a permit may be let in by the leaving of any holder, so waiters watch the whole queue: one of each
    process, as those of one process queue here.
    """

    claim_type = PermitClaim

    def kind(self, claim: ZooKeeperClaim) -> str:
        return f"p{claim.permits}"

    def _herald(self, claim: ZooKeeperClaim) -> Any:
        assert isinstance(claim, PermitClaim)
        if claim.herald is None:

            def news(_event: object) -> None:
                parker = claim.parker
                if parker is not None:
                    parker.unpark()

            claim.herald = news
        return claim.herald

    def _decide(self, claim: ZooKeeperClaim, queue: Queue, mine: Entry) -> bool:
        other = queue.foreign(mine)
        if other is not None:
            kind = f"semaphore of {other.permits} permits" if other.permits else "lock"
            raise ProtocolError(
                f"{claim.line.resource} is in use as a {kind}, and this is a semaphore of {claim.permits}: all who use "
                "it must name the same number, or another name"
            )
        return queue.granted(mine) and self._take_slot(claim, queue)

    def _take_slot(self, claim: ZooKeeperClaim, queue: Queue) -> bool:
        """False: all are taken, as one that leaves gives its place in the queue back after its slot."""
        session = claim.session
        assert session is not None
        if claim.extra:
            return True
        free = [slot for slot in range(claim.permits) if slot not in queue.slots]
        taken = [slot for slot in sorted(queue.slots) if slot < claim.permits]
        doubtful = [int(claim.trying.removeprefix("slot-"))] if claim.trying else []  # we were not told: it may be ours
        for slot in (*doubtful, *free, *taken):
            claim.trying = f"slot-{slot}"
            path = f"{claim.parent}/{claim.trying}"
            mine = self.kazoo.Create2(path, claim.guid.encode(), self.server.acl, _EPHEMERAL)
            made, there = session.ask(mine, self.kazoo.GetData(path, None))
            if isinstance(made, tuple) or (isinstance(there, tuple) and there[0] == claim.guid.encode()):
                claim.slot = slot
                claim.extra = (claim.trying,)
                claim.trying = ""
                return True
            if not isinstance(made, self.kazoo.NodeExistsError):
                raise self.ensemble.failed("no slot can be taken", made)
        claim.trying = ""
        return False

    async def wait(self, io: IO, claim: ZooKeeperClaim, until: float) -> None:
        if claim.parker is None:
            claim.parker = io.parker()
            return  # from here on it is told: now try again
        await io.park(claim.parker, min(until, io.now() + 5.0))
