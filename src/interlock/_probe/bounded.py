"""Calls that a filesystem may never answer: made by another process, waited for so long and no longer.

A process that is stuck in a call to a dead server (state D) ends at no signal, not even SIGKILL, and whoever waits for
it is stuck as well. So it is asked through a pipe, given up when the time is over, killed for the case that this helps,
and left to a thread that reaps it should it ever end.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
_START = 5.0
"""Seconds that the interpreter may need to start. It reads nothing of the place that is probed."""


class HungError(Exception):
    """No answer came in time; the process was given up."""


class CallError(Exception):
    """The system call failed with `errno`."""

    def __init__(self, errno: int, text: str) -> None:
        super().__init__(text)
        self.errno = errno
        self.text = text


class Child:
    """One worker. Every question has a limit in seconds; after a `HungError` there are no more.

    `patient`: it is not killed when it is given up, so that it can remove what its call has made, should that return
    within ten minutes (a directory is there as soon as a server goes on, whoever was killed meanwhile).
    """

    def __init__(self, patient: bool = False) -> None:
        self._patient = patient
        if not sys.executable:
            raise RuntimeError("a probe needs a Python interpreter to start, and sys.executable is empty")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            start_new_session=True,  # an interrupt at the terminal must not keep it from cleaning up
        )
        self.pid = self._process.pid
        self._rest = b""
        self._gone = False
        self._fresh = True

    def ask(self, limit: float, do: str, **arguments: object) -> Any:
        """The answer. Raises `CallError` and `HungError`."""
        if self._fresh:
            self._fresh = False
            self.ask(_START, "hello")
        self.send(do, **arguments)
        return self.answer(limit)

    def send(self, do: str, **arguments: object) -> None:
        """Ask, without waiting."""
        assert self._process.stdin is not None
        if self._gone:
            raise HungError
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self.abandon()
            raise HungError from error

    def answer(self, limit: float) -> Any:
        """The answer to what was sent."""
        if self._gone:
            raise HungError
        try:
            answer = json.loads(self._line(time.monotonic() + limit))
        except (OSError, ValueError, HungError) as error:
            self.abandon()
            raise HungError from error
        if "errno" in answer:
            raise CallError(answer["errno"], answer["error"])
        return answer["is"]

    def _line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([fd], [], [], max(until - time.monotonic(), 0.0))
            more = os.read(fd, 65536) if ready else b""
            if not more:
                raise HungError
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        """End it at once, as a crash would. What it made stays."""
        self._process.kill()
        self._end()

    def close(self, limit: float = 1.0) -> bool:
        """Let it clean up and end. False: it did not within the limit, and was given up."""
        if self._gone:
            return False
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(limit)
        except (OSError, subprocess.TimeoutExpired):
            self.abandon()
            return False
        self._end()
        return True

    def abandon(self) -> None:
        """Wait for it no longer."""
        if self._gone:
            return
        if not self._patient:
            try:
                self._process.kill()
            except OSError:
                pass
        self._end()

    def _end(self) -> None:
        self._gone = True
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # the input that it did not read
                pass
        if self._process.poll() is None:
            threading.Thread(target=self._process.wait, name="interlock-probe-reaper", daemon=True).start()
