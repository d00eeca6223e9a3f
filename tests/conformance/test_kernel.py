"""The kernel engine keeps the promises of an engine, in every world."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path


class Kernel:
    engine = "kernel"

    def make_target(self, directory: Path) -> str:
        return str(directory / "new" / "a.lock")

    def residue(self, target: str) -> list[str]:
        """Descriptors of the lock file that this process has open, where the system tells."""
        found: list[str] = []
        if not os.path.exists("/proc/self/fd"):
            return found
        for fd in os.listdir("/proc/self/fd"):
            try:
                path = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:  # the descriptor of the listing itself
                continue
            if path.startswith(os.path.realpath(target)):
                found.append(f"descriptor {fd} is on {path}")
        return found


class TestBlockingEngine(Kernel, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Kernel, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Kernel, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(Kernel, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(Kernel, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(Kernel, conformance.TrioLockSuite):
    pass


class TestBlockingProcess(Kernel, conformance.BlockingProcessSuite):
    pass


class TestAsyncioProcess(Kernel, conformance.AsyncioProcessSuite):
    pass


class TestTrioProcess(Kernel, conformance.TrioProcessSuite):
    pass


class TestMixed(Kernel, conformance.MixedSuite):
    pass


class TestBlockingRWLock(Kernel, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(Kernel, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(Kernel, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(Kernel, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(Kernel, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(Kernel, conformance.TrioSemaphoreSuite):
    pass


class TestBlockingRWLockProcess(Kernel, conformance.BlockingRWLockProcessSuite):
    pass


class TestAsyncioRWLockProcess(Kernel, conformance.AsyncioRWLockProcessSuite):
    pass


class TestTrioRWLockProcess(Kernel, conformance.TrioRWLockProcessSuite):
    pass


class TestRWLockMixed(Kernel, conformance.RWLockMixedSuite):
    pass


class TestBlockingSemaphoreProcess(Kernel, conformance.BlockingSemaphoreProcessSuite):
    pass


class TestAsyncioSemaphoreProcess(Kernel, conformance.AsyncioSemaphoreProcessSuite):
    pass


class TestTrioSemaphoreProcess(Kernel, conformance.TrioSemaphoreProcessSuite):
    pass


class TestSemaphoreMixed(Kernel, conformance.SemaphoreMixedSuite):
    pass
