"""Owners of markers and leases, and who waits for a lease, in words. Nothing is decided by any of this.

A marker and a record of a lease name a process; what runs under its number on this host is asked of the system, where
that number can be no other process by now. Who waits for a marker leaves no trace. Who waits for a lease leaves a
*note* in its log's directory: a file `waits-NONCE` with the head of a record, made when it begins to wait, touched
while it does, removed at the end. A note of a dead process is passed over, and the next owner removes it; one of
another host is believed for STALE seconds after its last touch.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from os.path import join

from ..._core import arbiter
from ..._parties import own
from ..._report import Party
from . import identity
from . import lease_records as records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._core.arbiter import Line
    from ..._model import Claim
    from .lease_ops import LeaseOps

__all__ = ["NOTE", "STALE", "holder_of_lease", "holder_of_marker", "holders_of_strict", "old_notes", "waiters_of_lease"]

NOTE = "waits-"
STALE = 60.0
"""Seconds after which a note of another host that was not touched counts for nothing."""


def holder_of_marker(owner: tuple[int, str, int | None], since: float, exact: bool) -> tuple[Party, str]:
    """Whom a marker names (pid, host, start), and a hint. `exact`: it was not touched since it was made."""
    pid, host, start = owner
    party = Party(pid, host=host, since=since, since_exact=exact)
    if host != identity.host():
        return party, "a process of another host: nobody here can tell if it lives"
    if identity.proven_dead(pid, host, start):
        return party, "that process has died"
    return _described(party), ""


def holders_of_strict(path: str) -> tuple[Party, ...]:
    """Who has a claim of the strict protocol that is held. One that a crash left behind holds as well. Raises
    `ClaimsError` for claims that cannot be read."""
    from .claims import StrictClaims

    view = StrictClaims(path, 0)
    found = []
    for claim in view.read():
        if claim.state == "held":
            since = os.lstat(join(view.directory, claim.name)).st_mtime
            found.append(holder_of_marker((claim.pid, claim.hostname, claim.start), since, exact=True)[0])
    return tuple(found)


def holder_of_lease(line: Line, record: records.Record) -> Party:
    its = record.party
    if its == identity.party()._replace(command=its.command):
        for claim in arbiter.turns.values():
            if claim.line.key == line.key and claim.token == record.token:
                return own(claim)
    party = Party(its.pid, its.command, host=its.host, since=record.since, since_exact=True, mode="write")
    return _described(party) if _here(its) and not identity.party_is_dead(its) else party


def waiters_of_lease(line: Line, ops: LeaseOps, directory: str) -> tuple[Party, ...]:
    """In the order in which they began; it is no queue."""
    found = []
    for name in ops.names(directory) or ():
        if name.startswith(NOTE):
            party = _noted(ops, join(directory, name))
            if party is not None and party.pid != os.getpid():
                found.append(party)
    found += [own(claim) for claim in _waiting(line)]
    return tuple(sorted(found, key=lambda party: party.since or 0.0))


def old_notes(ops: LeaseOps, directory: str, names: Iterable[str]) -> list[str]:
    """The notes of those who are not there any more."""
    return [
        path for name in names if name.startswith(NOTE) for path in (join(directory, name),) if not _noted(ops, path)
    ]


def _noted(ops: LeaseOps, path: str) -> Party | None:
    try:
        data = ops.read(path)
        touched = os.stat(path).st_mtime
    except OSError:
        return None
    record = None if data is None else records.parse(data)[1]
    if record is None:
        return None
    its = record.party
    if ops.dead(its) or (not _here(its) and time.time() - touched > STALE):
        return None
    party = Party(its.pid, its.command, host=its.host, since=record.since, since_exact=True, mode="write")
    party = replace(party, waited=max(0.0, time.time() - record.since))
    return _described(party) if _here(its) else party


def _waiting(line: Line) -> list[Claim]:
    """This process's claims that want this lease."""
    found: dict[Claim, None] = {}
    for other in arbiter.lines():
        if other.key == line.key and hasattr(other.engine, "break_stale"):
            turn = arbiter.turns.get(other)
            found.update(dict.fromkeys(claim for claim in (turn,) if claim is not None and not claim.since))
            found.update(dict.fromkeys(place.claim for place in tuple(other.queue)))
    return list(found)


def _here(its: records.Party) -> bool:
    """Is it a process of this kernel, by the number that it has for us?"""
    me = identity.party()
    return bool(me.boot) and (its.boot, its.space) == (me.boot, me.space)


def _described(party: Party) -> Party:
    """With what the system tells of a process of ours."""
    if sys.platform != "linux" or party.pid is None:
        return party
    from ..kernel import proc

    return replace(
        party,
        command=proc.command(proc.words(party.pid)) or party.command,
        user=proc.user(party.pid),
        thread=proc.thread_of(party.pid),
    )
