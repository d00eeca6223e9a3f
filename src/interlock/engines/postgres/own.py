"""Locks on a connection of the caller's, in the caller's transaction or session.

What is asked of the server is written once, as a generator of statements; a `Connection` executes them, and an
`AsyncConnection` does so awaited.
"""

from __future__ import annotations

from time import monotonic

from psycopg import Error
from psycopg.pq import TransactionStatus

from ..._deadline import FOREVER, seconds
from ..._errors import DeadlockError, EngineError, NotHeldError, Timeout, UnsupportedError
from . import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType
    from typing import Any, Self

    from psycopg import AsyncConnection, Connection

    from .keys import Fence, Scope

    Statements = Generator[tuple[str, tuple[object, ...]], Any, Any]

__all__ = ["AsyncConnectionLock", "ConnectionLock", "on", "on_async"]

_LOOK = "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('lock_timeout')"


class _BaseConnectionLock:
    """The statements, and what they came to."""

    def __init__(
        self, connection: Any, name: str, shared: bool, scope: Scope, fence: Fence, timeout: float | None
    ) -> None:
        if scope not in ("session", "xact"):
            raise ValueError(f"scope is session or xact, not {scope!r}")
        if fence not in ("sequence", "xid", "table", "none"):
            raise ValueError(f"fence is sequence, xid, table or none, not {fence!r}")
        if fence == "table" and scope == "xact":
            raise ValueError("fence='table' needs scope='session': a rollback would take the token back")
        if not isinstance(name, str) or not name:
            raise ValueError("a lock needs a name")
        self._connection = connection
        self._scope: Scope = scope
        self._fence: Fence = "none" if shared else fence
        self._shared = shared
        self._timeout = seconds(timeout)
        self._key = keys.main_key(name)
        self.name = name
        self.token: int | None = None
        """The fencing token, where one was asked for; see `interlock.Hold.token`."""
        self.held = False

    def _acquire(self) -> Statements:
        if self.held:
            raise DeadlockError(f"{self.name} is held by this very object")
        began = monotonic()
        pid, standby, before = yield _LOOK, ()
        status = self._connection.info.transaction_status
        self._require(pid, standby, status)
        wait = self._timeout > 0
        sql = keys.lock_sql(self._scope, self._fence, shared=self._shared, wait=wait).replace("$1", "%s::bigint")
        key = (self._key,) * sql.count("%s")
        inside = status == TransactionStatus.INTRANS
        limit = "0" if self._timeout == FOREVER else str(max(1, int(self._timeout * 1000)))
        if inside:  # else an error would end the caller's transaction
            yield "SAVEPOINT interlock_on", ()
        try:
            if wait:
                yield "SELECT set_config('lock_timeout', %s, %s)", (limit, inside)
            row = yield sql, key
        except Error as error:
            if inside:
                yield "ROLLBACK TO SAVEPOINT interlock_on", ()
                yield "RELEASE SAVEPOINT interlock_on", ()
            elif wait:
                yield "SELECT set_config('lock_timeout', %s, false)", (before,)
            self._explain(error, monotonic() - began)
            raise
        if wait:
            yield "SELECT set_config('lock_timeout', %s, %s)", (before, inside)
        if inside:
            yield "RELEASE SAVEPOINT interlock_on", ()
        if row is None or row[0] is None:
            raise Timeout(self.name, monotonic() - began)
        self.token = None if self._fence == "none" else int(row[0])
        self.held = True

    def _require(self, pid: int, standby: bool, status: TransactionStatus) -> None:
        if standby:
            raise UnsupportedError(f"{self.name}: this is a read-only standby, whose locks exclude nobody elsewhere")
        if self._scope == "session" and pid != self._connection.info.backend_pid:
            raise UnsupportedError(
                f"{self.name}: this connection goes through a pooler, which would never free the lock of a session: "
                "use scope='xact'"
            )
        if self._scope == "xact" and status != TransactionStatus.INTRANS:
            raise ValueError(
                f"{self.name}: scope='xact' needs an open transaction, and this connection commits each statement"
            )

    def _explain(self, error: Error, waited: float) -> None:
        if error.sqlstate == "55P03":
            raise Timeout(self.name, waited) from None
        if error.sqlstate == "40P01":
            raise DeadlockError(
                f"{self.name}: PostgreSQL found that sessions wait for each other in a circle; what this one held "
                "before it still holds"
            ) from error

    def _release(self) -> Statements:
        if not self.held:
            raise NotHeldError(f"{self.name} cannot be released: it is not held")
        if self._scope == "xact":
            raise UnsupportedError(f"{self.name} is released by the end of its transaction")
        if self._connection.info.transaction_status == TransactionStatus.INERROR:
            raise EngineError(
                f"{self.name} cannot be released in a transaction that has failed: roll it back, then call release()"
            )
        row = yield keys.unlock_sql(self._shared).replace("$1", "%s::bigint"), (self._key,)
        self.held = False
        if not row[0]:
            raise NotHeldError(f"{self.name} was not held any more by this session")

    def _leave(self, error: BaseException | None) -> Statements | None:
        """What the end of a block has to do."""
        if not self.held or self._scope == "xact" or self._connection.closed:
            self.held = False
            return None
        if error is not None and self._connection.info.transaction_status == TransactionStatus.INERROR:
            error.add_note(f"{self.name} is still locked: roll the transaction back, then call release()")
            return None
        return self._release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {'held' if self.held else 'not held'}>"


class ConnectionLock(_BaseConnectionLock):
    """A lock on a `psycopg.Connection`; see `on`."""

    def acquire(self) -> None:
        """Lock. Raises `Timeout`, `DeadlockError`, `UnsupportedError`, and psycopg's own errors."""
        self._drive(self._acquire())

    def release(self) -> None:
        """Unlock. Raises `NotHeldError`, and `UnsupportedError` where the end of the transaction does that."""
        self._drive(self._release())

    def _drive(self, statements: Statements) -> None:
        try:
            sql, values = next(statements)
            while True:
                try:
                    cursor = self._connection.execute(sql, values or None)
                    row = cursor.fetchone() if cursor.description else None
                except Error as error:
                    sql, values = statements.throw(error)
                else:
                    sql, values = statements.send(row)
        except StopIteration:
            pass

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._leave(error)
        if end is not None:
            self._drive(end)


class AsyncConnectionLock(_BaseConnectionLock):
    """A lock on a `psycopg.AsyncConnection`; see `on_async`."""

    async def acquire(self) -> None:
        """See `ConnectionLock.acquire`."""
        await self._drive(self._acquire())

    async def release(self) -> None:
        """See `ConnectionLock.release`."""
        await self._drive(self._release())

    async def _drive(self, statements: Statements) -> None:
        try:
            sql, values = next(statements)
            while True:
                try:
                    cursor = await self._connection.execute(sql, values or None)
                    row = await cursor.fetchone() if cursor.description else None
                except Error as error:
                    sql, values = statements.throw(error)
                else:
                    sql, values = statements.send(row)
        except StopIteration:
            pass

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._leave(error)
        if end is not None:
            await self._drive(end)


def on(
    connection: Connection[Any],
    name: str,
    *,
    shared: bool = False,
    scope: Scope = "session",
    fence: Fence = "none",
    timeout: float | None = None,
) -> ConnectionLock:
    """Lock `name` on a connection that you have: it excludes `Lock("postgresql://...#name")` in the same database.

    Use it as a context manager, or call `acquire` and `release`. `scope="session"`: until released, or until the
    connection ends; a rollback does not release it. `scope="xact"`: until the transaction that is open ends, which a
    pooler respects; `release` is then refused. `shared=True`: beside other shared ones. `timeout`: seconds, `None` for
    ever, 0 one attempt. `fence`: how `token` is made; "sequence" and "table" need what an engine of that `il_fence`
    makes in the database at its first acquire.

    The connection is yours: it is used by one thread at a time, a session may lock again what it has locked (and must
    unlock as often), and `lost` is what your own statements tell you. A write on this connection itself needs no token:
    it fails when the session, and with it the lock, is gone.
    """
    return ConnectionLock(connection, name, shared, scope, fence, timeout)


def on_async(
    connection: AsyncConnection[Any],
    name: str,
    *,
    shared: bool = False,
    scope: Scope = "session",
    fence: Fence = "none",
    timeout: float | None = None,
) -> AsyncConnectionLock:
    """`on` for a `psycopg.AsyncConnection`: the same verbs, awaited. Whoever cancels an acquire finds the connection as
    psycopg leaves it: close it, or look into pg_locks."""
    return AsyncConnectionLock(connection, name, shared, scope, fence, timeout)
