"""What each primitive does here: two processes try it against each other, in a directory of their own."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from .bounded import CallError, Child, HungError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCKS = ("flock", "dual", "ofd", "posix")
NAMES = ("link", "excl", "noreplace")
MOVES = ("rename", "exchange")
TITLES = {
    "flock": "flock(2)",
    "dual": "flock(2) + OFD range",
    "ofd": "OFD range",
    "posix": "POSIX range",
    "link": "hard link",
    "excl": "O_EXCL",
    "noreplace": "rename, not replacing",
    "rename": "rename",
    "exchange": "rename, exchanging",
}

STEP = 1.2
"""Seconds that one call may take. Servers that need longer are as good as gone for somebody who waits for a lock."""

_DEATH = 2.0
"""Seconds within which the lock of a killed process must be free."""


@dataclass(frozen=True)
class Trial:
    """One primitive. `None`: not tried, or not meaningful (a rename excludes nobody).

    `works`: the calls succeed. `threads`, `processes`, `mounts`: one of two contenders is refused (two descriptors of
    one process, two processes, two processes on two mounts). `freed`: the lock of a killed process is free at once.
    `latency`: seconds to take and give back, the median of up to 15.
    """

    name: str
    works: bool | None = None
    threads: bool | None = None
    processes: bool | None = None
    mounts: bool | None = None
    freed: bool | None = None
    latency: float | None = None
    detail: str = ""


class Team:
    """Children that work in one scratch directory: replaced when they hang, so that the next trial can begin."""

    def __init__(self, base: str, second: str, until: float) -> None:
        self.base = base
        self.second = second
        self._until = until
        self._children: dict[str, Child] = {}

    def __getitem__(self, role: str) -> Child:
        child = self._children.get(role)
        if child is None:
            child = self._children[role] = Child()
            self.ask(role, "use", path=self.second if role == "second" else self.base)
        return child

    def ask(self, role: str, do: str, **arguments: object) -> object:
        left = self._until - time.monotonic()
        if left <= 0:
            raise HungError
        return self[role].ask(min(STEP, left), do, **arguments)

    def dismiss(self, role: str) -> None:
        """Kill one, as a crash would."""
        child = self._children.pop(role, None)
        if child is not None:
            child.kill()

    def close(self) -> None:
        for role in list(self._children):
            self.dismiss(role)


def run(team: Team, linux: bool) -> Iterator[Trial]:
    """All trials, one after the other."""
    for kind in LOCKS:
        if linux or kind not in ("dual", "ofd"):
            yield _bounded(kind, team, _lock)
    for kind in NAMES:
        if linux or kind != "noreplace":
            yield _bounded(kind, team, _name)
    for kind in MOVES:
        if linux or kind != "exchange":
            yield _bounded(kind, team, _move)


def _bounded(kind: str, team: Team, trial: Callable[[str, Team], Trial]) -> Trial:
    began = time.monotonic()
    try:
        return trial(kind, team)
    except HungError:
        team.close()
        took = time.monotonic() - began
        if took < 0.01:
            return Trial(kind, None, detail="not tried: the time is over")
        return Trial(kind, False, detail=f"did not answer within {took:.1f} s")
    except CallError as error:
        return Trial(kind, False, detail=explained(error))


def explained(error: CallError | HungError) -> str:
    """Why a call came to nothing."""
    if isinstance(error, HungError):
        return "did not answer in time"
    return f"{errno.errorcode.get(error.errno, str(error.errno))}: {error.text}"


def against(kind: str, team: Team, other: str, take: str, give: str) -> tuple[bool, str]:
    """Does `one` keep `other` out for as long as it has it, and no longer?"""
    what = {"kind": kind, "name": f"{kind}-{other}"}
    back = what if give == "unlock" else {"name": what["name"]}
    if not team.ask("one", take, **what):
        return False, "refused, though nobody has it"
    if team.ask(other, take, **what):
        return False, "granted to two at once"
    if take == "lock" and other != "two":  # SMB: the end of a process that waited may take its neighbour's lock along
        if team.ask("beside", take, **what):
            return False, "granted to two at once"
        team.dismiss("beside")
        if team.ask(other, take, **what):
            return False, "granted to two at once, when a process beside the holder had tried and gone"
    team.ask("one", give, **back)
    if not _soon(lambda: bool(team.ask(other, take, **what))):
        return False, "still refused after it was given back"
    if team.ask("one", take, **what):
        return False, "granted to two at once"
    team.ask(other, give, **back)
    return True, ""


def _soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + _DEATH
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _lock(kind: str, team: Team) -> Trial:
    threads = bool(team.ask("one", "threads", kind=kind, name=f"{kind}-threads"))
    processes, detail = against(kind, team, "two", "lock", "unlock")
    mounts = None
    if team.second:
        mounts, more = against(kind, team, "second", "lock", "unlock")
        detail = detail or (f"between the two mounts: {more}" if more else "")
    latency = team.ask("one", "latency", kind=kind, name=f"{kind}-alone")
    freed = None
    if processes:
        team.ask("dying", "lock", kind=kind, name=f"{kind}-dying")
        team.dismiss("dying")
        freed = _soon(lambda: bool(team.ask("two", "lock", kind=kind, name=f"{kind}-dying")))
        detail = detail or ("" if freed else "kept after its holder was killed")
    assert isinstance(latency, float)
    return Trial(kind, True, threads, processes, mounts, freed, latency, detail)


def _name(kind: str, team: Team) -> Trial:
    processes, detail = against(kind, team, "two", "create", "remove")
    mounts = None
    if team.second:
        mounts, more = against(kind, team, "second", "create", "remove")
        detail = detail or (f"between the two mounts: {more}" if more else "")
    latency = team.ask("one", "latency", kind=kind, name=f"{kind}-alone")
    assert isinstance(latency, float)
    return Trial(kind, True, None, processes, mounts, None, latency, detail)


def _move(kind: str, team: Team) -> Trial:
    name = f"{kind}-moved"
    team.ask("one", "write", name=name, text="old")
    if team.ask("two", "read", name=name) != "old":
        return Trial(kind, False, detail="the other process read something else")
    team.ask("one", "write", name=name, text="new", how=kind)
    latency = team.ask("one", "latency", kind=kind, name=name)
    assert isinstance(latency, float)
    return Trial(kind, True, latency=latency)
