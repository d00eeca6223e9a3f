"""Locks on etcd (3.4 or later), by its JSON gateway: `etcd://host:2379,host2:2379/prefix#name`, with TLS `etcds://`.

`guard(hold)` gives the comparison for a transaction of your own.
"""

from __future__ import annotations

from .core import Base
from .entries import EtcdClaim
from .guard import Guard, guard
from .server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from ..._model import Mode

__all__ = ["DEFAULT_TTL", "OPTIONS", "EtcdClaim", "EtcdEngine", "Guard", "guard", "open_engine"]

OPTIONS = frozenset({"il_ca", "il_cert", "il_key", "il_ttl", "il_verify"})

DEFAULT_TTL = 10.0
"""Seconds, where the user names none. Shorter: others wait less after the death of a process. Longer: bears more."""
LONGEST_TTL = 86400.0


class EtcdEngine(Base):
    """Exclusive locks, and where the engines of read-write locks and semaphores are found."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._siblings: dict[str, Any] = {}

    def sharing(self, mode: Mode, key: str) -> Any:
        """The engine of read-write locks in this mode."""
        from .sharing import Modes

        return self._siblings.get(mode) or self._siblings.setdefault(mode, Modes(self.server, mode))

    def counting(self, key: str) -> Any:
        """The engine of semaphores."""
        from .sharing import Permits

        return self._siblings.get("permits") or self._siblings.setdefault("permits", Permits(self.server))


def open_engine(address: Address, ttl: float | None) -> EtcdEngine:
    """The engine of a URL. Raises `ValueError` for one that makes no sense; makes no request."""
    if not address.hosts:
        raise ValueError(f"{address.public} names no host")
    if address.query:
        raise ValueError(f"{address.public}: unknown options {', '.join(sorted(address.query))}")
    if address.password is not None and address.username is None:
        raise ValueError(f"{address.public} has a password, but no user")
    chosen = DEFAULT_TTL if ttl is None else ttl
    if chosen != int(chosen) or not 1 <= chosen <= LONGEST_TTL:
        raise ValueError(f"{address.public}: a ttl on etcd is a whole number of seconds from 1 to {LONGEST_TTL:.0f}")
    options = address.options
    tls = sorted(options.keys() & {"il_ca", "il_cert", "il_key", "il_verify"})
    if tls and address.scheme != "etcds":
        raise ValueError(f"{address.public}: {', '.join(tls)} is for TLS: write etcds://")
    if options.get("il_verify", "yes") not in ("yes", "no"):
        raise ValueError(f"{address.public}: il_verify is yes or no")
    if "il_key" in options and "il_cert" not in options:
        raise ValueError(f"{address.public}: il_key is the key of il_cert, which is missing")
    return EtcdEngine(Server(address, float(chosen)))
