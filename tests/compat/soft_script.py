"""One script for two libraries: does things with the soft and read-write locks and prints what happened, as JSON.

    soft_script.py LIBRARY DIRECTORY

Only what both must do alike is printed: results, the names of exceptions, what is on disk; no ids and no times.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import threading
import warnings
from typing import Any

from fleet_worker import find  # type: ignore[import-not-found]

LIBRARY, WHERE = sys.argv[1:]
seen: dict[str, Any] = {}


def get(name: str) -> Any:
    return find(LIBRARY, name)


def outcome(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result if it is plain data, else what kind of thing it is; or the exception's names."""
    try:
        result = function(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - all of them are to be compared
        return ["raised", *[kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"][:1],
                type(error).__name__]  # fmt: skip
    return result if isinstance(result, (str, int, float, bool, type(None))) else type(result).__name__


def path(name: str) -> str:
    return os.path.join(WHERE, name)


def listing() -> list[str]:
    return sorted(os.listdir(WHERE))


def soft(name: str) -> None:
    kind, where = get(name), path(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lock = kind(where)
        aged = outcome(kind, where, lifetime=1.0)
    seen[f"{name}: lifetime"] = [aged, sorted({each.category.__name__ for each in caught})]
    steps: list[Any] = [
        lambda: lock.pid, lambda: lock.is_lock_held_by_us, lock.acquire, lambda: lock.pid == os.getpid(),
        lambda: lock.is_lock_held_by_us, lambda: lock.lock_counter, lock.acquire, lambda: lock.lock_counter,
        lambda: oct(os.stat(where).st_mode & 0o777), lambda: kind(where).acquire(timeout=0.05),
        lambda: kind(where).acquire(blocking=False), lambda: kind(where).acquire(), lock.release,
        lambda: os.path.exists(where), lock.release, lambda: os.path.exists(where), lambda: lock.is_locked,
        lock.release,
    ]  # fmt: skip
    seen[f"{name}: steps"] = [outcome(step) for step in steps]
    seen[f"{name}: options"] = [
        outcome(kind, where, preserve_lock_file=True), outcome(kind, where, on_acquired=print),
        outcome(kind, where, mode=True), outcome(kind, where, timeout="1"), outcome(kind, where, mode=0o7777),
    ]  # fmt: skip
    lock.acquire()
    lock.break_lock()
    seen[f"{name}: broken"] = [os.path.exists(where), outcome(kind(where).acquire, timeout=0.5), outcome(lock.release)]
    os.makedirs(path("directory-" + name))
    seen[f"{name}: a directory in the way"] = outcome(kind(path("directory-" + name)).acquire, timeout=0.1)
    open(path("read-only-" + name), "w").close()
    os.chmod(path("read-only-" + name), 0o444)
    if sys.platform != "win32" and os.geteuid():
        seen[f"{name}: read-only"] = outcome(kind(path("read-only-" + name)).acquire, timeout=0.1)
    with kind(path("made/deep/" + name), mode=0o640) as made:
        seen[f"{name}: mode"] = oct(os.stat(made.lock_file).st_mode & 0o777)


def marker() -> None:
    lock = get("MarkerSoftFileLock")(path("marker"))
    seen["marker: free"] = outcome(lambda: lock.owner)
    with lock:
        record = lock.owner
        seen["marker: record"] = [type(record).__name__, record.pid == os.getpid(), *record._fields, record.mode]
        lock.force_break()
        seen["marker: broken"] = os.path.exists(path("marker"))


def lease() -> None:
    kind = get("SoftFileLease")
    for options in (
        {"lease_duration": 0},
        {"lease_duration": True},
        {"lease_duration": 1.0, "heartbeat_interval": 1.0},
    ):
        seen[f"lease: {options}"] = outcome(kind, path("lease"), **options)
    first = kind(path("lease"), lease_duration=1.0)
    second = kind(path("lease"), lease_duration=1.0, is_singleton=True)
    with first:
        seen["lease: held"] = [
            len(first.token),
            first.lease_duration,
            outcome(lambda: first.compromise),
            first.owner.mode,
        ]
        seen["lease: contender"] = outcome(second.acquire, timeout=0.3)
        seen["lease: other terms"] = outcome(kind(path("lease"), lease_duration=2.0).acquire, timeout=0.3)
        told: list[Any] = []
        watched = kind(path("watched"), lease_duration=0.6, heartbeat_interval=0.1, on_compromise=told.append)
        ended = threading.Event()

        def hear(loss: Any) -> None:
            told.append(loss)
            ended.set()

        watched._on_compromise = hear
        watched.acquire()
        os.unlink(path("watched"))
        ended.wait(60)
        seen["lease: lost"] = [told[-1].reason, told[-1].lock_file == path("watched"), watched.compromise == told[-1]]
        watched.release()
    seen["lease: after"] = [
        outcome(lambda: first.token),
        outcome(lambda: kind(path("lease"), lease_duration=3).acquire()),
    ]
    seen["lease: singleton"] = outcome(kind, path("lease"), lease_duration=4.0, is_singleton=True)


def strict() -> None:
    kind = get("StrictSoftFileLock")
    lock = kind(path("strict"))
    seen["strict: free"] = [len(lock.claims), outcome(lambda: lock.lock_path_occupant)]
    with lock:
        claims = lock.claims
        seen["strict: held"] = [
            [claim.state for claim in claims], claims[0].pid == os.getpid(),
            outcome(kind(path("strict")).acquire, timeout=0.1),
            outcome(get("SoftFileLock")(path("strict")).acquire, timeout=0.1),
            sorted(name.rpartition("-")[0] for name in os.listdir(path("strict.filelock/claims"))),
        ]  # fmt: skip
        seen["strict: force"] = [
            outcome(lock.force_break, "../x"), outcome(lock.force_break, "held-v1-x.claim"),
            [outcome(lock.force_break, claim.name) for claim in claims],
        ]  # fmt: skip
    with get("SoftFileLock")(path("strict-soft")):
        other = kind(path("strict-soft"))
        seen["strict: beside a soft lock"] = [
            outcome(other.acquire, timeout=0.1),
            outcome(lambda: other.lock_path_occupant)[:27],
        ]
    os.symlink("nowhere", path("strict-link"))
    seen["strict: a link"] = outcome(kind(path("strict-link")).acquire, timeout=0.1)
    os.makedirs(path("strict-odd.filelock/claims"))
    open(path("strict-odd.filelock/claims/unknown"), "w").close()
    seen["strict: unknown claim"] = [outcome(kind(path("strict-odd")).acquire, timeout=0.1)]


def readwrite(name: str, **options: Any) -> None:
    kind = get(name)
    one, two = (kind(path(name), is_singleton=False, **options) for _ in range(2))
    seen[f"{name}: singleton"] = [
        kind(path(name)) is kind(path(name)), kind.get_lock(path(name)) is kind(path(name)),
        outcome(kind, path(name), timeout=1), outcome(kind, path(name), blocking="no"), outcome(kind, path(name), "1"),
    ]  # fmt: skip
    steps: list[Any] = [
        one.acquire_read, two.acquire_read, one.acquire_read, lambda: one.acquire_write(0.05), one.release, one.release,
        one.release, lambda: one.acquire_write(0.05), lambda: one.acquire_write(blocking=False), two.release,
        lambda: one.acquire_write(0), one.acquire_write, lambda: one.acquire_read(0.05), lambda: two.acquire_read(0.05),
        lambda: two.acquire_write(0.05), lambda: in_thread(one.acquire_write), lambda: in_thread(one.release),
        one.release,
        one.release, one.release, lambda: one.acquire_read(-2), lambda: one.acquire_read(float("nan")),
        lambda: one.acquire_read(True), lambda: one.release(force=True), one.acquire_read,
        lambda: in_thread(one.acquire_read),
        lambda: in_thread(one.acquire_write), lambda: one.release(force=True), one.release, two.close,
        two.acquire_read, two.close,
    ]  # fmt: skip
    seen[f"{name}: steps"] = [outcome(step) for step in steps]
    with one.read_lock():
        with one.read_lock(0.1):
            pass
    with one.acquire_write() as same:
        seen[f"{name}: proxy"] = same is one
    seen[f"{name}: attributes"] = [one.lock_file == path(name), one.timeout, one.blocking]


def in_thread(function: Any) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(outcome(function)))
    thread.start()
    thread.join()
    return json.dumps(result)


async def async_readwrite(name: str, **options: Any) -> None:
    kind = get(name)
    lock = kind(path(name), **options)

    async def result(awaitable: Any) -> Any:
        try:
            return type(await awaitable).__name__
        except Exception as error:  # noqa: BLE001
            return ["raised", type(error).__name__]

    facts = [
        await result(lock.acquire_read()),
        await result(lock.acquire_read()),
        await result(lock.acquire_write(0.05)),
    ]
    facts += [await asyncio.create_task(result(lock.acquire_write(0.05)))]
    facts += [
        await asyncio.create_task(result(lock.release())),
        await result(lock.release()),
        await result(lock.release()),
    ]
    facts += [await result(lock.release()), await result(lock.release(force=True)), await result(lock.acquire_write())]
    facts += [await result(lock.acquire_read()), await result(lock.release(force=True))]
    async with await lock.acquire_write() as same:
        facts.append(same is lock)
    async with lock.read_lock(1):
        facts.append(await asyncio.create_task(result(lock.acquire_write(0.05))))
    await lock.close()
    facts.append(await result(lock.acquire_read()))
    seen[f"{name}: steps"] = facts


async def async_soft(name: str, **options: Any) -> None:
    kind = get(name)
    lock = kind(path(name), **options)
    async with lock:
        facts = [lock.is_locked, lock.lock_counter]
        try:
            await kind(path(name), **options).acquire(timeout=0.05)
        except TimeoutError as error:
            facts.append(type(error).__name__)
    facts.append(lock.is_locked)
    try:
        with lock:
            pass
    except NotImplementedError:
        facts.append("sync refused")
    seen[f"{name}: steps"] = facts


def errors() -> None:
    error = get("SoftFileLockProtocolError")("p", "c", "why")
    again = pickle.loads(pickle.dumps(error))
    seen["errors"] = [
        isinstance(error, OSError), [again.lock_file, again.claim_name, again.reason, str(again)],
        issubclass(get("LeaseSettingsMismatch"), ValueError),
        issubclass(get("SoftFileLockLifetimeWarning"), FutureWarning),
        list(get("OwnerRecord")._fields), get("OwnerRecord")(1, "h", "lease") == (1, "h", "lease", None, None, None),
        outcome(get("LeaseCompromise"), "p", "t", "evicted"),
        outcome(get("StrictSoftFileClaim"), "n", "held", "t", 1, "h"),
    ]  # fmt: skip


def main() -> None:
    for name in ("SoftFileLock", "MarkerSoftFileLock"):
        soft(name)
    marker()
    lease()
    strict()
    readwrite("ReadWriteLock")
    readwrite("SoftReadWriteLock", poll_interval=0.01)
    asyncio.run(async_readwrite("AsyncReadWriteLock"))
    asyncio.run(async_readwrite("AsyncSoftReadWriteLock", poll_interval=0.01))
    for name, options in (
        ("AsyncSoftFileLock", {}),
        ("AsyncStrictSoftFileLock", {}),
        ("AsyncSoftFileLease", {"lease_duration": 2.0}),
    ):
        asyncio.run(async_soft(name, **options))
    errors()
    seen["left on disk"] = [name for name in listing() if ".break." not in name]
    print(json.dumps(seen))


main()
