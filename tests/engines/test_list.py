"""Every engine with a server passes the whole list, with its real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.testing.conformance import Served, ServerSuite

from .backends import BACKENDS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Listed(ServerSuite):
    """`backend`: its key in `BACKENDS`."""

    backend = ""

    @classmethod
    def serve(cls, directory: str) -> AbstractContextManager[Served]:
        return BACKENDS[cls.backend]()


if "redis" in BACKENDS:

    class TestRedis(Listed):
        engine = backend = "redis"

    class TestValkey(Listed):
        engine = "redis"
        backend = "valkey"


if "postgres" in BACKENDS:

    class TestPostgres(Listed):
        engine = "postgresql"
        backend = "postgres"


if "etcd" in BACKENDS:

    class TestEtcd(Listed):
        engine = backend = "etcd"


if "zookeeper" in BACKENDS:

    class TestZooKeeper(Listed):
        engine = backend = "zookeeper"
