"""What every benchmark needs: child processes with a wire to them, and the facts of the environment."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .figures import Row

clock = time.monotonic_ns  # one clock for all processes of a machine


class Plan(NamedTuple):
    """What the command line asked for."""

    directory: str
    quick: bool

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the environment


def environment(plan: Plan) -> Row:
    """Facts that a figure depends on, and none that tells one machine from another of its kind."""
    from .subjects import versions

    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "filesystem": filesystem(plan.directory),
        "inotify_instances": inotify_instances(),
        "load": round(os.getloadavg()[0], 1),
        "quick": plan.quick,
        "versions": versions(),
    }


def inotify_instances() -> int | None:
    """How many processes of a user can wait for events; the rest of the waiters nap."""
    try:
        with open("/proc/sys/fs/inotify/max_user_instances", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return None


def filesystem(directory: str) -> str:
    """The type of the filesystem under a directory, from the longest mount point above it."""
    best, kind = "", "unknown"
    directory = os.path.realpath(directory)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                left, _, right = line.partition(" - ")
                point = left.split()[4].replace("\\040", " ")
                inside = directory == point or directory.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, right.split()[0]
    except OSError:
        pass
    return kind


# ---- child processes


class Wire:
    """Whole JSON values over a socket, one per line."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(180)
        self._file = end.makefile("rw", encoding="utf-8")
        end.close()  # the file keeps it open

    def say(self, value: object = None) -> None:
        self._file.write(json.dumps(value) + "\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `hear` says why the other one has gone
            self._file.flush()

    def hear(self) -> Any:
        line = self._file.readline()
        if not line:
            raise EOFError("the other process is gone")
        value = json.loads(line)
        if isinstance(value, dict) and "traceback" in value:
            raise ChildError(value["traceback"])
        return value

    def close(self) -> None:
        with contextlib.suppress(OSError):  # unsent words to somebody who is gone
            self._file.close()


class ChildError(Exception):
    """A child failed; the text is its traceback."""


FAILURES = (ChildError, EOFError, TimeoutError)
"""What the use of a lock in children may raise here. It becomes a row that says so."""


def why(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]


class Child(NamedTuple):
    pid: int
    wire: Wire


class Crew:
    """Forked processes, each with a wire. Those left at the end of the `with` block are killed."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}

    def fork(self, body: Callable[[Wire], None]) -> Child:
        """Run `body` in a child. Its exceptions are raised here, by the next `hear`."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            child = self._children[pid] = Child(pid, Wire(ours))
            return child
        code = 1
        try:
            ours.close()
            for child in self._children.values():
                child.wire.close()  # so that each child sees the parent's end
            wire = Wire(theirs)
            try:
                body(wire)
                code = 0
            except BaseException:
                wire.say({"traceback": traceback.format_exc()})
        finally:
            os._exit(code)

    def end(self, child: Child, kill: bool = False) -> None:
        """Reap a child that ends by itself, or is killed."""
        if kill:
            os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        child.wire.close()
        del self._children[child.pid]

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in list(self._children.values()):
            self.end(child, kill=True)
