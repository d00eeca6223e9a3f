"""Locks in a Redis or Valkey server: `engine` has the claims, `script` the rule, `server` the connections."""

from __future__ import annotations

from ..._errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._address import Address
    from .engine import RedisEngine

__all__ = ["DEFAULT_TTL", "OPTIONS", "open_engine"]

OPTIONS = frozenset({"il_ttl", "il_namespace", "il_min_replicas", "il_settle"})

DEFAULT_TTL = 10.0
"""Seconds, where the user names none: so long others wait after the death of a holder."""
SHORTEST_TTL = 0.5
LONGEST_TTL = 86400.0


def open_engine(address: Address, ttl: float | None) -> RedisEngine:
    """See `interlock._remote.EngineModule`."""
    its = DEFAULT_TTL if ttl is None else ttl
    if not SHORTEST_TTL <= its <= LONGEST_TTL:
        raise ValueError(f"{address.public}: a ttl is {SHORTEST_TTL:g} to {LONGEST_TTL:g} seconds, not {its:g}")
    replicas = _number(address, "il_min_replicas", 0.0)
    if replicas != int(replicas):
        raise ValueError(f"{address.public}: il_min_replicas is a whole number")
    settle = _number(address, "il_settle", its)
    timeout = min(3.0, max(its / 3, 0.3))
    try:
        kwargs = _driver(address, timeout)
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise UnsupportedError(f"{address.public} needs the package redis: pip install 'interlock[redis]'") from None
    from .engine import RedisCore, RedisEngine
    from .server import Server

    server = Server(address, kwargs, timeout=float(kwargs["socket_timeout"]), settle=settle)
    return RedisEngine(RedisCore(address, server, its, address.options.get("il_namespace", ""), int(replicas)))


def _number(address: Address, key: str, default: float) -> float:
    text = address.options.get(key)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{address.public}: {key} is a number, not {text!r}")
    return value


def _driver(address: Address, timeout: float) -> dict[str, Any]:
    """What redis-py makes a connection of."""
    import redis
    from redis import connection
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from ..._address import Address as Parts

    base, _, how = address.scheme.partition("+")
    secure = base in ("rediss", "valkeys")
    path = address.path
    if how == "sentinel":
        service, _, database = path.strip("/").partition("/")
        if not service or not address.hosts:
            raise ValueError(f"{address.public}: write {address.scheme}://SENTINEL[:PORT],.../SERVICE[/DATABASE]")
        path = "/" + database if database else ""
    elif how == "cluster":
        if path.strip("/") not in ("", "0") or not address.hosts:
            raise ValueError(f"{address.public}: write {address.scheme}://NODE[:PORT],...; a cluster has no databases")
        path = ""
    elif how == "unix":
        if not path or address.hosts:
            raise ValueError(f"{address.public}: write redis+unix:///path/to/socket")
    elif len(address.hosts) > 1:
        raise ValueError(f"{address.public}: one server has one host; see redis+sentinel:// and redis+cluster://")
    if how != "unix" and path.strip("/") and not path.strip("/").isdigit():
        raise ValueError(f"{address.public}: the path is the number of a database")
    scheme = "unix" if how == "unix" else "rediss" if secure else "redis"
    hosts = address.hosts if not how else ()
    url = Parts(
        scheme, hosts, username=address.username, password=address.password, path=path, query=address.query
    ).url()
    parse: Any = connection.parse_url
    try:
        kwargs: dict[str, Any] = parse(url)
    except ValueError as error:
        raise ValueError(f"{address.public}: {address.hide(str(error), user=True)}") from None
    kwargs.setdefault("connection_class", redis.Connection)
    kwargs.setdefault("protocol", 2)
    kwargs.setdefault("socket_timeout", timeout)
    kwargs.setdefault("socket_connect_timeout", timeout)
    kwargs.setdefault("client_name", "interlock")
    kwargs["retry"] = Retry(NoBackoff(), 0)
    if how != "unix":
        kwargs.setdefault("socket_keepalive", True)
    if secure and kwargs.get("ssl_cert_reqs") not in ("none", "optional"):
        kwargs["ssl_cert_reqs"] = "required"
        kwargs.setdefault("ssl_check_hostname", True)
    return kwargs
