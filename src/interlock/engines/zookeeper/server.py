"""What a URL says of an ensemble, and kazoo's clients for it. kazoo is loaded here, and only at the first connect."""

from __future__ import annotations

import logging
import socket

from ..._errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Any

    from ..._address import Address

__all__ = ["DEFAULT_TTL", "Server"]

DEFAULT_TTL = 10.0
"""Seconds. The server has the last word: with its defaults, from two to twenty ticks."""
PORT = 2181


class _Secret(str):
    """Credentials as kazoo gets them: it logs its requests, and shows them in errors."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


class _Quiet(logging.Logger):
    """kazoo's words on each attempt to connect are for who looks for a fault; what fails for it is raised."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as it is called there
        assert self.parent is not None
        return self.parent.isEnabledFor(level)

    info = warning = logging.Logger.debug


class Kazoo:
    """The names of kazoo that are used here."""

    def __init__(self) -> None:
        from kazoo import client, exceptions, security
        from kazoo.handlers.threading import KazooTimeoutError
        from kazoo.protocol import connection, states

        from . import requests

        self.KazooClient: Any = client.KazooClient
        self.ConnectionDropped: Any = connection.ConnectionDropped
        self.NoNodeError: Any = exceptions.NoNodeError
        self.NodeExistsError: Any = exceptions.NodeExistsError
        self.UnimplementedError: Any = exceptions.UnimplementedError
        self.ConnectionLoss: Any = exceptions.ConnectionLoss
        over = states.KeeperState
        self.OVER = (over.AUTH_FAILED, over.CLOSED, over.EXPIRED_SESSION)
        """States of a client that sends nothing any more."""
        self.DISCONNECTED = (exceptions.ConnectionLoss, exceptions.SessionMovedError, KazooTimeoutError)
        self.SESSION_OVER = (exceptions.SessionExpiredError, exceptions.ConnectionClosedError)
        self.open_acl: Any = security.OPEN_ACL_UNSAFE
        self.creator_acl: Any = security.CREATOR_ALL_ACL
        self.Create2: Any = requests.Create2
        self.CreateContainer: Any = requests.CreateContainer
        self.Delete: Any = requests.Delete
        self.GetChildren: Any = requests.GetChildren
        self.GetData: Any = requests.GetData
        self.SetData: Any = requests.SetData
        self.Sync: Any = requests.Sync


class Server:
    """The servers of one ensemble, as one URL names them."""

    def __init__(self, address: Address, ttl: float | None) -> None:
        self.address = address
        self.public = address.public
        self.ttl = DEFAULT_TTL if ttl is None else ttl
        self.root = address.path.rstrip("/")
        self._hosts = ",".join(
            f"[{host}]:{port or PORT}" if ":" in host else f"{host}:{port or PORT}" for host, port in address.hosts
        )
        self._credentials = None
        if address.username is not None:
            self._credentials = _Secret(f"{address.username}:{address.password or ''}")
        self.tls = address.scheme in ("zookeepers", "zks")
        self._kazoo: Kazoo | None = None

    @property
    def kazoo(self) -> Kazoo:
        if self._kazoo is None:
            self._kazoo = Kazoo()
        return self._kazoo

    @property
    def acl(self) -> Any:
        """With credentials, what is made belongs to them alone."""
        return self.kazoo.open_acl if self._credentials is None else self.kazoo.creator_acl

    def client(self) -> Any:
        """A new one, not yet started."""
        logger = _Quiet("interlock.zookeeper")
        logger.parent = logging.getLogger("interlock.zookeeper")
        client = self.kazoo.KazooClient(
            hosts=self._hosts,
            timeout=self.ttl,
            auth_data={("digest", self._credentials)} if self._credentials is not None else None,
            connection_retry={"max_tries": -1, "delay": 0.05, "backoff": 2, "max_jitter": 0.4, "max_delay": 1.0},
            logger=logger,
        )
        if self.tls:
            self._secure(client.handler)
        needed = all(hasattr(client, name) for name in ("_call", "_queue", "_state", "_session_id", "_connection"))
        if not needed or not all(hasattr(client._connection, name) for name in ("_connect", "_write_sock")):
            raise EngineError(
                f"{self.public}: this version of kazoo is built otherwise than the engine expects, so nothing can be "
                "locked: install kazoo>=2.10,<3"
            )
        return client

    # ---- TLS

    def _trust(self) -> SSLContext:
        """The certificate and the host's name are verified, unless the URL says otherwise in so many words."""
        import ssl

        options = self.address.options
        try:
            context = ssl.create_default_context(cafile=options.get("il_ca"))
            if "il_cert" in options:
                context.load_cert_chain(options["il_cert"], options["il_key"])
        except OSError as error:  # ssl.SSLError is one
            raise EngineError(
                f"{self.public}: il_ca, il_cert or il_key of this zookeeper cannot be used: {error}"
            ) from None
        if options.get("il_verify") == "no":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _secure(self, handler: Any) -> None:
        """kazoo's own way leaves a socket open where the handshake fails."""
        context = self._trust()

        def create(address: tuple[str, int], hostname: str, timeout: float, **_: object) -> Any:
            plain = socket.create_connection(address, timeout)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return context.wrap_socket(plain, server_hostname=hostname)
            except BaseException:
                plain.close()
                raise

        handler.create_connection = create
        _see_what_is_pending(handler)


def _see_what_is_pending(handler: Any) -> None:
    """kazoo asks select(2) whether there is something to read. It does not see what TLS has read already: of two
    answers in one record the second would lie there until the server says something more."""
    select = handler.select

    def selected(read: list[Any], write: list[Any], errors: list[Any], timeout: float | None = None) -> Any:
        pending = [each for each in read if hasattr(each, "pending") and each.pending()]
        found = select(read, write, errors, 0.0 if pending else timeout)
        return [each for each in read if each in pending or each in found[0]], *found[1:]

    handler.select = selected
