"""A guest's end of `chaos`: does what the host says over the serial line, each `slot` in a thread of its own.

A slot is a lock on a mount. What can block for ever blocks its slot only, and the host waits no longer than it wants.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import traceback
import tty
from typing import Any

import interlock
from interlock import Fence, LostError, StaleTokenError, Timeout, UnsupportedError

from .inside import MOUNTS, Wire

LINE = "/run/line"
TTL = 6.0
"""Seconds, of the leases: three guests on a busy machine renew slowly."""


class Line:
    """Lines of JSON over a serial line."""

    def __init__(self) -> None:
        self._fd = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._fd)
        self._mutex = threading.Lock()
        self._rest = b""

    def say(self, what: dict[str, Any]) -> None:
        data = json.dumps(what).encode() + b"\n"
        with self._mutex:
            while data:
                data = data[os.write(self._fd, data) :]

    def hear(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._rest += os.read(self._fd, 4096)
        line, self._rest = self._rest.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found


class Runner:
    """Runs programs from a process without threads, one after the other: in a guest, a process whose threads stand in
    system calls on a dead server does not get through vfork(2)."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._mutex = threading.Lock()
        self._wire = Wire(ours)
        if os.fork() == 0:
            wire = Wire(theirs)
            while True:
                wire.say(_run(wire.hear()))

    def run(self, words: list[str]) -> dict[str, Any]:
        with self._mutex:
            found: dict[str, Any] = self._wire.ask(words)
            return found


def _run(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return {"said": "done" if done.returncode == 0 else "failed", "code": done.returncode, "why": done.stdout}


class Slot:
    """One lock, held or not, and what it guards."""

    def __init__(self, line: Line, runner: Runner) -> None:
        self._line, self._runner = line, runner
        self.orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._hold: interlock.Hold | None = None
        self._fence: Fence | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            order = self.orders.get()
            try:
                said = getattr(self, order["do"])(order)
            except (LostError, StaleTokenError) as error:
                said = {"said": "lost", "why": f"{type(error).__name__}: {error}"}
            except UnsupportedError as error:
                said = {"said": "refused", "why": str(error)}
            except (Timeout, TimeoutError) as error:
                said = {"said": "timeout", "why": str(error)}
            except Exception as error:  # noqa: BLE001 - it is what the cell shows
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{os.path.basename(place.filename)}, {place.line}"
                said = {"said": "failed", "why": f"{type(error).__name__}: {error} ({where})"}
            self._line.say({"id": order["id"], **said})

    def acquire(self, order: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {"primitive": order["lock"]}
        if order["lock"] == "marker":
            options["ttl"] = TTL
        os.makedirs(order["path"], exist_ok=True)
        self._fence = Fence(order["path"])
        lock = interlock.Lock(order["path"] + ".lock", **options)
        self._hold = lock.acquire(order["seconds"])
        return {"said": "in", "token": self._hold.token, "engine": lock.inspect().facts.get("primitive", "")}

    def check(self, _order: dict[str, Any]) -> dict[str, Any]:
        assert self._hold is not None
        self._hold.assert_held()
        return {"said": "held"}

    def glance(self, _order: dict[str, Any]) -> dict[str, Any]:
        """The negative control: is the lock file still the one at the path? That is all that stat(2) knows."""
        claim: Any = self._hold._claim if self._hold is not None else None
        engine = claim.line.engine
        if not hasattr(engine, "ops") or not hasattr(engine.ops, "current"):
            return {"said": "does not apply"}
        return {"said": "held" if engine.ops.current(claim.fd, claim.line.key) else "lost"}

    def write(self, order: dict[str, Any]) -> dict[str, Any]:
        """What a careful user does with what the lock guards."""
        assert self._hold is not None
        assert self._fence is not None
        self._fence.write(self._hold, order["data"], "guarded")
        return {"said": "wrote"}

    def release(self, _order: dict[str, Any]) -> dict[str, Any]:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()
        return {"said": "out"}

    def shell(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._runner.run(order["words"])

    def mount(self, order: dict[str, Any]) -> dict[str, Any]:
        kind, what, options = MOUNTS[order["mount"]]
        os.makedirs(order["at"], exist_ok=True)
        return self.shell({"words": ["mount", "-t", kind, "-o", options, what, order["at"]]})


def main() -> None:
    runners = {name: Runner() for name in ("", "doctor")}
    line = Line()
    slots: dict[str, Slot] = {}
    line.say({"id": 0, "said": "up"})
    while True:
        order = line.hear()
        if order["slot"] not in slots:
            slots[order["slot"]] = Slot(line, runners["doctor" if order["slot"].startswith("doctor") else ""])
        slots[order["slot"]].orders.put(order)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - it is shown by whoever waits in vain
        traceback.print_exc()
        sys.stderr.flush()
        while True:  # the first process of a guest must not end: its kernel would panic
            time.sleep(3600)
