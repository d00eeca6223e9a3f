"""Log records, threads, forks, odd paths, and what only locks of the kernel do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

from .see import NATIVE, PUBLIC, SYNC, See, case, filelock, state


@case(*SYNC)
def messages(see: See, directory: str, kind: Any) -> None:
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            for one in (lock, other):
                text = text.replace(str(id(one)), "<id>")
            text = text.split(", waiting")[0]
            # How often one tries while it waits is not compared.
            again = records and "not acquired" in records[-1]
            if not again or ("Attempting to acquire" not in text and "not acquired" not in text):
                records.append(f"{record.name} {record.levelname} {text}")

    path = os.path.join(directory, "a.lock")
    lock, other = kind(path), kind(path)
    handler = Keep()
    logger = logging.getLogger("filelock")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    with lock:
        for keywords in ({"timeout": 0.01}, {"blocking": False}, {"timeout": 5, "cancel_check": lambda: True}):
            with contextlib.suppress(filelock.Timeout):
                other.acquire(**keywords)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    see.note("records", [see.text(record) for record in records])


@case(*SYNC)
def threads(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    own, shared = kind(path), kind(path, thread_local=False)
    found: list[Any] = []

    def elsewhere(function: Any) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    own.timeout = 4
    elsewhere(lambda own=own: found.append([own.timeout, state(own)]))
    with own:
        elsewhere(lambda own=own: found.append(state(own)))
    shared.timeout = 4
    with shared:
        elsewhere(lambda: found.append([shared.timeout, state(shared)]))
        elsewhere(shared.acquire)
        see.note("shared twice", state(shared))
        shared.release()
    elsewhere(own.acquire)
    found.append(state(own))
    other = kind(path)
    see("held by a dead thread", other.acquire, timeout=0.01)
    own.release(force=True)
    see("freed", lambda: type(other.acquire(timeout=1)).__name__)
    other.release()
    elsewhere(own.acquire)
    del own
    see("finalized", lambda: type(other.acquire(timeout=1)).__name__)
    see.note("found", found)


@case(*SYNC)
def forks(see: See, directory: str, kind: Any) -> None:
    if sys.platform == "win32":
        return
    path = os.path.join(directory, "a.lock")
    unheld, lock = kind(os.path.join(directory, "b.lock")), kind(path)
    lock.acquire()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if not pid:
        try:
            child = See(directory)
            child.note("state", state(lock))
            child("release", lock.release)
            child("force", lock.release, True)
            child("acquire", lock.acquire, timeout=0)
            child("acquire unheld", unheld.acquire)
            child("a new one", kind(path).acquire, timeout=0)
            child("elsewhere", lambda: type(kind(os.path.join(directory, "c.lock")).acquire()).__name__)
            text = json.dumps(child.found).replace(str(os.getpid()), "<child>")
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    see.note("child", json.loads(os.read(reader, 65536)))
    see.note("parent", state(lock))
    see("still excludes", kind(path).acquire, timeout=0)
    lock.release()


@case(*SYNC)
def bad_paths(see: See, directory: str, kind: Any) -> None:
    os.chdir(directory)
    for path in ("", "\0", ".", "missing/", directory + "/"):
        see(f"path {path.replace(directory, '')!r}", lambda path=path: kind(path).acquire(timeout=0))
    os.symlink("target", "link.lock")
    see("link", lambda: kind(os.path.join(directory, "link.lock")).acquire(timeout=0))
    see.note("untouched", os.path.exists("target"))


@case(*NATIVE)
def native(see: See, directory: str, kind: Any) -> None:
    if sys.platform == "win32":
        return
    path = os.path.join(directory, "a.lock")
    old = os.umask(0o022)
    with kind(path):
        see.note("umask", oct(os.stat(path).st_mode))
    os.unlink(path)
    with kind(path, mode=0o666):
        see.note("mode", oct(os.stat(path).st_mode))
    with kind(path, mode=0o600):
        see.note("existing", oct(os.stat(path).st_mode))
    os.umask(old)
    with open(path, "w") as file:
        file.write("precious")
    with kind(path):
        pass
    with open(path) as file:
        see.note("content", file.read())
    seen: list[Any] = []
    lock = kind(path, on_acquired=lambda fd: seen.append(os.fstat(fd).st_ino == os.stat(path).st_ino))
    with lock, lock:
        pass
    with lock:
        pass
    see.note("hook", seen)

    def refuse(fd: int) -> None:
        raise ZeroDivisionError("refused")

    lock = kind(path, on_acquired=refuse)
    see("hook raises", lock.acquire)
    see.note("hook rolled back", state(lock))
    see("free", lambda: type(kind(path).acquire(timeout=0)).__name__)
    nest: list[Any] = []
    nesting = kind(path, on_acquired=lambda fd: nest[0].acquire() and None)
    nest.append(nesting)
    see("hook nests", nesting.acquire)
    see.note("nested", state(nesting))
    nesting.release(force=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        with kind(path):
            os.write(writer, b"x")
            time.sleep(30)
    os.read(reader, 1)
    see("held by another process", kind(path).acquire, timeout=0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    see("killed", lambda: type(kind(path).acquire(timeout=5)).__name__)

@case("WindowsFileLock", "AsyncWindowsFileLock")
def windows(see: See, directory: str, kind: Any) -> None:
    lock = see("make", kind, os.path.join(directory, "a.lock"))
    with contextlib.suppress(NotImplementedError):
        result = lock.acquire()
        if inspect.iscoroutine(result):
            asyncio.run(result)
        see.note("acquired", True)
    see.note("state", state(lock))


@case(*(name for name in PUBLIC if name.endswith("ReturnProxy")))
def proxies(see: See, directory: str, kind: Any) -> None:
    class Own:
        def release(self) -> None:
            see.note("released", True)

    see.note("lock", kind(lock=Own()).lock.__class__.__name__)
    if kind is filelock.AcquireReturnProxy:
        with kind(Own()) as lock:
            see.note("inside", type(lock).__name__)
        see("subscript", lambda: str(kind[int]) != "")


@case("lock_descriptor", "unlock_descriptor")
def descriptors(see: See, directory: str, thing: Any) -> None:
    path = os.path.join(directory, "a.lock")
    one, two = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    see("lock", filelock.lock_descriptor, one)
    see("contended", filelock.lock_descriptor, two, blocking=False)
    see("against FileLock", filelock.FileLock(path).acquire, timeout=0)
    see("unlock", filelock.unlock_descriptor, one)
    see("unlock again", filelock.unlock_descriptor, one)
    see("lock two", filelock.lock_descriptor, two, poll_interval=0.001)
    thread = threading.Timer(0.05, filelock.unlock_descriptor, [two])
    thread.start()
    see("waits", filelock.lock_descriptor, one, poll_interval=0.001)
    thread.join()
    os.close(one)
    os.close(two)
    see("closed", filelock.lock_descriptor, one)
    see("closed unlock", filelock.unlock_descriptor, one)
    for interval in (0, -1, math.nan, math.inf, "x", True):
        see(f"poll {interval}", filelock.lock_descriptor, one, poll_interval=interval)
