"""Two hosts try the locks of one directory against each other, with that directory as all that they share.

One side invites, the other one joins and does what it is asked. They talk by letters: each has one file, which it
writes over in place, and reads the other's by opening it anew, which makes network filesystems ask the server.
A letter has a number and a checksum; it counts when its number is the next one. Nothing depends on clocks: that one
side has a lock when the other one asks for it follows from the order of the letters alone.

Step by step, per primitive: I have it, you are refused, and still are when another process of mine has tried and gone;
I give it back, you get it; I am refused; you give it back.
Then a storm: both take it as often as they can, and whoever has it makes a directory that must not be there. That
`mkdir` is the witness. It is needed: a lock may be refused properly in slow motion and granted twice in a hurry.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from .._fs.choice import Choice, choose
from .bounded import CallError, Child, HungError
from .trials import LOCKS, NAMES, STEP, Team, against, explained

__all__ = ["Far", "Meeting", "PeerError", "accept", "invite"]

_POLL = 0.05
_REPLY = 90.0
"""Seconds to wait for the other side's letter: longer than network filesystems keep attributes (60 s)."""

_STORM = 2.0
_ALLOWED = {"lock": ("kind", "name"), "unlock": ("kind", "name"), "create": ("kind", "name"), "remove": ("name",),
            "storm": ("kind", "name", "seconds")}  # fmt: skip
_WORD = re.compile(r"[a-z][a-z-]{0,40}")


class PeerError(Exception):
    """The other side does not come, or does not answer any more."""


@dataclass(frozen=True)
class Far:
    """One primitive between the two hosts. `excludes`: None where it does not work or was not tried."""

    name: str
    excludes: bool | None
    detail: str = ""
    holds: int = 0
    overlaps: int = 0
    met: bool = False
    """Did the two storms meet, that is: was one side refused while the other one was inside?"""


@dataclass(frozen=True)
class Meeting:
    """The outcome. `same_machine`: the peer runs under this very kernel, so that hosts were not tested."""

    here: dict[str, Any]
    there: dict[str, Any]
    same_machine: bool
    trials: tuple[Far, ...]

    def far(self, name: str) -> Far | None:
        return next((trial for trial in self.trials if trial.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def facts_of(choice: Choice) -> dict[str, Any]:
    """What each side tells the other about itself."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return {
        "host": socket.gethostname(),
        "boot": boot,
        "filesystem": choice.place,
        "options": ",".join(choice.options),
        "primitive": "" if choice.refusal else choice.primitive,
    }


class Letters:
    """One end of the correspondence."""

    def __init__(self, base: str, mine: str, theirs: str) -> None:
        self._mine, self._theirs = mine, theirs
        self._child = Child()
        self._child.ask(STEP * 4, "use", path=base)

    def write(self, number: int, **what: object) -> None:
        text = json.dumps({"number": number, **what})
        self._child.ask(STEP * 4, "post", name=self._mine, text=f"{zlib.crc32(text.encode()):08x}{text}")

    def read(self, number: int, patience: float) -> dict[str, Any]:
        """The letter of this number. Raises `PeerError`."""
        until = time.monotonic() + patience
        while True:
            letter = self._look()
            if letter.get("number") == number:
                return letter
            if time.monotonic() > until:
                raise PeerError(f"no answer within {patience:.0f} s")
            time.sleep(_POLL)

    def _look(self) -> dict[str, Any]:
        try:
            text = str(self._child.ask(STEP * 4, "read", name=self._theirs)).rstrip()
            if zlib.crc32(text[8:].encode()) != int(text[:8], 16):
                return {}
            letter: dict[str, Any] = json.loads(text[8:])
        except (CallError, ValueError, RecursionError):  # not there yet, or half of one
            return {}
        return letter if isinstance(letter, dict) else {}

    def close(self) -> None:
        self._child.close()


class FarTeam(Team):
    """A team whose member `far` is on the other side."""

    def __init__(self, base: str, letters: Letters) -> None:
        super().__init__(base, "", float("inf"))
        self._letters = letters
        self._number = 1

    def ask(self, role: str, do: str, **arguments: object) -> object:
        if role != "far":
            return super().ask(role, do, **arguments)
        return self.reply(self.post(do, **arguments))

    def post(self, do: str, **arguments: object) -> int:
        self._number += 1
        self._letters.write(self._number, do=do, **arguments)
        return self._number

    def reply(self, number: int) -> object:
        letter = self._letters.read(number, _REPLY)
        if letter.get("hung"):
            raise HungError
        if "errno" in letter:
            raise CallError(int(letter["errno"]), str(letter["error"]))
        return letter.get("is")


def invite(directory: str, announce: Any, patience: float = 600.0) -> Meeting:
    """The inviting side: `announce(token)` tells the user what to run there. Raises `PeerError`, `HungError`,
    `CallError`. Leaves nothing behind in the directory."""
    real = os.path.abspath(directory)
    token = os.urandom(4).hex()
    keeper = Child(patient=True)
    letters = team = None
    try:
        keeper.ask(STEP * 4, "scratch", path=real, name=f".interlock-peer-{token}")
        for name in ("host", "guest"):
            keeper.ask(STEP * 4, "post", name=name, text="")
        base = os.path.join(real, f".interlock-peer-{token}")
        letters = Letters(base, "host", "guest")
        choice = choose(os.path.realpath(real))
        here = facts_of(choice)
        announce(token)
        there = letters.read(1, patience)["hello"]
        team = FarTeam(base, letters)
        trials = tuple(_trial(kind, team, choice) for kind in (*LOCKS, *NAMES))
        meeting = Meeting(here, there, bool(here["boot"]) and here["boot"] == there.get("boot"), trials)
        team.post("end", result=meeting.as_dict())
        _until_gone(letters, team)
        return meeting
    finally:
        for part in (team, letters):
            if part is not None:
                part.close()
        keeper.close(5.0)


def _until_gone(letters: Letters, team: FarTeam) -> None:
    """The guest must have read the last letter before it is removed."""
    try:
        letters.read(team._number, _REPLY)
    except PeerError:
        pass


def _trial(kind: str, team: FarTeam, choice: Choice) -> Far:
    lock = kind in LOCKS
    try:
        excludes, detail = against(kind, team, "far", *(("lock", "unlock") if lock else ("create", "remove")))
        if not excludes or kind != {"local": "flock", "range": "ofd"}.get(choice.primitive, choice.primitive):
            return Far(kind, excludes, detail)
        return _storm(kind, team)
    except (HungError, CallError) as error:
        team.close()
        return Far(kind, None, explained(error))


def _storm(kind: str, team: FarTeam) -> Far:
    what = {"kind": kind, "name": f"{kind}-storm"}
    number = team.post("storm", **what, seconds=_STORM)
    mine = team["one"].ask(_STORM * 3 + STEP, "storm", **what, seconds=_STORM * 2)
    theirs: Any = team.reply(number)
    overlaps = mine["overlaps"] + theirs["overlaps"]
    return Far(
        kind,
        not overlaps,
        f"{overlaps} overlaps" if overlaps else "",
        mine["holds"] + theirs["holds"],
        overlaps,
        met=bool(mine["refused"] or theirs["refused"]),
    )


def accept(directory: str, token: str) -> Meeting:
    """The joining side: do what is asked until the other side ends it. Raises `PeerError`, `HungError`."""
    if not re.fullmatch(r"[0-9a-f]{8}", token):
        raise PeerError(f"{token!r} is no token of an invitation; the other host prints it (interlock doctor --peer)")
    base = os.path.join(os.path.abspath(directory), f".interlock-peer-{token}")
    letters = Letters(base, "guest", "host")
    team = Team(base, "", float("inf"))
    try:
        letters._child.ask(STEP * 4, "read", name="host")  # CallError: there is no such invitation here
        letters.write(1, hello=facts_of(choose(os.path.realpath(directory))))
        number = 2
        while True:
            letter = letters.read(number, _REPLY)
            if letter.get("do") == "end":
                letters.write(number)
                result = letter["result"]
                trials = tuple(Far(**trial) for trial in result.pop("trials"))
                return Meeting(**result, trials=trials)
            letters.write(number, **_obey(letter, team))
            number += 1
    except CallError as error:
        text = f"there is no invitation {token} in {directory}: is it the same place? ({error.text})"
        raise PeerError(text) from None
    finally:
        team.close()
        letters.close()


def _obey(letter: dict[str, Any], team: Team) -> dict[str, Any]:
    """Nothing but what a trial needs: anybody who can write in the directory can write letters."""
    do = letter.get("do")
    names = _ALLOWED.get(do) if isinstance(do, str) else None
    if names is None:
        return {"errno": 22, "error": "not understood"}
    words = {name: letter.get(name) for name in names}
    seconds = words.pop("seconds", 0.0)
    if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words.values()):
        return {"errno": 22, "error": "not understood"}
    try:
        if do == "storm":
            seconds = min(max(float(seconds or 0.0), 0.0), 10.0)
            return {"is": team["one"].ask(seconds * 2 + STEP, do, **words, seconds=seconds)}
        return {"is": team.ask("one", str(do), **words)}
    except HungError:
        team.close()
        return {"hung": True}
    except CallError as error:
        return {"errno": error.errno, "error": error.text}
