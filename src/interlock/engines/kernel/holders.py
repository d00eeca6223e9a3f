"""Who holds a lock file and who waits for it, from /proc. Linux; elsewhere the answer is "unknown".

The kernel's own words, and where they mislead:

- /proc/locks names the process that *called* flock(2). If it died after a fork, its child keeps the lock and
  /proc/locks still shows the dead pid. F_OFD_GETLK says -1 for everybody.
- /proc/PID/fdinfo/N repeats the lock on every descriptor that shares the locked open file description: so it shows
  who really keeps it. Only root sees other users'.
- Waiters with a timeout are not in the kernel's queue; the ones of interlock are seen by their tickets
  (`tickets`), whose place is their time of arrival. Those blocked in flock(2) stand behind "->".
- The kernel does not record when a lock was taken, and the file's times do not tell: waiters touch it. Holders
  that care leave a mark (`tickets.mark`), seen by all in /proc/locks; of others the process's start is known.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import sys
import time
from dataclasses import dataclass

from ..._core.arbiter import turns
from ..._errors import UnsafePathError
from ..._report import Party, Report
from . import tickets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._core.arbiter import Line
    from ..._model import Traits

assert sys.platform != "win32"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class _Entry:
    """One line of /proc/locks, or of an fdinfo's `lock:` lines."""

    kind: str
    blocked: bool
    pid: int
    device: str
    inode: int
    start: str


def _parse(line: str) -> _Entry | None:
    # 12: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF      12: -> FLOCK ... for one that is blocked
    fields = line.split()[1:]
    blocked = bool(fields) and fields[0] == "->"
    if blocked:
        fields = fields[1:]
    try:
        kind, _advisory, _mode, pid, where, start = fields[:6]
        major, minor, inode = where.split(":")
        return _Entry(kind, blocked, int(pid), f"{major}:{minor}", int(inode), start)
    except ValueError:
        return None


def _entries(path: str) -> Iterator[_Entry]:
    with open(path, encoding="ascii", errors="replace") as table:
        for line in table:
            entry = _parse(line.removeprefix("lock:\t"))
            if entry is not None:
                yield entry


def _of_file(status: os.stat_result) -> list[_Entry]:
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    same_inode = [entry for entry in _entries("/proc/locks") if entry.inode == status.st_ino]
    # On btrfs and others stat(2) tells an anonymous device that /proc/locks does not know.
    return [entry for entry in same_inode if entry.device == device] or same_inode


def _locks_of(pid: int, status: os.stat_result) -> list[_Entry] | None:
    """The locks on this file that a process's descriptors keep. None: they are another user's, and not shown."""
    found = []
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return None
    except OSError:
        return []
    for fd in fds:
        try:
            there = os.stat(f"/proc/{pid}/fd/{fd}")
            if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
                found += [_parse(line.removeprefix("lock:")) for line in info if line.startswith("lock:")]
        except OSError:
            continue
    return [entry for entry in found if entry is not None]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _taken(table: list[_Entry]) -> float | None:
    """When the lock was taken, if its holder says so."""
    for entry in table:
        if entry.kind == "OFDLCK" and tickets.TAKEN <= int(entry.start) < tickets.BASE:
            return _epoch(int(entry.start) - tickets.TAKEN)
    return None


def report(traits: Traits, line: Line) -> Report:
    """Everything that can be seen of this lock file. Costs milliseconds: it looks at every descriptor in /proc."""
    hint = ""
    if not os.path.exists("/proc/locks"):
        return Report(line.resource, traits.name, complete=False, hint="this system does not tell who holds a lock")
    try:
        status = os.stat(line.key, follow_symlinks=False)
    except FileNotFoundError:
        return Report(line.resource, traits.name, enforced=True, hint="there is no lock file yet")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{line.key} is not a regular file, so it is no lock file")
    table = _of_file(status)
    lockers = {entry.pid for entry in table if entry.kind == "FLOCK" and not entry.blocked and entry.pid > 0}
    taken = _taken(table)
    holders: dict[int, Party] = {}
    waiters: dict[int, Party] = {}
    for pid in _processes():
        locks = _locks_of(pid, status)
        if locks is None and pid in lockers:
            holders[pid] = _holder(pid, line, taken)
        for entry in locks or ():
            if entry.kind == "FLOCK":
                holders[pid] = _holder(pid, line, taken, inherited=pid not in lockers)
            elif entry.kind == "OFDLCK" and int(entry.start) >= tickets.BASE:
                waiters[pid] = _party(pid, since=_epoch(int(entry.start) - tickets.BASE), since_exact=True)
    for entry in table:
        if entry.kind == "FLOCK" and entry.blocked and entry.pid > 0:
            waiters.setdefault(entry.pid, _party(entry.pid))
    if not holders:  # the locker is dead, and who inherited its descriptor may not be seen
        holders = {pid: _holder(pid, line, taken) for pid in lockers}
    ordered = sorted(holders.items(), key=lambda item: (item[1].inherited, item[0]))
    return Report(
        line.resource,
        traits.name,
        holders=tuple(party for _, party in ordered),
        waiters=tuple(sorted(waiters.values(), key=lambda party: party.since or 0.0)),
        enforced=True,
        complete=os.geteuid() == 0,
        hint=hint,
    )


def blame(line: Line) -> tuple[Party | None, str]:
    """One holder for an error message, without a walk through /proc unless the locker is gone."""
    claim = turns.get(line)
    if claim is not None and claim.since:
        return _holder(os.getpid(), line, None), "in this process"
    try:
        status = os.stat(line.key, follow_symlinks=False)
        table = _of_file(status)
        lockers = [entry.pid for entry in table if entry.kind == "FLOCK" and not entry.blocked]
        for pid in lockers:
            if pid > 0 and os.path.exists(f"/proc/{pid}") and _locks_of(pid, status) != []:
                return _holder(pid, line, _taken(table)), ""
        for pid in _processes():
            for entry in _locks_of(pid, status) or ():
                if entry.kind == "FLOCK":
                    return _holder(pid, line, _taken(table), inherited=True), ""
    except OSError:
        pass
    return None, ""


def waiting(line: Line) -> int:
    """How many processes wait for this lock file, as far as one look into /proc/locks tells."""
    try:
        table = _of_file(os.stat(line.key, follow_symlinks=False))
    except OSError:
        return 0
    blocked = sum(entry.kind == "FLOCK" and entry.blocked for entry in table)
    return blocked + sum(entry.kind == "OFDLCK" and int(entry.start) >= tickets.BASE for entry in table)


def _holder(pid: int, line: Line, taken: float | None, inherited: bool = False) -> Party:
    claim = turns.get(line)
    if pid == os.getpid() and claim is not None and claim.since:
        taken = time.time() - (time.monotonic() - claim.since)
    if taken is None:
        return _party(pid, since=_started(pid), inherited=inherited)
    return _party(pid, since=taken, since_exact=True, inherited=inherited)


def _party(
    pid: int, *, since: float | None = None, since_exact: bool = False, inherited: bool = False
) -> Party:
    return Party(
        pid=pid,
        command=_command(_words(pid)),
        user=_user(pid),
        host=socket.gethostname(),
        since=since,
        since_exact=since_exact,
        inherited=inherited,
    )


def _words(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(4096)
        if not raw:  # a kernel thread or a zombie
            with open(f"/proc/{pid}/comm", "rb") as file:
                return [f"[{file.read(64).decode(errors='replace').strip()}]"]
    except OSError:
        return []
    return [word.decode("utf-8", "replace") for word in raw.rstrip(b"\0").split(b"\0")]


def _is_run(words: list[str]) -> bool:
    if "run" not in words[:5] or "--" not in words:
        return False
    return any("interlock" in word for word in words[: words.index("run")])


def _command(words: list[str]) -> str:
    """A command line for messages: what `interlock run` runs instead of itself, cut, and nothing a terminal obeys."""
    if _is_run(words):
        words = words[words.index("--") + 1 :]
    text = " ".join(words)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 80 else text[:79] + "…"


def _user(pid: int) -> str:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _epoch(boottime_ns: int) -> float:
    return time.time() - (time.clock_gettime_ns(_CLOCK) - boottime_ns) / 1e9


def _started(pid: int) -> float | None:
    """When a process began, in seconds of the epoch; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return _epoch(int(ticks / os.sysconf("SC_CLK_TCK") * 1e9))
