"""Redis keeps the promises of an engine, in every world and between processes."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

import pytest

from interlock import inspect
from interlock._wait.workers import workers
from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path

    from ..servers import Redis

_numbers = count()


class OnRedis:
    engine = "redis"

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: Redis) -> None:
        self.server = redis_server

    def make_target(self, directory: Path) -> str:
        return f"{self.server.url}?il_settle=0&il_ttl=2#{next(_numbers)}"

    def residue(self, target: str) -> list[str]:
        """Entries of this process."""
        workers().settle(5)
        report = inspect(target)
        return [str(party) for party in (*report.holders, *report.waiters) if party.pid == os.getpid()]


class TestBlockingEngine(OnRedis, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(OnRedis, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(OnRedis, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(OnRedis, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(OnRedis, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(OnRedis, conformance.TrioLockSuite):
    pass


class TestBlockingProcess(OnRedis, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(OnRedis, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(OnRedis, conformance.TrioProcessSuite):
    pass


class TestMixed(OnRedis, conformance.MixedSuite):
    pass


class TestBlockingRWLock(OnRedis, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(OnRedis, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(OnRedis, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(OnRedis, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(OnRedis, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(OnRedis, conformance.TrioSemaphoreSuite):
    pass
