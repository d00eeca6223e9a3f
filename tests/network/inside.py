"""What runs in the guests: on the server the plan, on the clients an agent that starts workers and kills them.

The referee is that of `tests.soak`: who is in has said so in a page of memory that all kernels share, and looks who
else has. So it trusts no clock, it sees each hold, and none waits for an answer.

Workers are forked by the agent: to start an interpreter takes a guest two seconds, and the agent holds no locks.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..soak.referee import DOOMED, HOLDS, INSIDE, OVERLAPS, Cells
from . import worker
from .guests import ADDRESSES, PAGE

if TYPE_CHECKING:
    from typing import NoReturn

SERVER = "10.9.0.1"
AGENTS = 7000
PLACE = "/mnt/net"
CLIENTS = 2

MOUNTS = {
    "NFSv3": ["nfs", f"{SERVER}:/mnt/net/export", "vers=3,proto=tcp,mountproto=tcp"],
    "NFSv3 nolock": ["nfs", f"{SERVER}:/mnt/net/export", "vers=3,proto=tcp,mountproto=tcp,nolock"],
    "NFSv4.2": ["nfs", f"{SERVER}:/", "vers=4.2,proto=tcp"],
    "SMB 3.1.1": ["cifs", f"//{SERVER}/export", "guest,vers=3.1.1,cache=strict,actimeo=0"],
    "SMB 3.1.1 nolease": ["cifs", f"//{SERVER}/export", "guest,vers=3.1.1,cache=strict,actimeo=0,nolease"],
    "SMB 3.1.1 nobrl": ["cifs", f"//{SERVER}/export", "guest,vers=3.1.1,cache=none,nobrl"],
}


class Wire:
    """Lines of JSON over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock, self._file = sock, sock.makefile("rb")

    @classmethod
    def to(cls, port: int) -> Wire:
        deadline = time.monotonic() + 60
        while True:
            try:
                return cls(socket.create_connection((SERVER, port), timeout=None))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def say(self, what: Any) -> None:
        self._sock.sendall(json.dumps(what).encode() + b"\n")

    def hear(self) -> Any:
        line = self._file.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def ask(self, what: Any) -> Any:
        self.say(what)
        return self.hear()


def cells_of(order: dict[str, Any]) -> Cells:
    """The referee's page, for the workers of all clients."""
    with open("/dev/mmapper", "r+b", buffering=0) as device:
        page = mmap.mmap(device.fileno(), PAGE)
    return Cells(CLIENTS * order["workers"], order["run"], order["files"], page=page)


def serve(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the plan; returns the results."""
    listener = socket.create_server(("", AGENTS))
    agents = [Wire(listener.accept()[0]) for _ in range(CLIENTS)]
    for agent in agents:
        agent.hear()
    time.sleep(plan.get("grace", 12))  # NFSv4 gives no locks for 10 s after the server came up
    found = []
    for mount in plan["mounts"]:
        print(f"{mount}: mount", flush=True)
        answers = _all(agents, {"mount": mount})
        if any(answers):
            found.append({"mount": mount, "failed": answers})
            continue
        for lock in plan["locks"]:
            print(f"{mount}: {lock}", flush=True)
            order = {"run": lock, "mount": mount, **{name: plan[name] for name in LOAD}}
            if lock == "none":
                order["seconds"] = min(order["seconds"], CONTROL)
            found.append({"mount": mount, "lock": lock, **_cell(agents, order)})
        print(f"{mount}: umount", flush=True)
        _all(agents, {"umount": True})
    return {"kernel": os.uname().release, "cells": found}


ENDS = 30.0
"""Seconds in which a worker ends that was told to, or killed; one that waits for a lock gives up in PATIENCE."""

CONTROL = 10.0
"""Seconds of the negative control, at most."""

LOAD = ("seconds", "workers", "files", "kills", "seed")


def _cell(agents: list[Wire], order: dict[str, Any]) -> dict[str, Any]:
    """One lock on one mount: storm."""
    cells = cells_of(order)
    cells.clear()
    for agent in agents:
        agent.say(order)
    began = time.monotonic()
    while not cells.stopped and time.monotonic() < began + order["seconds"]:
        time.sleep(0.05)
    cells.stop()
    lasted = time.monotonic() - began
    done = [agent.hear() for agent in agents]
    counted = {"holds": cells.sum(HOLDS), "overlaps": cells.sum(OVERLAPS)}
    by_worker = [cells.at(worker, HOLDS) for worker in range(cells.workers)]
    return {"lasted": round(lasted, 1), **counted, "by_worker": by_worker, **_merged(done)}


def _all(agents: list[Wire], order: dict[str, Any]) -> list[Any]:
    for agent in agents:
        agent.say(order)
    return [agent.hear() for agent in agents]


def _merged(done: list[dict[str, Any]]) -> dict[str, Any]:
    reports = [report for each in done for report in each["reports"]]
    sums = {name: sum(each[name] for each in done) for name in ("kills", "killed_inside")}
    return {
        **sums,
        # Of the workers that were alive at the end: who was killed did not report.
        **{name: sum(report.get(name, 0) for report in reports) for name in ("timeouts", "waited", "waited_of")},
        "chosen": sorted({report["chosen"] for report in reports if report.get("chosen")}),
        "refused": sorted({report["refused"] for report in reports if report.get("refused")}),
        "errors": sorted({report["error"] for report in reports if report.get("error")}),
    }


# ---- clients


class Agent:
    def __init__(self, role: str) -> None:
        self._number = [name for name in ADDRESSES if name != "server"].index(role)
        self._wire = Wire.to(AGENTS)
        self._wire.say(role)

    def run(self) -> None:
        while (order := self._wire.hear()) is not None:
            if "run" in order:
                self._wire.say(Storm(order, self._number).run())
            elif "umount" in order:
                self._wire.say(_command("umount", PLACE))
            else:
                kind, what, options = MOUNTS[order["mount"]]
                self._wire.say(_command("mount", "-t", kind, "-o", options, what, PLACE))


class Storm:
    """The workers of one client, of which some are killed."""

    def __init__(self, order: dict[str, Any], client: int) -> None:
        self._kind, self._kills, workers = order["run"], order["kills"], order["workers"]
        self._cells = cells_of(order)
        self._slots = range(client * workers, (client + 1) * workers)
        self._dice = random.Random(f"{client} {order}")
        name = f"{order['mount']}-{order['run']}".replace(" ", "-")
        self._paths = [os.path.join(PLACE, f"{name}-{number}.lock") for number in range(order["files"])]
        self._running: dict[int, int] = {}
        self._reports: list[dict[str, Any]] = []
        self._killed_inside = 0
        worker.warm_up(self._kind)

    def run(self) -> dict[str, Any]:
        kills, dice = 0, self._dice
        for slot in self._slots:
            self._start(slot)
        next_kill = time.monotonic() + dice.uniform(0.5, 1.5) / self._kills if self._kills else float("inf")
        while not self._cells.stopped:
            time.sleep(0.02)
            for pid in self._running.values():
                if _ended(pid):
                    self._cells.stop()  # refused, or an error
            if time.monotonic() >= next_kill and not self._cells.stopped:
                next_kill = time.monotonic() + dice.uniform(0.5, 1.5) / self._kills
                victim = self._whom()
                self._cells.put(victim, DOOMED, 1)
                os.kill(self._running[victim], signal.SIGKILL)
                if self._ends(victim, time.monotonic() + ENDS):
                    self._bury(victim)
                    self._start(victim)
                    kills += 1
                else:  # it stays doomed: what it holds accuses nobody
                    self._cells.stop()
        deadline = time.monotonic() + ENDS
        for slot in list(self._running):
            if self._ends(slot, deadline):
                self._bury(slot)
        return {"reports": self._reports, "kills": kills, "killed_inside": self._killed_inside}

    def _ends(self, slot: int, deadline: float) -> bool:
        """Wait for it. One that does not end, because it stands in the kernel, is reported with where that is."""
        pid = self._running[slot]
        while not _ended(pid):
            if time.monotonic() > deadline:
                words = ["cat", f"/proc/{pid}/stat", f"/proc/{pid}/stack"]
                where = subprocess.run(words, capture_output=True, text=True).stdout
                self._reports.append({"error": f"a worker does not end: {where}"})
                os.kill(self._running.pop(slot), signal.SIGKILL)
                return False
            time.sleep(0.02)
        return True

    def _whom(self) -> int:
        """Half of the time somebody who is in, if there is one soon."""
        deadline = time.monotonic() + (0.2 if self._dice.random() < 0.5 else 0.0)
        while time.monotonic() < deadline:
            if inside := [slot for slot in self._slots if self._cells.at(slot, INSIDE)]:
                return self._dice.choice(inside)
            time.sleep(0.0003)
        return self._dice.choice(self._slots)

    def _start(self, slot: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        seed = self._dice.randrange(1 << 30)
        self._running[slot] = os.fork() or self._work(slot, seed)

    def _work(self, slot: int, seed: int) -> NoReturn:
        try:
            report = worker.work(self._cells, slot, self._kind, self._paths, seed)
            _said_by(slot).write_text(json.dumps(report))
            os._exit(0)
        finally:
            os._exit(1)

    def _bury(self, slot: int) -> None:
        """What a dead one says accuses nobody: see `tests.soak.storm`."""
        _, status = os.waitpid(self._running.pop(slot), 0)
        if status == signal.SIGKILL:
            self._killed_inside += bool(self._cells.at(slot, INSIDE))
        elif status == 0:
            self._reports.append(json.loads(_said_by(slot).read_text()))
        else:
            self._reports.append({"error": f"a worker ended with {status}"})
        self._cells.put(slot, INSIDE, 0)
        self._cells.put(slot, DOOMED, 0)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _said_by(slot: int) -> Path:
    return Path(f"/run/worker-{slot}.json")


def _command(*words: str) -> str:
    """Run it; what went wrong, or ""."""
    done = subprocess.run(words, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{' '.join(words)}: {done.stderr.strip() or done.returncode}"


def main() -> None:
    role = sys.argv[1]
    out = Path("/mnt/out")
    try:
        plan = json.loads((out / "plan.json").read_text())
        if "patience" in plan:
            faulthandler.dump_traceback_later(max(plan["patience"] - 20, 1))
        if role == "server":
            results = serve(plan)
            (out / "results.part").write_text(json.dumps(results))
            os.replace(out / "results.part", out / "results.json")
        else:
            Agent(role).run()
    except BaseException:  # noqa: BLE001 - it is shown by whoever waits in vain
        traceback.print_exc()
    finally:
        while True:  # the first process of a guest must not end: its kernel would panic
            time.sleep(3600)


if __name__ == "__main__":
    main()
