"""Every public way to a lock on files, or to a file that one leaves: what the table of the attacks has for columns.

An entry does its work on a path and ends; what it raises is the verdict. `beside` names files that it keeps next to
its path: something planted there is an attack on it, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONTROLS", "ENTRIES", "FILELOCK", "Entry"]

WAIT = 1.0
"""Seconds: who takes an attack for somebody's lock waits so long."""


class Entry(NamedTuple):
    name: str
    act: Callable[[str], object]
    beside: tuple[str, ...] = ("",)
    """Names of the places of an attack: `{}` stands for the path's name, "" for the path."""


def _lock(path: str, **options: Any) -> None:
    from interlock import Lock

    with Lock(path, timeout=WAIT, **options):
        pass


def _try(path: str) -> None:
    from interlock import Lock

    hold = Lock(path).try_acquire()
    if hold is None:
        raise TimeoutError("it looks contended")
    hold.release()


def _async(path: str) -> None:
    from interlock import AsyncLock

    async def main() -> None:
        async with AsyncLock(path, timeout=WAIT):
            pass

    asyncio.run(main())


def _rlock(path: str) -> None:
    from interlock import RLock

    with RLock(path, timeout=WAIT):
        pass


def _rw(path: str) -> None:
    from interlock import RWLock

    lock = RWLock(path)
    with lock.read(timeout=WAIT):
        pass
    with lock.update(timeout=WAIT) as hold:
        hold.upgrade(timeout=WAIT)
    with lock.write(timeout=WAIT):
        pass


def _writer(path: str) -> None:
    from interlock import RWLock

    with RWLock(path).write(timeout=WAIT):
        pass


def _semaphore(path: str) -> None:
    from interlock import Semaphore

    with Semaphore(path, 2).acquire(timeout=WAIT):
        pass


def _all(path: str) -> None:
    from interlock import Lock, acquire_all

    with acquire_all([Lock(path)], timeout=WAIT):
        pass


def _token(path: str) -> None:
    from interlock import Lock

    with Lock(path, timeout=WAIT) as hold:
        assert hold.token


def _fence(path: str) -> None:
    from interlock import Fence

    Fence(path, timeout=WAIT).write(2**40, b"new")


def _newest(path: str) -> None:
    from interlock import Fence

    Fence(path, timeout=WAIT).newest  # noqa: B018 - it reads the mark


def _admit(path: str) -> None:
    from interlock import Fence

    with Fence(path, timeout=WAIT).admit(2**40):
        pass


def _transform(path: str) -> None:
    from interlock import transform

    transform(path, lambda old: (old or b"")[:100] + b"more", timeout=WAIT)


def _publish(path: str) -> None:
    from interlock import publish

    publish(path, b"new")


def _once(path: str) -> None:
    from interlock import once

    once(path, lambda staged: staged.write_bytes(b"built"), timeout=WAIT)


def _inspect(path: str) -> None:
    from interlock import inspect

    json.dumps(inspect(path).as_dict())


def _probe(path: str) -> None:
    from interlock import probe

    probe(path)


def _command(*words: str) -> Callable[[str], None]:
    def act(path: str) -> None:
        filled = [word.replace("{}", path) for word in words]
        run = subprocess.run(
            [sys.executable, "-m", "interlock", *filled], capture_output=True, text=True, check=False, timeout=60
        )
        if run.returncode:
            raise RuntimeError(f"exit status {run.returncode}: {run.stderr.strip()[-500:]}")

    return act


def _traced(path: str) -> None:
    """INTERLOCK_TRACE names a directory of the user's; planted is what stands there instead."""
    program = "import sys\nfrom interlock import Lock\nwith Lock(sys.argv[1] + '.own'): pass"
    environment = {**os.environ, "INTERLOCK_TRACE": path}
    subprocess.run([sys.executable, "-c", program, path], env=environment, check=True, timeout=60)


def _store(path: str) -> None:
    """`path` is the store's directory."""
    from interlock.store import Store, simple_spec

    archive = path + ".archive"
    with open(archive, "wb") as file:
        file.write(b"archive")
    store = Store(path)
    store.put(simple_spec("zlib", "1.3"), archive)
    store.index()
    list(store.entries())
    store.gc(keep=["*"])
    store.verify()


def _facade(module: str, name: str, *words: str) -> Callable[[str], None]:
    def act(path: str) -> None:
        from importlib import import_module

        made: Any = getattr(import_module(module), name)
        with ExitStack() as stack:
            if "ReadWrite" in name:
                lock = made(path, is_singleton=False)
                try:
                    with lock.read_lock(timeout=WAIT):
                        pass
                    with lock.write_lock(timeout=WAIT):
                        pass
                finally:
                    lock.close()
            elif name.startswith("Async"):

                async def main() -> None:
                    async with made(path, timeout=WAIT):
                        pass

                asyncio.run(main())
            else:
                options = {"lease_duration": 30.0} if name == "SoftFileLease" else {}
                stack.enter_context(made(path, timeout=WAIT, **options))

    return act


_NAMES = (
    "FileLock", "SoftFileLock", "StrictSoftFileLock", "SoftFileLease", "ReadWriteLock", "SoftReadWriteLock",
    "AsyncFileLock",
)  # fmt: skip

ENTRIES = (
    Entry("Lock", _lock),
    Entry("Lock, try_acquire", _try),
    Entry("Lock, fair", lambda path: _lock(path, fair=True)),
    Entry("Lock, dual", lambda path: _lock(path, primitive="dual")),
    Entry("AsyncLock", _async),
    Entry("RLock", _rlock),
    Entry("RWLock", _rw),
    Entry("RWLock, write", _writer),
    Entry("Semaphore", _semaphore),
    Entry("acquire_all", _all),
    Entry("hold.token", _token, ("", "{}.token")),
    Entry("lease", lambda path: _lock(path, primitive="marker"), ("", "{}.interlock")),
    Entry("Fence.write", _fence, ("", ".{}.fence", ".{}.fence.lock")),
    Entry("Fence.newest", _newest, (".{}.fence",)),
    Entry("Fence.admit", _admit, (".{}.fence", ".{}.fence.lock")),
    Entry("transform", _transform, ("", "{}.lock")),
    Entry("publish", _publish),
    Entry("once", _once, ("", "{}.lock", ".{}.failed")),
    Entry("inspect", _inspect, ("", "{}.interlock")),
    Entry("interlock run", _command("run", "--timeout", "1", "{}", "--", "true")),
    Entry("interlock who", _command("who", "--json", "{}")),
    Entry("interlock break", _command("break", "{}"), ("", "{}.interlock")),
    Entry("interlock trace", _traced),
    Entry("probe", _probe),
    Entry("store", _store,
          ("", "{}/.interlock", "{}/.interlock/locks", "{}/.interlock/generations", "{}/v3/layout.json")),
    *(Entry(f"facade {name}", _facade("interlock.filelock", name), ("", *beside))
      for name, beside in ((name, {"StrictSoftFileLock": ("{}.filelock", "{}.filelock/claims"),
                                   "SoftReadWriteLock": ("{}.rw", "{}.rw/gen")}.get(name, ())) for name in _NAMES)),
)  # fmt: skip



def _careless(path: str) -> None:
    """As lock files were made before CVE-2025-68146: follows links, and truncates what is there."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def _trusting(path: str) -> None:
    """Reads a marker to see who holds: of a FIFO, for ever."""
    with open(path, "rb") as file:
        file.read()


CONTROLS = (Entry("careless", _careless), Entry("trusting", _trusting))
FILELOCK = tuple(Entry(f"filelock {name}", _facade("filelock", name)) for name in _NAMES)
