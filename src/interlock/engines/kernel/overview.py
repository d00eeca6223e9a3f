"""All locks of the kernel below one directory, at one moment. Linux, from /proc.

`holders.report` begins with a path and looks for processes. Here it is the other way round: /proc/locks says which
inodes are locked, and one walk over the descriptors of all processes says which paths these are and who keeps
them. So it costs as much as a single report, however many files lie below the directory.

- A descriptor's path is that of its opening, perhaps in another mount namespace, and the file may have been replaced
  since. It counts if the file that stands there now is the same one.
- Of other users' processes only root sees the descriptors. Their files have no path here but what the caller knows
  by other means (`names`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from ..._report import Report
from . import proc

if sys.platform != "win32":
    from .holders import arrival, parties, permits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

assert sys.platform != "win32"

if TYPE_CHECKING:
    from .holders import Kept
    from .proc import Entry


@dataclass
class _File:
    """A file that is locked or waited for, and what each process's descriptors keep of it."""

    status: os.stat_result
    path: str = ""
    seen: dict[int, Kept] = field(default_factory=dict)


def below(root: str, names: Mapping[int, str]) -> list[Report]:
    """The locks held or waited for below `root` (canonical). `names`: paths of inodes, where the caller knows some;
    they may be outdated. Raises `FileNotFoundError` where there is no /proc/locks."""
    by_inode: dict[int, list[Entry]] = {}
    for entry in proc.table():
        if entry.flock or entry.kind == "OFDLCK":
            by_inode.setdefault(entry.inode, []).append(entry)
    of_locks = {
        inode: entries
        for inode, entries in by_inode.items()
        if any(entry.flock or arrival(entry) is not None for entry in entries)
    }
    files, hidden = _files(root, of_locks)
    _add_by_name(files, root, of_locks, names)
    found = []
    for file in files.values():
        seen = {**dict.fromkeys(hidden, None), **file.seen}
        entries = proc.on(file.status, of_locks[file.status.st_ino])
        holders, waiters = parties(entries, seen, [])
        if holders or waiters:
            number = permits(entries)
            facts = {"permits": str(number)} if number else {}
            everybody = os.geteuid() == 0
            found.append(
                Report(file.path, "kernel", holders, waiters, enforced=True, complete=everybody, facts=facts)
            )
    return found


def _files(root: str, of_locks: Mapping[int, object]) -> tuple[dict[tuple[int, int], _File], list[int]]:
    """The files below `root` by device and inode, and the processes whose descriptors are not shown."""
    files: dict[tuple[int, int], _File] = {}
    hidden = []
    for pid in proc.processes():
        try:
            for kept, status in proc.kept(pid, of_locks):
                file = files.setdefault((status.st_dev, status.st_ino), _File(status))
                file.seen[pid] = (*(file.seen.get(pid) or ()), kept.entries)
                if not file.path:
                    file.path = _standing(proc.path_of(pid, kept.fd), root, status)
        except PermissionError:
            hidden.append(pid)
    return {key: file for key, file in files.items() if file.path}, hidden


def _add_by_name(
    files: dict[tuple[int, int], _File], root: str, of_locks: Mapping[int, object], names: Mapping[int, str]
) -> None:
    for inode in of_locks.keys() & names.keys() - {inode for _, inode in files}:
        try:
            status = os.stat(names[inode], follow_symlinks=False)
        except OSError:
            continue
        if _standing(names[inode], root, status) and status.st_ino == inode:
            files[status.st_dev, inode] = _File(status, names[inode])


def _standing(path: str, root: str, status: os.stat_result) -> str:
    """The path, if it is below `root` and that very file stands there."""
    if not path.startswith(root.rstrip("/") + "/"):
        return ""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return ""
    return path if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino) else ""
