"""What a URL says of an ensemble, and kazoo's clients for it. kazoo is loaded here, and only at the first connect."""

from __future__ import annotations

import logging

from ..._errors import EngineError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        try:
            from kazoo import client, exceptions, security
            from kazoo.handlers.threading import KazooTimeoutError
            from kazoo.protocol import connection, states

            from . import requests
        except ImportError as error:
            raise UnsupportedError(
                "zookeeper:// URLs need the package kazoo: install interlock[zookeeper]"
            ) from error
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
        needed = all(hasattr(client, name) for name in ("_call", "_queue", "_state", "_session_id", "_connection"))
        if not needed or not all(hasattr(client._connection, name) for name in ("_connect", "_write_sock")):
            raise EngineError(
                f"{self.public}: this version of kazoo is built otherwise than the engine expects, so nothing can be "
                "locked: install kazoo>=2.10,<3"
            )
        return client
