"""The kernel engine keeps its promises on uvloop too, and below anyio: loops and scopes that are not asyncio's own."""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from interlock import AsyncLock
from interlock.testing import conformance
from interlock.testing.conformance.worlds import Asyncio

from ..support import missing
from .test_kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    T = TypeVar("T")

if sys.platform == "win32":
    pytest.skip("uvloop is for POSIX systems", allow_module_level=True)


def need_uvloop() -> None:
    if importlib.util.find_spec("uvloop") is not None:
        return
    if sys.version_info >= (3, 13):
        pytest.skip("uvloop is installed for tests up to 3.12: not all builds of later ones have it")
    missing("uvloop is not installed")


class Uvloop(Asyncio):
    name = "uvloop"

    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        need_uvloop()
        import uvloop

        return uvloop.run(scenario(*args))


class TestEngine(Kernel, conformance.AsyncioEngineSuite):
    world = Uvloop()


class TestLock(Kernel, conformance.AsyncioLockSuite):
    world = Uvloop()


class TestProcess(Kernel, conformance.AsyncioProcessSuite):
    world = Uvloop()


class TestRWLock(Kernel, conformance.AsyncioRWLockSuite):
    world = Uvloop()


class TestSemaphore(Kernel, conformance.AsyncioSemaphoreSuite):
    world = Uvloop()


def test_the_loop_is_not_the_usual_one() -> None:
    async def kind() -> str:
        import asyncio

        return type(asyncio.get_running_loop()).__module__

    assert Uvloop().run(kind).startswith("uvloop")


class TestAnyio:
    """anyio cancels by level: every await in a cancelled scope raises again, in clean-up too."""

    @pytest.fixture(params=["asyncio", "uvloop", "trio"])
    def run(self, request: pytest.FixtureRequest) -> Callable[..., Any]:
        try:
            import anyio
        except ImportError:
            missing("anyio is not installed")
        name = request.param
        if name == "uvloop":
            need_uvloop()
        backend, options = ("asyncio", {"use_uvloop": True}) if name == "uvloop" else (name, {})
        return lambda body, *args: anyio.run(body, *args, backend=backend, backend_options=options)

    def test_a_scope_that_ends_leaves_nothing(self, run: Callable[..., Any], tmp_path: Path) -> None:
        """A waiter is cancelled at every await that it comes to, again and again; then it is let in."""
        import anyio
        import anyio.lowlevel

        path = tmp_path / "a.lock"

        async def waiter(scope: Any, outcomes: list[str]) -> None:
            with scope:
                async with AsyncLock(path):
                    outcomes.append("held")
                    await anyio.lowlevel.checkpoint()
            outcomes.append("cancelled" if scope.cancelled_caught else "ended")

        async def body() -> None:
            for steps in range(30):
                hold = await AsyncLock(path).acquire(0)
                scope = anyio.CancelScope()
                outcomes: list[str] = []
                async with anyio.create_task_group() as group:
                    group.start_soon(waiter, scope, outcomes)
                    for _ in range(steps // 2):
                        await anyio.lowlevel.checkpoint()
                    if steps % 2 and hold.held:
                        await hold.release()  # the waiter may be let in by now, or be on its way
                    scope.cancel()
                assert outcomes in (["cancelled"], ["held", "cancelled"], ["held", "ended"])
                if hold.held:
                    await hold.release()
                assert not AsyncLock(path).held
            again = await AsyncLock(path).acquire(0)
            await again.release()

        before = threading.active_count()
        run(body)
        assert not Kernel().residue(str(path))
        assert threading.active_count() <= before + 1  # anyio's own worker

    def test_a_block_that_is_cancelled_is_released(self, run: Callable[..., Any], tmp_path: Path) -> None:
        import anyio

        lock = AsyncLock(tmp_path / "a.lock")

        async def body() -> None:
            for _ in range(20):
                with anyio.move_on_after(0.0):
                    async with lock:
                        await anyio.sleep(60)
                assert not lock.held

        run(body)
        assert not Kernel().residue(lock.resource)
