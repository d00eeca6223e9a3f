"""A program that holds a lock and starts children in every way that Python has; and what these look at.

`python -m tests.process.children hold KIND PATH` starts a child by each of `WAYS` while it holds, and prints what was
wrong, by way; `... exec KIND PATH SECONDS` becomes another program while it holds, and that one says what is left of
the lock, and whether it gets it within that time.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import warnings
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

from ..faults.subjects import RIVALS, SUBJECTS, Subject
from .workers import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    Child = Callable[[], int]
    """Wait for its end and return its exit status."""

PATIENCE = 60.0


class Reentrant(Subject):
    def make(self, path: str) -> Any:
        from interlock import RLock

        return RLock(path)


class Lease(Subject):
    """A holder that stands still for a while on a busy machine does not lose it."""

    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path, primitive="marker", ttl=PATIENCE)


class ShortLease(Subject):
    """For a holder that forgets it."""

    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path, primitive="marker", ttl=1)


class Leaky(Subject):
    """The negative control: flock(2) on a descriptor that every child inherits."""

    def make(self, path: str) -> Any:
        return path

    def take(self, lock: Any, timeout: float) -> Any:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(fd, True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise TimeoutError from error
        return fd

    def held(self, hold: Any) -> bool:
        return True

    def check(self, hold: Any) -> None:
        pass

    def release(self, hold: Any) -> None:
        fcntl.flock(hold, fcntl.LOCK_UN)
        os.close(hold)


KINDS: dict[str, Subject] = {
    **SUBJECTS,
    "rlock": Reentrant(),
    "lease": Lease(),
    "short lease": ShortLease(),
    "leaky": Leaky(),
}


# ---- in the child


def took(kind: str, path: str, patience: float, lock: Any = None) -> bool:
    """Does a lock of this kind, or this one, come to be held here? It is given back at once."""
    subject = KINDS[kind]
    try:
        hold = subject.take(subject.make(path) if lock is None else lock, patience)
    except TimeoutError:
        return False
    subject.release(hold)
    return True


def inherited(path: str) -> list[str]:
    directory = os.path.dirname(path)
    return [what for what in descriptors().values() if what.startswith(directory)]


def look(kind: str, path: str, address: str, lock: Any = None) -> None:
    """Told to its parent: once while that one holds, once after the release."""
    signal.alarm(int(2 * PATIENCE))
    wrong = [f"inherited {what}" for what in inherited(path)]
    if lock is not None and (lock.is_locked if hasattr(lock, "is_locked") else getattr(lock, "held", False)):
        wrong.append("a pickled lock arrives held")
    if took(RIVALS.get(kind, kind), path, 0.001):
        wrong.append("took what its parent holds")
    if lock is not None and kind not in RIVALS and took(kind, path, 0.001, lock):
        wrong.append("took what its parent holds by a pickled lock")
    with Client(address) as parent:
        parent.send(wrong)
        parent.recv()
        wrong = [] if took(kind, path, PATIENCE, lock) else ["does not get what its parent has released"]
        parent.send(wrong)


# ---- ways to start one


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.process.children", *words]


def by_popen(close_fds: bool) -> Callable[..., Child]:
    def start(*words: str) -> Child:
        process = subprocess.Popen(command("look", *words), close_fds=close_fds)
        return lambda: process.wait(PATIENCE)

    return start


def by_posix_spawn(*words: str) -> Child:
    pid = os.posix_spawn(sys.executable, command("look", *words), os.environ)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def by_multiprocessing(method: str) -> Callable[..., Child]:
    def start(*args: Any) -> Child:
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["interlock"])
        process: BaseProcess = context.Process(target=look, args=args)
        process.start()

        def end() -> int:
            process.join(PATIENCE)
            return -1 if process.exitcode is None else process.exitcode

        return end

    return start


WAYS: dict[str, Callable[..., Child]] = {
    "subprocess": by_popen(close_fds=True),
    "subprocess, close_fds=False": by_popen(close_fds=False),
    "posix_spawn": by_posix_spawn,
    "spawn": by_multiprocessing("spawn"),
    "forkserver": by_multiprocessing("forkserver"),
}
PICKLING = ("spawn", "forkserver")


# ---- in the holder


def try_way(way: str, kind: str, path: str, listener: Any, lock: Any = None) -> list[str]:
    """What was wrong with a child that is started while we hold. `lock`: an object that it gets."""
    subject = KINDS[kind]
    mine = lock if lock is not None else subject.make(path)
    hold = subject.take(mine, PATIENCE)
    more = () if lock is None else (lock,)
    end = WAYS[way](kind, path, listener.address, *more)
    with listener.accept() as child:
        wrong = heard(child)
        if not subject.held(hold):
            wrong.append("the parent holds no more")
        else:
            subject.check(hold)
        subject.release(hold)
        if not took(RIVALS.get(kind, kind), path, PATIENCE):
            wrong.append("the child keeps what its parent has released")
        child.send("released")
        wrong += heard(child)
    status = end()
    return wrong if status == 0 else [*wrong, f"exit status {status}"]


def heard(child: Connection) -> list[str]:
    try:
        wrong: list[str] = child.recv()
    except EOFError:
        return ["the child ended"]
    return wrong


def refused_to_pickle(kind: str, path: str) -> str:
    """The error's text, of a lock that is held; empty: it is pickled."""
    subject = KINDS[kind]
    lock = subject.make(path)
    hold = subject.take(lock, PATIENCE)
    try:
        pickle.dumps(lock)
    except TypeError as error:
        return str(error)
    finally:
        subject.release(hold)
    return ""


def hold(kind: str, path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, Listener(os.path.join(directory, "socket")) as listener:
        for way in WAYS:
            result[way] = try_way(way, kind, path, listener)
        result["refused"] = refused_to_pickle(kind, path)
        for way in PICKLING if not result["refused"] else ():
            result[f"{way}, pickled"] = try_way(way, kind, path, listener, KINDS[kind].make(path))
    return result


# ---- exec


def become(kind: str, path: str, patience: str) -> None:
    """Another program, in the middle of a hold."""
    lock = KINDS[kind].make(path)
    held = KINDS[kind].take(lock, PATIENCE)
    KINDS[kind].check(held)
    os.execv(sys.executable, command("after", kind, path, patience, str(os.getpid())))


def after(kind: str, path: str, patience: str, pid: str) -> dict[str, Any]:
    left = inherited(path)
    kind = RIVALS.get(kind, kind)
    at_once = took(kind, path, 0.001)
    later = at_once or took(kind, path, float(patience))
    return {"same process": int(pid) == os.getpid(), "left": left, "at once": at_once, "later": later}


def main(verb: str, *words: str) -> None:
    warnings.simplefilter("error")
    signal.alarm(int(3 * PATIENCE))
    verbs: dict[str, Callable[..., Any]] = {"hold": hold, "look": look, "exec": become, "after": after}
    result = verbs[verb](*words)
    if result is not None:
        print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
