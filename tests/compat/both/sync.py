"""The life of a lock, and two that contend."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

from .see import SYNC, See, case, state


@case(*SYNC)
def life(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "new", "a.lock")
    lock = see("make", kind, path)
    see.note("unheld", state(lock))
    see("release unheld", lock.release)
    proxy = see("acquire", lock.acquire)
    see.note("proxy", [type(proxy).__name__, proxy.lock is lock])
    see.note("held", state(lock))
    see("again", lock.acquire)
    see.note("twice", state(lock))
    see("release", lock.release)
    see.note("once", state(lock))
    see("release last", lock.release)
    see.note("free", state(lock))
    for _ in range(3):
        lock.acquire()
    see("force", lock.release, force=True)
    see.note("forced", state(lock))
    with lock as inner, lock.acquire() as second:
        see.note("with", [inner is lock, second is lock, state(lock)])
    see.note("after with", state(lock))
    see.note("file stays", os.path.exists(path))
    see.note("decorated", lock(lambda: state(lock))())
    see.note("file as path", kind(Path(path)).lock_file == path)


@case(*SYNC)
def contention(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    one, other = kind(path), kind(path, timeout=0.02)
    with one:
        see("default timeout", other.acquire)
        see("timeout 0", other.acquire, timeout=0)
        see("timeout", other.acquire, timeout=0.01, poll_interval=0.001)
        see("not blocking", other.acquire, blocking=False)
        see("not blocking, nan", other.acquire, timeout=math.nan, blocking=False)
        see("self-deadlock", other.acquire, timeout=-1)
        see("self-deadlock, inf", other.acquire, timeout=math.inf)
        see("cancelled", other.acquire, timeout=5, cancel_check=lambda: True, poll_interval=0.001)
        calls: list[int] = []

        def later() -> bool:
            calls.append(1)
            return len(calls) > 2

        see("cancelled later", other.acquire, timeout=5, cancel_check=later, poll_interval=0.001)
        see.note("loser", state(other))
    see("winner", other.acquire)
    see.note("won", state(other))
    other.release()

    def hold() -> None:
        with one:
            time.sleep(0.1)

    thread = threading.Thread(target=hold)
    thread.start()
    time.sleep(0.03)
    see("after a thread", lambda: type(other.acquire(timeout=10)).__name__)
    thread.join()
    other.release()


