"""The locks for tasks."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from typing import Any

from .see import ASYNC, See, case, filelock, state


@case(*ASYNC)
def async_life(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "new", "a.lock")

    async def main() -> None:
        lock = kind(path)
        see.note("defaults", [lock.is_thread_local(), lock.run_in_executor, lock.executor, lock.loop])
        await lock.release()
        proxy = await lock.acquire()
        see.note("proxy", [type(proxy).__name__, proxy.lock is lock, state(lock)])
        await lock.acquire()
        await lock.release()
        see.note("once", state(lock))
        await lock.release()
        see.note("free", state(lock))
        async with lock as inner, await lock.acquire() as second:
            see.note("with", [inner is lock, second is lock, state(lock)])
        for _ in range(3):
            await lock.acquire()
        await lock.release(force=True)
        see.note("forced", state(lock))
        async with lock:
            other = kind(path, timeout=0.02)
            wishes: dict[str, dict[str, Any]] = {
                "default timeout": {}, "timeout": {"timeout": 0.01}, "not blocking": {"blocking": False},
                "self-deadlock": {"timeout": -1}, "cancelled": {"timeout": 5, "cancel_check": lambda: True},
                "blocking text": {"blocking": "no"}, "nan": {"timeout": math.nan},
            }  # fmt: skip
            for label, keywords in wishes.items():
                try:
                    await other.acquire(**keywords)
                    see.note(label, "acquired")
                except Exception as error:  # noqa: BLE001 - seen, too
                    see.note(label, error)
            waiter = asyncio.create_task(other.acquire(timeout=-1, poll_interval=0.01))
            await asyncio.sleep(0.05)
            see.note("waiting", [waiter.done(), state(other)])
        await waiter
        see.note("waited", state(other))
        waiter = asyncio.create_task(lock.acquire(poll_interval=0.01))
        await asyncio.sleep(0.05)
        waiter.cancel()
        see.note("cancelled wait", (await asyncio.gather(waiter, return_exceptions=True))[0])
        see.note("after cancel", [state(lock), state(other)])
        await other.release()
        tasks = [asyncio.create_task(lock.acquire()) for _ in range(5)]
        await asyncio.gather(*tasks)
        see.note("shared by tasks", state(lock))
        await lock.release(force=True)

    see("main", main)
    lock = kind(path)
    see("sync enter", lock.__enter__)
    see("sync exit", lock.__exit__, None, None, None)
    see("thread_local", kind, path, thread_local=True)
    see("thread_local inline", lambda: kind(path, thread_local=True, run_in_executor=False).is_thread_local())
    see("set executor", lambda: setattr(lock, "executor", None))


@case("BaseAsyncFileLock")
def async_hooks(see: See, directory: str, base: Any) -> None:
    see("abstract", base, "a.lock")
    path = os.path.join(directory, "a.lock")

    class Marker(base):  # type: ignore[misc]
        def _acquire(self) -> None:
            self.where = threading.current_thread() is threading.main_thread()
            with contextlib.suppress(FileExistsError):
                self._context.lock_file_fd = os.open(self.lock_file, os.O_CREAT | os.O_EXCL | os.O_RDWR)

        def _release(self) -> None:
            os.close(self._context.lock_file_fd)
            os.unlink(self.lock_file)
            self._context.lock_file_fd = None

    class Coroutine(Marker):
        async def _acquire(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super()._acquire()

        async def _release(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super()._release()

    async def use(lock: Any) -> Any:
        async with lock:
            held = [state(lock), os.path.exists(path)]
            other = type(lock)(path, poll_interval=0.01)
            try:
                await other.acquire(timeout=0.03)
            except filelock.Timeout as error:
                held.append(see.text(error))
        return [*held, lock.where, state(lock), os.path.exists(path)]

    see("in executor", lambda: use(Marker(path)))
    see("inline", lambda: use(Marker(path, run_in_executor=False)))
    see("coroutine", lambda: use(Coroutine(path)))
