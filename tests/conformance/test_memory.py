"""The memory engine keeps the promises of an engine, in every world."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from interlock.testing import conformance

if TYPE_CHECKING:
    from pathlib import Path

_numbers = count()


class Memory:
    engine = "memory"

    def make_target(self, directory: Path) -> str:
        return f"memory://conformance#{next(_numbers)}"


class TestBlockingEngine(Memory, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Memory, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Memory, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(Memory, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(Memory, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(Memory, conformance.TrioLockSuite):
    pass


class TestMixed(Memory, conformance.MixedSuite):
    pass


class TestBlockingRWLock(Memory, conformance.BlockingRWLockSuite):
    pass


class TestAsyncioRWLock(Memory, conformance.AsyncioRWLockSuite):
    pass


class TestTrioRWLock(Memory, conformance.TrioRWLockSuite):
    pass


class TestBlockingSemaphore(Memory, conformance.BlockingSemaphoreSuite):
    pass


class TestAsyncioSemaphore(Memory, conformance.AsyncioSemaphoreSuite):
    pass


class TestTrioSemaphore(Memory, conformance.TrioSemaphoreSuite):
    pass


class TestRWLockMixed(Memory, conformance.RWLockMixedSuite):
    pass


class TestSemaphoreMixed(Memory, conformance.SemaphoreMixedSuite):
    pass
