"""What the soft and the read-write locks add."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from typing import Any

from .see import See, case, filelock


@case("SoftFileLock", "MarkerSoftFileLock", "SoftFileLease")
def soft(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    lock = kind(path)
    see.note("free", [lock.pid, lock.is_lock_held_by_us])
    with lock:
        see.note("held", [lock.pid == os.getpid(), lock.is_lock_held_by_us, os.path.exists(path)])
        if kind is filelock.SoftFileLock:
            with open(path) as file:
                lines = file.read().split("\n")
            see.note("marker", [lines[0], lines[1].split("?")[0], len(lines)])
    see.note("gone", [lock.pid, os.path.exists(path)])
    see("break nothing", lock.break_lock)
    with open(path, "w") as file:
        file.write(f"{os.getpid()}\nelsewhere\n")
    see("another host", kind(path).acquire, timeout=0.01)
    see("break", lock.break_lock)
    see("broken", lambda: type(kind(path).acquire(timeout=1)).__name__)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(path, "w") as file:
        file.write(f"999999999\n{socket.gethostname()}\n")
    see("dead owner", lambda: type(kind(path).acquire(timeout=5)).__name__)
    if hasattr(lock, "owner"):
        with lock:
            owner = lock.owner
            host = owner.hostname.split("?")[0]
            see.note("owner", [owner.pid, host, owner.mode, owner.lease_duration, bool(owner.token)])
        see.note("no owner", lock.owner)
        see("force_break", lock.force_break)


@case("SoftFileLease")
def lease(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    lock = kind(path, lease_duration=3)
    see.note("unheld", [lock.lease_duration, lock.token, lock.compromise])
    with lock:
        token = lock.token
        see.note("held", [type(token).__name__, len(token or "")])
        see("mismatch", kind(path, lease_duration=4).acquire, timeout=0.01)
        see("same", kind(path, lease_duration=3).acquire, timeout=0.01)
    wishes: dict[str, dict[str, Any]] = {
        "zero": {"lease_duration": 0}, "text": {"lease_duration": "x"}, "nan": {"lease_duration": math.nan},
        "slow": {"lease_duration": 1, "heartbeat_interval": 2}, "no beat": {"heartbeat_interval": 0},
    }  # fmt: skip
    for label, keywords in wishes.items():
        see(label, kind, path, **keywords)


@case("StrictSoftFileLock")
def strict(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    lock = kind(path)
    see.note("free", [lock.claims, lock.lock_path_occupant])
    with lock:
        for claim in sorted(lock.claims, key=lambda claim: claim.state):
            host = claim.hostname.split("?")[0]
            see.note(f"claim {claim.state}", [claim.pid, host, bool(claim.token), claim.start is None])
        see.note("occupant", lock.lock_path_occupant)
    see.note("after", lock.claims)
    see("break a path", lock.force_break, "../x")
    see("break nothing", lock.force_break, "held-none")


@case("OwnerRecord")
def owner_record(see: See, directory: str, kind: Any) -> None:
    see("record", lambda: repr(kind(1, "host", "lease")))
    see.note("fields", [kind._fields, kind._field_defaults])


@case("LeaseCompromise")
def lease_compromise(see: See, directory: str, kind: Any) -> None:
    made = see("make", lambda: repr(kind("a.lock", "token", "evicted")))
    see.note("repr", made)
    see("frozen", lambda: setattr(kind("a", "b", "evicted"), "token", 1))


@case("StrictSoftFileClaim")
def strict_claim(see: See, directory: str, kind: Any) -> None:
    see("make", lambda: repr(kind(name="n", state="held", token="t", pid=1, hostname="h")))


# ---- read-write locks


@case("ReadWriteLock", "SoftReadWriteLock")
def read_write(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    lock = see("make", kind, path)
    see.note("settings", [lock.lock_file, lock.timeout, lock.blocking])
    see.note("singleton", [kind(path) is lock, kind.get_lock(path) is lock, kind(path, is_singleton=False) is lock])
    see("differing", kind, path, timeout=3)
    see("release unheld", lock.release)
    see("force unheld", lock.release, force=True)
    with lock.read_lock() as inside:
        see.note("read", inside)
        with lock.read_lock():
            pass
        see("upgrade", lock.acquire_write)
    with lock.write_lock():
        with lock.write_lock():
            pass
        see("downgrade", lock.acquire_read)
        other = kind(path, is_singleton=False)
        see("other reader", other.acquire_read, timeout=0.02)
        see("other writer", other.acquire_write, blocking=False)
    with lock.read_lock(), other.read_lock():
        see.note("two readers", True)
        third = kind(path, is_singleton=False)
        see("writer waits", third.acquire_write, timeout=0.02)
        third.close()
    proxy = see("proxy", lock.acquire_write)
    see.note("proxy lock", [type(proxy).__name__, proxy.lock is lock])
    errors: list[Any] = []

    def elsewhere() -> None:
        try:
            lock.release()
        except Exception as error:  # noqa: BLE001 - seen, too
            errors.append(see.error(error))
        try:
            lock.acquire_read(timeout=0.02)
        except Exception as error:  # noqa: BLE001 - seen, too
            errors.append(see.error(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    see.note("other thread", errors)
    see("release", lock.release)
    wishes: dict[str, dict[str, Any]] = {
        "negative": {"timeout": -2}, "text": {"timeout": "1"}, "nan": {"timeout": math.nan},
        "blocking": {"blocking": 1},
    }  # fmt: skip
    for label, keywords in wishes.items():
        see(label, lock.acquire_read, **keywords)
    see("close", other.close)
    see("close again", other.close)
    see("close held", lock.close)


@case("AsyncReadWriteLock", "AsyncSoftReadWriteLock")
def async_read_write(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")

    async def main() -> None:
        lock = kind(path)
        see.note("settings", [lock.lock_file, lock.timeout, lock.blocking, lock.loop])
        async with lock.read_lock():
            try:
                await lock.acquire_write()
            except RuntimeError as error:
                see.note("upgrade", error)
        async with lock.write_lock():
            try:
                await lock.acquire_read()
            except RuntimeError as error:
                see.note("downgrade", error)
            other = kind(path, is_singleton=False)
            try:
                await other.acquire_read(timeout=0.02)
            except filelock.Timeout as error:
                see.note("other", error)
            await other.close()
        async with await lock.acquire_read() as inside:
            see.note("proxy", type(inside).__name__)
        try:
            await lock.release()
        except RuntimeError as error:
            see.note("unheld", error)
        await lock.release(force=True)
        await lock.close()

    see("main", main)
