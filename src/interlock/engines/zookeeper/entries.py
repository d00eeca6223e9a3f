"""The nodes of a lock: their names, what they say, and which of them are granted. Nothing here talks to a server.

Layout
------
`/chroot/interlock/1/KEY` stands for one lock; KEY is a hash of its name, 1 the version of this layout. It is a
*container*: the server removes it some time after its last child (where it has no containers, ZooKeeper before 3.5.3,
it is an ordinary node). Below it, all ephemeral:

- `w-GUID-NUMBER`, `u-...`, `r-...`: a contender for writing (every `Lock`), updating, reading. NUMBER is the
  server's.
- `p3-GUID-NUMBER`: a contender for one of 3 permits. `slot-2`: the slot that one of them took.
- `x-GUID-NUMBER`: the entry GUID, which holds for updating, wants to write, or does. Readers behind it wait.
- `as-w.GUID`: the entry GUID writes, or is about to; `as-u.GUID`, `as-r.GUID`: it holds for less than its name says.

An upgrade
----------
The owner of an entry that updates makes `x`, so that readers who come from now on stand behind it, and waits until
those before it are gone. But not every reader before it holds: one may stand behind a writer that waits, and that
writer may give up at any moment. So, once nobody is left who holds, the owner announces `as-w` and looks again. A
reader that became able to hold before the announcement is seen then, since whatever let it in is older: the owner
takes `as-w` back and waits for it. One that would become so later sees the announcement. Both may see each other;
then it is the owner that gives way. """

from __future__ import annotations

import json
import os
import re
from hashlib import blake2b

from ... import _strangers
from ..._address import command_line
from ..._errors import ProtocolError
from ..._model import Claim
from ..._report import Party
from .._queue import blockers, foreign, granted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..._model import Mode, Parker
    from .session import Session

__all__ = ["Entry", "Queue", "ZooKeeperClaim", "encoded", "key_path", "party", "record"]

LAYOUT = "interlock/1"
LETTERS: dict[Mode, str] = {"read": "r", "update": "u", "write": "w"}
MODES: dict[str, Mode] = {letter: mode for mode, letter in LETTERS.items()}
_HALF = 1 << 30
_ENTRY = re.compile(r"([A-Za-z])([0-9]{0,9})-([^-]*)-(-?[0-9]{1,10})", re.ASCII)
_SLOT = re.compile(r"slot-[0-9]{1,9}", re.ASCII)


def _unknown(name: str) -> ProtocolError:
    return ProtocolError(
        f"the node {name[:200]!r} stands below a lock, and is of nothing that this version knows; nothing was locked."
        " Remove it, or use an interlock that knows it"
    )


class ZooKeeperClaim(Claim):
    """A stake: its entry, once there is one."""

    session: Session | None = None
    guid = ""
    parent = ""
    name = ""  # of its entry, as the server named it
    unsure = False  # there may be an entry whose name we were not told
    marker = ""  # of an upgrade: the name of its node
    marks = False  # there may be nodes of an upgrade that we were not told of
    marked_on: Session | None = None  # where an attempt to upgrade may have made them
    extra: tuple[str, ...] = ()  # further nodes of ours: a slot, what a downgrade left
    era = 0
    gone = ""
    trying = ""  # a slot's node that we may have made
    given_up = False  # lost, and removed for that
    guarded = False  # its entry is watched while it holds
    blocker = ""  # the node that is in the way
    watched = ""  # the node that is watched while it waits
    fresh: tuple[int, list[str]] | None = None  # the children, read when that had gone, and the era of it
    parker: Parker | None = None


class Entry:
    """A sequential node. Upgrades are nodes of their own here, so none is ever marked (`_queue`)."""

    upgrading = False
    awaits: frozenset[str] = frozenset()
    __slots__ = ("guid", "kind", "mode", "name", "number", "permits")

    @property
    def ident(self) -> str:
        return self.name

    def __init__(self, name: str) -> None:
        found = _ENTRY.fullmatch(name)
        if found is None:
            raise _unknown(name)
        self.name = name
        self.kind, permits, self.guid, number = found.groups()
        self.number = int(number)
        self.permits = int(permits or 0)
        self.mode: Mode = MODES.get(self.kind, "write")


def _order(entries: list[Entry]) -> list[Entry]:
    """In the order of their creation. The server counts with 32 bits, from the largest number on to the smallest."""
    wrapped = any(entry.number > _HALF for entry in entries) and any(entry.number < -_HALF for entry in entries)
    return sorted(entries, key=lambda entry: entry.number + (1 << 32) * (wrapped and entry.number < 0))


class Queue:
    """The children of a lock's node, in order, read at one moment.

    A server may be behind the others, so it is a moment of the past. That does no harm: all servers go through the same
    states in the same order, so who decides by an older one is as if it had decided earlier.
    """

    def __init__(self, children: Iterable[str]) -> None:
        entries: list[Entry] = []
        self.modes: dict[str, set[str]] = {}
        self.slots: set[int] = set()
        for name in children:
            if name.startswith("as-"):
                letter, _, guid = name[3:].partition(".")
                self.modes.setdefault(guid, set()).add(letter)
            elif name.startswith("slot-"):
                if not _SLOT.fullmatch(name):
                    raise _unknown(name)
                self.slots.add(int(name[5:]))
            elif name.count("-") >= 2:
                entries.append(Entry(name))
        for entry in entries:
            if entry.kind != "x" and entry.guid in self.modes:
                said = self.modes[entry.guid]
                entry.mode = MODES["w" if "w" in said else "r" if "r" in said else "u"]
        self.entries = _order(entries)

    def of(self, guid: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.guid == guid]

    def foreign(self, mine: Entry) -> Entry | None:
        """One that stands before, and contends for something of another kind."""
        return foreign(self.entries, self.rank(mine))

    def blocker(self, mine: Entry) -> str:
        """The node that keeps this entry from holding, or "": that of the last entry in its way, or what makes that
        stronger than its name. While that is there it cannot hold, so there is nothing else to watch."""
        found = blockers(self.entries, self.rank(mine))
        if not found:
            return ""
        upgraded = found[-1].kind != "x" and "w" in self.modes.get(found[-1].guid, ())
        return f"as-w.{found[-1].guid}" if upgraded else found[-1].name

    def hinders_upgrade(self, marker: Entry) -> str:
        """The last reader before the marker that holds, or could; "" if there is none."""
        found = ""
        for entry in self.entries:
            if entry is marker:
                break
            if entry.guid == marker.guid:
                continue
            if entry.mode == "write":  # it waits for us, and those behind it wait for it
                break
            if entry.mode == "read":
                found = entry.name
        return found

    def rank(self, mine: Entry) -> int:
        return self.entries.index(mine)

    def granted(self, entry: Entry) -> bool:
        """Does it look to others as if it held?"""
        return entry.kind != "x" and granted(self.entries, self.rank(entry))


def key_path(root: str, name: str) -> str:
    """The node of a lock. Names that differ in anything get other nodes; their characters do not matter."""
    return f"{root}/{LAYOUT}/{blake2b(encoded(name), digest_size=16).hexdigest()}"


def encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


# ---- what an entry says of its owner

_command = ""


def record(claim: Claim) -> bytes:
    """For `inspect`, and for people with a ZooKeeper shell. Nothing depends on it."""
    import time

    from ..._identity import names

    global _command
    if not _command:
        _command = _own_command()
    thread, task = names(claim)
    facts: dict[str, Any] = {
        "pid": os.getpid(), "host": _host(), "command": _command, "thread": thread, "task": task,
        "since": round(time.time(), 3),
    }  # fmt: skip
    return json.dumps(facts).encode()


_host_name = ""


def _host() -> str:
    global _host_name
    if not _host_name:
        import socket

        _host_name = socket.gethostname()
    return _host_name


def _own_command() -> str:
    import sys

    return command_line([os.path.basename(sys.executable or "python"), *sys.argv])[:200]


def party(data: bytes, mode: Mode, position: int | None, own: ZooKeeperClaim | None) -> Party:
    """What an entry says, as far as it can be read. `own`: the claim, if it is of this process."""
    import time

    facts = _strangers.fields(data)
    since = _strangers.moment(facts, "since")
    exact = position is not None  # others' entries do not tell how long they had to wait
    if own is not None and own.since:
        since, exact = time.time() - (time.monotonic() - own.since), True
    return Party(
        _strangers.number(facts, "pid"),
        _strangers.word(facts, "command"),
        host=_strangers.word(facts, "host"),
        since=since,
        since_exact=exact and since is not None,
        thread=_strangers.word(facts, "thread"),
        task=_strangers.word(facts, "task"),
        mode=mode,
        position=position,
    )
