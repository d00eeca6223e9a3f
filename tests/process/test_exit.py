"""A hold that nobody released: dropped, collected, or left behind by a program that ends."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from interlock import AsyncLock, Lock, RLock
from interlock._core.arbiter import turns

from .workers import Worker, isolated, locked_by_others, tickets

if TYPE_CHECKING:
    from collections.abc import Callable

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


def test_a_dropped_hold_is_released_with_a_warning(path: str) -> None:
    hold = Lock(path).acquire()
    with pytest.warns(ResourceWarning, match=f"{path} was dropped without release") as caught:
        del hold
    assert caught[0].filename == __file__
    assert not locked_by_others(path)


def test_a_hold_in_a_cycle_is_released_by_the_collector(path: str) -> None:
    class Node:
        pass

    node = Node()
    node.me, node.hold = node, Lock(path).acquire()  # type: ignore[attr-defined]
    del node
    with pytest.warns(ResourceWarning, match="dropped"):
        gc.collect()
    assert not locked_by_others(path)


def test_a_dropped_inner_hold_leaves_the_outer_one(path: str) -> None:
    lock = RLock(path)
    outer = lock.acquire()
    with pytest.warns(ResourceWarning, match="dropped"):
        lock.acquire()
    assert outer.held
    assert locked_by_others(path)
    outer.release()
    assert not locked_by_others(path)


def test_a_released_hold_is_dropped_in_silence(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hold = Lock(path).acquire()
        hold.release()
        del hold
        with Lock(path):
            pass
        gc.collect()


@isolated
def test_a_dropped_hold_wakes_a_thread_that_waits(path: str) -> None:
    hold = Lock(path).acquire()
    done = threading.Event()

    def wait() -> None:
        with Lock(path, timeout=20):
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not Lock(path)._line.queue:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del hold
    thread.join()
    assert done.is_set()


@isolated
def test_a_task_that_failed_with_a_hold_loses_it(path: str) -> None:
    """The task, its exception, its frame and the hold are a cycle: nothing of ours may keep it alive."""

    async def main() -> None:
        hold = await AsyncLock(path).acquire()
        raise ValueError(hold.resource)

    async def run() -> None:
        task = asyncio.ensure_future(main())
        await asyncio.wait([task])
        assert type(task.exception()) is ValueError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(warning.message) for warning in caught if path in str(warning.message)]
    assert not locked_by_others(path)


def _give_up(path: str, timeout: float | None, close: bool) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"

    async def main() -> None:
        tasks = [loop.create_task(AsyncLock(path).acquire(timeout)) for _ in range(2)]
        while not tickets(path):  # noqa: ASYNC110 - it comes from the kernel
            await asyncio.sleep(0.001)
        del tasks

    loop.run_until_complete(main())
    if close:
        loop.close()


@isolated
def test_tasks_of_a_loop_that_is_given_up_wait_no_more(path: str) -> None:
    """Closed or merely dropped with tasks in it: they are collected, and nobody in this process waits behind them."""
    holder = Worker()
    holder.ask("acquire", path)
    for close in True, False:
        for timeout in None, 60:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an unclosed loop
                _give_up(path, timeout, close)
                gc.collect()
            assert tickets(path) == 0
            assert not turns
            assert not Lock(path)._line.queue
    holder.ask("release")
    Lock(path).acquire(5).release()
    holder.close()


KEEPERS = {
    "a global": "hold = interlock.Lock(path).acquire()",
    "a global of a module that was imported first": "first.hold = interlock.Lock(path).acquire()",
    "another module's global": "import builtins; builtins.kept = interlock.Lock(path).acquire()",
    "an entered lock": "lock = interlock.Lock(path); lock.__enter__()",
    "a cycle": "import types; n = types.SimpleNamespace(hold=interlock.Lock(path).acquire()); n.me = n; del n",
    "a frame that raised": "def f():\n    hold = interlock.Lock(path).acquire()\n    sys.exit(0)\nf()",
    "an exit handler": "import atexit; atexit.register(print, interlock.Lock(path).acquire(), file=sys.stderr)",
}


def run(path: str, body: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, types; first = sys.modules['first'] = types.ModuleType('first'); import interlock\n"
    code += "path = sys.argv[1]\n" + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code, path],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_program_that_ends_with_a_hold_frees_the_lock_and_is_warned(path: str, keeper: str) -> None:
    done = run(path, KEEPERS[keeper])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"ResourceWarning: the hold on {path} was dropped without release()") == 1, done.stderr
    assert "Error" not in done.stderr, done.stderr
    assert "Exception" not in done.stderr, done.stderr
    assert not locked_by_others(path)


@pytest.mark.parametrize(
    "body",
    [
        "import os; hold = interlock.Lock(path).acquire(); os._exit(0)",
        """
        import threading
        ready = threading.Event()
        def hold():
            with interlock.Lock(path):
                ready.set()
                threading.Event().wait()
        threading.Thread(target=hold, daemon=True).start()
        ready.wait()
        """,
        """
        import threading
        hold = interlock.Lock(path + "2").acquire()
        other = interlock.Lock(path).acquire()
        threading.Thread(target=lambda: interlock.Lock(path).acquire(), daemon=True).start()
        while not interlock.Lock(path)._line.queue: pass
        hold.release()
        other.release()
        """,
    ],
    ids=["_exit", "held by a daemon thread", "a daemon thread waits"],
)
def test_a_program_that_ends_abruptly_frees_the_lock(path: str, body: str) -> None:
    done = run(path, body)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr.replace("ResourceWarning", ""), done.stderr
    assert not locked_by_others(path)


def test_an_exit_handler_may_still_lock(path: str) -> None:
    body = """
    import atexit
    def last():
        with interlock.Lock(path, timeout=5) as hold:
            hold.assert_held()
            print("locked at the end")
    atexit.register(last)
    with interlock.Lock(path):
        pass
    """
    done = run(path, body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "locked at the end\n", "")


def test_a_waiter_is_woken_when_the_holders_program_ends(spawn: Spawn, path: str) -> None:
    holder, waiter = spawn(), spawn()
    holder.ask("acquire", path)
    waiter.tell("acquire", path)
    waiter.waits(path)
    assert holder.end() == 0
    assert waiter.answer()["event"] == "acquired"
    assert tickets(path) == 0
    assert os.path.exists(path)
