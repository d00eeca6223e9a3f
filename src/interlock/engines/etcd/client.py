"""Requests to etcd's JSON gateway: connections, several endpoints, TLS, users, and errors in one place.

Every request of this package may be made twice without harm: each names keys or leases that are its maker's own, and
compares before it writes. So a request whose answer is lost is simply made again, at the next endpoint. Who must know
whether one of them may still be under way (an answer that is lost does not mean that the request is) passes a `tally`.

A request takes a connection that nobody uses, or opens one, and puts it back: there are as many as threads that make
requests at the same moment. No lock is held meanwhile, that an interrupted thread could leave locked.
"""

from __future__ import annotations

import json
import select
import sys
from base64 import b64decode, b64encode
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic, sleep

from ..._core import fork
from ..._errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Any, Protocol

    from ..._address import Address

    class Tally(Protocol):
        pending: int
        """Counts each request that is sent. Who gets an answer takes one off."""

__all__ = ["PATIENCE", "Client", "LeaseMissing", "number", "plain", "text"]

PATIENCE = 6.0
"""Seconds in which a request is tried at all endpoints, again and again, before it fails."""
ANSWER = 5.0
"""Seconds that one attempt may take: an election without a leader takes one or two."""
CONNECT = 2.0
_IDLE = 8
"""Connections that are kept open although nobody uses them."""
_PORT = 2379
_MOST = 64 << 20
"""Bytes of an answer that are read."""
_NOT_FOUND, _EXISTS, _UNAVAILABLE, _UNAUTHENTICATED = 5, 9, (4, 14), 16
_NO_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")


class LeaseMissing(EngineError):
    """The server knows no such lease (any more)."""


def text(data: bytes) -> str:
    """Bytes as the gateway wants them."""
    return b64encode(data).decode()


def plain(data: str) -> bytes:
    return b64decode(data)


def understood(answer: bytes) -> dict[str, Any]:
    """The object that the gateway answers. Raises `ValueError`: whoever answers there may be anything."""
    if len(answer) > _MOST:
        raise ValueError(f"its answer has more than {_MOST} bytes")
    try:
        found = json.loads(answer)
    except RecursionError:
        raise ValueError("its answer is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it does not answer as etcd does")
    return found


def number(answer: dict[str, Any], key: str) -> int:
    """An integer of the gateway: a string, and left out where it is 0. Raises `ValueError` or `TypeError` where it is
    none."""
    try:
        return int(answer.get(key, 0))
    except OverflowError:  # a float, beyond all numbers
        raise ValueError(f"{key} is no number") from None


class _InOnePiece(HTTPConnection):
    """http.client sends the head, and then the body; the server wakes up for each of them."""

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        pieces: list[bytes] = []
        self.send = pieces.append  # type: ignore[method-assign,assignment]
        try:
            super().endheaders(message_body, encode_chunked=encode_chunked)
        finally:
            del self.send
        self.send(b"".join(pieces))


class _Secured(_InOnePiece, HTTPSConnection):
    """The same over TLS."""


class Client:
    """The endpoints of one URL."""

    def __init__(self, address: Address) -> None:
        self.public = address.public
        self.endpoints = [(host, port or _PORT) for host, port in address.hosts]
        self.tls = address.scheme == "etcds"
        self.preferred = 0
        self._options = address.options
        self._hide = address.hide
        self._user, self._password = address.username, address.password or ""
        self._token = ""
        self._context: SSLContext | None = None
        self._idle: list[HTTPConnection] = []
        self._open: dict[HTTPConnection, None] = {}
        fork.in_child(self._forget)

    def call(
        self, path: str, body: dict[str, Any], *, limit: float = PATIENCE, tally: Tally | None = None
    ) -> dict[str, Any]:
        """The answer of the first endpoint that has one. `limit`: seconds for all attempts.

        Raises `LeaseMissing`, and `EngineError` for whatever else the server refuses, and if none answers in time: then
        it is not known what became of the request.
        """
        until = monotonic() + limit
        data = json.dumps(body).encode()
        failures: dict[str, str] = {}
        pause = 0.05
        tries = 0
        while True:
            endpoint = self.preferred
            left = until - monotonic()
            try:
                self.ready()
                status, answer = self._once(endpoint, path, data, max(min(left, ANSWER), 0.1), tally)
                if status == 200:
                    return answer
                self._refused(path, answer)
                failures[self.name(endpoint)] = str(answer.get("message") or answer.get("error"))
            except (OSError, HTTPException, ValueError) as error:
                self._require_trust(error)
                failures[self.name(endpoint)] = str(error) or type(error).__name__
            self.skip(endpoint)
            tries += 1
            if monotonic() + pause >= until:
                raise self.unreachable(failures)
            if tries % len(self.endpoints) == 0:
                sleep(pause)
                pause = min(2 * pause, 0.5)

    def name(self, endpoint: int) -> str:
        host, port = self.endpoints[endpoint % len(self.endpoints)]
        return f"{host}:{port}"

    def skip(self, failed: int) -> None:
        """Ask another endpoint from now on, unless others do so already."""
        if self.preferred == failed:
            self.preferred = (failed + 1) % len(self.endpoints)

    def unreachable(self, failures: dict[str, str]) -> EngineError:
        what = self._hide("; ".join(f"{name}: {why}" for name, why in failures.items()))
        return EngineError(f"{self.public}: etcd does not answer ({what}): is it running, and is the URL right?")

    # ---- one attempt

    def _once(
        self, endpoint: int, path: str, data: bytes, seconds: float, tally: Tally | None
    ) -> tuple[int, dict[str, Any]]:
        connection = self._take(endpoint, seconds)
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(seconds)
            if tally is not None:
                tally.pending += 1
            connection.request("POST", path, data, self.headers())
            response = connection.getresponse()
            answer = response.read(_MOST + 1)
        except BaseException:
            self.discard(connection)
            raise
        if response.will_close or len(self._idle) >= _IDLE:
            self.discard(connection)
        else:
            self._idle.append(connection)
        return response.status, understood(answer)

    def headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _take(self, endpoint: int, seconds: float) -> HTTPConnection:
        where = self.endpoints[endpoint % len(self.endpoints)]
        for connection in tuple(self._idle):
            if (connection.host, connection.port) == where:
                try:
                    self._idle.remove(connection)
                except ValueError:  # another thread took it
                    continue
                if not _ended(connection):
                    return connection
                self.discard(connection)
        return self.connection(endpoint, min(seconds, CONNECT))

    def connection(self, endpoint: int, seconds: float) -> HTTPConnection:
        """A new one, not connected yet. `seconds`: for the connecting."""
        host, port = self.endpoints[endpoint % len(self.endpoints)]
        if self.tls:
            connection: HTTPConnection = _Secured(host, port, timeout=seconds, context=self._trust())
        else:
            connection = _InOnePiece(host, port, timeout=seconds)
        self._open[connection] = None
        return connection

    def discard(self, connection: HTTPConnection) -> None:
        self._open.pop(connection, None)
        connection.close()

    def close(self) -> None:
        """Those that nobody uses."""
        while self._idle:
            self.discard(self._idle.pop())

    def _forget(self) -> None:
        """In a forked child: the parent goes on with its connections."""
        for connection in list(self._open):
            connection.close()  # closes this process's descriptor, and says nothing
        self._open.clear()
        self._idle.clear()

    # ---- TLS

    def _trust(self) -> SSLContext:
        if self._context is None:
            import ssl

            options = self._options
            try:
                context = ssl.create_default_context(cafile=options.get("il_ca"))
                if "il_cert" in options:
                    context.load_cert_chain(options["il_cert"], options.get("il_key"))
            except OSError as error:  # ssl.SSLError is one
                raise EngineError(
                    f"{self.public}: il_ca, il_cert or il_key of this etcd cannot be used: {error}"
                ) from None
            if options.get("il_verify") == "no":
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._context = context
        return self._context

    def _require_trust(self, error: Exception) -> None:
        """Who cannot be trusted now will not be the next time."""
        if self.tls and hasattr(error, "verify_message"):
            raise EngineError(
                f"{self.public}: the certificate of etcd is not to be trusted: {error.verify_message}; il_ca names the"
                " file of the authority that issued it"
            ) from None

    # ---- users, and what the server refuses

    def _authenticate(self) -> str:
        body = json.dumps({"name": self._user, "password": self._password}).encode()
        status, answer = self._once(self.preferred, "/v3/auth/authenticate", body, ANSWER, None)
        if status == 200:
            return str(answer.get("token", ""))
        said = self._said(answer)
        if "authentication is not enabled" in said:  # as etcd's own client: then everybody may do everything
            self._user = None
            return ""
        if answer.get("code") in _UNAVAILABLE:
            raise OSError(said)
        raise EngineError(f"{self.public}: etcd refuses this user: {said.removeprefix('etcdserver: ')}")

    def _said(self, answer: dict[str, Any]) -> str:
        """The server's words; what it was told may be among them."""
        return self._hide(str(answer.get("message") or answer.get("error") or answer))

    def ready(self) -> None:
        """See to it that `headers` say who we are."""
        if self._user is not None and not self._token:
            self._token = self._authenticate()

    def forget_token(self) -> None:
        self._token = ""

    def _refused(self, path: str, answer: dict[str, Any]) -> None:
        """Raise what is final; return for what another attempt may get round."""
        said, code = self._said(answer), answer.get("code")
        if any(words in said for words in _NO_TOKEN) and self._user is not None:
            self._token = ""  # it has run out: they last some minutes
            return
        if "requested lease not found" in said:
            raise LeaseMissing(f"{self.public}: etcd has ended the lease")
        if code in _UNAVAILABLE or "no leader" in said or "timed out" in said or "too many requests" in said:
            return
        hint = ""
        if "permission denied" in said or "user name is empty" in said:
            hint = "; the user of the URL needs permission to read and write below its prefix"
        raise EngineError(f"{self.public}: etcd refuses {path}: {said.removeprefix('etcdserver: ')}{hint}")


def _ended(connection: HTTPConnection) -> bool:
    """Has the server closed it while it was idle? Then nothing that is sent now arrives."""
    if connection.sock is None:
        return True
    try:
        if sys.platform != "win32":
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([connection.sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True
