"""Hosts that die, stand still, are cut off; a server that boots again; clocks that jump: with locks held meanwhile.

Theory of operation
-------------------
Client one holds locks, client two waits for each of them. Then something happens to a *host*, so to all the locks at
once. The host of the guests is conductor and referee: it speaks with the guests over serial lines. Who is in when is
what they say, in the order in which the host asks, so no clock is needed: a write that one is *asked* for after two has
said that it is in, and that succeeds, is an overlap.

After the trouble, one is asked whether it holds (`check`: `hold.assert_held()`) and then to write through a `Fence`.
Verdicts: `excludes`: two came in when one had left or was dead. `told`: two came in before that, and one was told that
it has lost the lock, and wrote nothing. `overlaps`: two was in, and one still believed itself in or wrote.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .guests import Guests
from .witness import TTL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

TROUBLES = ("pause", "partition", "reboot", "mute", "clock", "loss", "kill")
MOUNTS = ("NFSv3", "NFSv4.2", "SMB 3.1.1 nolease")
LOCKS = ("auto", "flock", "dual", "marker")
LEASE = 10.0
"""Seconds, of nfsd; `guest.sh` sets it."""

WAIT = 60.0
"""How long two is given to come in."""


class Phone:
    """A guest's serial line."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._asked: dict[int, Future[dict[str, Any]]] = {0: Future()}
        self._mutex = threading.Lock()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        try:
            with self._line.makefile("rb") as lines:
                for line in lines:
                    if line.startswith(b'{"id"'):
                        said = json.loads(line)
                        self._asked[said["id"]].set_result(said)
        except (OSError, ValueError):  # it was hung up
            pass

    def ready(self, seconds: float) -> None:
        self._asked[0].result(seconds)

    def ask(self, slot: str, do: str, **what: Any) -> Future[dict[str, Any]]:
        with self._mutex:
            number = len(self._asked)
            answer = self._asked[number] = Future()
            self._line.sendall(json.dumps({"id": number, "slot": slot, "do": do, **what}).encode() + b"\n")
        return answer


def said(answer: Future[dict[str, Any]], seconds: float) -> dict[str, Any]:
    try:
        return answer.result(max(seconds, 0.001))
    except Late:
        return {"said": "silent"}


class Chaos:
    """The conductor."""

    def __init__(self, guests: Guests, mounts: list[str], locks: list[str], patience: float = 3.5 * LEASE) -> None:
        self._guests = guests
        self._patience = patience
        """Seconds that a pause and a partition last, unless two is in everywhere before."""
        self._mounts, self._locks = mounts, locks
        self.phones: dict[str, Phone] = {}
        self._round = 0

    def begin(self) -> None:
        for role in self._guests.lines:
            self._answer(role)
        # Nobody held a lock before this boot: what the server would wait for cannot come. EIO: it waits no more.
        self.must("server", "shell", words=["sh", "-c", "echo Y > /proc/fs/nfsd/v4_end_grace || :"])
        for role in ("one", "two"):
            self._mount(role)

    def _answer(self, role: str) -> None:
        self.phones[role] = Phone(self._guests.lines[role])
        self.phones[role].ready(90)

    def must(self, role: str, do: str, seconds: float = 90, **what: Any) -> dict[str, Any]:
        found = said(self.phones[role].ask("", do, **what), seconds)
        assert found["said"] in ("done",), (role, do, what, found)
        return found

    def _mount(self, role: str) -> None:
        for mount in self._mounts:
            self.must(role, "mount", mount=mount, at=at(mount))

    def trouble(self, name: str) -> list[dict[str, Any]]:
        """One trouble, with a lock of each kind held: a cell for each."""
        self._round += 1
        one, two = self.phones["one"], self.phones["two"]
        slots = [(mount, lock) for mount in self._mounts for lock in self._locks]

        def order(mount: str, lock: str) -> dict[str, Any]:
            return {"lock": lock, "path": f"{at(mount)}/{self._round}-{os.path.basename(at(mount))}-{lock}"}

        asked = {slot: one.ask(str(slot), "acquire", seconds=30, **order(*slot)) for slot in slots}
        first = {slot: said(answer, 60) for slot, answer in asked.items()}
        cells: dict[tuple[str, str], dict[str, Any]]
        cells = {slot: {"mount": slot[0], "lock": slot[1], "trouble": name, "first": first[slot]} for slot in slots}
        for slot in slots:
            cells[slot]["verdict"] = "refused" if first[slot]["said"] == "refused" else "unusable"
        held = [slot for slot in slots if first[slot]["said"] == "in"]
        for slot, answer in [(slot, one.ask(str(slot), "write", data="one")) for slot in held]:
            if (wrote := said(answer, 60))["said"] != "wrote":
                cells[slot].update(verdict="unusable", write=wrote)
                held.remove(slot)
        second = {slot: two.ask(str(slot), "acquire", seconds=4 * WAIT, **order(*slot)) for slot in held}
        time.sleep(1)
        for slot in held:
            assert not second[slot].done(), (slot, second[slot].result())
        began = time.monotonic()
        came: dict[tuple[str, str], float] = {}

        def note(slot: tuple[str, str]) -> None:
            second[slot].add_done_callback(lambda _answer: came.setdefault(slot, time.monotonic() - began))

        for slot in held:
            note(slot)
        getattr(self, f"_{name}")(second)
        inside = {slot for slot in held if second[slot].done() and second[slot].result()["said"] == "in"}
        if name != "kill":
            self._question(held, inside, cells)
        for slot in held:
            cell = cells[slot]
            cell["second"] = said(second[slot], began + WAIT + (name != "kill") * 30 - time.monotonic())
            cell["after"] = round(came[slot], 1) if slot in came else None
            cell["verdict"] = _verdict(name, cell, slot in inside)
        outside = [slot for slot in held if slot not in came]
        for phone in [two] if name == "kill" else [one, two]:
            for answer in [phone.ask(str(slot), "release") for slot in held if phone is one or slot not in outside]:
                said(answer, 20)
        if name == "kill":
            self._guests.boot("one")
            self._answer("one")
            self._mount("one")
            for slot in outside:  # NFSv3: its locks stay until it tells that it has booted
                late = said(second[slot], 30)
                cells[slot]["after_boot"] = late["said"]
                if late["said"] == "in":
                    said(two.ask(str(slot), "release"), 20)
        return list(cells.values())

    def doctor(self, mount: str) -> str:
        """`interlock doctor --peer` on one, joined by two; what two is shown."""
        one, two, place = self.phones["one"], self.phones["two"], at(mount)
        command = f"{sys.executable} -m interlock doctor {place}"
        here = one.ask("doctor", "shell", words=["sh", "-c", f"{command} --peer > /run/peer 2>&1"])
        deadline = time.monotonic() + 120
        token = None
        while token is None:
            assert time.monotonic() < deadline, "doctor --peer announced nothing"
            text = said(one.ask("", "shell", words=["cat", "/run/peer"]), 30).get("why", "")
            token = re.search(r"--join (\S+)", text)
            time.sleep(0.2)
        there = said(two.ask("doctor", "shell", words=["sh", "-c", f"{command} --join {token[1]}"]), 240)
        said(here, 60)
        self.must("one", "shell", words=["rm", "/run/peer"])
        return str(there.get("why", "no answer")).replace(place, "DIRECTORY")

    def _question(self, held: list[Any], inside: set[Any], cells: dict[Any, dict[str, Any]]) -> None:
        one = self.phones["one"]
        for do in ("glance", "check", "write"):
            asked = {slot: one.ask(str(slot), do, **({"data": "one again"} if do == "write" else {})) for slot in held}
            for slot, answer in asked.items():
                cells[slot][do] = said(answer, WAIT)
        for answer in [one.ask(str(slot), "release") for slot in held if slot not in inside]:
            said(answer, 20)

    def _wait(self, second: dict[Any, Future[dict[str, Any]]], seconds: float) -> None:
        """Until two is in everywhere, or so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(answer.done() for answer in second.values()):
            time.sleep(0.05)

    # ---- what happens

    def _kill(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        self._guests.kill("one")
        self._wait(second, WAIT)

    def _pause(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        self._guests.stop("one")
        self._wait(second, self._patience)
        self._guests.go_on("one")

    def _partition(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        self.must("one", "shell", words=["ip", "link", "set", "eth0", "down"])
        self._wait(second, self._patience)
        self.must("one", "shell", words=["ip", "link", "set", "eth0", "up"])

    def _reboot(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        self._guests.kill("server")
        self._guests.boot("server")
        self._answer("server")
        self._wait(second, 2 * LEASE)

    def _mute(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        """As `_reboot`, but the server does not tell the clients that it booted (NFSv3)."""
        (self._guests.out / "mute").touch()
        self._reboot(second)
        (self._guests.out / "mute").unlink()

    def _loss(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        words = ["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "5%"]
        for role in self.phones:
            self.must(role, "shell", words=words)
        self._wait(second, 1.5 * LEASE)
        for role in self.phones:
            self.must(role, "shell", words=[*words[:2], "del", *words[3:6]])

    def _clock(self, second: dict[Any, Future[dict[str, Any]]]) -> None:
        self.must("one", "shell", words=["date", "-s", "+1 hour"])
        self.must("two", "shell", words=["date", "-s", "-1 hour"])
        self._wait(second, LEASE)


def _verdict(name: str, cell: dict[str, Any], inside: bool) -> str:
    if name == "kill":
        return "excludes"  # who is dead is not in
    if not inside:  # two had not come in when one was asked: it came in after one had left
        return "excludes" if cell["check"]["said"] == "held" else "told"
    if cell["check"]["said"] == "held" or cell["write"]["said"] == "wrote":
        return "overlaps"
    return "told" if cell["check"]["said"] == "lost" else "unclear"


def run(
    troubles: list[str],
    mounts: list[str],
    locks: list[str],
    patience: float = 3.5 * LEASE,
    doctor: tuple[str, ...] = (),
    tell: Callable[[list[dict[str, Any]]], object] = lambda _cells: None,
) -> dict[str, Any]:
    """Boot, let it all happen, end. `doctor`: on which mounts that is asked. `tell`: called with the cells of each
    trouble when that is over."""
    with tempfile.TemporaryDirectory(prefix="uml-") as scratch:
        guests = Guests(Path(scratch, "guests"), {}, "witness", "384M")
        with guests:
            chaos = Chaos(guests, mounts, locks, patience)
            try:
                chaos.begin()
                found: dict[str, Any] = {"cells": [], "doctor": {}}
                for trouble in troubles:
                    cells = chaos.trouble(trouble)
                    found["cells"] += cells
                    tell(cells)
                for mount in doctor:
                    found["doctor"][mount] = chaos.doctor(mount)
            except BaseException:
                print(guests.logs())
                raise
    return found


def told(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As lines of the ledger: one for each kind of trouble."""
    found = []
    for trouble in dict.fromkeys(cell["trouble"] for cell in cells):
        outcomes: dict[tuple[str, ...], list[float]] = {}
        its = [cell for cell in cells if cell["trouble"] == trouble]
        for cell in its:
            outcome = (cell["mount"], cell["lock"], cell["verdict"], _outcome(cell))
            outcomes.setdefault(outcome, []).append(cell.get("after") or 0.0)
        names = ("mount", "lock", "verdict", "outcome")
        why = sorted({f"{cell['mount']}, {cell['lock']}, {step}: {why}" for cell in its for step, why in _odd(cell)})
        found.append({
            "what": "trouble", "trouble": trouble,
            "events": max(Counter((cell["mount"], cell["lock"]) for cell in its).values()),
            "outcomes": [
                {**dict(zip(names, outcome, strict=True)), "times": len(after), "least": min(after), "most": max(after)}
                for outcome, after in outcomes.items()
            ],
            **({"why": why} if why else {}),
        })  # fmt: skip
    return found


def _odd(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The steps that ended neither as they should nor with a loss."""
    for step in ("first", "check", "write", "second"):
        answer = cell.get(step, {"said": ""})
        silent = answer["said"] == "silent" and step != "second"  # two may wait for as long as it likes
        if silent or answer["said"] in ("failed", "timeout") or (step == "write" and cell["verdict"] == "unusable"):
            yield step, answer.get("why", answer["said"])


def troubles(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["what"] == "trouble"]


def verdicts(lines: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many locks came to each."""
    counts: Counter[str] = Counter()
    for line in troubles(lines):
        for outcome in line["outcomes"]:
            counts[outcome["verdict"]] += outcome["times"]
    return counts


def section(lines: Sequence[dict[str, Any]]) -> str:
    """What the page of the documentation says of it, from the lines of the ledger."""
    counts = verdicts(lines)
    each: Counter[str] = Counter()
    for line in troubles(lines):
        each[line["trouble"]] += line["events"]
    table = [
        "| what happens | mount | " + " | ".join(f"`{lock}`" for lock in LOCKS) + " |",
        "|---|---|" + "---|" * len(LOCKS),
    ]
    for trouble in each:
        outcomes = [outcome for line in troubles(lines) if line["trouble"] == trouble for outcome in line["outcomes"]]
        for mount in MOUNTS:
            here = [outcome for outcome in outcomes if outcome["mount"] == mount]
            shown_here = [_shown([outcome for outcome in here if outcome["lock"] == lock]) for lock in LOCKS]
            table.append(f"| {_TITLES[trouble]} | {mount} | {' | '.join(shown_here)} |")
    events = ", ".join(f"{number} x {trouble}" for trouble, number in each.items())
    return f"""
## When hosts die, stand still, or are cut off

One host holds, another one waits for the lock, then something happens to a host, with every lock held at once. NFSv4's
lease is {LEASE:.0f} s here, a marker's ttl {TTL:.0f} s. Who is in when is asked over serial lines, in order, so no
clock counts. In {each.total()} events
({events}) {counts.total():,} locks were held: the other host got in after the holder had left or died in
{counts["excludes"]:,}; the holder lost the lock, was told so by `assert_held()` and its fenced write was refused in
{counts["told"]:,}; the two were in together in
{counts["overlaps"]}; {counts["refused"]} were refused, and {counts["unusable"] + counts["unclear"]} came to no verdict.

{chr(10).join(table)}

"Waits": the other host does not get in until the holder releases. "Told after n s": the other one was in n s after the
trouble began, and the holder was told before its next write. A kernel's lock on NFSv4.2 ends with the lease of a host
that is silent; stat(2) of the lock file shows nothing of it, so `assert_held()` reads through the descriptor.

On NFSv3 a server that boots has forgotten its locks, and gives them anew unless the clients claim them in time, which
its `sm-notify` has to tell them. One that "tells nobody" does not run that: others get in, and the holder is told as
`assert_held()` locks once more, which the server refuses. Had the other one left by then, nothing would show that it
was in; a fencing token does. "In after it boots": the locks of a host that is dead stay until it does and says so. A
lease does not wait for that; its longest times are of guests that had to wait for a core.
{_peers({line["mount"]: line for line in lines if line["what"] == "doctor"})}"""


def _peers(found: dict[str, dict[str, Any]]) -> str:
    """What `doctor --peer` found last: a line for each mount, and all of it for the first one that excludes."""
    if not found:
        return ""
    rows = []
    for mount, line in found.items():
        storms = ", ".join(f"{holds:,} holds, {overlaps} overlaps" for holds, overlaps in line["storm"])
        rows.append(f"| {mount} | {', '.join(line['takes'])} | {storms} | {', '.join(line['granted_to_two'])} |")
    shown = next(line["said"] for line in found.values() if line["storm"])
    return f"""
## `interlock doctor --peer` between two of these hosts

| mount | `auto` takes | storm of both hosts | granted to two at once |
|---|---|---|---|
{chr(10).join(rows)}

```text
$ interlock doctor DIRECTORY --join TOKEN
{shown.strip()}
```
"""


class Peer:
    """What `interlock doctor --join` printed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.takes = sorted(set(re.findall(r"auto takes (.+)", text)))
        self.storm = [(int(holds), int(overlaps)) for holds, overlaps in re.findall(_STORM, text)]
        self.granted_to_two = re.findall(r"^(\S.*?)  +excludes the other side: NO +granted to two", text, re.MULTILINE)

    def line(self) -> dict[str, Any]:
        """Of the ledger."""
        return {"takes": self.takes, "storm": self.storm, "granted_to_two": self.granted_to_two, "said": self._text}


_STORM = r"(\d+) holds in a storm, (\d+) overlaps"


_TITLES = {
    "kill": "the holder's host dies",
    "pause": "the holder's host is paused, then goes on",
    "partition": "the holder's host is cut off, then is back",
    "reboot": "the server dies and boots again",
    "mute": "the server dies, boots again and tells nobody",
    "loss": "every 20th packet is lost",
    "clock": "the clocks jump: +1 h and -1 h",
}


def _shown(outcomes: list[dict[str, Any]]) -> str:
    """What came out, with how many seconds that took; each outcome once."""
    merged: dict[str, list[dict[str, Any]]] = {}
    for each in outcomes:
        merged.setdefault(each["outcome"], []).append(each)
    shown = []
    for outcome, its in sorted(merged.items()):
        least, most = min(each["least"] for each in its), max(each["most"] for each in its)
        seconds = f"{least:.0f}" if most - least < 1 else f"{least:.0f} to {most:.0f}"
        times = f" ({sum(each['times'] for each in its)} x)" if len(merged) > 1 else ""
        shown.append(outcome.format(seconds) + times)
    return ", or ".join(shown)


def _outcome(cell: dict[str, Any]) -> str:
    """In words; `{}` is the number of seconds."""
    verdict, came = cell["verdict"], cell.get("second", {}).get("said") == "in"
    if verdict == "overlaps":
        return "**overlaps** after {} s"
    if verdict == "told":
        return "told after {} s" if came else "told"
    if verdict != "excludes":
        return "refused" if verdict == "refused" else "no verdict"
    if cell["trouble"] != "kill":
        return "waits" if came else "waits, then an error"
    if cell.get("after") is not None:
        return "in after {} s"
    return "in after it boots" if cell.get("after_boot") == "in" else f"not in {WAIT:.0f} s"


def at(mount: str) -> str:
    return f"/mnt/{mount.replace(' ', '-')}"
