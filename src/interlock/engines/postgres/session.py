"""One session of the server, over libpq, with a bound on every request.

Theory of operation
-------------------
A session lock is as good as its session. So a session here never goes away by half: it is whole, or it is `gone` for
ever with the reason, and a new one is another object.

A request is sent without blocking, and its answer is waited for with poll(2), `REQUEST` seconds at most. If that is not
enough, or an interrupt strikes, the session is `torn`: an answer is under way that belongs to nobody, perhaps the grant
of a lock. The locks that are held stay held. Whoever comes next reads what is left, asks `pg_locks` what the session
really has, and unlocks what nobody here (`held`) knows of. An answer is never guessed.

`lock` is held by whoever talks (`talking`). A finalizer, or a signal handler, has another thread talk.

How long a hold may be believed
-------------------------------
The server ends a session that it has not heard of for the ttl (`tcp_user_timeout`, keepalives), not before. `confirmed`
is the time at which the last request *was sent* that was answered; so until `confirmed` + ttl nobody else can hold what
this session holds, whatever became of the network. After most of that time a look at the clock is not enough any more:
then an answer is asked for, and without one the session is given up. A process that was suspended finds its session as
it left it: the server's kernel heard from ours all the time. Time is CLOCK_BOOTTIME, which a suspended machine counts.
"""

from __future__ import annotations

import os
import time
from _thread import get_ident

from psycopg import pq
from psycopg.errors import OperationalError

from ..._core.lost import tell
from ..._wait.keeping import now as clock
from . import keys
from .polling import CERTAIN, closed, reader, writable
from .talking import Talking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import Claim, Parker
    from .settings import Settings

REQUEST = 5.0
"""Seconds that a request may take. None of them waits for a lock."""
GRACE = 1.0
"""Seconds that a session is given to answer when its time is nearly over."""
TRUSTED = 0.75
"""The share of the ttl for which an answer is believed without another one."""

_INT8 = 20
_READING = pq.PollingStatus.READING
_BAD = pq.ConnStatus.BAD
_FATAL = pq.ExecStatus.FATAL_ERROR


class ServerError(Exception):
    """The server refused a statement. `state` is its SQLSTATE."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


class Gone(Exception):
    """The session has ended, and with it everything that it held."""


class Late(Exception):
    """No answer in time. The session is torn."""


class Session(Talking):
    """A connection and what this process knows to be held on it."""

    def __init__(self, settings: Settings, pgconn: Any, where: str) -> None:
        super().__init__()
        self.settings = settings
        self.where = where
        self.pgconn = pgconn
        self.fd: int = pgconn.socket
        self.pid = 0  # of the server's process
        self.gone = ""
        self.waiting = False  # a statement that waits for a lock is under way
        self.parker: Parker | None = None
        self.confirmed = clock()
        self.held: dict[tuple[int, bool], int] = {}
        """(key, shared) -> by how many claims of this process; on the server it is taken once."""
        self.claims: dict[Claim, None] = {}
        self.news: list[str] = []
        """Channels on which a notification came."""
        self._names: dict[str, bytes] = {}
        self._prepared = 0
        self._readable = reader(self.fd)
        self.direct = True

    # ---- who talks

    def enter(self, seconds: float = 2 * REQUEST, of: int = 0) -> bool:
        return super().enter(seconds, of + 1)

    def leave(self) -> None:
        if self.gone and self.pgconn is not None:
            self._close()
        super().leave()

    # ---- requests; all of them by whoever has entered

    def ask(self, sql: str, *params: int | str, seconds: float = REQUEST) -> Any:
        """The answer to one statement. Raises `ServerError`, `Gone`, `Late`."""
        if self.torn or self.gone:
            self.settle()
        pgconn = self.pgconn
        name = self._names.get(sql)
        if name is None and self.direct:
            name = self._prepare(sql, params)
        values = [str(each).encode() for each in params]
        sent = clock()
        self.torn = True
        try:
            if name is not None:
                pgconn.send_query_prepared(name, values)
            else:
                pgconn.send_query_params(sql.encode(), values, _types(params))
            answer = self._answer(seconds)[-1]
        except OperationalError as error:
            self._broke(error)
        self.torn = False
        self.confirmed = sent
        return _checked(answer)

    def script(self, sql: str, seconds: float = REQUEST) -> list[Any]:
        """The answers to several statements without parameters, in one trip."""
        if self.torn or self.gone:
            self.settle()
        sent = clock()
        self.torn = True
        try:
            self.pgconn.send_query(sql.encode())
            answers = self._answer(seconds)
        except OperationalError as error:
            self._broke(error)
        self.torn = False
        self.confirmed = sent
        return [_checked(each) for each in answers]

    def begin(self, sql: str, *params: int) -> None:
        """Send a statement that may wait for long. The descriptor becomes readable when `collect` may have more."""
        if self.torn or self.gone:
            self.settle()
        name = self._prepare(sql, params) if self.direct else None
        values = [str(each).encode() for each in params]
        self.torn = True
        try:
            if name is not None:
                self.pgconn.send_query_prepared(name, values)
            else:
                self.pgconn.send_query_params(sql.encode(), values, _types(params))
            self._flush(REQUEST)
        except OperationalError as error:
            self._broke(error)
        self.waiting = True

    def collect(self) -> Any | None:
        """The answer to what was begun, or None if there is none yet. Does not block."""
        if self.gone:
            raise Gone(self.gone)
        try:
            self.pgconn.consume_input()
            if self.pgconn.is_busy():
                return None
            answer = self._answer(REQUEST)[-1]
        except OperationalError as error:
            self._broke(error)
        self.waiting = self.torn = False
        return _checked(answer)

    def cancel(self) -> None:
        """End what was begun, granted or not. Raises `Gone` where that cannot be done otherwise."""
        self.waiting = False
        if self.gone:
            raise Gone(self.gone)
        try:
            self.pgconn.consume_input()
            if self.pgconn.is_busy():
                self._send_cancel()
            self._answer(REQUEST)
        except (OperationalError, Late) as error:
            self._broke(error)
        self.torn = False

    def _send_cancel(self) -> None:
        if pq.version() < 170000:  # an older libpq can do it only with the interpreter's lock held, without a bound
            self.end("it waited in vain, and this libpq cannot cancel that")
            raise Gone(self.gone)
        until = time.monotonic() + REQUEST
        cancel = self.pgconn.cancel_conn()
        try:
            cancel.start()
            while (status := cancel.poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.FAILED:
                    raise OperationalError("it could not be cancelled")
                poll_one(cancel.socket, status, until)
        finally:
            cancel.finish()

    def idle(self) -> bool:
        """Is no transaction open?"""
        return self.pgconn is not None and self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def settle(self) -> None:
        """After an interrupt or a late answer: know again what is held."""
        if self.gone:
            raise Gone(self.gone)
        sent = clock()
        try:
            if self.torn:
                if self.waiting:
                    self.cancel()
                else:
                    self._answer(REQUEST, begun=False)
            self.pgconn.send_query(keys.OWN_LOCKS.encode())
            (found,) = self._answer(REQUEST)
            extra = []
            for row in range(found.ntuples):
                key, mode = int(found.get_value(row, 0)), found.get_value(row, 1)
                shared = mode == b"ShareLock"
                if (key, shared) not in self.held:
                    extra.append(f"{keys.unlock_sql(shared).replace('$1', str(key))}")
            if extra:
                self.pgconn.send_query("; ".join(extra).encode())
                self._answer(REQUEST)
        except OperationalError as error:
            self._broke(error)
        self.torn = False
        self.confirmed = sent

    def _prepare(self, sql: str, params: tuple[int | str, ...]) -> bytes:
        name = self._names.get(sql)
        if name is None:
            self._prepared += 1  # never again, if its answer is lost: the server may have it
            name = f"interlock_{self._prepared}".encode()
            self.torn = True
            try:
                self.pgconn.send_prepare(name, sql.encode(), _types(params))
                answer = self._answer(REQUEST)[-1]
            except OperationalError as error:
                self._broke(error)
            self.torn = False
            _checked(answer)
            self._names[sql] = name
        return name

    # ---- the wire

    def _answer(self, seconds: float, begun: bool = True) -> list[Any]:
        """All results up to the end of the request. `begun`: there is one at least."""
        pgconn, found = self.pgconn, []
        if pgconn.flush():
            self._flush(seconds)
        until = 0.0
        while True:
            if pgconn.is_busy():
                if not self._readable(seconds * 1000):
                    raise Late(f"it did not answer within {seconds:g} s")
                if not until:
                    until = time.monotonic() + seconds
                elif time.monotonic() > until:
                    raise Late(f"it did not answer within {seconds:g} s")
                pgconn.consume_input()
                continue
            result = pgconn.get_result()
            if result is None:
                break
            found.append(result)
        if pgconn.status == _BAD or (begun and not found):
            raise OperationalError(pgconn.get_error_message())
        while (notify := pgconn.notifies()) is not None:
            self.news.append(notify.relname.decode())
        return found

    def _flush(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.pgconn.flush():
            poll_one(self.fd, pq.PollingStatus.WRITING, until)
            self.pgconn.consume_input()

    def _broke(self, error: Exception) -> Any:
        self.end(first_line(str(error)))
        raise Gone(self.gone) from None

    def disclaim(self, claim: Any) -> None:
        """After an interrupt in the middle of a request for it: it has nothing, and the server is to be asked."""
        self.torn = True
        self.claims.pop(claim, None)
        held: dict[tuple[int, bool], int] = {}
        for other in self.claims:
            for key in other.keys:  # type: ignore[attr-defined]
                held[key] = held.get(key, 0) + 1
        self.held.clear()
        self.held.update(held)

    # ---- its end

    def end(self, reason: str) -> None:
        """By whoever has entered."""
        if not self.gone:
            self.gone = f"its session with {self.where} has ended: {reason}"
        self._close()
        self.tell()

    def _close(self) -> None:
        pgconn, self.pgconn = self.pgconn, None
        if pgconn is not None:
            pgconn.finish()

    def tell(self) -> None:
        """Those whose holds went with it."""
        for claim in list(self.claims):
            tell(claim, self.gone)

    def doom(self, reason: str) -> None:
        """Give it up, while another thread may still wait for an answer. That thread closes it."""
        if not self.gone:
            self.gone = f"its session with {self.where} was given up: {reason}"
        if self.enter(0.0):
            self.leave()
        self.tell()

    def finish(self) -> None:
        """Nobody needs it any more."""
        if self.enter(0.0):
            if not self.gone:
                self.gone = "it was closed"
            self.leave()

    def forget(self) -> None:
        """In a forked child: let go of the copy of the socket without a word. libpq's end-of-session message would end
        the parent's session, so its memory is left alone; psycopg's finalizer knows that it is another process."""
        if not self.gone:
            self.gone = "it is of the parent process"
            try:
                os.close(self.fd)
            except OSError:
                pass
        self._begin_anew()

    # ---- is it alive?

    def lost(self) -> str:
        """Why nothing is held on it any more, or ""."""
        if self.gone:
            return self.gone
        if self.trusted() and not closed((self.fd,), 0.0):
            return ""
        return self.verify()

    def trusted(self) -> bool:
        return clock() < self.confirmed + self.settings.ttl * TRUSTED

    def verify(self) -> str:
        """Look at what came unasked and, if the last answer is old, ask."""
        if not self.enter(0.0 if self.trusted() else GRACE):
            if CERTAIN and closed((self.fd,), 0.0):  # whoever talks with it has yet to find out, and we know
                self.doom("the server has closed the connection")
                return self.gone
            if self.trusted() or self.user == get_ident():
                return self.gone  # somebody talks with it, and will find out
            self.doom(f"it did not answer for {self.settings.ttl * TRUSTED:g} s")
            return self.gone
        try:
            if not self.gone and not self.torn:
                self.notice()
            if not self.gone and not self.trusted():
                self._ask_at_last()
        finally:
            self.leave()
        return self.gone

    def notice(self) -> None:
        """What the server says unasked: that it ends the session, or something of no interest."""
        try:
            self.pgconn.consume_input()
            while self.pgconn.notifies() is not None:
                pass
            if self.pgconn.status == _BAD:
                self.end(first_line(self.pgconn.get_error_message()))
        except OperationalError as error:
            self.end(first_line(str(error)))

    def _ask_at_last(self) -> None:
        try:
            self.ask("SELECT 1", seconds=GRACE)
        except Gone:
            pass
        except (Late, ServerError) as error:
            self.end(f"it did not answer for {clock() - self.confirmed:.1f} s ({error})")

    def beat(self) -> None:
        """Ask for a sign of life, if nobody talks with it anyway."""
        if self.gone or self.waiting or not self.enter(0.0):
            return
        try:
            self.ask("SELECT 1")
        except (Gone, Late, ServerError):
            pass  # told, or to be tried again while the ttl lasts
        finally:
            self.leave()

    # ---- as a `Source` of an io

    passing = True

    def fileno(self) -> int:
        return self.fd

    def drain(self) -> None:
        """Something came for the one who waits. It is left to that one: libpq closes its descriptor as soon as it reads
        that the connection has ended, and the event loop still has it."""
        parker = self.parker
        if parker is not None:
            parker.unpark()

    def __repr__(self) -> str:
        return f"<Session of {self.where} {self.gone or 'open'}, {len(self.claims)} held>"


def _types(params: tuple[int | str, ...]) -> list[int]:
    return [_INT8 if isinstance(each, int) else 25 for each in params]


def _checked(answer: Any) -> Any:
    if answer.status == _FATAL:
        state = (answer.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (answer.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        raise ServerError(state, message)
    return answer


def poll_one(fd: int, status: Any, until: float) -> None:
    """Until the descriptor is ready for what libpq wants."""
    seconds = max(0.0, until - time.monotonic())
    if not (reader(fd)(seconds * 1000) if status == _READING else writable(fd, seconds)):
        raise Late("no answer in time")


def first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else "no reason was given"
