"""The session of this process with an ensemble: requests, the clock of its trust, and its end.

Theory of operation
-------------------
ZooKeeper keeps the entries of a session as long as the *leader* hears of it within its timeout. So what an entry is
worth here is a question of time: the leader counts from the last sign of life that reached it. `deadline` is a
moment, on this machine's clock, before which it cannot have given the session up:

- A connect, and a reconnect, is a sign of life at the leader itself. It counts from when it was begun.
- A request is answered by the server that the client is connected to. A follower passes signs of life on with its
  answer to the leader's next ping, half a tick later; cut off from the leader it goes on answering reads and pings
  for seconds, while the leader gives the session up. A `sync` goes through the leader, and on its way brings what the
  follower had to tell by the ping before. So an answered `sync` proves the sign of life *before* it, if that is at
  least half a tick older: a quarter of the timeout, which by default is two ticks at least. (A session shorter than
  two ticks, which an administrator must have allowed explicitly, is not covered by this.)

A thread of the session's own sends a `sync` each quarter of the timeout, whether anything is held or not, so the
deadline is about half a timeout to three quarters away at any time. If it passes, `era` moves on: what was granted in
an earlier era is lost, although the session may live on (the process was stopped, the network was cut). Entries of
lost holds are deleted as soon as there is a connection: their owners have been told.

One `Session` is one session of the server's. When that expires it is `dead`, its client is stopped before it begins
another one, and the next acquire opens a new `Session`. One that is cut off until the server must have ended it ends
itself if nothing is held or waited for: it would try to connect for ever.

The parts of kazoo used here that it does not document (`_call`, `_queue`, `_state`, and `_connect` to learn the timeout
that was agreed on) are looked for at the first connect; without them nothing is locked."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from functools import partial
from socket import SHUT_RDWR
from time import monotonic

from ..._core.arbiter import alive
from ..._core.lost import tell
from ..._errors import EngineError
from ..._wait.keeping import now
from ..._wait.workers import workers
from .answers import Answer, tell_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .core import Base
    from .entries import ZooKeeperClaim
    from .server import Server

__all__ = ["Disconnected", "Session", "SessionOver"]

PATIENCE = 5.0
"""Seconds for a connection to be made, or to come back, before an acquire fails."""
COUNTED = 0.97
"""Of the timeout: clocks may differ in speed."""
BEAT = 0.26
"""Of the timeout: how often a sign of life is given."""
HALF_A_TICK = 0.25
"""Of the timeout, at most."""
NAP = 1.0
LINGER = 1.0
"""Seconds for which a parent without entries of ours is left in place: it is likely to be used again."""
AT_EXIT = 1.0
CONNECT = 1.5
"""Seconds for one server to accept a connection, and as long again to answer in it."""
HANDSHAKE = 4.0
"""The same over TLS: a server that has just been started loads much for its first one."""


class Disconnected(Exception):
    """The connection went while a request was under way: whether it was executed is not known."""


class SessionOver(Exception):
    """The server has ended the session, and removed all that was its."""


class Session:
    """See above. All methods may be called in any thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pid = os.getpid()
        self.id: int | None = None
        self.timeout = 0.0
        self.dead = ""
        self.era = 0
        self.deadline = float("-inf")
        self.claims: dict[ZooKeeperClaim, None] = {}
        self.parents: dict[str, list[float]] = {}
        """Paths known to exist -> how many entries we have there, and since when there is none."""
        self._mutex = threading.RLock()  # a signal handler may renew in the middle of a renewal
        self._signs: deque[float] = deque(maxlen=16)
        self._next_beat = float("inf")
        self._up = threading.Event()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._closing = False
        self._cause = "no answer"
        self._leftovers: dict[ZooKeeperClaim, None] = {}

    # ---- beginning and end

    def open(self, seconds: float) -> None:
        """Raises `EngineError` if there is no connection in time."""
        self._client = client = self.server.client()
        connection = client._connection
        connect = connection._connect

        def connected(host: str, address: str, port: int) -> tuple[float, float]:
            if self.dead:
                raise self.server.kazoo.ConnectionDropped("the session has ended")
            began = now()
            try:
                read, other = connect(host, address, port)
            except Exception as error:
                self._cause = str(error) or type(error).__name__
                raise
            self._connected(began, read * 1.5 / 1000)  # kazoo gives two thirds of the timeout, in milliseconds
            return read, other

        connection._connect = connected
        _hurry(client, HANDSHAKE if self.server.tls else CONNECT)
        tell_at_once(client.handler)
        client.add_listener(self._changed)
        client.start_async()
        atexit.register(self.close, AT_EXIT)
        threading.Thread(target=self._run, name="interlock zookeeper", daemon=True).start()
        if not self._up.wait(seconds) or self.dead:
            cause = self.dead or self._cause
            self.close(0.0)
            raise self.unreachable(cause)

    def _connected(self, began: float, timeout: float) -> None:
        with self._mutex:
            if self.id is None:
                self.id = self._client._session_id
            elif self.id != self._client._session_id:
                self._die("its session was replaced by another one")
                raise self.server.kazoo.ConnectionDropped("the session has ended")
            self.timeout = timeout
            self._signs.clear()
            self._signs.append(began)
            self._trust(began)
            self._next_beat = now()
        self._up.set()
        self._wake.set()

    def _changed(self, state: str) -> None:
        """Called by kazoo's thread of the connection."""
        if state == "SUSPENDED":
            self._up.clear()
        elif state == "LOST":
            self._die("its session was ended by the server: it was not heard of within its timeout")
            self._up.set()  # whoever waits for it learns that there is nothing to wait for

    def _die(self, reason: str) -> None:
        if self.dead or self._closing:
            return
        if self.id is None:
            reason = f"the session was refused: {self._cause}"
        self.dead = reason
        for claim in list(self.claims):
            self._tell(claim, reason)
        self._wake.set()

    def close(self, seconds: float | None = None) -> None:
        """End the session, which removes its entries, and wait for that (None: as long as it takes)."""
        self._closing = True
        self.dead = self.dead or "it was closed"
        self._wake.set()
        atexit.unregister(self.close)
        self._ended.wait(seconds)

    def disown(self) -> None:
        """In a forked child: close its copies of the sockets without a word, and run nothing of it."""
        self.dead = "it is the parent's"
        client = getattr(self, "_client", None)
        if client is None:
            return
        atexit.unregister(self.close)
        atexit.unregister(client.handler.stop)
        connection = client._connection
        for each in (connection._socket, connection._read_sock, connection._write_sock):
            if each is not None:
                each.close()

    # ---- requests

    def send(self, request: Any, then: Callable[[Answer], object] | None = None) -> Answer:
        """Begin a request; all are executed in the order in which they were begun. `then` is called with the answer, in
        kazoo's thread of the connection. Takes no lock that an interrupted call of this thread could have.
        """
        answer, client, kazoo = Answer(then), self._client, self.server.kazoo
        if client._state in kazoo.OVER:
            client._call(request, answer)  # which says why not
            return answer
        # As `_call` does it, but that catches whatever is raised meanwhile, KeyboardInterrupt too, and says that the
        # session is closed although the request will be executed.
        client._queue.append((request, answer))
        try:
            client._connection._write_sock.send(b"\0")
        except (OSError, AttributeError):  # it is being closed
            answer.set_exception(kazoo.ConnectionLoss())
        return answer

    def ask(self, *requests: Any, until: float | None = None) -> list[Any]:
        """Send all, then wait for all: one trip. A server's error is returned in place of an answer.

        `until`: monotonic; where left out, `PATIENCE` from now. Raises `Disconnected` if their outcome is not known,
        `SessionOver` if it does not matter any more.
        """
        if self.dead:
            raise SessionOver(self.dead)
        results = [self.send(request) for request in requests]
        seconds = PATIENCE if until is None else max(until - monotonic(), 0.1)
        results[-1].wait(seconds)  # they are answered in order
        return [self._answer(result) for result in results]

    def _answer(self, result: Answer) -> Any:
        kazoo = self.server.kazoo
        if not result.there:
            raise Disconnected("no answer in time")
        error = result.exception
        if error is None:
            return result.value
        if self.dead or isinstance(error, kazoo.SESSION_OVER):
            raise SessionOver(self.dead or str(error))
        if isinstance(error, kazoo.DISCONNECTED):
            raise Disconnected(str(error) or type(error).__name__)
        return error

    def await_up(self, until: float) -> None:
        """Wait for a connection, and for the right to trust it, until `until` (monotonic).

        Raises `EngineError`, `SessionOver`.
        """
        while not self.dead:
            if self._up.is_set() and now() < self.deadline:
                return
            if monotonic() >= until:
                raise self.unreachable(self._cause if not self._up.is_set() else "it does not answer in time")
            self._up.wait(until - monotonic()) if not self._up.is_set() else self._ended.wait(0.01)
        raise SessionOver(self.dead)

    def unreachable(self, cause: str) -> EngineError:
        return EngineError(
            f"{self.server.public}: the zookeeper engine cannot lock there: {self.server.address.hide(cause)}. Check "
            f"that the servers run and can be reached from here; one of them must answer within {PATIENCE:g} s"
        )

    # ---- trust

    def _trust(self, sign: float) -> None:
        """With the mutex: the leader has heard of us at `sign` or later."""
        if now() >= self.deadline > float("-inf"):
            self.era += 1  # before the deadline moves: see `gone`
        self.deadline = max(self.deadline, sign + self.timeout * COUNTED)

    def _beaten(self, began: float, result: Answer) -> None:
        if result.exception is not None:
            return
        with self._mutex:
            before = [sign for sign in self._signs if sign <= began - self.timeout * HALF_A_TICK]
            self._signs.append(began)
            if before:
                self._trust(max(before))

    def gone(self, claim: ZooKeeperClaim) -> str:
        """Why what this claim was granted is lost, or "". Makes no request."""
        deadline = self.deadline
        if self.dead:
            return self.dead
        if now() >= deadline or claim.era != self.era:  # in this order: the era moves before the deadline
            return (
                f"the server was not heard within the session's timeout of {self.timeout:g} s: the process or its "
                "machine stood still, or the network was cut"
            )
        return ""

    def beat(self) -> None:
        """Give a sign of life now, and wait for the answer."""
        began = now()
        result = self.send(self.server.kazoo.Sync("/"))
        result.wait(PATIENCE)
        if result.there:
            self._beaten(began, result)

    # ---- the thread of the session

    def _run(self) -> None:
        try:
            while not self.dead and self.pid == os.getpid():
                self._look()
                self._wake.wait(self._nap(now()))
                self._wake.clear()
        finally:
            self._end()

    def _nap(self, time: float) -> float:
        due = [self._next_beat - time] if self._up.is_set() else []
        if self.deadline > time:
            due.append(self.deadline - time)
        return min(NAP, max(min(due, default=NAP), 0.0))

    def _look(self) -> None:
        time = now()
        if time >= self.deadline and self.id is not None:
            self._lapse()
            if time >= self.deadline + self.timeout and not self._up.is_set() and not self._needed():
                self._die("no server could be reached within its timeout, and nothing was held or waited for")
                self._up.set()  # as in `_changed`
        if self._up.is_set() and not self.dead:
            if time >= self._next_beat:
                self._next_beat = time + self.timeout * BEAT
                self.send(self.server.kazoo.Sync("/"), lambda result: self._beaten(time, result))
            self._sweep()

    def _needed(self) -> bool:
        """Does anybody hold, wait or ask? What was lost, or let go in vain, ends with the session."""
        return any(not claim.given_up and claim not in self._leftovers for claim in list(self.claims))

    def _lapse(self) -> None:
        """The deadline has passed: tell those who hold, then give up what they held."""
        for claim in list(self.claims):
            if claim.since and not claim.given_up:
                self._give_up(claim)
        if self._up.is_set() and not self.dead:
            # Connected, but behind: trust comes back at once with a new connection, with `sync` only later.
            self._up.clear()
            connection = self._client._connection._socket
            if connection is not None:
                try:
                    connection.shutdown(SHUT_RDWR)
                except OSError:  # it is broken already
                    pass

    def _give_up(self, claim: ZooKeeperClaim) -> None:
        claim.given_up = True
        self._tell(claim, self.gone(claim))
        _engine(claim).drop(claim)

    def _tell(self, claim: ZooKeeperClaim, reason: str) -> None:
        parker = claim.parker
        if claim.since:
            if reason and claim.depth and alive(claim):
                claim.gone = claim.gone or reason
                tell(claim, reason)
        elif parker is not None:
            parker.unpark()

    def removed(self, claim: ZooKeeperClaim) -> None:
        """Its entry is not there any more. Others are told in a thread of ours: what they do then may take long."""
        if claim.session is self and claim.depth and not self.dead:
            workers().submit(partial(self._tell, claim, "its entry was removed by somebody else"))

    def _sweep(self) -> None:
        """While connected: watch what is held, remove what is left over."""
        for claim in list(self.claims):
            if claim.since and not claim.given_up and self.gone(claim):
                self._give_up(claim)  # the deadline passed, and moved on, while it was being granted
            elif claim.since and claim.depth and not (claim.guarded or claim.told):
                _engine(claim).watch_loss(claim)
        for claim in list(self._leftovers):
            if self._leftovers.pop(claim, False) is None:
                workers().submit(partial(_engine(claim).let_go, claim))
        time = monotonic()
        for path, (number, idle) in list(self.parents.items()):
            if not number and time - idle >= LINGER:
                self.forget_parent(path)

    def forget_parent(self, path: str) -> None:
        """Remove it if nobody has an entry there; the server refuses otherwise."""
        self.parents.pop(path, None)
        self.send(self.server.kazoo.Delete(path, -1))

    def leave_over(self, claims: Iterable[ZooKeeperClaim]) -> None:
        """To be let go as soon as there is a connection, should the session live until then."""
        self._leftovers.update(dict.fromkeys(claims))
        self._wake.set()

    def _end(self) -> None:
        """Stop the client; kazoo ends the session if it is connected, and joins its threads."""
        try:
            if self.pid == os.getpid():
                for path in list(self.parents):
                    if self._up.is_set() and self._closing:
                        self.forget_parent(path)
                self._client.stop()
                self._client.close()
        except Exception:  # noqa: BLE001 - whatever kazoo raises, the session is over
            logging.getLogger("interlock.zookeeper").debug("the client did not stop well", exc_info=True)
        finally:
            self._ended.set()


def _hurry(client: Any, seconds: float) -> None:
    """kazoo gives a server the session's whole timeout to answer a connect. One that has just been started may accept
    the connection and never answer, and then the session would be over before it is asked again."""
    connection, handler = client._connection, client.handler
    invoke, create = connection._invoke, handler.create_connection

    def invoked(timeout: float, *args: Any, **options: Any) -> Any:  # used for connects only
        return invoke(min(timeout, seconds), *args, **options)

    def created(*args: Any, **options: Any) -> Any:
        return create(*args, **{**options, "timeout": min(options.get("timeout", seconds), seconds)})

    connection._invoke, handler.create_connection = invoked, created


def _engine(claim: ZooKeeperClaim) -> Base:
    its: Any = claim.line.engine
    return its  # type: ignore[no-any-return]
