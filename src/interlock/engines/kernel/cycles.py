"""Processes that wait for each other: A holds x and waits for y, B holds y and waits for x. Linux, from /proc.

Holds and waits are looked at one after the other, so what is found may never have been true at one moment. Therefore
it is looked at twice. A wait has its own number (the ticket, which is the time of arrival), and who waits in
its only thread cannot let go of anything meanwhile: what was there both times, was there all the time between. That is
why a cycle of processes with one thread each is called a deadlock, and all others only a wait cycle. Who waits with a
timeout gets out of it by himself.

Seen are plain locks (flock), waited for by a ticket or in flock(2). Other users' processes are seen by root only.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass

from . import proc, tickets

TYPE_CHECKING = False

assert sys.platform != "win32"

if TYPE_CHECKING:
    from .proc import Entry


@dataclass(frozen=True)
class Wait:
    """Process `pid` waits for the file `path` since `since` (an arbitrary number, its own), which `holder` holds."""

    pid: int
    path: str
    since: int
    holder: int


def waits_elsewhere(table: list[Entry], inode: int) -> bool:
    """Does anybody wait for another file? If not, there is no cycle through this one, and nothing more to look at."""
    return any(_waits(entry) and entry.inode != inode for entry in table)


def find(path: str, me: int = 0) -> list[Wait]:
    """The cycle that the holders of this lock file are in. With `me`, which is a process that wanted it and has
    given up: also the one that it was in. Empty if there is none."""
    try:
        first = _search(path, me)
        if not first:
            return []
        again = {(wait.pid, wait.path, wait.since, wait.holder) for wait in _edges_of({wait.pid for wait in first})}
    except OSError:
        return []
    # Of `me` there is nothing left to be seen: its wait is over.
    steady = all((wait.pid, wait.path, wait.since, wait.holder) in again or not wait.since for wait in first)
    return first if steady else []


def sentence(cycle: list[Wait]) -> str:
    """What people read."""
    if not cycle:
        return ""
    steps = [
        f"pid {wait.pid} ({_name(wait.pid)}) waits for {wait.path}, which pid {wait.holder} holds" for wait in cycle
    ]
    sure = all(_single(wait.pid) for wait in cycle)
    return ("deadlock: " if sure else "wait cycle: ") + "; ".join(steps)


def told(path: str, inode: int, me: int = 0) -> str:
    """`sentence` of `find`, at the cost of one look into /proc/locks where there can be no cycle."""
    return sentence(find(path, me)) if waits_elsewhere(proc.table(), inode) else ""


def _search(path: str, me: int) -> list[Wait]:
    status = os.stat(path, follow_symlinks=False)
    inodes = {entry.inode for entry in proc.table()}
    trail = [Wait(me, path, 0, holder) for holder in _holders(status)]
    if not me:
        return next(filter(None, (_follow([], wait.holder, inodes) for wait in trail)), [])
    return next(filter(None, (_follow([wait], wait.holder, inodes) for wait in trail if wait.holder != me)), [])


def _follow(trail: list[Wait], pid: int, inodes: set[int]) -> list[Wait]:
    """Depth first: what this process waits for, who holds that, what those wait for."""
    for wait in _waits_of(pid, inodes):
        if wait.holder == pid:
            continue  # two of its own threads
        onward = [*trail, wait]
        there = [place for place, earlier in enumerate(onward) if earlier.pid == wait.holder]
        if there:
            return onward[there[0] :]
        if len(onward) < 64:
            found = _follow(onward, wait.holder, inodes)
            if found:
                return found
    return []


def _edges_of(pids: set[int]) -> list[Wait]:
    inodes = {entry.inode for entry in proc.table()}
    return [wait for pid in pids for wait in _waits_of(pid, inodes)]


def _waits_of(pid: int, inodes: set[int]) -> list[Wait]:
    found = []
    try:
        for kept, status in proc.kept(pid, inodes):
            since = [entry.start for entry in kept.entries if _waits(entry)]
            if since:
                path = proc.path_of(pid, kept.fd)
                found += [Wait(pid, path, since[0], holder) for holder in _holders(status)]
        for entry in proc.table():  # in flock(2): no lock is on its descriptor yet
            if entry.blocked and entry.flock and entry.pid == pid:
                found += _blocked_on(pid, entry)
    except PermissionError:  # another user's
        pass
    return found


def _blocked_on(pid: int, entry: Entry) -> list[Wait]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            status = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if status.st_ino == entry.inode and stat.S_ISREG(status.st_mode):
            return [Wait(pid, proc.path_of(pid, int(fd)), entry.inode, holder) for holder in _holders(status)]
    return []


def _holders(status: os.stat_result) -> list[int]:
    lockers = [entry.pid for entry in proc.of_file(status) if entry.flock and not entry.blocked and entry.pid > 0]
    if all(os.path.exists(f"/proc/{pid}") for pid in lockers):
        return lockers
    found = []  # who locked is dead, and left the descriptor to others
    for pid in proc.processes():
        try:
            for kept, there in proc.kept(pid, {status.st_ino}):
                if there.st_dev == status.st_dev and any(entry.flock for entry in kept.entries):
                    found.append(pid)
        except PermissionError:
            continue
    return found


def _waits(entry: Entry) -> bool:
    return (entry.flock and entry.blocked) or (entry.kind == "OFDLCK" and entry.start >= tickets.BASE)


def _name(pid: int) -> str:
    return "this process" if pid == os.getpid() else proc.command(proc.words(pid)) or "?"


def _single(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return False
