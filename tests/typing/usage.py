"""How the public names are typed. Never run: mypy reads it (`test_typing`), for each platform.

A line that must be wrong carries `type: ignore` with its code; mypy says so if it ever becomes right.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import interlock
from interlock import AsyncHold, AsyncLock, AsyncRLock, Hold, Lock, Loss, Party, Report, RLock, Timeout


def targets() -> None:
    Lock("x.lock")
    Lock(Path("x.lock"), timeout=1, fair=True, ttl=None, primitive="flock")
    RLock("memory://#x", timeout=0.5)
    Lock(b"x.lock")  # type: ignore[arg-type]
    Lock(3)  # type: ignore[arg-type]
    Lock("x.lock", 5)  # type: ignore[misc]
    Lock("x.lock", timeout="5")  # type: ignore[arg-type]
    Lock("x.lock", primitive="fcntl")  # type: ignore[arg-type]
    Lock("x.lock", blocking=False)  # type: ignore[call-arg]


def holds(lock: Lock, again: RLock) -> None:
    assert_type(lock.acquire(), Hold)
    assert_type(lock.acquire(None), Hold)
    assert_type(lock.acquire(timeout=2.5), Hold)
    assert_type(lock.try_acquire(), Hold | None)
    assert_type(again.acquire(), Hold)
    with lock as hold:
        assert_type(hold, Hold)
        assert_type(hold.token, int | None)
        assert_type(hold.waited, float)
        assert_type(hold.lost, Loss)
        assert_type(hold.lost.reason, str)
        assert_type(hold.lost.wait(0), bool)
        hold.on_lost(print)
        hold.scope()  # type: ignore[attr-defined]
        assert_type(hold.held, bool)
        assert_type(hold.resource, str)
    with lock.acquire(timeout=0) as other:
        assert_type(other, Hold)
    lock.try_acquire().release()  # type: ignore[union-attr]
    lock.acquire("1")  # type: ignore[arg-type]
    lock.release()  # type: ignore[attr-defined]
    hold.token = 3  # type: ignore[misc]


async def awaited_holds(lock: AsyncLock, again: AsyncRLock) -> None:
    assert_type(await lock.acquire(timeout=1), AsyncHold)
    assert_type(await lock.try_acquire(), AsyncHold | None)
    assert_type(await again.acquire(), AsyncHold)
    async with lock as hold:
        assert_type(hold, AsyncHold)
        assert_type(hold.token, int | None)
        async with hold.scope() as nothing:
            assert_type(nothing, None)
        await hold.renew()
        await hold.release()
    with lock:  # type: ignore[attr-defined]
        pass
    lock.acquire().release()  # type: ignore[attr-defined]


def reports(lock: Lock) -> None:
    assert_type(interlock.inspect("x.lock"), Report)
    assert_type(lock.inspect().holders, tuple[Party, ...])
    assert_type(lock.inspect().enforced, bool | None)
    for party in lock.inspect().waiters:
        assert_type(party.pid, int | None)
        party.pid = 3  # type: ignore[misc]


def errors(lock: Lock) -> None:
    try:
        lock.acquire(timeout=1)
    except Timeout as error:
        assert_type(error.resource, str)
        assert_type(error.waited, float)
        assert_type(error.holder, Party | None)
        assert_type(error.hint, str)
        also: TimeoutError = error
        assert also
    except (interlock.UnsupportedError, interlock.UnsafePathError) as error:
        base: interlock.EngineError = error
        assert base
    interlock.Lok("x.lock")  # type: ignore[attr-defined]
