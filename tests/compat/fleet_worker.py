"""One process of a mixed fleet: acquires, records, releases, until it is told to stop. Runs under any library.

    fleet_worker.py LIBRARY KIND PATH HISTORY SEED

The history is a file of fixed records `<q c>`: CLOCK_MONOTONIC in nanoseconds, and what happened: `r`/`w` entered as
reader / writer (written after acquire returned), `x` about to release, `f` released. Standing alone: it must not
import this project where the library is filelock.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import time
from typing import Any

RECORD = struct.Struct("<qc")


def find(library: str, name: str) -> Any:
    if library == "interlock":
        from importlib import import_module

        from interlock._filelock import HOME

        name = {"FileLock": "UnixFileLock"}.get(name, name)
        return getattr(import_module("interlock._filelock." + HOME[name]), name)
    import filelock

    return getattr(filelock, name)


def main() -> None:
    library, kind, path, history, seed = sys.argv[1:]
    chance = random.Random(seed)
    out = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(what: bytes) -> None:
        os.write(out, RECORD.pack(time.monotonic_ns(), what))

    readwrite = "ReadWrite" in kind
    if readwrite:
        more = {"poll_interval": 0.002} if kind.startswith("Soft") else {}
        lock = find(library, kind)(path, **more)
    elif kind == "SoftFileLease":
        lock = find(library, kind)(path, lease_duration=2.0, poll_interval=0.002)
    else:
        lock = find(library, kind)(path)
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        what = b"r" if readwrite and chance.random() < 0.6 else b"w"
        if readwrite:
            (lock.acquire_read if what == b"r" else lock.acquire_write)(120)
        elif kind == "StrictSoftFileLock":
            lock.acquire(timeout=120, poll_interval=0.002)
        else:
            lock.acquire(timeout=120, poll_interval=0.001)
        note(what)
        if chance.random() < 0.05:
            time.sleep(chance.random() * 0.002)
        note(b"x")
        lock.release()
        note(b"f")
        if chance.random() < 0.02:
            time.sleep(chance.random() * 0.002)


if __name__ == "__main__":
    main()
