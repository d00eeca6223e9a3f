"""What stands on the server: keys, values, and the claims that they belong to. Nothing here makes a request.

Layout, below the prefix that the URL names. HASH is that of the lock's name, 1 the version of this layout; IDENT is the
lease's id and a random number of the claim, so no two claims ever have the same.

- `interlock/1/HASH/e/IDENT`: an entry of the queue; its `create_revision` is its place, and the token of its claim
- `interlock/1/HASH/s/3`: slot 3 of a semaphore is taken; the value is the IDENT of whom
- `interlock/1/HASH/t/IDENT`: this entry must not be made any more (see `core`)

All have the lease of their process. The value of an entry is JSON, whose "mode", "permits", "upgrading" and "awaits"
the queue rule reads; the rest is for people. """

from __future__ import annotations

import json
import os
from hashlib import blake2b

from ... import _strangers
from ..._address import command_line
from ..._errors import ProtocolError
from ..._model import Claim
from ..._report import Party
from .client import number, plain, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import Mode, Parker
    from .lease import Lease
    from .watch import Watch

__all__ = ["Entry", "EtcdClaim", "directory", "party", "queue_of", "record", "whole"]

LAYOUT = "interlock/1"


class EtcdClaim(Claim):
    """A stake: its entry, once there is one."""

    lease: Lease | None = None
    ident = ""
    base = b""  # of all keys of its lock
    key = b""
    pending = 0  # requests to make the entry that were sent and not answered
    entered = False  # it is known to have been made; `token` is its revision
    mod = 0  # the revision of its last change
    value = b""
    gone = ""
    seen = 0  # the revision of the queue in which it was not granted
    known = False  # ... and that was a moment ago: no need to read it again
    concern: frozenset[bytes] = frozenset()  # keys whose leaving or changing is news
    watch: Watch | None = None
    parker: Parker | None = None
    counted = False  # of a semaphore
    guarded = False  # it is told when its entry is removed
    marked = False  # of an upgrade
    awaits: frozenset[str] = frozenset()


class Entry:
    """As `_queue.Entry`."""

    __slots__ = ("awaits", "create", "facts", "ident", "key", "mod", "mode", "permits", "upgrading", "value")

    def __init__(self, kv: dict[str, Any]) -> None:
        self.key = plain(kv["key"])
        self.ident = self.key.rpartition(b"/")[2].decode(errors="replace")
        self.create = number(kv, "create_revision")
        self.mod = number(kv, "mod_revision")
        self.value = plain(kv.get("value", ""))
        self.facts = _strangers.fields(self.value)
        mode = self.facts.get("mode")
        self.mode: Mode = mode if mode in ("read", "update") else "write"  # what cannot be read excludes all
        self.permits = _strangers.number(self.facts, "permits") or 0
        self.upgrading = bool(self.facts.get("upgrading"))
        awaits = self.facts.get("awaits")
        self.awaits: list[str] = [name for name in awaits if isinstance(name, str)] if isinstance(awaits, list) else []


def queue_of(answer: dict[str, Any]) -> list[Entry]:
    """The entries of a range's answer, in order. Raises `ProtocolError` where it is none."""
    try:
        return sorted((Entry(kv) for kv in answer.get("kvs", ())), key=lambda entry: entry.create)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ProtocolError("the answer to a range is not etcd's; nothing was locked") from None


def directory(root: str, name: str) -> bytes:
    """Below which all keys of a lock are. Names that differ in anything get others; their characters do not matter."""
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"{root}{LAYOUT}/{digest}/".encode()


def whole(prefix: bytes) -> dict[str, str]:
    """All keys that begin so, for a range, a watch, a comparison."""
    return {"key": text(prefix), "range_end": text(prefix[:-1] + bytes([prefix[-1] + 1]))}


# ---- what an entry says of its owner

_own: dict[str, Any] = {}


def record(claim: EtcdClaim, name: str) -> bytes:
    """The value of its entry."""
    import time

    from ..._identity import names

    thread, task = names(claim)
    facts = {
        "mode": claim.mode, "permits": claim.permits if claim.counted else 0, "name": name[:200],
        **(_own or _find_out()), "thread": thread, "task": task, "since": round(time.time(), 3),
    }  # fmt: skip
    return json.dumps(facts).encode()


def _find_out() -> dict[str, Any]:
    import socket
    import sys

    from ..._core import fork

    if not _own:
        fork.in_child(_own.clear)
    command = command_line([os.path.basename(sys.executable or "python"), *sys.argv])[:200]
    _own.update(pid=os.getpid(), host=socket.gethostname(), command=command)
    return _own


def party(entry: Entry, position: int | None, own: EtcdClaim | None) -> Party:
    """What an entry says, as far as it can be read. `own`: the claim, if it is of this process."""
    import time

    facts = entry.facts
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
        mode="" if entry.permits else entry.mode,
        position=position,
    )
