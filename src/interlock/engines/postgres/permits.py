"""Semaphores: a permit is an exclusive lock on one of so many slot keys.

Theory of operation
-------------------
A server's queue is for one key, and here any slot will do. So there is a gate, one more key: who has it is the next to
get a permit, and everybody else queues for the gate in the server, in order. Whoever comes new tries the gate, then the
slots, and lets the gate go, all in one statement; while somebody waits, the gate is held, and nobody overtakes.

Who has the gate and finds no slot free listens (LISTEN) *before* it looks, and is notified by releases, which send a
notification only if the gate is held: a release that sees it free unlocked its slot before the gate was taken, so the
look finds the slot. A holder that dies notifies nobody; for that there is a look once a second.

Slots are held on the common connection. The gate has a connection of its own, for as long as somebody waits.

Everybody who uses the semaphore holds, shared, a key that tells the number of permits, and looks for other such keys
after it has its own: of two that disagree and come together one at least sees the other.
"""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

from ..._address import name_of
from ..._errors import ProtocolError
from ..._wait.workers import workers
from . import keys, looking
from .engine import NAP, LockEngine, SessionClaim
from .session import Gone, Late, ServerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._core.arbiter import Line
    from ..._model import IO
    from ..._report import Report
    from .session import Session

_gate = lru_cache(4096)(keys.gate_key)
_base = lru_cache(4096)(keys.permits_base)

# The planner may change the order of conditions, but not of what stands in a CASE.
_FREE = (
    "(SELECT i FROM generate_series(0, $1 - 1) i "
    "WHERE CASE WHEN i = ANY($2::bigint[]) THEN false ELSE pg_try_advisory_lock($3 + i) END LIMIT 1)"
)
_NO_GATE, _NO_SLOT = "-1", "-2"
_AT_THE_GATE = f"SELECT coalesce({_FREE}, -2)"
_NEW = (
    "SELECT r, CASE WHEN r <> -1 THEN pg_advisory_unlock($4) END FROM ("  # noqa: S608 - nothing of a user's is in it
    f"SELECT CASE WHEN NOT pg_try_advisory_lock($4) THEN -1 ELSE coalesce({_FREE}, -2) END AS r OFFSET 0) s"
)
_OTHERS = (
    "SELECT ((classid::bigint << 32) | objid::bigint) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
    "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((classid::bigint << 32) | objid::bigint) BETWEEN $1 AND $2 "
    "AND ((classid::bigint << 32) | objid::bigint) <> $3 LIMIT 1"
)
_RELEASE = (
    "SELECT pg_advisory_unlock($1), CASE WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
    "AND objsubid = 1 AND classid = (($2 >> 32) & 4294967295)::oid AND objid = ($2 & 4294967295)::oid) "
    "THEN pg_notify($3, '') END"
)


class PermitClaim(SessionClaim):
    """A stake in a semaphore."""

    gate: Session | None = None
    has_gate = False
    number = 0  # of its slot


class PermitEngine(LockEngine):
    """The engine of semaphores."""

    claim_type: type[SessionClaim] = PermitClaim

    # ---- a permit

    def _take(self, claim: SessionClaim) -> bool:
        assert isinstance(claim, PermitClaim)
        if claim.gate is not None and not self._at_the_gate(claim.gate, claim):
            return False
        try:
            won = self._take_slot_once(claim)
        except Gone:  # perhaps long ago, by a restart of the server
            won = self._take_slot_once(claim)
        if won:
            claim.since = monotonic()
            self._leave_gate(claim)
        return won

    def _at_the_gate(self, session: Session, claim: PermitClaim) -> bool:
        if not session.enter():
            raise Late("its connection is in use for too long")
        try:
            if session.waiting:
                if session.collect() is None:
                    return False
                claim.has_gate = True
                session.ask(f"LISTEN {_channel(claim.line)}")
            else:
                session.notice()
            if session.gone:
                raise Gone(session.gone)
        finally:
            session.leave()
        return True

    def _take_slot_once(self, claim: PermitClaim) -> bool:
        session = self.pool.home()
        won = False
        claim.at_home = True
        claim.session = session  # before anything is asked
        try:
            won = self._try_slots(session, claim)
        except BaseException:  # it may have locked, and failed then
            session.disclaim(claim)
            self.pool.mend(session)
            raise
        finally:
            if not won:
                claim.session = None
            session.leave()
        return won

    def _try_slots(self, session: Session, claim: PermitClaim) -> bool:
        held, name, permits = session.held, name_of(claim.line.key), claim.permits
        base = _base(name)
        count = keys.count_key(base, permits), True
        if count not in held:
            self._agree(session, claim, base, count[0])
        mine = [str(key - base) for key, shared in held if base <= key < base + permits and not shared]
        taken = "{" + ",".join(mine) + "}"
        if claim.has_gate:
            answer = session.ask(_AT_THE_GATE, permits, taken, base)
        else:
            answer = session.ask(_NEW, permits, taken, base, _gate(name))
        slot = int(answer.get_value(0, 0))
        if slot < 0:
            if count not in held:
                session.ask(keys.unlock_sql(shared=True), count[0])
            return False
        claim.keys = ((base + slot, False), count)
        session.claims[claim] = None
        held[base + slot, False] = 1
        held[count] = held.get(count, 0) + 1
        claim.slot = claim.number = slot
        return True

    def _agree(self, session: Session, claim: PermitClaim, base: int, count: int) -> None:
        session.ask(f"SELECT {keys.lock_function('session', shared=True, wait=True)}($1)", count)
        first = keys.count_key(base, 1)
        others = session.ask(_OTHERS, first, keys.count_key(base, 1 << 20), count)
        if others.ntuples:
            session.ask(keys.unlock_sql(shared=True), count)
            raise ProtocolError(
                f"{claim.line.resource} is in use as a semaphore of {keys.permits_of(int(others.get_value(0, 0)))} "
                f"permits, and this one is of {claim.permits}: all who use it must name the same number, or another "
                "name"
            )

    def _leave_home(self, session: Session, claim: SessionClaim) -> None:
        assert isinstance(claim, PermitClaim)
        if not session.enter():
            session.doom("it did not answer when a permit was to be released")
            return
        name = name_of(claim.line.key)
        base = _base(name)
        count = keys.count_key(base, claim.permits), True
        try:
            if session.gone or session.claims.pop(claim, self) is self:
                return
            session.held.pop((base + claim.number, False), None)
            users = session.held.pop(count, 1) - 1
            if users:
                session.held[count] = users
            session.ask(_RELEASE, base + claim.number, _gate(name), _channel(claim.line))
            if not users:
                session.ask(keys.unlock_sql(shared=True), count[0])
        except (Gone, ServerError):
            pass  # with the session the permit is gone too
        except Late:
            self.pool.mend(session)
        except BaseException:
            session.disclaim(claim)
            raise
        finally:
            if session.torn:
                self.pool.mend(session)
            session.leave()

    # ---- the gate

    def _queue(self, claim: SessionClaim) -> bool:
        assert isinstance(claim, PermitClaim)
        session = self.pool.take(claim, "gate")
        if session is None:
            return False
        if not session.enter():
            raise Late("its connection is in use for too long")
        try:
            session.begin(
                f"SELECT {keys.lock_function('session', shared=False, wait=True)}($1)", _gate(name_of(claim.line.key))
            )
        finally:
            session.leave()
        return True

    async def wait(self, io: IO, claim: SessionClaim, until: float) -> None:
        assert isinstance(claim, PermitClaim)
        if claim.gate is None:
            if not await io.work(self._guarded, claim, self._queue):
                await self._wait_for_connection(io, claim, until)
                return
            if claim.gate is not None:
                claim.parker = claim.gate.parker = io.parker(claim.gate)
            return  # it stands in the queue: now look again
        assert claim.parker is not None
        await io.park(claim.parker, until if claim.gate.waiting else min(until, io.now() + NAP))

    def _leave_gate(self, claim: PermitClaim) -> None:
        session = claim.gate
        claim.has_gate = False
        claim.parker = None
        if session is None:
            return
        session.parker = None
        if not session.enter():
            session.doom("it did not answer when a queue was to be left")
            self.pool.give(session, claim, "gate")
            return
        try:
            if not session.gone:
                if session.waiting:
                    session.cancel()
                session.script("UNLISTEN *; SELECT pg_advisory_unlock_all()")
                session.news.clear()
        except Gone:
            pass
        except (Late, ServerError) as error:
            session.end(f"it could not leave a queue: {error}")
        except BaseException:
            session.end("leaving a queue was interrupted")
            raise
        finally:
            session.leave()
            self.pool.give(session, claim, "gate")

    # ---- the end

    def drop(self, claim: SessionClaim) -> None:
        assert isinstance(claim, PermitClaim)
        claim.ended = True
        if claim.session is not None or claim.gate is not None or (claim.mutex is not None and claim.mutex.locked()):
            workers().submit(lambda: self._undo(claim))

    def _undo(self, claim: SessionClaim) -> None:
        assert isinstance(claim, PermitClaim)
        if claim.mutex is None:
            return
        with claim.mutex:
            session = claim.session
            try:
                if session is not None:
                    self._leave_home(session, claim)
                    claim.session = None
            finally:
                self._leave_gate(claim)

    def disown(self, claim: SessionClaim) -> None:
        assert isinstance(claim, PermitClaim)
        super().disown(claim)
        claim.gate = None

    # ---- for people

    def inspect(self, line: Line) -> Report:
        name = name_of(line.key)
        return looking.permits_report(self.pool, line, _base(name), _gate(name))


def _channel(line: Line) -> str:
    return f"interlock_{_gate(name_of(line.key)) & 0xFFFFFFFFFFFFFFFF:016x}"
