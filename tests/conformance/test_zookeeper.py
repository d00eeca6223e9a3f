"""The zookeeper engine keeps the promises of an engine, on a real server, in every world."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from interlock.testing import conformance

from ..engines.backends import ZooKeeperBackend

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ..servers import ZooKeeper

_numbers = count()


class OnZooKeeper:
    engine = "zookeeper"

    @pytest.fixture(autouse=True)
    def _server(self, zookeeper_server: ZooKeeper) -> None:
        type(self).server = zookeeper_server

    server: ZooKeeper

    def make_target(self, directory: Path) -> str:
        return self.server.target(f"conformance-{next(_numbers)}")


class TestBlockingEngine(OnZooKeeper, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(OnZooKeeper, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(OnZooKeeper, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(OnZooKeeper, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(OnZooKeeper, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(OnZooKeeper, conformance.TrioLockSuite):
    pass


class TestBlockingProcess(OnZooKeeper, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(OnZooKeeper, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(OnZooKeeper, conformance.TrioProcessSuite):
    pass


class TestMixed(OnZooKeeper, conformance.MixedSuite):
    pass


class TestBlockingRWLock(OnZooKeeper, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(OnZooKeeper, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(OnZooKeeper, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(OnZooKeeper, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(OnZooKeeper, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(OnZooKeeper, conformance.TrioSemaphoreSuite):
    pass


class TestServer(conformance.ServerSuite):
    engine = "zookeeper"

    @classmethod
    def serve(cls, directory: str) -> AbstractContextManager[conformance.Served]:
        return ZooKeeperBackend()
