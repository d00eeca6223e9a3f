"""What all engines of one URL share: requests, the process's lease, the listener."""

from __future__ import annotations

from .client import Client
from .lease import Leases
from .watch import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from .entries import EtcdClaim

__all__ = ["Server"]


class Server:
    """One cluster, as this process sees it with one ttl."""

    def __init__(self, address: Address, ttl: float) -> None:
        self.address = address
        self.ttl = ttl
        self.options: dict[str, Any] = {}
        prefix = address.path.strip("/")
        self.root = prefix + "/" if prefix else ""
        self.client = Client(address)
        self.leases = Leases(self.client, ttl)
        self.listener = Listener(self.client)

    def claims(self) -> list[EtcdClaim]:
        """Those of this process."""
        return self.leases.claims()

    def close(self) -> None:
        self.leases.close()
        self.client.close()
