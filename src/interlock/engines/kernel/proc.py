"""What /proc says about locks and processes, as it stands there. Linux only.

- /proc/locks has one line per lock: its kind, mode, the process that *asked* for it, device and inode, range. Waiters
  blocked in the kernel stand below it, behind "->". For open-file-description locks the process is always -1.
- /proc/PID/fdinfo/N repeats the lock on every descriptor that shares the locked open file description, so it tells
  who really keeps it. Other users' is shown to root only.
- Thread ids are not in there: the kernel notes the thread *group*. A process with one thread leaves no doubt; one that
  is blocked in flock(2) has its thread in that system call (/proc/PID/task/TID/syscall, for those who may trace it).
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import sys
import time
from dataclasses import dataclass
from platform import machine

from ..._address import command_line
from ..._parties import printable, short
from ..._report import Party

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

assert sys.platform != "win32"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_FLOCK_CALL = {"x86_64": 73, "aarch64": 32}.get(machine())


@dataclass(frozen=True)
class Entry:
    """One line of /proc/locks, or of an fdinfo's `lock:` lines."""

    kind: str
    mode: str
    blocked: bool
    pid: int
    device: str
    inode: int
    start: int

    @property
    def flock(self) -> bool:
        return self.kind == "FLOCK"


@dataclass(frozen=True)
class Kept:
    """A descriptor, and the locks of its open file description."""

    pid: int
    fd: int
    entries: tuple[Entry, ...]


def parse(line: str) -> Entry | None:
    # 12: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF      12: -> FLOCK ... for one that is blocked
    fields = line.split()[1:]
    blocked = bool(fields) and fields[0] == "->"
    if blocked:
        fields = fields[1:]
    try:
        kind, _advisory, mode, pid, where, start = fields[:6]
        major, minor, inode = where.split(":")
        return Entry(kind, mode, blocked, int(pid), f"{major}:{minor}", int(inode), int(start))
    except ValueError:
        return None


def table() -> list[Entry]:
    """All locks of this machine's files."""
    with open("/proc/locks", encoding="ascii", errors="replace") as lines:
        return [entry for line in lines if (entry := parse(line)) is not None]


def of_file(status: os.stat_result) -> list[Entry]:
    """The locks on one file."""
    return on(status, table())


def on(status: os.stat_result, entries: list[Entry]) -> list[Entry]:
    """Those of these locks that are on one file."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    same_inode = [entry for entry in entries if entry.inode == status.st_ino]
    # On btrfs and others stat(2) tells an anonymous device that /proc/locks does not know.
    return [entry for entry in same_inode if entry.device == device] or same_inode


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def kept(pid: int, inodes: Container[int]) -> Iterator[tuple[Kept, os.stat_result]]:
    """The locked descriptors of a process on files with these inode numbers. Raises `PermissionError` if they
    are another user's, and not shown."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return
    for fd in fds:
        try:
            status = os.stat(f"/proc/{pid}/fd/{fd}")
            if status.st_ino not in inodes or not stat.S_ISREG(status.st_mode):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
                found = [parse(line.removeprefix("lock:")) for line in info if line.startswith("lock:")]
        except OSError:
            continue
        entries = tuple(entry for entry in found if entry is not None)
        if entries:
            yield Kept(pid, int(fd), entries), status


def path_of(pid: int, fd: int) -> str:
    """The path of an open file; "" if it cannot be known, or is gone."""
    try:
        path = os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""
    return "" if path.endswith(" (deleted)") else path


def thread_of(pid: int, *, blocked: bool = False) -> str:
    """The thread that holds or waits, where there can be no doubt: "" otherwise."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ""
    if len(tasks) > 1:
        tasks = [task for task in tasks if blocked and _in_flock(pid, task)]
    if len(tasks) != 1:
        return ""
    try:
        with open(f"/proc/{pid}/task/{tasks[0]}/comm", encoding="utf-8", errors="replace") as file:
            return f"{printable(file.read(64).strip())} (tid {tasks[0]})"
    except OSError:
        return ""


def _in_flock(pid: int, task: str) -> bool:
    try:
        with open(f"/proc/{pid}/task/{task}/syscall", encoding="ascii", errors="replace") as file:
            number = file.read(64).split()[:1]
    except OSError:
        return False
    return _FLOCK_CALL is not None and number == [str(_FLOCK_CALL)]


def party(
    pid: int,
    *,
    since: float | None = None,
    since_exact: bool = False,
    inherited: bool = False,
    mode: str = "",
    thread: str = "",
    waited: float | None = None,
    slot: int | None = None,
) -> Party:
    """A process of this host, in words."""
    return Party(
        pid=pid,
        command=command(words(pid)),
        user=user(pid),
        host=socket.gethostname(),
        since=since,
        since_exact=since_exact,
        inherited=inherited,
        mode=mode,
        thread=thread,
        waited=waited,
        slot=slot,
    )


def words(pid: int) -> list[str]:
    """A process's command line; its name in brackets if it has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(4096)
        if not raw:  # a kernel thread or a zombie
            with open(f"/proc/{pid}/comm", "rb") as file:
                return [f"[{file.read(64).decode(errors='replace').strip()}]"]
    except OSError:
        return []
    return [word.decode("utf-8", "replace") for word in raw.rstrip(b"\0").split(b"\0")]


def is_run(line: list[str]) -> bool:
    """Is it the command line of an `interlock run`?"""
    if "run" not in line[:5] or "--" not in line:
        return False
    return any("interlock" in word for word in line[: line.index("run")])


def command(line: list[str]) -> str:
    """A command line for messages: what `interlock run` runs instead of itself, cut, and nothing a terminal obeys."""
    if is_run(line):
        line = line[line.index("--") + 1 :]
    return short(command_line(line))


def user(pid: int) -> str:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def epoch(boottime_ns: int) -> float:
    """Nanoseconds since the machine started as seconds of the epoch."""
    return time.time() - (time.clock_gettime_ns(_CLOCK) - boottime_ns) / 1e9


def started(pid: int) -> float | None:
    """When a process began, in seconds of the epoch; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return epoch(int(ticks / os.sysconf("SC_CLK_TCK") * 1e9))
