"""What runs in the guests: on the server the plan and the referee, on the clients an agent that starts workers.

The referee trusts no clock: a worker says that it is in, waits for the answer, works, says that it leaves, waits for
the answer, says that it has heard it, and releases only then. Who comes in while another is in overlaps with it, unless
one of the two turns out to have been killed: what it said last may arrive after what its successor says, so only one
that has heard the referee's answer counts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

SERVER = "10.9.0.1"
AGENTS, REFEREE = 7000, 7001
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


class Referee:
    """Counts holds, and pairs of holders that were in together. Both must have heard the referee's answer when they
    left: the word of one that was killed may arrive after that of its successor."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._inside: dict[Wire, list[list[Wire]]] = {}
        """Who is in, and its pairs: lists of those who have left alive."""
        self._leaving: dict[Wire, list[list[Wire]]] = {}
        """Who said that it leaves, and has not yet said that it heard the answer."""
        self.holds = self.overlaps = self.killed_inside = 0
        listener = socket.create_server(("", REFEREE), backlog=64)
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            threading.Thread(target=self._serve, args=(Wire(listener.accept()[0]),), daemon=True).start()

    def _serve(self, wire: Wire) -> None:
        try:
            while (word := wire.hear()) is not None:
                with self._mutex:
                    {"in": self._came_in, "out": self._leaves, "heard": self._left}[word](wire)
                wire.say("noted")
        except OSError:
            pass
        with self._mutex:
            killed = self._inside.pop(wire, None) is not None
            killed |= self._leaving.pop(wire, None) is not None
            self.killed_inside += killed

    def _came_in(self, wire: Wire) -> None:
        self.holds += 1
        mine: list[list[Wire]] = []
        for others in self._inside.values():
            pair: list[Wire] = []
            others.append(pair)
            mine.append(pair)
        self._inside[wire] = mine

    def _leaves(self, wire: Wire) -> None:
        self._leaving[wire] = self._inside.pop(wire)

    def _left(self, wire: Wire) -> None:
        for pair in self._leaving.pop(wire):
            pair.append(wire)
            self.overlaps += len(pair) == 2

    def take(self) -> dict[str, int]:
        with self._mutex:
            found = {"holds": self.holds, "overlaps": self.overlaps, "killed_inside": self.killed_inside}
            self.holds = self.overlaps = self.killed_inside = 0
            return found


def serve(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the plan; returns the results."""
    referee = Referee()
    listener = socket.create_server(("", AGENTS))
    agents = [Wire(listener.accept()[0]) for _ in range(CLIENTS)]
    for agent in agents:
        agent.hear()
    time.sleep(plan.get("grace", 12))  # NFSv4 gives no locks for 10 s after the server came up
    found = []
    for mount in plan["mounts"]:
        answers = _all(agents, {"mount": mount})
        if any(answers):
            found.append({"mount": mount, "failed": answers})
            continue
        for lock in plan["locks"]:
            referee.take()
            order = {"run": lock, "mount": mount, **{name: plan[name] for name in ("seconds", "workers", "kills")}}
            done = _all(agents, order)
            time.sleep(0.3)  # the killed ones' connections
            found.append({"mount": mount, "lock": lock, **referee.take(), **_merged(done)})
        _all(agents, {"umount": True})
    return {"kernel": os.uname().release, "cells": found}


def _all(agents: list[Wire], order: dict[str, Any]) -> list[Any]:
    for agent in agents:
        agent.say(order)
    return [agent.hear() for agent in agents]


def _merged(done: list[dict[str, Any]]) -> dict[str, Any]:
    reports = [report for each in done for report in each["reports"]]
    return {
        "kills": sum(each["kills"] for each in done),
        "by_client": [sum(report.get("holds", 0) for report in each["reports"]) for each in done],
        "timeouts": sum(report.get("timeouts", 0) for report in reports),
        "chosen": sorted({report["chosen"] for report in reports if report.get("chosen")}),
        "refused": sorted({report["refused"] for report in reports if report.get("refused")}),
        "errors": sorted({report["error"] for report in reports if report.get("error")}),
    }


# ---- clients


class Agent:
    def __init__(self, role: str) -> None:
        self._role = role
        self._wire = Wire.to(AGENTS)
        self._wire.say(role)

    def run(self) -> None:
        while (order := self._wire.hear()) is not None:
            if "run" in order:
                self._wire.say(self._cell(order))
            elif "umount" in order:
                self._wire.say(_command("umount", PLACE))
            else:
                kind, what, options = MOUNTS[order["mount"]]
                self._wire.say(_command("mount", "-t", kind, "-o", options, what, PLACE))

    def _cell(self, order: dict[str, Any]) -> dict[str, Any]:
        path = os.path.join(PLACE, f"{order['mount']}-{order['run']}.lock".replace(" ", "-"))
        deadline = time.monotonic() + order["seconds"]
        chance = random.Random(f"{self._role}{order}")
        reports, kills = [], 0

        def start() -> subprocess.Popen[str]:
            words = [sys.executable, "-m", "tests.network.worker", order["run"], path, str(deadline - time.monotonic())]
            return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        running = [start() for _ in range(order["workers"])]
        while order["kills"] and time.monotonic() < deadline - 1:
            time.sleep(chance.uniform(0.5, 1.5) / order["kills"])
            victim = chance.choice(running)
            if victim.poll() is not None:
                break  # it was refused
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            kills += 1
            running[running.index(victim)] = start()
        for worker in running:
            try:
                said, _ = worker.communicate(timeout=order["seconds"] + 60)
                reports.append(json.loads(said.splitlines()[-1]))
            except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
                worker.kill()
                reports.append({"error": f"a worker ended badly: {error!r}"})
        return {"reports": reports, "kills": kills}


def _command(*words: str) -> str:
    """Run it; what went wrong, or ""."""
    done = subprocess.run(words, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{' '.join(words)}: {done.stderr.strip() or done.returncode}"


def main() -> None:
    role = sys.argv[1]
    out = Path("/mnt/out")
    try:
        if role == "server":
            results = serve(json.loads((out / "plan.json").read_text()))
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
