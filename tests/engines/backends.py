"""Each real server as the conformance suite, the application test and the fight need it."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from interlock.testing.conformance import Served

from ..servers import Etcd, Postgres, Redis, Server, Valkey, ZooKeeper

if TYPE_CHECKING:
    from typing import Self


class Backend(Served):
    """A server of one kind, started for one test class, and stopped at its end."""

    scheme = ""
    path = ""
    user = ""

    def __init__(self) -> None:
        self.server = self.make()
        self.host, self.port = self.server.host, self.server.port

    def make(self) -> Server:
        raise NotImplementedError

    def url(self, port: int = 0, credentials: str = "") -> str:
        """Of a namespace."""
        login = credentials or self.user
        return f"{self.scheme}://{login + '@' if login else ''}{self.host}:{port or self.port}{self.path}"

    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        return f"{self.url(port, credentials)}#{quote(name, safe='')}"

    def restart(self) -> None:
        self.server.restart(kill=True)

    def suspend(self) -> None:
        self.server.suspend()

    def resume(self) -> None:
        self.server.resume()

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


_IN_USE = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'il1:*:s')) do
  local state = cmsgpack.unpack(redis.call('GET', key))
  if state.h[1] or state.q[1] then found[#found + 1] = key end
end
return found
"""


class RedisBackend(Backend):
    scheme = "redis"
    path = "/0"
    ttl = 1.0
    long_ttl = 30.0
    most_connections = 9

    def make(self) -> Server:
        return Redis()

    def residue(self) -> set[str]:
        """The locks that somebody holds or waits for; not the last tokens, nor the marks of calls that were undone."""
        import redis

        with redis.Redis(self.host, self.port, socket_timeout=5) as client:
            return {key.decode() for key in client.eval(_IN_USE, 0)}

    def elsewhere(self, name: str) -> str | None:
        return self.target(name).replace("/0#", "/1#")


class ValkeyBackend(RedisBackend):
    scheme = "valkey"

    def make(self) -> Server:
        return Valkey()


class PostgresBackend(Backend):
    scheme = "postgresql"
    path = "/postgres"
    user = "postgres"
    most_connections = 10
    notices = 2.0

    def make(self) -> Server:
        return Postgres()

    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        """A session that is not answered for two seconds counts as ended."""
        return f"{self.url(port, credentials)}?il_ttl=2#{quote(name, safe='')}"

    def clients(self, name: str) -> list[str]:
        return [self.target(name), self.target(name).replace("?", "?il_connections=9&")]

    def residue(self) -> set[str]:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True, connect_timeout=5) as connection:
            rows = connection.execute(
                "select classid, objid, objsubid, mode, granted from pg_locks where locktype = 'advisory'"
            ).fetchall()
        return {" ".join(map(str, row)) for row in rows}

    def elsewhere(self, name: str) -> str | None:
        return self.target(name).replace("/postgres?", "/template1?")


class EtcdBackend(Backend):
    scheme = "etcd"
    ttl = 2.0
    long_ttl = 30.0
    most_connections = 4

    def make(self) -> Server:
        return Etcd()

    def _ask(self, method: str, words: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}/v3/{method}", data=json.dumps(words).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def residue(self) -> set[str]:
        """All keys that hang on a lease."""
        everything = base64.b64encode(b"\0").decode()
        answer = self._ask("kv/range", {"key": everything, "range_end": everything})
        return {
            base64.b64decode(each["key"]).decode(errors="replace")
            for each in answer.get("kvs", ())
            if each.get("lease", "0") != "0"
        }

    def elsewhere(self, name: str) -> str | None:
        return self.target(name).replace("#", "/another/prefix#", 1)


class ZooKeeperBackend(Backend):
    scheme = "zookeeper"
    ttl = 2.0
    long_ttl = 30.0
    most_connections = 4

    def make(self) -> Server:
        return ZooKeeper()

    _client: Any = None

    def residue(self) -> set[str]:
        """All nodes that hang on a session."""
        from kazoo.client import KazooClient
        from kazoo.exceptions import NoNodeError

        if self._client is None:
            self._client = KazooClient(f"{self.host}:{self.port}", timeout=30.0)
            self._client.start(10)
        client = self._client
        found: set[str] = set()

        def walk(path: str) -> None:
            try:
                children, stat = client.get_children(path, include_data=True)
            except NoNodeError:
                return
            if stat.ephemeralOwner:
                found.add(path)
            for child in children:
                if (path, child) != ("/", "zookeeper"):
                    walk(f"{path.rstrip('/')}/{child}")

        walk("/")
        return found

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.stop()
            self._client.close()
        super().__exit__()

    def elsewhere(self, name: str) -> str | None:
        return self.target(name).replace("#", "/chroot#", 1)


BACKENDS: dict[str, type[Backend]] = {
    "redis": RedisBackend,
    "valkey": ValkeyBackend,
    "postgres": PostgresBackend,
    "etcd": EtcdBackend,
    "zookeeper": ZooKeeperBackend,
}
"""By the name that the fight is told."""
