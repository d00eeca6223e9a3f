"""What programs that do not use interlock lock, seen from outside: /proc/locks, read again and again. Linux.

A sample tells who holds and who blocks at that moment: what is shorter than the time between two samples is mostly
missed, and times are as coarse as that. Seen are flock(2) and fcntl(2) record locks; of locks of open file
descriptions (F_OFD_SETLK) the kernel does not tell whose they are. The sampler reads as often as costs it a twentieth
of a core, but every 2 to 20 milliseconds.

Whose locks: the traced command's, and all processes' that have its environment or descend from it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass

from .._record import VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    if sys.platform == "win32":
        from typing import Any as Entry
    else:
        from ..engines.kernel.proc import Entry

SHORTEST = 0.002
"""Seconds between two samples, at least."""

LONGEST = 0.02
MOST = 200_000
"""Intervals kept."""


@dataclass
class Sample:
    """An interval in which a process was seen to hold or wait. Monotonic seconds."""

    pid: int
    kind: str  # "hold", "wait"
    how: str  # "flock", "posix"
    mode: str
    device: str
    inode: int
    start: float
    end: float
    path: str = ""


class Sampler:
    """Samples in a thread of its own between `start` and `stop`."""

    def __init__(self, directory: str) -> None:
        self._mark = f"{VARIABLE}={directory}".encode()
        self._directory = directory
        self._root = os.getpid()
        self._ours: dict[int, bool] = {self._root: False}
        self._open: dict[tuple[object, ...], Sample] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.closed: list[Sample] = []
        self.ended: dict[int, float] = {}
        """When recorded processes were seen to be gone."""
        self.commands: dict[int, str] = {}
        self.samples = 0
        self.period = SHORTEST
        """The mean time between two samples, in the end."""

    def start(self, launch: object) -> None:
        assert callable(launch)
        launch(self._thread)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        now = time.monotonic()
        if sys.platform == "linux":
            self._bury(now)
        for sample in self._open.values():
            sample.end = now
            self.closed.append(sample)
        self._open.clear()

    def _run(self) -> None:
        if sys.platform != "linux" or not os.path.exists("/proc/locks"):
            return
        began, pause = time.monotonic(), SHORTEST
        while not self._stop.wait(pause):
            now, spent = time.monotonic(), time.thread_time()
            try:
                self._look(now)
                self._bury(now)
            except OSError:
                pass
            self.samples += 1
            self.period = (time.monotonic() - began) / self.samples
            pause = min(LONGEST, max(SHORTEST, 19 * (time.thread_time() - spent)))

    def _look(self, now: float) -> None:
        if sys.platform == "win32":
            return
        from ..engines.kernel import proc

        seen: set[tuple[object, ...]] = set()
        for entry in proc.table():
            if entry.pid <= 0 or entry.kind not in ("FLOCK", "POSIX") or not self._is_ours(entry.pid):
                continue
            key: tuple[object, ...] = (
                entry.pid, entry.kind, entry.mode, entry.device, entry.inode, entry.blocked, entry.start
            )  # fmt: skip
            seen.add(key)
            sample = self._open.get(key)
            if sample is None:
                sample = self._open[key] = _sample(entry, now)
            if not sample.path:
                sample.path = _path(entry)
            sample.end = now
        for key in self._open.keys() - seen:
            sample = self._open.pop(key)
            if len(self.closed) < MOST:
                sample.end = now
                self.closed.append(sample)

    def _is_ours(self, pid: int) -> bool:
        known = self._ours.get(pid)
        if known is None:
            if sys.platform == "win32":
                return False
            from ..engines.kernel import proc

            known = self._ours[pid] = self._has_mark(pid) or self._descends(pid)
            if known:
                self.commands[pid] = proc.command(proc.words(pid))
        return known

    def _has_mark(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return self._mark in file.read().split(b"\0")
        except OSError:
            return False

    def _descends(self, pid: int) -> bool:
        for _ in range(64):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    pid = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                return False
            if pid == self._root:
                return True
            if pid <= 1:
                return False
        return False

    def _bury(self, now: float) -> None:
        """Note which of the recorded processes have ended."""
        for name in os.listdir(self._directory):
            pid = int(name.partition("-")[0])
            if pid in self.ended:
                continue
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    gone = file.read().rpartition(")")[2].split()[0] in "ZX"
            except (OSError, IndexError):
                gone = True
            if gone:
                self.ended[pid] = now


def _sample(entry: Entry, now: float) -> Sample:
    return Sample(
        pid=entry.pid,
        kind="wait" if entry.blocked else "hold",
        how=entry.kind.lower(),
        mode="read" if entry.mode == "READ" else "write",
        device=entry.device,
        inode=entry.inode,
        start=now,
        end=now,
    )


def _path(entry: Entry) -> str:
    if sys.platform == "win32":
        return ""
    from ..engines.kernel import proc

    try:
        fds = os.listdir(f"/proc/{entry.pid}/fd")
    except OSError:
        return ""
    for fd in fds:
        try:
            if os.stat(f"/proc/{entry.pid}/fd/{fd}").st_ino == entry.inode:
                path = proc.path_of(entry.pid, int(fd))
                if path.startswith("/"):
                    return path
        except OSError:
            continue
    return ""
