"""Who holds a lock file and who waits for it, from /proc. Linux; elsewhere the answer is "unknown".

The kernel's own words (see `proc`), and where they mislead:

- /proc/locks names the process that *called* flock(2). If it died after a fork, its child keeps the lock and
  /proc/locks still shows the dead pid. Who has the descriptor (fdinfo) is who keeps it. F_OFD_GETLK says -1 for
  everybody.
- Waiters with a timeout are not in the kernel's queue; the ones of interlock are seen by their tickets
  (`tickets`), whose place is their time of arrival: so it gives their position, too. One per process has a ticket; the
  other threads and tasks queue behind it and are known to that process only. Those blocked in flock(2) have no
  position: the kernel wakes all of them at a release.
- The kernel does not record when a lock was taken, and the file's times do not tell: waiters touch it. Holders
  that care leave a mark (`tickets.mark`), seen by all in /proc/locks; of others the process's start is known.
- Nor does it record threads; see `proc.thread_of`. Of its own threads and tasks this process knows the names.
- In which mode a read-write lock is held, and which permit of a semaphore, is told by the ranges on the descriptor that
  has the flock (`readwrite`, `slots`). So what one process holds by several descriptors are several holders.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from dataclasses import replace

from ..._core import arbiter
from ..._core.arbiter import turns
from ..._errors import UnsafePathError
from ..._parties import own
from ..._report import Party, Report
from . import cycles, patience, proc, tickets

if sys.platform != "win32":
    from .readwrite import READERS, UPDATER, UPDATERS
    from .slots import MOST, NUMBERS, SLOTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._core.arbiter import Line
    from ..._model import Claim, Traits

assert sys.platform != "win32"

if TYPE_CHECKING:
    from .proc import Entry

    Kept = tuple[tuple[Entry, ...], ...] | None
    """The locks that each of a process's descriptors keeps; None: they are another user's, and not shown."""

_MARKS = ((UPDATERS, "update"), (READERS, "read"))
"""Where waiting updaters and readers of a read-write lock have their marks: + the time of arrival."""

_MODES = {"READ": "read", "WRITE": "write"}


def report(traits: Traits, line: Line) -> Report:
    """Everything that can be seen of this lock file. Costs milliseconds: it looks at every descriptor in /proc."""
    if not os.path.exists("/proc/locks"):
        return Report(line.resource, traits.name, complete=False, hint="this system does not tell who holds a lock")
    try:
        status = os.stat(line.key, follow_symlinks=False)
    except FileNotFoundError:
        return Report(line.resource, traits.name, enforced=True, hint="there is no lock file yet")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{line.key} is not a regular file, so it is no lock file")
    table = proc.of_file(status)
    seen: dict[int, Kept] = {}
    for pid in proc.processes():
        kept = locks_of(pid, status)
        if kept is None or kept:
            seen[pid] = kept
    holders, waiters = parties(table, seen, claims(line.key))
    cycle = cycles.told(line.key, status.st_ino)
    number = permits(table)
    return Report(
        line.resource,
        traits.name,
        holders=holders,
        waiters=waiters,
        enforced=True,
        complete=os.geteuid() == 0,
        facts={**({"cycle": cycle} if cycle else {}), **({"permits": str(number)} if number else {})},
    )


def locks_of(pid: int, status: os.stat_result) -> Kept:
    """The locks on this file that a process's descriptors keep. None: they are another user's, and not shown."""
    try:
        return tuple(
            found.entries for found, there in proc.kept(pid, (status.st_ino,)) if there.st_dev == status.st_dev
        )
    except PermissionError:
        return None


def permits(table: list[Entry]) -> int:
    """Of how many permits the semaphore is that this file is used as; 0 where it is none."""
    return max((entry.start - NUMBERS for entry in table if _is_number(entry)), default=0)


def _is_number(entry: Entry) -> bool:
    return entry.kind == "OFDLCK" and entry.mode == "READ" and NUMBERS < entry.start <= NUMBERS + MOST


def parties(
    table: list[Entry], seen: dict[int, Kept], mine: list[Claim]
) -> tuple[tuple[Party, ...], tuple[Party, ...]]:
    """Holders and waiters of one file: from its lines of /proc/locks, the locks that each process's descriptors keep
    (None where that is not shown), and this process's own claims on it."""
    lockers = {entry.pid: _mode(entry) for entry in table if entry.flock and not entry.blocked and entry.pid > 0}
    taken = _taken(table)
    holders: dict[object, Party] = {}
    waiters: list[Party] = []
    tickets_left = {entry.start for entry in table if arrival(entry) is not None}
    for pid, kept in seen.items():
        if kept is None and pid in lockers:
            holders[pid] = _holder(pid, taken, mode=lockers[pid])
        for entries in kept or ():
            for entry in entries:
                if entry.flock:
                    mode, slot = _manner(entry, entries)
                    party = _holder(pid, taken, inherited=pid not in lockers, mode=mode, slot=slot)
                    holders[pid, mode, slot] = party
                elif entry.start in tickets_left:
                    tickets_left.discard(entry.start)
                    waiters.append(_waiter(pid, entry, any(map(_is_number, entries))))
    if not holders:  # the locker is dead, and who inherited its descriptor may not be seen
        holders = {pid: _holder(pid, taken, mode=mode) for pid, mode in lockers.items()}
    # Other users' waiters: the kernel shows that there are some, and since when.
    waiters += [_waiter(None, entry) for entry in table if entry.start in tickets_left and arrival(entry) is not None]
    holders_now = list(holders.values())
    my_holders, my_waiters = _own(mine)
    if my_holders:
        holders_now = [*my_holders, *(party for party in holders_now if party.pid != os.getpid())]
    waiters = _numbered(_with_own(waiters, my_waiters))
    waiters += [
        proc.party(entry.pid, mode=_mode(entry), thread=proc.thread_of(entry.pid, blocked=True))
        for entry in table
        if entry.flock and entry.blocked and entry.pid > 0
    ]
    return tuple(sorted(holders_now, key=_rank)), tuple(waiters)


def _rank(party: Party) -> tuple[bool, int, int]:
    return party.inherited, party.pid or 0, party.slot or 0


def blame(line: Line) -> tuple[Party | None, str]:
    """One holder for an error message, without a walk through /proc unless the locker is gone."""
    mine, _ = _own(claims(line.key))
    if mine:
        return mine[0], "in this process"
    try:
        status = os.stat(line.key, follow_symlinks=False)
        table = proc.of_file(status)
        lockers = [entry for entry in table if entry.flock and not entry.blocked]
        for entry in lockers:
            pid = entry.pid
            if pid > 0 and os.path.exists(f"/proc/{pid}") and locks_of(pid, status) != ():
                hint = cycles.told(line.key, status.st_ino, os.getpid())
                return _holder(pid, _taken(table), mode=_mode(entry)), hint
        for pid in proc.processes():
            for entry in (entry for entries in locks_of(pid, status) or () for entry in entries):
                if entry.flock:
                    return _holder(pid, _taken(table), inherited=True, mode=_mode(entry)), ""
    except OSError:
        pass
    return None, ""


def waiting(line: Line) -> int:
    """How many processes wait for this lock file, as far as one look into /proc/locks tells."""
    try:
        table = proc.of_file(os.stat(line.key, follow_symlinks=False))
    except OSError:
        return 0
    return sum((entry.flock and entry.blocked) or arrival(entry) is not None for entry in table)


def _mode(entry: Entry) -> str:
    return _MODES.get(entry.mode, "")


def _manner(flock: Entry, entries: tuple[Entry, ...]) -> tuple[str, int | None]:
    """The mode in which a descriptor holds, and its slot, from all its locks."""
    if flock.mode == "READ":
        for entry in entries:
            if entry.kind == "OFDLCK" and entry.mode == "WRITE":
                if entry.start == UPDATER:
                    return "update", None
                if SLOTS <= entry.start < SLOTS + MOST:
                    return "permit", entry.start - SLOTS
    return _mode(flock), None


def _taken(table: list[Entry]) -> float | None:
    """When the lock was taken, if its holder says so."""
    for entry in table:
        if entry.kind == "OFDLCK" and tickets.TAKEN <= entry.start < tickets.BASE:
            return proc.epoch(entry.start - tickets.TAKEN)
    return None


def arrival(entry: Entry) -> tuple[int, str] | None:
    """Of a waiter's ticket or mark: since when (CLOCK_BOOTTIME, nanoseconds), and the mode."""
    if entry.kind != "OFDLCK" or entry.start >= patience.SIGNED:
        return None
    for base, mode in ((tickets.BASE, "write"), *_MARKS):
        if base <= entry.start < base * 2:
            return (entry.start - base, mode)
    return None


def _holder(
    pid: int, taken: float | None, *, inherited: bool = False, mode: str = "", slot: int | None = None
) -> Party:
    since = proc.started(pid) if taken is None else taken
    return proc.party(
        pid,
        since=since,
        since_exact=taken is not None,
        inherited=inherited,
        mode=mode,
        thread=proc.thread_of(pid),
        slot=slot,
    )


def _waiter(pid: int | None, entry: Entry, counted: bool = False) -> Party:
    came = arrival(entry)
    assert came is not None
    since, mode = proc.epoch(came[0]), "permit" if counted else came[1]
    waited = max(0.0, time.time() - since)
    if pid is None:
        return Party(None, since=since, since_exact=True, waited=waited, mode=mode)
    return proc.party(pid, since=since, since_exact=True, waited=waited, mode=mode, thread=proc.thread_of(pid))


def _numbered(waiters: Iterable[Party]) -> list[Party]:
    return [replace(party, position=place) for place, party in enumerate(waiters, 1)]


# ---- what this process knows of itself


def claims(key: str) -> list[Claim]:
    """This process's claims on a lock file: holders, who has the turn to contend, and the queue behind it."""
    found = [claim for claim in (*turns.values(), *arbiter.granted) if _is_of(claim.line, key)]
    for line in arbiter.lines():
        if _is_of(line, key):
            found += [place.claim for place in tuple(line.queue)]
    return found


def _is_of(line: Line, key: str) -> bool:
    return line.key == key and line.engine.traits.name == "kernel"  # not a lease on the same path


def _own(mine: list[Claim]) -> tuple[list[Party], list[Party]]:
    """Holders and waiters among this process's claims, the waiters in their order."""
    holders: list[Party] = []
    waiters: list[Party] = []
    for claim in dict.fromkeys(mine):
        party = own(claim)
        (holders if claim.since else waiters).append(party)
        if claim.since and getattr(claim, "upgrading", False):
            since = proc.epoch(getattr(claim, "arrived", 0))
            waiters.append(replace(party, mode="write", since=since, waited=max(0.0, time.time() - since)))
    return holders, waiters


def _with_own(waiters: list[Party], mine: list[Party]) -> list[Party]:
    """This process's waiters stand where its ticket stands. Without one they are at the end: they wait for a
    hold of this process."""
    waiters.sort(key=lambda party: party.since or 0.0)
    places = [at for at, party in enumerate(waiters) if party.pid == os.getpid()]
    if not mine:
        return waiters
    at = places[0] if places else len(waiters)
    others = [party for party in waiters if party.pid != os.getpid()]
    return [*others[:at], *mine, *others[at:]]
