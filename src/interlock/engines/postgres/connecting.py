"""New sessions: how one is opened, and what is checked before anybody locks on it."""

from __future__ import annotations

import time

from psycopg import pq

from ..._errors import EngineError, ProtocolError, UnsupportedError
from . import keys
from .session import Gone, Late, ServerError, Session, first_line, poll_one
from .settings import conninfos

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import Settings

_BAD = pq.ConnStatus.BAD


def connect(settings: Settings) -> Session:
    """A new session of a server that can be written to. Raises `EngineError`, with the reason and no credentials."""
    problem: EngineError | None = None
    for conninfo in conninfos(settings):
        try:
            session = Session(settings, _open(conninfo, settings), settings.where)
            _introduce(session)
        except EngineError as error:  # of several hosts one may be the primary
            problem = error
        else:
            return session
    assert problem is not None
    raise problem


def _open(conninfo: bytes, settings: Settings) -> Any:
    until = time.monotonic() + settings.connect
    pgconn = pq.PGconn.connect_start(conninfo)
    try:
        while pgconn.status != _BAD:
            status = pgconn.connect_poll()
            if status == pq.PollingStatus.OK:
                pgconn.nonblocking = 1
                pgconn.notice_handler = None
                return pgconn
            if status == pq.PollingStatus.FAILED:
                break
            poll_one(pgconn.socket, status, until)
        reason = first_line(pgconn.get_error_message())
    except Late:
        reason = f"no answer within {settings.connect:g} s (connect_timeout)"
    except BaseException:
        pgconn.finish()
        raise
    pgconn.finish()
    reason = settings.address.hide(reason)
    raise EngineError(f"{settings.where}: PostgreSQL cannot be reached: {reason}. Is it running, and is the URL right?")


def _introduce(session: Session) -> None:
    """Check that it is a session on which locks mean something, and set it up."""
    settings = session.settings
    try:
        if session.pgconn.server_version < 140000:
            raise UnsupportedError(f"{settings.where}: locks need PostgreSQL 14 or newer")
        session.direct = False  # until that is known
        row = session.ask("SELECT pg_backend_pid(), pg_is_in_recovery()")
        session.pid = int(row.get_value(0, 0))
        if row.get_value(0, 1) == b"t":
            raise UnsupportedError(
                f"{settings.where} is a read-only standby, whose locks exclude nobody elsewhere: name the primary, or "
                "all hosts with commas between"
            )
        pooled = session.pid != session.pgconn.backend_pid
        if pooled and settings.scope == "session":
            raise UnsupportedError(
                f"{settings.where} is a connection pooler (the session that answers is not the one that was opened), "
                "which would give the same session lock to several clients and never free it: connect to PostgreSQL "
                "itself, or use il_scope=xact"
            )
        if not pooled:
            session.direct = settings.scope == "session"
            session.ask(_setting_up(settings.ttl))
    except ServerError as error:
        session.finish()
        raise EngineError(f"{settings.where}: PostgreSQL refused to set a session up: {error}") from None
    except (Gone, Late) as error:
        session.finish()
        raise EngineError(f"{settings.where}: PostgreSQL cannot be reached: {error}") from None
    except BaseException:
        session.finish()
        raise


def _setting_up(ttl: float) -> str:
    """Nothing of the role's or the database's ends a wait or a session; a vanished client's session ends after the ttl,
    and one whose client died while it waited within a second."""
    values = {
        "statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "0", "default_transaction_isolation": "read committed",
        "tcp_keepalives_idle": str(max(1, int(ttl / 3))), "tcp_keepalives_interval": str(max(1, int(ttl / 6))),
        "tcp_keepalives_count": "4", "tcp_user_timeout": str(int(ttl * 1000)),
        "client_connection_check_interval": "1000",
    }  # fmt: skip
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in values.items())
    return f"SELECT {calls}"


def prepare_fence(session: Session) -> None:
    """See that what the tokens need is there, once per engine. By whoever has entered the session."""
    settings = session.settings
    statements = keys.SETUP.get(settings.fence)
    if statements is None:
        return
    thing = "interlock.fence" if settings.fence == "sequence" else "interlock.tokens"
    for _ in range(5):
        row = session.ask(keys.SETUP_LOOK, thing)
        there, said = row.get_value(0, 0) == b"t", row.get_value(0, 1).decode()
        if there or said:  # what is missing is not made in a schema that is another version's
            if said != f"interlock format {keys.FORMAT}":
                raise ProtocolError(
                    f"{settings.where}: the schema interlock is of another version (its comment is {said!r}, not "
                    f"'interlock format {keys.FORMAT}'): all who lock in this database must use the same"
                )
            if there:
                return
        try:
            session.script("; ".join(statements))
        except ServerError as error:
            if error.state not in ("23505", "42P06", "42P07", "XX000"):  # others make it at this moment
                raise EngineError(
                    f"{settings.where}: tokens need {thing}, which this user may not make ({error}): have an "
                    "administrator make it, or use il_fence=xid or none"
                ) from None
    raise EngineError(f"{settings.where}: {thing} could not be made")
