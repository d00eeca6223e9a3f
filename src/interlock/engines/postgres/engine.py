"""Locks and read-write locks: one engine for each way to lock, all on the connections of one `Pool`.

Theory of operation
-------------------
PostgreSQL keeps the lock, the queue and the order; see `pool` for where a lock is held. Three facts shape this module.

A session may take its own lock again, so on one connection two claims of this process would not exclude each other.
Hence `Session.held`: what home holds is not asked of the server once more. Readers of this process are counted there,
and the second one asks whether anybody waits: else a writer would wait for as long as there is always one of them.

A statement may fail after it has locked, be cancelled when it has been granted, or be answered when nobody listens.
What a claim has is undone by what the session knows of itself (`Session.settle`, `pg_advisory_unlock_all`), not by what
this process thinks that it has asked for.

Grants are passed by the server to the first in its queue, and who comes later does not overtake: FIFO, as each try also
looks at the queue.

In transaction scope (`il_scope=xact`) a claim has a connection with a transaction open from its first try to its end.
"""

from __future__ import annotations

from _thread import allocate_lock
from functools import lru_cache
from time import monotonic

from ..._address import name_of
from ..._errors import DeadlockError, EngineError, UnsupportedError
from ..._model import Claim, Traits
from ..._wait.workers import workers
from ..remote import RemoteEngine
from . import keys, looking
from .session import REQUEST, Gone, Late, ServerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..._core.arbiter import Line
    from ..._model import IO, Mode, Parker
    from ..._report import Party, Report
    from .pool import Pool
    from .session import Session

    Step = tuple[int, bool, bool]
    """A key to be taken; shared or not; with a token or not."""

NAP = 1.0

_BEGIN = (
    "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)
main_key = lru_cache(4096)(keys.main_key)
update_key = lru_cache(4096)(keys.update_key)


class SessionClaim(Claim):
    """A stake, and where it stands."""

    mutex: Any = None  # of whoever makes requests for it; from the first try on
    session: Session | None = None
    at_home = False
    keys: tuple[tuple[int, bool], ...] = ()  # what it has there: see `Session.held`
    ended = False
    todo: list[Step] | None = None  # of a claim with a connection of its own
    parker: Parker | None = None


class LockEngine(RemoteEngine):
    """The engine of exclusive locks, and what the others share with it."""

    claim_type: type[SessionClaim] = SessionClaim

    def __init__(self, pool: Pool) -> None:
        settings = pool.settings
        super().__init__(settings.address)
        self.pool = pool
        self._xact = settings.scope == "xact"
        self._home = not self._xact
        self._sql = {
            (shared, fenced, wait): keys.lock_sql(
                settings.scope, settings.fence if fenced else "none", shared=shared, wait=wait
            )
            for shared in (False, True)
            for fenced in (False, True)
            for wait in (False, True)
        }
        fences = settings.fence != "none"
        self.traits = Traits(
            name="postgresql",
            family="session",
            excludes="hosts",
            fair="fifo",
            fences=fences,
            survives_crash=True,
            wait="events",
            abilities=("rwlock",) if self._xact else ("rwlock", "semaphore"),
            frozen="kept",
            restart="released, the holder is told",
            failover="released; an old primary may linger",
            token_back={
                "none": "there is none",
                "table": "failover without synchronous replication; the table is dropped",
            }.get(settings.fence, "failover to a standby that lags; restore from a backup"),
            connections=f"at most {settings.connections} (il_connections)",
        )

    # ---- kin

    def sharing(self, mode: Mode, key: str) -> Any:
        """The engine of read-write locks in this mode."""
        return self._kin(mode)

    def counting(self, key: str) -> Any:
        """The engine of semaphores."""
        if self._xact:
            raise UnsupportedError(
                f"{key}: semaphores need il_scope=session: a permit is not bound to the end of a transaction"
            )
        return self._kin("semaphore")

    def _kin(self, kind: Any) -> Any:
        kin: dict[str, Any] = self.pool.kin
        if kind not in kin:
            from .modes import ModeEngine
            from .permits import PermitEngine

            made = PermitEngine(self.pool) if kind == "semaphore" else ModeEngine(self.pool, kind)
            return kin.setdefault(kind, made)
        return kin[kind]

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def claim(self, line: Line, owner: object, fair: bool) -> SessionClaim:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    def _steps(self, claim: SessionClaim) -> list[Step]:
        return [(main_key(name_of(claim.line.key)), False, True)]

    # ---- acquire

    def try_now(self, claim: SessionClaim, timeout: float) -> bool:
        return self._attempt(claim)

    async def try_acquire(self, io: IO, claim: SessionClaim, deadline: float) -> bool:
        return await io.work(self._attempt, claim)

    def _attempt(self, claim: SessionClaim) -> bool:
        return self._guarded(claim, self._take)

    def _guarded(self, claim: SessionClaim, act: Callable[[Any], bool]) -> bool:
        """One request for a claim at a time, and its errors as those of this package."""
        mutex = claim.mutex
        if mutex is None:
            mutex = vars(claim).setdefault("mutex", allocate_lock())
        with mutex:
            if claim.ended:
                return False
            try:
                won = act(claim)  # an interrupt behind this call is still inside
            except ServerError as error:
                raise self._refused(claim, error) from None
            except Gone as error:
                raise EngineError(f"{claim.line.resource}: {error}") from None
            except Late as error:
                raise EngineError(f"{claim.line.resource}: PostgreSQL is there, but {error}") from None
            return won

    def _refused(self, claim: SessionClaim, error: ServerError) -> EngineError | DeadlockError:
        if error.state == "40P01":
            return DeadlockError(
                f"{claim.line.resource}: PostgreSQL found that sessions wait for each other in a circle ({error}); "
                "what this process held before it still holds"
            )
        hint = ""
        if error.state == "53200":
            hint = ": its table of locks is full, see max_locks_per_transaction"
        elif error.state in ("42P01", "3F000"):
            hint = ": what tokens need was removed; a new process makes it again"
        return EngineError(f"{claim.line.resource}: PostgreSQL refuses: {error} (SQLSTATE {error.state}){hint}")

    def _take(self, claim: SessionClaim) -> bool:
        won = self._take_at_home(claim) if self._home and claim.session is None else self._take_own(claim)
        if won:
            claim.since = monotonic()
        return won

    # ---- on the common connection

    def _take_at_home(self, claim: SessionClaim) -> bool:
        ((key, shared, _),) = self._steps(claim)
        try:
            return self._take_at_home_once(claim, key, shared)
        except Gone:  # perhaps long ago, by a restart of the server
            return self._take_at_home_once(claim, key, shared)

    def _take_at_home_once(self, claim: SessionClaim, key: int, shared: bool) -> bool:
        session = self.pool.home()
        won = False
        claim.at_home = True
        claim.session = session  # before anything is asked: see `_leave_home`
        try:
            won = self._try_at_home(session, claim, key, shared)
        except BaseException:  # it may have locked, and failed then
            session.disclaim(claim)
            self.pool.mend(session)
            raise
        finally:
            if not won:
                claim.session = None
            session.leave()
        return won

    def _try_at_home(self, session: Session, claim: SessionClaim, key: int, shared: bool) -> bool:
        held = session.held
        if (key, False) in held or (not shared and (key, True) in held):
            return False
        count = held.get((key, True), 0) if shared else 0
        if count:
            if session.ask(keys.WAITED_FOR, key).ntuples:
                return False
        else:
            answer = session.ask(self._sql[shared, True, False], key)
            token = answer.get_value(0, 0) if answer.ntuples else None
            if token is None:
                return False
            if not shared and self.traits.fences:
                claim.token = int(token)
        claim.keys = ((key, shared),)
        session.claims[claim] = None
        held[key, shared] = count + 1
        claim.parker = None
        return True

    def _leave_home(self, session: Session, claim: SessionClaim) -> None:
        ((key, shared, _),) = self._steps(claim)
        if not session.enter():
            session.doom("it did not answer when a lock was to be released")
        else:
            try:
                if session.gone or session.claims.pop(claim, self) is self:
                    return
                count = session.held.pop((key, shared), 1) - 1
                if count:
                    session.held[key, shared] = count
                else:
                    session.ask(keys.unlock_sql(shared), key)
            except (Gone, ServerError):
                pass  # with the session the lock is gone too
            except Late:
                self.pool.mend(session)
            except BaseException:
                session.disclaim(claim)
                raise
            finally:
                if session.torn:
                    self.pool.mend(session)
                session.leave()

    # ---- on a connection of its own

    def _own(self, claim: SessionClaim) -> Session | None:
        """Its connection, entered by the caller."""
        session = claim.session
        if session is None:
            claim.at_home = False
            session = self.pool.take(claim, "session")
            if session is None:
                return None
            claim.todo = self._steps(claim)
        if not session.enter(of=1):
            raise EngineError(f"{claim.line.resource}: its connection has been in use for {2 * REQUEST:g} s")
        return session

    def _take_own(self, claim: SessionClaim) -> bool:
        session = self._own(claim)
        if session is None:
            return False
        try:
            todo = claim.todo
            assert todo is not None
            if session.waiting:
                answer = session.collect()
                if answer is None:
                    return False
                self._won_step(session, claim, answer)
                # The answer may be old: believe it once the session is known to be alive now.
                session.ask("SELECT 1")
            while todo:
                key, shared, fenced = todo[0]
                answer = self._ask_step(session, key, self._sql[shared, fenced, False])
                if not answer.ntuples or answer.get_value(0, 0) is None:
                    return False
                self._won_step(session, claim, answer)
            session.claims[claim] = None
            return True
        finally:
            session.leave()

    def _ask_step(self, session: Session, key: int, sql: str) -> Any:
        if self._xact and session.idle():
            return session.script(f"{_BEGIN}; {sql.replace('$1', f'({key})')}")[-1]
        return session.ask(sql, key)

    def _won_step(self, session: Session, claim: SessionClaim, answer: Any) -> None:
        assert claim.todo is not None
        key, shared, fenced = claim.todo.pop(0)
        session.held[key, shared] = 1
        if fenced and not shared and self.traits.fences:
            claim.token = int(answer.get_value(0, 0))

    def _queue(self, claim: SessionClaim) -> bool:
        """Enter the server's queue. False: every connection is in use."""
        session = self._own(claim)
        if session is None:
            return False
        try:
            if not session.waiting:
                assert claim.todo
                key, shared, fenced = claim.todo[0]
                if self._xact and session.idle():
                    session.script(_BEGIN)
                session.begin(self._sql[shared, fenced, True], key)
            return True
        finally:
            session.leave()

    async def wait(self, io: IO, claim: SessionClaim, until: float) -> None:
        session = claim.session
        if session is None or not session.waiting:
            if not await io.work(self._guarded, claim, self._queue):
                await self._wait_for_connection(io, claim, until)
                return
            session = claim.session
            if session is not None:
                claim.parker = session.parker = io.parker(session)
            return  # it stands in the queue: now look again
        assert claim.parker is not None
        await io.park(claim.parker, until)

    async def _wait_for_connection(self, io: IO, claim: SessionClaim, until: float) -> None:
        if claim.ended:
            return
        parker = io.parker()
        self.pool.hungry.append(parker)
        try:
            await io.park(parker, min(until, io.now() + NAP))
        finally:
            try:
                self.pool.hungry.remove(parker)
            except ValueError:
                pass

    # ---- the end

    async def release(self, io: IO, claim: SessionClaim) -> None:
        claim.ended = True
        if claim.session is not None or claim.mutex is not None:
            await io.work(self._undo, claim)

    async def withdraw(self, io: IO, claim: SessionClaim) -> None:
        await self.release(io, claim)

    def let_go(self, claim: SessionClaim) -> None:
        claim.ended = True
        self._undo(claim)

    def drop(self, claim: SessionClaim) -> None:
        claim.ended = True
        if claim.session is not None or (claim.mutex is not None and claim.mutex.locked()):
            workers().submit(lambda: self._undo(claim))

    def _undo(self, claim: SessionClaim) -> None:
        if claim.mutex is None:
            return
        with claim.mutex:
            # Whoever is interrupted in here, before `session` is forgotten, has it done once more by a worker.
            session = claim.session
            claim.parker = None
            if session is None:
                return
            if claim.at_home:
                self._leave_home(session, claim)
                claim.session = None
            else:
                self._leave_own(session, claim)

    def _leave_own(self, session: Session, claim: SessionClaim) -> None:
        session.claims.pop(claim, None)
        session.parker = None
        if not session.enter():
            session.doom("it did not answer when a lock was to be released")
            self.pool.give(session, claim, "session")
            return
        try:
            if not session.gone:
                if session.waiting:
                    session.cancel()
                session.held.clear()
                if self._xact:
                    if session.torn:
                        session.settle()
                    session.script("COMMIT")  # of a transaction that failed it is a ROLLBACK
                else:
                    session.ask("SELECT pg_advisory_unlock_all()")
        except Gone:
            pass
        except (Late, ServerError) as error:
            session.end(f"it could not give a lock back: {error}")
        except BaseException:
            session.end("the release of a lock was interrupted")
            raise
        finally:
            session.leave()
            self.pool.give(session, claim, "session")

    def disown(self, claim: SessionClaim) -> None:
        """In a forked child; the pool has closed, or will close, the copies of the sockets."""
        claim.ended = True
        claim.session = None
        claim.mutex = None

    def close(self) -> None:
        """See `RemoteEngine.close`."""
        self.pool.close()

    # ---- while held

    def lost(self, claim: SessionClaim) -> str:
        session = claim.session
        return "it is not held" if session is None else session.lost()

    # ---- for people

    def inspect(self, line: Line) -> Report:
        name = name_of(line.key)
        return looking.report(self.pool, line, [main_key(name), update_key(name)])

    def blame(self, line: Line) -> tuple[Party | None, str]:
        return looking.blame(self.pool, line, self)
