"""Locks on an ensemble of ZooKeeper: `zookeeper://host:2181,host:2181/chroot#name`.

`core` enters, leaves and waits in the queue of a lock; `entries` says who in it holds; `session` knows how long that
may be believed; `ensemble` keeps one for each URL; `sharing` adds read-write locks and semaphores."""

from __future__ import annotations

from importlib.util import find_spec

from ..._errors import UnsupportedError
from .core import Base
from .ensemble import Ensemble
from .server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from ..._model import Mode

__all__ = ["OPTIONS", "ZooKeeperEngine", "open_engine"]

_TLS = {"il_ca", "il_cert", "il_key", "il_verify"}
OPTIONS = frozenset({"il_ttl", *_TLS})


class ZooKeeperEngine(Base):
    """The engine of exclusive locks: writers without readers."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__(ensemble)
        self._siblings: dict[str, Any] = {}

    def sharing(self, mode: Mode, key: str) -> Any:
        """The engine of read-write locks in this mode. A `Lock` of the same name excludes them."""
        from .sharing import Modes

        return self._siblings.get(mode) or self._siblings.setdefault(mode, Modes(self.ensemble, mode))

    def counting(self, key: str) -> Any:
        """The engine of semaphores."""
        from .sharing import Permits

        return self._siblings.get("semaphore") or self._siblings.setdefault("semaphore", Permits(self.ensemble))

    def close(self) -> None:
        """End the session, unless something is held or waited for in it. The next acquire begins another one."""
        self.ensemble.close()


def open_engine(address: Address, ttl: float | None) -> ZooKeeperEngine:
    """The engine of one URL. Connects to nobody yet.

    `ttl` (seconds, 10 where left out): the timeout of the session that is asked for; the server puts it between two and
    twenty of its ticks.

    Raises `ValueError` for a URL that makes no sense to it, and `UnsupportedError` where kazoo is missing.
    """
    if not address.hosts:
        raise ValueError(f"{address.public} names no server: write zookeeper://host:2181#name")
    if address.query:
        raise ValueError(f"{address.public}: the zookeeper engine knows no options {sorted(address.query)}")
    options = address.options
    tls = sorted(options.keys() & _TLS)
    if tls and address.scheme not in ("zookeepers", "zks"):
        raise ValueError(f"{address.public}: {', '.join(tls)} is for TLS: write zookeepers://")
    if options.get("il_verify", "yes") not in ("yes", "no"):
        raise ValueError(f"{address.public}: il_verify is yes or no")
    if ("il_key" in options) != ("il_cert" in options):
        raise ValueError(f"{address.public}: il_cert and il_key go together")
    if ttl is not None and not 0.1 <= ttl <= 86400:
        raise ValueError(f"{address.public}: a ttl of {ttl:g} s is not between 0.1 and 86400")
    if find_spec("kazoo") is None:  # to import it takes a while, so that is left to the first lock
        raise UnsupportedError(f"{address.public} needs the package kazoo: pip install 'interlock[zookeeper]'")
    return ZooKeeperEngine(Ensemble(Server(address, ttl)))
