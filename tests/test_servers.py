"""The servers that other tests use: they answer, keep their port and their data, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from .servers import Etcd, EtcdCluster, PgBouncer, Postgres, Redis, Server, ServerError, Valkey, ZooKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

SERVERS: list[Callable[[], Server]] = [
    lambda: Redis(durable=True),
    lambda: Valkey(durable=True),
    Postgres,
    Etcd,
    ZooKeeper,
]


@pytest.mark.parametrize("make", SERVERS, ids=["redis", "valkey", "postgres", "etcd", "zookeeper"])
def test_a_server_is_started_stopped_and_started_again(make: Callable[[], Server]) -> None:
    with make() as server:
        port, first = server.port, server.pid
        server.suspend()
        server.resume()
        assert server.ready()
        server.restart()
        assert (server.port, server.ready()) == (port, True)
        assert server.pid != first
        server.restart(kill=True)
        assert server.ready()
        directory, last = server.directory, server.pid
    assert not os.path.exists(directory)
    assert not os.path.exists(f"/proc/{last}")


def test_data_survive_a_restart_of_a_durable_redis() -> None:
    with Redis(durable=True) as server:
        assert server.talk(b"SET a b\r\n") == b"+OK\r\n"
        server.restart(kill=True)
        assert server.talk(b"GET a\r\n") == b"$1\r\nb\r\n"


def test_a_pooler_stands_before_postgres(postgres_server: Postgres) -> None:
    psycopg = pytest.importorskip("psycopg")
    with PgBouncer(postgres_server) as pooler, psycopg.connect(pooler.url, prepare_threshold=None) as connection:
        assert connection.execute("select 41 + 1").fetchone() == (42,)


def test_three_members_have_a_leader() -> None:
    with EtcdCluster() as cluster:
        first = cluster.leader()
        first.kill()
        assert cluster.leader() is not first


def test_what_does_not_start_says_why() -> None:
    with pytest.raises(ServerError, match="no-such-option"), Redis("--no-such-option", "1"):
        pass


def test_a_server_dies_with_its_test_process() -> None:
    program = textwrap.dedent("""
        import os
        from tests.servers import Redis
        server = Redis()
        server.start()
        print(server.pid, server.directory, flush=True)
        os.kill(os.getpid(), 9)
    """)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pid, directory = said.stdout.split()
    limit = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < limit:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    shutil.rmtree(directory)
