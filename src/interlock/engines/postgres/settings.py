"""What a URL says, checked; and the connection strings that come of it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from dataclasses import dataclass

from ..._errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from .keys import Fence, Scope

OPTIONS = frozenset(["il_connections", "il_fence", "il_scope", "il_tls", "il_ttl"])

DEFAULT_TTL = 30.0
SHORTEST_TTL = 2.0
LONGEST_TTL = 86400.0
DEFAULT_CONNECTIONS = 10
CONNECT = 5.0
"""Seconds that one host may take to accept a connection, unless the URL has `connect_timeout`."""

_OURS = {"application_name", "client_encoding", "replication", "host", "hostaddr", "port", "fallback_application_name"}


@dataclass(frozen=True)
class Settings:
    address: Address
    scope: Scope
    fence: Fence
    connections: int
    ttl: float
    connect: float

    @property
    def where(self) -> str:
        """For messages."""
        return self.address.public


def read(address: Address, ttl: float | None) -> Settings:
    """Raises `ValueError` for what makes no sense."""
    options = address.options
    where = address.public
    scope = options.get("il_scope", "session")
    if scope not in ("session", "xact"):
        raise ValueError(f"{where}: il_scope is session or xact, not {scope!r}")
    fence = options.get("il_fence", "sequence")
    if fence not in ("sequence", "xid", "table", "none"):
        raise ValueError(f"{where}: il_fence is sequence, xid, table or none, not {fence!r}")
    if fence == "table" and scope == "xact":
        raise ValueError(
            f"{where}: il_fence=table needs il_scope=session: in the transaction of the lock the token would be undone "
            "by a rollback, and given once more"
        )
    text = options.get("il_connections", str(DEFAULT_CONNECTIONS))
    if not (text.isascii() and text.isdigit() and 2 <= int(text) <= 10_000):
        raise ValueError(f"{where}: il_connections is a number from 2 to 10000, not {text!r}")
    if options.get("il_tls", "verified") not in ("verified", "unverified"):
        raise ValueError(f"{where}: il_tls is verified or unverified, not {options['il_tls']!r}")
    its = DEFAULT_TTL if ttl is None else float(ttl)
    if not SHORTEST_TTL <= its <= LONGEST_TTL:
        raise ValueError(f"{where}: ttl {its:g} is not between {SHORTEST_TTL:g} and {LONGEST_TTL:g} seconds")
    refused = sorted(_OURS & address.query.keys() - ({"host"} if not address.hosts else set()))
    if refused:
        raise ValueError(f"{where}: {', '.join(refused)} cannot be given here")
    limit = address.query.get("connect_timeout", "")
    connect = float(limit) if limit.isascii() and limit.isdigit() and int(limit) else CONNECT
    return Settings(address, scope, fence, int(text), its, connect)  # type: ignore[arg-type]


def conninfos(settings: Settings) -> list[bytes]:
    """A connection string for each address of each host, in order. Looks names up, which may take as long as the
    resolver likes, but without the interpreter's lock, unlike libpq."""
    from psycopg.conninfo import make_conninfo

    address = settings.address
    common: dict[str, Any] = dict(address.query)
    if address.username is not None:
        common["user"] = address.username
    if address.password is not None:
        common["password"] = address.password
    if address.path.strip("/"):
        common["dbname"] = address.path.removeprefix("/")
    common["application_name"] = application_name()
    common["client_encoding"] = "UTF8"
    common.setdefault("keepalives_idle", str(max(1, int(settings.ttl / 3))))
    common.setdefault("keepalives_interval", str(max(1, int(settings.ttl / 6))))
    common.setdefault("keepalives_count", "3")
    common.setdefault("tcp_user_timeout", str(int(settings.ttl * 1000)))
    _verify_tls(common, settings)
    try:
        return [make_conninfo("", **common, **one).encode() for one in _endpoints(settings)]
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "psycopg":
            raise
        reason = _without(error, settings)
        raise EngineError(f"{settings.where}: the driver does not accept this URL: {reason}") from None


def _without(error: Exception, settings: Settings) -> str:
    """The driver's words, which may repeat the password."""
    return settings.address.hide(str(error).strip())


def _verify_tls(common: dict[str, Any], settings: Settings) -> None:
    """libpq's `sslmode=require` encrypts for whoever answers. Here TLS that is asked for is verified."""
    if settings.address.options.get("il_tls") == "unverified":
        return
    if common.get("sslmode") in ("require", "verify-ca") or (
        "sslmode" not in common and any(key in common for key in ("sslrootcert", "sslcert"))
    ):
        common["sslmode"] = "verify-full"
    if common.get("sslmode") == "verify-full":
        common.setdefault("sslrootcert", "system")


def _endpoints(settings: Settings) -> list[dict[str, str]]:
    hosts = settings.address.hosts
    if not hosts:  # a Unix socket: libpq knows where, or the query's `host` says it
        return [{}]
    found: list[dict[str, str]] = []
    problem: OSError | None = None
    for host, port in hosts:
        number = port or 5432
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            found.append({"host": host, "port": str(number)})
            continue
        try:
            looked_up = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        except OSError as error:
            problem = error
            continue
        found += [
            {"host": host, "hostaddr": str(each[4][0]), "port": str(number)}
            for each in {each[4][0]: each for each in looked_up}.values()
        ]
    if not found:
        raise EngineError(f"{settings.where}: PostgreSQL cannot be reached: {problem}. Look at the host in the URL")
    return found


def application_name() -> str:
    """Who we are, for those who look into pg_stat_activity: at most 63 characters, nothing but ASCII."""
    command = os.path.basename(sys.argv[0] or "python") if sys.argv else "python"
    text = f"interlock {os.getpid()} {socket.gethostname()[:24]} {command}"
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:63]
