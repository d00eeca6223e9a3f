"""Leases on files keep the server suite's promises too, as far as there is no server."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING
from urllib.parse import quote

from interlock.testing.conformance import Served, ServerSuite

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Directory(Served):
    ttl = 1.0
    shows_waiters = False
    increments = 25  # many contenders cost a lease much, and it has tests of its own for that

    def __init__(self, path: str) -> None:
        self.path = path

    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        return f"marker://{quote(self.path)}#{quote(name, safe='')}"

    def residue(self) -> set[str]:
        return {
            os.path.join(where, name) for where, _, names in os.walk(self.path) for name in names if name[0] == "."
        }


class TestServer(ServerSuite):
    engine = "marker lease"

    @classmethod
    def serve(cls, directory: str) -> AbstractContextManager[Served]:
        return nullcontext(Directory(directory))
