"""The history of this process's locks as a file, for `interlock trace`. Loaded where INTERLOCK_TRACE names a directory.

Each process has one file of JSON lines in that directory, PID-RANDOM.jsonl: first who it is, then one line per event
(see `interlock.observe`). A line is one write(2) with O_APPEND, so whatever kills the process leaves whole lines up to
its last event. A forked child begins a file of its own at its first event. A file ends at LIMIT bytes and says so.

Recording never breaks the program: what cannot be written is not recorded. Programs close descriptors that they do not
know and get the same number for a file of theirs; so before each write the descriptor is compared with the file that
was opened.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time

from ._address import command_line
from ._core import fork
from ._observe import Observation, observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._observe import Event

VARIABLE = "INTERLOCK_TRACE"
LIMIT = 64 << 20
"""Bytes per process; about 250,000 events."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Recorder:
    """Writes the events of this process below `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._pid = 0
        self._fd = -1
        self._identity = (0, 0)
        self._written = 0
        self.observation: Observation | None = None

    def note(self, event: Event) -> None:
        if self._written < 0:
            return
        if event.pid != self._pid:
            self._written = 0
        try:
            self._write(
                {
                    "k": event.kind,
                    "r": event.resource,
                    "key": event.key,
                    "e": event.engine,
                    "m": event.mode,
                    "t": event.thread,
                    "tid": event.thread_id,
                    "task": event.task,
                    "n": event.hold,
                    "at": event.monotonic,
                    "w": event.waited,
                    "h": event.held,
                    "why": event.reason,
                    "was": event.was,
                    "slot": event.slot,
                }
            )
            if self._written > LIMIT:
                self._write({"full": True, "at": event.monotonic})
                self._written = -1  # no more
        except OSError:  # a full disk, or the directory is gone: the program goes on unrecorded
            self._written = -1

    def _write(self, line: dict[str, object]) -> None:
        fd = self._descriptor()
        self._written += os.write(fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _descriptor(self) -> int:
        if self._pid == os.getpid():
            try:
                status = os.fstat(self._fd)
                if (status.st_dev, status.st_ino) == self._identity:
                    return self._fd
            except OSError:
                pass
        parent, self._pid = self._pid, os.getpid()
        self._fd = os.open(os.path.join(self._directory, f"{self._pid}-{secrets.token_hex(4)}.jsonl"), _FLAGS, 0o600)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)
        head = {
            "pid": self._pid,
            "ppid": os.getppid(),
            "forked_from": parent if parent != self._pid else 0,
            "argv": [command_line([word])[:200] for word in (sys.orig_argv or sys.argv)[:50]],
            "at": time.monotonic(),
            "epoch": time.time(),
        }
        os.write(self._fd, json.dumps(head, separators=(",", ":")).encode() + b"\n")
        return self._fd

    def forget(self) -> None:
        """In a forked child: the file is the parent's."""
        try:
            status = os.fstat(self._fd)
            if (status.st_dev, status.st_ino) == self._identity:
                os.close(self._fd)
        except OSError:
            pass
        self._fd, self._identity = -1, (0, 0)


_recorder: Recorder | None = None


def begin() -> None:
    """Record from now on, if the environment asks for it; what is held already is recorded from its release on."""
    global _recorder
    directory = os.environ.get(VARIABLE, "")
    if _recorder is not None or not directory or not os.path.isdir(directory):
        return
    from ._fs import settings

    if not settings.trusted():
        return  # such a program writes no files where its caller says
    _recorder = Recorder(directory)
    fork.in_child(_recorder.forget)
    _recorder.observation = observe(_recorder.note)
