"""The table of attacks: every entry, every plant, every place; and which verdicts are right.

Right is: refused, by an error that names the thing and is none of contention, at once, with nothing changed. What else
is right stands in `AS_WELL`, with the reason.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from .entries import ENTRIES, Entry
from .plants import PLANTS, Plant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .worker import Verdict

__all__ = ["AS_WELL", "Attack", "attacks", "expected", "shown", "wrong"]

SOON = 15.0
"""Seconds in which a refusal must come, whatever else the machine does. The table has the time that it took."""

REFUSALS = frozenset(
    "UnsafePathError UnsafeLockFile ProtocolError ClaimsError SoftFileLockProtocolError HostileError DamagedError"
    " TreeReplaced DatabaseError IsADirectoryError NotADirectoryError UnsupportedError RuntimeError ValueError".split()
)
"""An `OSError` of another kind must be one of the kernel's, about what stands there."""
KERNELS = ("[Errno 40]", "[Errno 6]", "[Errno 20]", "[Errno 21]", "[Errno 2]")


class Attack(NamedTuple):
    entry: Entry
    plant: Plant
    beside: str

    @property
    def name(self) -> str:
        where = f", {self.beside.format('a')}" if self.beside else ""
        return f"{self.entry.name}{where}: {self.plant.name}"


def attacks(entries: tuple[Entry, ...] = ENTRIES) -> Iterator[Attack]:
    for entry in entries:
        for beside in entry.beside:
            for plant in PLANTS:
                yield Attack(entry, plant, beside)


_KERNEL = "kernel locks: nothing is read or written, the lock is as good as on any file"
_RESULT = "whatever is there is the result, which is not looked at: the call says so, and does nothing"
_MARKER = "a file there may be a marker: it is waited for, as filelock does, not opened for writing, and stays"
_TARGET = "the user's file, to be replaced by a new one: the old one is read, and keeps its content"
_LOOKS = "who only looks says that nobody is known to hold"
_NO_DIRECTORY = "a lease has a directory there: whatever else it is, nobody has a lease"
_OURS = "a directory is what is there anyway"

AS_WELL: tuple[tuple[str, str, str, str, str], ...] = (
    # entries, place, plants, verdict, reason
    *((entry, "*", plant, "granted", _KERNEL)
      for entry in ("*Lock", "*Lock, *", "Semaphore", "acquire_all", "hold.token", "interlock run", "facade *FileLock")
      for plant in ("hard link of own", "1 GB", "file of other")),
    ("facade ReadWriteLock", "", "file of other", "granted", "it is empty, as a database of SQLite may be"),
    *((entry, "{}.lock", plant, "granted", _KERNEL)
      for entry in ("transform", "once", "Fence.*") for plant in ("hard link of own", "1 GB", "file of other")),
    *((entry, ".{}.fence.lock", plant, "granted", _KERNEL)
      for entry in ("Fence.*",) for plant in ("hard link of own", "1 GB", "file of other")),
    ("publish", "", "*", "granted", _RESULT),
    ("once", "", "*", "granted", _RESULT),
    ("once", ".{}.failed", "*", "granted", "what is no note of a failure is none; a file of that name is removed"),
    *(("facade *Soft" + kind, "", plant, "timeout", _MARKER)
      for kind in ("FileLock", "FileLease") for plant in ("hard link of *", "1 GB", "file of other")),
    ("lease", "", "file of other", "timeout", "an empty file may be a marker that is being written, for 5 s"),
    *((entry, "", plant, "granted", _TARGET)
      for entry in ("transform", "Fence.write") for plant in ("hard link of *", "1 GB", "file of other")),
    *((entry, "", plant, "granted", "links of one's own are followed, as documented")
      for entry in ("transform", "Fence.write") for plant in ("symlink", "dangling symlink")),
    *((entry, "", plant, "granted", _LOOKS)
      for entry in ("inspect", "interlock who", "interlock break")
      for plant in ("hard link of *", "1 GB", "file of other")),
    *((entry, "{}.interlock", "*", "granted", _NO_DIRECTORY) for entry in ("inspect", "interlock break")),
    ("interlock trace", "", "*", "granted", "what is no directory is not recorded into"),
    ("probe", "", "directory", "granted", _OURS),
    ("store", "*", "directory", "granted", _OURS),
    ("store", "{}/v3/layout.json", "*", "granted", "it is made for Spack if nothing is there, and not read"),
    ("facade StrictSoftFileLock", "{}.filelock", "directory", "granted", _OURS),
    ("facade SoftReadWriteLock", "", "*", "granted", "the path itself is nothing to it; its files are beside it"),
    ("facade SoftReadWriteLock", "{}.rw*", "directory", "granted", _OURS),
)  # fmt: skip
MAY_CHANGE = (
    ("transform", ""), ("Fence.write", ""), ("once", ".{}.failed"), ("facade StrictSoftFileLock", "{}.filelock*"),
    ("store", "*"),
)  # fmt: skip
"""Where the planted thing itself may be replaced, removed, or get other permissions. Never the victim."""


def expected(attack: Attack) -> list[tuple[str, str]]:
    """Verdicts that are right besides a refusal, with their reasons."""
    return [
        (verdict, reason)
        for entries, place, plants, verdict, reason in AS_WELL
        if fnmatchcase(attack.entry.name, entries)
        and (fnmatchcase(attack.beside, place) if place else not attack.beside)
        and fnmatchcase(attack.plant.name, plants)
    ]


def may_change(attack: Attack) -> bool:
    return any(
        fnmatchcase(attack.entry.name, entries) and (fnmatchcase(attack.beside, place) if place else not attack.beside)
        for entries, place in MAY_CHANGE
    )


def wrong(attack: Attack, verdict: Verdict) -> str:
    """What is wrong with a verdict; "": nothing."""
    follows = attack.entry.name in ("transform", "Fence.write") and not attack.beside
    if verdict.robbed and not (follows and "symlink" in attack.plant.name):
        return f"the victim was touched: {verdict.robbed}"
    if verdict.harmed and not may_change(attack):
        return f"what stood there was changed: {verdict.harmed}"
    if verdict.kind in [kind for kind, _ in expected(attack)]:
        return ""
    if verdict.kind != "refused":
        return f"{verdict.kind}: {verdict.error}: {verdict.text}"
    if verdict.seconds > SOON:
        return f"it took {verdict.seconds:.1f} s"
    if verdict.error not in REFUSALS and not verdict.text.startswith(KERNELS):
        return f"an error of another kind: {verdict.error}: {verdict.text}"
    if os.sep + "place" + os.sep not in verdict.text and os.sep + "treasury" + os.sep not in verdict.text:
        return f"it does not name the path: {verdict.text}"
    return ""


def shown(attack: Attack, verdict: Verdict) -> str:
    """One cell of the table."""
    if verdict.kind == "refused":
        named = any(word.lower() in verdict.text.lower() for word in attack.plant.said)
        return f"refused{' by name' if named else ''}, {verdict.error}"
    return {"timeout": "Timeout", "granted": "granted", "hangs": "**hangs**"}.get(verdict.kind, verdict.kind)

