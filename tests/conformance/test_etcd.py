"""The etcd engine keeps the promises of an engine, on a real server, in every world."""

from __future__ import annotations

import json
import os
import urllib.request
from base64 import b64decode, b64encode
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from interlock._wait.workers import workers
from interlock.testing import conformance

from ..servers import Etcd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = count()


def keys(port: int, prefix: str, pid: int = 0) -> list[str]:
    """What stands below a prefix; with a pid, only entries of that process."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    body = {"key": b64encode(prefix.encode()).decode(), "range_end": b64encode(end.encode()).decode()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/kv/range", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        kvs = json.load(answer).get("kvs", [])
    found = {b64decode(kv["key"]).decode(): b64decode(kv.get("value", "")) for kv in kvs}
    return sorted(key for key, value in found.items() if not pid or f'"pid": {pid},'.encode() in value)


class OnEtcd:
    engine = "etcd"

    @pytest.fixture(autouse=True)
    def _server(self, etcd_server: Etcd) -> None:
        type(self).server = etcd_server

    server: Etcd

    def make_target(self, directory: Path) -> str:
        return f"{self.server.url}/conformance/{next(_numbers)}?il_ttl=3#lock"

    def residue(self, target: str) -> list[str]:
        workers().settle()
        where = target.partition(f":{self.server.port}/")[2].partition("?")[0]
        return keys(self.server.port, where + "/", os.getpid())


class TestBlockingEngine(OnEtcd, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(OnEtcd, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(OnEtcd, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(OnEtcd, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(OnEtcd, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(OnEtcd, conformance.TrioLockSuite):
    pass


class TestBlockingProcess(OnEtcd, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(OnEtcd, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(OnEtcd, conformance.TrioProcessSuite):
    pass


class TestMixed(OnEtcd, conformance.MixedSuite):
    pass


class TestBlockingRWLock(OnEtcd, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(OnEtcd, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(OnEtcd, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(OnEtcd, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(OnEtcd, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(OnEtcd, conformance.TrioSemaphoreSuite):
    pass


class ServedEtcd(conformance.Served):
    ttl = 3.0
    increments = 25
    most_connections = 12

    def __init__(self, server: Etcd) -> None:
        self.server = server
        self.port = server.port

    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        at = credentials and credentials + "@"
        return f"etcd://{at}127.0.0.1:{port or self.port}/a#{quote(name, safe='')}"

    def elsewhere(self, name: str) -> str | None:
        return f"etcd://127.0.0.1:{self.port}/b#{quote(name, safe='')}"

    def residue(self) -> set[str]:
        """But for the notes that an entry must not be made any more: they go with the lease of their process."""
        return {key for key in keys(self.port, "a/") if "/t/" not in key}

    def restart(self) -> None:
        self.server.restart(kill=True)

    def suspend(self) -> None:
        self.server.suspend()

    def resume(self) -> None:
        self.server.resume()


class TestServer(conformance.ServerSuite):
    engine = "etcd"

    @classmethod
    @contextmanager
    def serve(cls, directory: str) -> Iterator[conformance.Served]:
        with Etcd() as server:
            yield ServedEtcd(server)
