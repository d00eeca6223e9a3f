"""PostgreSQL keeps the promises of an engine on a server: the whole list, with a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.testing.conformance import Served, ServerSuite

from ..engines.backends import PostgresBackend

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class TestServer(ServerSuite):
    engine = "postgresql"

    @classmethod
    def serve(cls, directory: str) -> AbstractContextManager[Served]:
        return PostgresBackend()
