"""Redis and Valkey keep the promises of an engine on a server: the whole list, with real processes in every world."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import redis

from interlock.testing.conformance import Served, ServerSuite

from ..servers import Redis, Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator


_IN_USE = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'il1:*:s')) do
  local state = cmsgpack.unpack(redis.call('GET', key))
  if state.h[1] or state.q[1] then found[#found + 1] = key end
end
return found
"""


def in_use(server: Redis) -> set[str]:
    """The locks that somebody holds or waits for. Not the last tokens, which are kept for a week, nor the marks of
    calls
    that were undone, which are kept for seconds."""
    with redis.Redis(port=server.port) as client:
        found: Any = client.eval(_IN_USE, 0)
    return {key.decode() for key in found}


class ServedRedis(Served):
    ttl = 2.5
    most_connections = 9

    def __init__(self, server: Redis) -> None:
        self.server = server
        self.host, self.port = server.host, server.port

    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        user = f"{credentials}@" if credentials else ""
        return f"{self.server.url_scheme}://{user}{self.host}:{port or self.port}/0#{quote(name, safe='')}"

    def residue(self) -> set[str]:
        return in_use(self.server)

    def restart(self) -> None:
        self.server.restart(kill=True)

    def suspend(self) -> None:
        self.server.suspend()

    def resume(self) -> None:
        self.server.resume()

    def elsewhere(self, name: str) -> str | None:
        return self.target(name).replace("/0#", "/0?il_namespace=other#")


class TestServer(ServerSuite):
    engine = "redis"

    @classmethod
    @contextmanager
    def serve(cls, directory: str) -> Iterator[Served]:
        with Redis() as server:
            yield ServedRedis(server)


@pytest.mark.slow
class TestValkeyServer(ServerSuite):
    engine = "redis"

    @classmethod
    @contextmanager
    def serve(cls, directory: str) -> Iterator[Served]:
        with Valkey() as server:
            yield ServedRedis(server)
