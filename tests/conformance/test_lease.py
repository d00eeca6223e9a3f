"""Leases on files keep the promises of an engine, in every world."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path


class Lease:
    engine = "marker lease"

    def make_target(self, directory: Path) -> str:
        return f"marker://{quote(str(directory))}/new#a"

    def residue(self, target: str) -> list[str]:
        """Descriptors of the log that this process has open, and records under private names."""
        found: list[str] = []
        directory = target.removeprefix("marker://").partition("#")[0]
        for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else ():
            try:
                path = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:  # the descriptor of the listing itself
                continue
            if path.startswith(directory):
                found.append(f"descriptor {fd} is on {path}")
        for where, _, names in os.walk(directory):
            found += [os.path.join(where, name) for name in names if name.startswith(".")]
        return found


class TestBlockingEngine(Lease, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Lease, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Lease, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(Lease, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(Lease, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(Lease, conformance.TrioLockSuite):
    pass


class TestBlockingProcess(Lease, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(Lease, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(Lease, conformance.TrioProcessSuite):
    pass


class TestMixed(Lease, conformance.MixedSuite):
    pass
