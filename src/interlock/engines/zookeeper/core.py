"""What locks, read-write locks and semaphores on ZooKeeper have in common: entering the queue, leaving it, waiting in
it.

A contender creates an ephemeral sequential node, its entry, and reads the queue in the same trip. If its entry is
granted (`entries.Queue`), it holds; the entry's czxid is the token. Else it watches the one node that is in its way,
and reads the queue again when that is gone. So nobody is woken for nothing, order is that of arrival, and an entry
ends with its session whatever becomes of its process.

The name of an entry has a GUID of its claim. Should the answer of the creation be lost, the queue is read again,
after a `sync`, and the entry is found by it, or known not to be there. An entry of ours counts only with the right
`ephemeralOwner`: there may be one of an earlier session that its server has not cleared away yet.

Releases from finalizers, signal handlers and at exit only send the request. What could not be sent or was not
answered is done again when the connection is back, if the session lives; if not, there is nothing to be done. """

from __future__ import annotations

import os
from time import monotonic

from ..._address import name_of
from ..._core.lost import tell
from ..._errors import EngineError, ProtocolError
from ..._model import Traits
from ..._report import Party, Report
from ..remote import RemoteEngine
from .entries import LETTERS, Entry, Queue, ZooKeeperClaim, encoded, key_path, party, record
from .session import PATIENCE, Disconnected, Session, SessionOver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._core.arbiter import Line
    from ..._model import IO
    from .ensemble import Ensemble
    from .server import Kazoo

__all__ = ["Base"]

_EPHEMERAL, _SEQUENTIAL = 1, 2
NAP = 5.0
"""Seconds after which a waiter looks although nothing was told."""
_SHORTEST = 1.0
"""Seconds that a request may take at least, whatever the caller's timeout."""


class Base(RemoteEngine):
    """The engine of one kind of entry."""

    claim_type = ZooKeeperClaim

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__(ensemble.server.address)
        self.ensemble = ensemble
        self.server = ensemble.server
        self.traits = Traits(
            name="zookeeper",
            family="lease",
            excludes="hosts",
            fair="fifo",
            fences=True,
            survives_crash=True,
            wait="events",
            abilities=("rwlock", "semaphore"),
            frozen="lost after the session's timeout",
            restart="kept, if the server is back within the session's timeout",
            failover="kept by the quorum",
            token_back="the servers' data are restored from an older copy",  # noqa: S106
            connections="1 for each URL and ttl",
        )

    @property
    def kazoo(self) -> Kazoo:
        return self.server.kazoo

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def claim(self, line: Line, owner: object, fair: bool) -> ZooKeeperClaim:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    # ---- what the kinds differ in

    def kind(self, claim: ZooKeeperClaim) -> str:
        return LETTERS[claim.mode]

    def _decide(self, claim: ZooKeeperClaim, queue: Queue, mine: Entry) -> bool:
        """Is it granted? If not, `claim.blocker` is what to watch."""
        foreign = queue.foreign(mine)
        if foreign is not None:
            raise ProtocolError(
                f"{claim.line.resource} is in use as a semaphore of {foreign.permits} permits, so it cannot be a lock: "
                "use another name"
            )
        claim.blocker = queue.blocker(mine)
        return not claim.blocker

    # ---- acquire

    def try_now(self, claim: ZooKeeperClaim, timeout: float) -> bool:
        if not self._attempt(claim, monotonic() + timeout):
            return False
        claim.since = monotonic()
        return True

    async def try_acquire(self, io: IO, claim: ZooKeeperClaim, deadline: float) -> bool:
        if not await io.work(self._attempt, claim, deadline):
            return False
        claim.since = io.now()
        return True

    def _attempt(self, claim: ZooKeeperClaim, deadline: float) -> bool:
        """Raises `EngineError` if the server cannot be asked; the claim may then have an entry, see `let_go`."""
        limit = min(max(deadline, monotonic() + _SHORTEST), monotonic() + PATIENCE)
        while True:
            session = claim.session
            try:
                if session is None:
                    session = self._join(claim, limit)
                session.await_up(limit)
                claim.era = session.era
                queue = self._enter(session, claim, limit)
                mine = self._mine(session, claim, queue)
                if mine is None:
                    if monotonic() >= limit:
                        raise EngineError(f"{self.server.public}: somebody removes entries below {claim.parent}")
                    continue
                if not self._decide(claim, queue, mine):
                    return False
                if not session.gone(claim):
                    return True
            except Disconnected as error:
                if monotonic() >= limit:
                    raise session.unreachable(str(error)) from None  # type: ignore[union-attr]
            except SessionOver as error:
                self._part(claim)
                if monotonic() >= limit:
                    raise EngineError(f"{self.server.public}: {error}") from None

    def _join(self, claim: ZooKeeperClaim, until: float) -> Session:
        session = self.ensemble.session(until)
        if not claim.guid:
            claim.guid = os.urandom(8).hex()
            claim.parent = key_path(self.server.root, name_of(claim.line.key))
        parent = session.parents.get(claim.parent)
        if parent is not None:
            parent[0] += 1
        claim.session = session
        session.claims[claim] = None
        return session

    def _part(self, claim: ZooKeeperClaim) -> None:
        """It has no entry any more."""
        session, claim.session = claim.session, None
        claim.name = claim.marker = claim.watched = ""
        claim.marks = False
        claim.fresh = None
        claim.trying = ""
        claim.extra = ()
        claim.unsure = False
        if session is not None and session.claims.pop(claim, False) is None:
            parent = session.parents.get(claim.parent)
            if parent is not None:
                parent[0] -= 1
                parent[1] = monotonic()

    def _enter(self, session: Session, claim: ZooKeeperClaim, limit: float) -> Queue:
        """The queue, with an entry of the claim."""
        path = claim.parent
        fresh, claim.fresh = claim.fresh, None
        if fresh is not None and fresh[0] == claim.era and claim.name and not claim.unsure:
            return Queue(fresh[1])
        requests: list[Any] = []
        if claim.unsure:
            requests.append(self.kazoo.Sync(path))
        elif not claim.name:
            if path not in session.parents:
                requests.append(self.ensemble.container(path, encoded(name_of(claim.line.key))))
            entry = f"{path}/{self.kind(claim)}-{claim.guid}-"
            flags = _EPHEMERAL | _SEQUENTIAL
            requests.append(self.kazoo.Create2(entry, record(claim), self.server.acl, flags))
            claim.unsure = True
        requests.append(self.kazoo.GetChildren(path, self._herald(claim)))
        entering = claim.unsure and len(requests) > 1 and isinstance(requests[-2], self.kazoo.Create2)
        answers = session.ask(*requests, until=limit)
        children = answers[-1]
        if entering and isinstance(answers[-2], Exception):
            claim.unsure = False
            self._not_made(session, claim, answers[-2])
            return Queue(())
        if entering:
            self._made(session, claim, *answers[-2])
        if isinstance(children, self.kazoo.NoNodeError):
            children = []
        if isinstance(children, Exception):
            raise self.ensemble.failed("the queue cannot be read", children)
        return Queue(children)

    def _herald(self, claim: ZooKeeperClaim) -> Any:
        """Who is to be told when the queue changes in whatever way."""
        return

    def _made(self, session: Session, claim: ZooKeeperClaim, path: str, stat: Any) -> None:
        if stat.ephemeralOwner != session.id:  # kazoo has begun another session already
            session.close(0.0)
            raise SessionOver("its session was replaced by another one")
        claim.name = path.rpartition("/")[2]
        claim.token = stat.czxid
        claim.unsure = False  # only now: who is interrupted before must look for it
        if claim.parent not in session.parents:
            session.parents[claim.parent] = [sum(other.parent == claim.parent for other in list(session.claims)), 0.0]

    def _not_made(self, session: Session, claim: ZooKeeperClaim, error: Any) -> None:
        if not isinstance(error, self.kazoo.NoNodeError):
            raise self.ensemble.failed(f"no entry can be made below {claim.parent}", error)
        # Somebody removed the parent, or there never was one: once more, with all that is needed.
        if session.parents.pop(claim.parent, None) is None:
            self.ensemble.make_parents(session, claim.parent)

    def _mine(self, session: Session, claim: ZooKeeperClaim, queue: Queue) -> Entry | None:
        """Its entry. None: it has none, enter anew."""
        own = [entry for entry in queue.of(claim.guid) if entry.kind != "x"]
        if own and own[0].name == claim.name:
            return own[0]
        if own and (claim.unsure or claim.name):
            # It was made and we were not told; if we made another meanwhile, the first one counts.
            claim.unsure = True
            claim.name = ""
            self._adopt(session, claim, own[0])
            if claim.unsure:
                return None
            for other in own[1:]:
                session.send(self.kazoo.Delete(f"{claim.parent}/{other.name}", -1))
            return own[0]
        claim.name = ""  # somebody removed it
        claim.unsure = False
        return None

    def _adopt(self, session: Session, claim: ZooKeeperClaim, entry: Entry) -> None:
        """It was made, and we were not told."""
        (answer,) = session.ask(self.kazoo.GetData(f"{claim.parent}/{entry.name}", None))
        if isinstance(answer, tuple):
            self._made(session, claim, f"{claim.parent}/{entry.name}", answer[1])

    # ---- waiting

    async def wait(self, io: IO, claim: ZooKeeperClaim, until: float) -> None:
        if claim.parker is None:
            claim.parker = io.parker()
        if claim.watched != claim.blocker:
            await io.work(self._watch, claim)
            return  # subscribed: now try again
        await io.park(claim.parker, min(until, io.now() + NAP))

    def _watch(self, claim: ZooKeeperClaim) -> None:
        """Have the claim woken when its blocker goes, or the connection."""
        session, blocker, parker = claim.session, claim.blocker, claim.parker
        if session is None or parker is None:
            return
        claim.watched = blocker

        def news(event: Any) -> None:
            if claim.watched == blocker:
                claim.watched = ""
            if event.type in ("DELETED", "CHANGED"):  # read the queue at once, and wake who waits with the answer
                session.send(self.kazoo.GetChildren(claim.parent, None), read)
            else:
                parker.unpark()

        def read(answer: Any) -> None:
            if answer.exception is None and claim.session is session:
                claim.fresh = session.era, answer.value
            parker.unpark()

        try:
            (answer,) = session.ask(self.kazoo.GetData(f"{claim.parent}/{blocker}", news))
        except (Disconnected, SessionOver):  # the next attempt meets it
            claim.watched = ""
            return
        if isinstance(answer, Exception):  # it has gone
            claim.watched = ""
            parker.unpark()

    # ---- the end

    def _nodes(self, claim: ZooKeeperClaim) -> list[str]:
        """What it has, in the order in which it is to be removed: its entry before what makes that weaker."""
        names = [*(name for name in claim.extra if name.startswith("slot-")), claim.name, claim.marker]
        names += [name for name in claim.extra if not name.startswith("slot-")]
        return [f"{claim.parent}/{name}" for name in names if name]

    def let_go(self, claim: ZooKeeperClaim) -> None:
        """Release or withdraw, and wait for the answer. If there is none, it is done later, or its session ends."""
        session = claim.session
        if session is None:
            return
        claim.parker = None
        try:
            if session.dead:
                raise SessionOver(session.dead)
            if claim.unsure or claim.marks:
                _, children = session.ask(self.kazoo.Sync(claim.parent), self.kazoo.GetChildren(claim.parent, None))
                paths = [f"{claim.parent}/{name}" for name in _of(claim.guid, children)]
                doubtful = [name for name in claim.extra if name.startswith("slot-")]  # may be the next one's by now
            else:
                paths = self._nodes(claim)
                doubtful = []
            for slot in (*doubtful, *filter(None, [claim.trying])):
                (answer,) = session.ask(self.kazoo.GetData(f"{claim.parent}/{slot}", None))
                if isinstance(answer, tuple) and answer[0] == claim.guid.encode():
                    paths.insert(0, f"{claim.parent}/{slot}")
            if paths:
                claim.unsure = True  # until it is answered: who is interrupted before must look what is left
                session.ask(*(self.kazoo.Delete(path, -1) for path in paths))
        except Disconnected:
            claim.unsure = True
            session.leave_over([claim])
        except SessionOver:
            self._part(claim)
        else:
            self._part(claim)

    def drop(self, claim: ZooKeeperClaim) -> None:
        session = claim.session
        if session is None:
            return
        claim.parker = None
        if session.dead:
            self._part(claim)
            return
        if claim.unsure or claim.marks or claim.trying:
            session.leave_over([claim])
            return
        paths = self._nodes(claim)
        if not paths:
            self._part(claim)
            return

        def answered(result: Any) -> None:
            if isinstance(result.exception, self.kazoo.DISCONNECTED):
                claim.unsure = True
                session.leave_over([claim])
            else:
                self._part(claim)

        *others, last = paths
        for path in others:
            session.send(self.kazoo.Delete(path, -1))
        session.send(self.kazoo.Delete(last, -1), answered)

    async def release(self, io: IO, claim: ZooKeeperClaim) -> None:
        await io.work(self.let_go, claim)

    async def withdraw(self, io: IO, claim: ZooKeeperClaim) -> None:
        await io.work(self.let_go, claim)

    def disown(self, claim: ZooKeeperClaim) -> None:
        claim.session = None
        claim.parker = None

    # ---- while it is held

    def lost(self, claim: ZooKeeperClaim) -> str:
        session = claim.session
        if claim.gone or session is None:
            return claim.gone or "it is not held"
        claim.gone = session.gone(claim)
        return claim.gone

    def renew(self, claim: ZooKeeperClaim) -> str:
        """Give a sign of life now. Returns why the hold is lost, or ""."""
        session = claim.session
        if session is not None and not session.dead:
            session.beat()
        return self.lost(claim)

    def watch_loss(self, claim: ZooKeeperClaim) -> None:
        """Have the hold told lost if its entry is removed by others. Makes a request, and does not wait for it."""
        session, reason = claim.session, self.lost(claim)
        if session is None or reason:  # lost while it was being granted: then nobody was told
            if claim.depth:
                tell(claim, reason)
            return
        claim.guarded = True

        def news(event: Any) -> None:
            if event.type == "DELETED":
                session.removed(claim)
            claim.guarded = False  # the connection went, or an upgrade wrote: the session's thread looks again

        def answered(result: Any) -> None:
            if isinstance(result.exception, self.kazoo.NoNodeError):
                session.removed(claim)
            elif result.exception is not None:
                claim.guarded = False
            elif result.value[1].ephemeralOwner != session.id:
                session.removed(claim)

        session.send(self.kazoo.GetData(f"{claim.parent}/{claim.name}", news), answered)

    # ---- for people

    def inspect(self, line: Line) -> Report:
        session = self.ensemble.session(monotonic() + PATIENCE)
        parent = key_path(self.server.root, name_of(line.key))
        facts = {"server": self.server.public, "node": parent, "session timeout": f"{session.timeout:g} s"}
        holders: list[Party] = []
        waiters: list[Party] = []
        try:
            (children,) = session.ask(self.kazoo.GetChildren(parent, None))
            queue = Queue([] if isinstance(children, Exception) else children)
            entries = [entry for entry in queue.entries if entry.kind != "x"]
            asked = [self.kazoo.GetData(f"{parent}/{entry.name}", None) for entry in entries]
            answers = session.ask(*asked) if asked else []
        except (Disconnected, SessionOver) as error:
            raise session.unreachable(str(error)) from None
        own = {claim.name: claim for claim in list(session.claims) if claim.parent == parent}
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, Exception):  # it has left meanwhile
                continue
            holds = queue.granted(entry)
            waiting = None if holds else len(waiters) + 1
            (holders if holds else waiters).append(party(answer[0], entry.mode, waiting, own.get(entry.name)))
        return Report(line.resource, "zookeeper", tuple(holders), tuple(waiters), enforced=True, facts=facts)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        try:
            report = self.inspect(line)
        except EngineError:
            return None, ""
        hint = f"a session with {self.server.public}; it ends when its process has not been heard of for its timeout"
        return (report.holders[0], hint) if report.holders else (None, "")


def _of(guid: str, children: Any) -> list[str]:
    """All nodes of a claim, in the order in which they are to be removed."""
    if isinstance(children, Exception):
        return []
    return sorted((name for name in children if guid in name), key=lambda name: name.startswith("as-"))
