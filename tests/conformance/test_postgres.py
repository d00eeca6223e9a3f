"""The PostgreSQL engine keeps the promises of an engine, in every world, on a real server."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from interlock.engines.postgres import keys
from interlock.testing import conformance

from ..support import need_module

if TYPE_CHECKING:
    from pathlib import Path

    from psycopg import Connection

    from interlock._core.arbiter import Line

    from ..servers import Postgres

need_module("psycopg")

_numbers = count()


class _Server:
    engine = "postgresql"
    server: ClassVar[Postgres]
    query = ""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: Postgres) -> None:
        type(self).server = postgres_server

    def make_target(self, directory: Path) -> str:
        # The user in the query: what stands before an "@" is not shown, and these tests compare what is shown.
        server = self.server
        return f"postgresql://{server.host}:{server.port}/postgres?user=postgres{self.query}#{next(_numbers)}"

    def residue(self, target: str) -> list[str]:
        """What a session of this process still holds of the name, or waits for."""
        from interlock._target import resolve

        line: Line = resolve(target)
        name = line.key.partition("#")[2]
        wanted = {keys.main_key(name), keys.update_key(name), keys.gate_key(name)}
        base = keys.permits_base(name)
        engine = line.engine
        limit = time.monotonic() + 60
        while True:  # what a finalizer or a closed event loop has let go is given back in the background
            with self.connection() as connection:
                rows = connection.execute(
                    "SELECT (classid::bigint << 32) | objid::bigint, pid, mode, granted FROM pg_locks "
                    "WHERE locktype = 'advisory'"
                ).fetchall()
            pool = engine.pool  # type: ignore[attr-defined]
            pids = {each.pid for each in pool.sessions}
            left = [
                f"{key} {pid} {rest}"
                for key, pid, *rest in rows
                if pid in pids and (key in wanted or (key & ~((1 << 21) - 1)) == base)
            ]
            left += [f"{each} is kept" for each in pool.sessions if each.waiting or each.parker]
            if not left or time.monotonic() > limit:
                return left
            time.sleep(0.01)

    def arrived(self, line: Line, waiters: int) -> bool:
        return len(line.engine.inspect(line).waiters) >= waiters

    def connection(self) -> Connection[Any]:
        import psycopg

        return psycopg.connect(self.server.url, autocommit=True)


class TestBlockingEngine(_Server, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(_Server, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(_Server, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(_Server, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(_Server, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(_Server, conformance.TrioLockSuite):
    pass


class TestMixed(_Server, conformance.MixedSuite):
    pass


class TestBlockingProcess(_Server, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(_Server, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(_Server, conformance.TrioProcessSuite):
    pass


class TestBlockingRWLock(_Server, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(_Server, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(_Server, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(_Server, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(_Server, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(_Server, conformance.TrioSemaphoreSuite):
    pass
