"""A Linux kernel made of data: a lock file, its locks, its events, and processes that die in the kernel's own order.

What is simulated, and from where we know it is so:

- flock(2) and F_OFD_SETLK ranges belong to an open file description, which ends with its last descriptor.
  `tests/sim/test_simkernel_is_linux.py` runs random sequences of calls here and
  on the real kernel and compares every answer and every event.
- A description that is closed raises its close event first, then loses its ranges, then its flock (__fput:
  fsnotify_close, locks_remove_posix, locks_remove_flock). Others may run in between. A killed process closes its
  descriptors one by one, the highest first, at any later time.
- inotify: events of a watch that was removed are not delivered; removing one raises an event of its own (IN_IGNORED),
  which wakes a sleeper without concerning it.
- An outside actor, the *cleaner*, unlinks or replaces the lock file `cleanings` times, at any moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any

from ..engines.kernel import KernelEngine

if sys.platform != "win32":
    from ..engines.kernel.ops import Ops
from .simprocess import PATH, Memory
from .simworld import AGAIN, Raised, Script, SimParker, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._model import Parker
    from .simworld import Choice, Request

assert sys.platform != "win32"

CLOSED, REPLACED = 1, 2
_FLOCK = struct.Struct("hhqqi4x")
_GETLK, _SETLK = 36, 37
_READ, _WRITE, _NONE = 0, 1, 2
_END = (1 << 63) - 1
_NOISE = 0
"""In a process's news: an event that concerns no watch."""
Owner = tuple[int, int]


def _failed(number: int) -> Raised:
    return Raised(OSError, (number, os.strerror(number)))


def _conflicts(kind: int, start: int, end: int, range_: tuple[Any, ...]) -> bool:
    _, its_start, its_end, its_kind = range_
    return start < its_end and its_start < end and _WRITE in (kind, its_kind)


class SimKernel(World):
    """The kernel that all simulated processes share.

    Cells: `name` -> inode at the path; `nlink`; `fd` (process, descriptor) -> number of the open file description,
    `file` (process, number) -> its inode; `flock` inode -> owner; `ranges` inode -> locked ranges; `watch` (process,
    inode) -> what for, and whom to tell; `news` process -> inodes. An owner is a description: (process, number).
    """

    __slots__ = ()
    LASTING = World.LASTING | {"name", "nlink", "inodes", "clock", "news"}

    def __init__(self, cleanings: int = 0, exists: bool = True) -> None:
        super().__init__()
        self.put(("left", "cleanings"), cleanings or None)
        if exists:
            self._new_file()

    # ---- files

    def on_open(self, who: int, create: bool) -> Any:
        process = self.setup.process[who]
        inode = self.get("name")
        if create:
            if inode is not None:
                return _failed(errno.EEXIST)
            inode = self._new_file()
        elif inode is None:
            return _failed(errno.ENOENT)
        number = self._free("file", process, 0)
        self.put(("file", process, number), inode)
        fd = self._free("fd", process, 3)
        self.put(("fd", process, fd), number)
        return fd

    def _free(self, what: str, process: int, number: int) -> int:
        while (what, process, number) in self.cells:
            number += 1
        return number

    def on_dup(self, who: int, fd: int, lowest: int) -> int:
        process = self.setup.process[who]
        new = self._free("fd", process, lowest)
        self.put(("fd", process, new), self.cells["fd", process, fd])
        return new

    def _new_file(self) -> int:
        inode: int = (self.get("inodes") or 0) + 1
        self.put(("inodes",), inode)
        self.put(("name",), inode)
        self.put(("nlink", inode), 1)
        return inode

    def _file(self, who: int, fd: int) -> tuple[Owner, int]:
        """The description that a descriptor is for, and its inode."""
        owner = self.setup.process[who], self.cells["fd", self.setup.process[who], fd]
        return owner, self.cells["file", *owner]

    def on_fstat(self, who: int, fd: int) -> tuple[int, int]:
        _, inode = self._file(who, fd)
        return inode, self.get("nlink", inode) or 0

    def on_stat(self, who: int) -> Any:
        inode = self.get("name")
        return _failed(errno.ENOENT) if inode is None else (inode, self.get("nlink", inode) or 0)

    def on_utime(self, who: int, fd: int) -> None:
        self._raise(self._file(who, fd)[1], REPLACED)

    def on_close(self, who: int, fd: int) -> Any:
        return None if self._closed(self.setup.process[who], fd) else AGAIN

    def _closed(self, process: int, fd: int) -> bool:
        """One step of a close, which for the last descriptor ends the description; is it over?

        Steps that do nothing are not taken.
        """
        number = self.cells["fd", process, fd]
        if any(cell[:2] == ("fd", process) and cell[2] != fd and its == number for cell, its in self.cells.items()):
            self.put(("fd", process, fd), None)
            return True
        owner = process, number
        inode = self.cells["file", process, number]
        done = self.get("closing", process, number) or "event"
        if done == "event":
            self._raise(inode, CLOSED)
        elif done == "ranges":
            self._set_ranges(inode, [range_ for range_ in self._ranges(inode) if range_[0] != owner])
        else:
            self.put(("flock", inode), None)
        left = [
            has
            for has, is_there in (
                ("ranges", any(range_[0] == owner for range_ in self._ranges(inode))),
                ("flock", self.get("flock", inode) == owner),
            )
            if is_there
        ]
        self.put(("closing", process, number), left[0] if left else None)
        if not left:
            self.put(("fd", process, fd), None)
            self.put(("file", process, number), None)
        return not left

    # ---- locks

    def on_flock(self, who: int, fd: int, operation: int) -> Any:
        owner, inode = self._file(who, fd)
        cell = "flock", inode
        if operation == fcntl.LOCK_UN:
            if self.cells.get(cell) == owner:
                self.put(cell, None)
        elif self.cells.get(cell, owner) != owner:
            return _failed(errno.EWOULDBLOCK)
        else:
            self.put(cell, owner)
        return None

    def _ranges(self, inode: int) -> tuple[tuple[Any, ...], ...]:
        return self.get("ranges", inode) or ()

    def _set_ranges(self, inode: int, ranges: list[tuple[Any, ...]]) -> None:
        self.put(("ranges", inode), tuple(ranges) or None)

    def on_fcntl(self, who: int, fd: int, command: int, wish: bytes) -> Any:
        owner, inode = self._file(who, fd)
        kind, _, start, length, _ = _FLOCK.unpack(wish)
        end = start + length if length else _END
        ranges = self._ranges(inode)
        against = [range_ for range_ in ranges if range_[0] != owner and _conflicts(kind, start, end, range_)]
        if command == _GETLK:
            if not against:
                return _FLOCK.pack(_NONE, 0, start, length, 0)
            _, start, end, kind = against[0]
            return _FLOCK.pack(kind, 0, start, 0 if end == _END else end - start, -1)
        assert command == _SETLK
        if kind != _NONE and against:
            return _failed(errno.EAGAIN)
        mine: list[tuple[Any, ...]] = []
        for _, its_start, its_end, its_kind in (range_ for range_ in ranges if range_[0] == owner):
            if its_start < start:
                mine.append((owner, its_start, min(its_end, start), its_kind))
            if end < its_end:
                mine.append((owner, max(its_start, end), its_end, its_kind))
        if kind != _NONE:
            mine.append((owner, start, end, kind))
        # The kernel lists owners in the order in which they came, each with its ranges in order.
        at = next((at for at, range_ in enumerate(ranges) if range_[0] == owner), len(ranges))
        others = [range_ for range_ in ranges if range_[0] != owner]
        self._set_ranges(inode, [*others[:at], *sorted(mine, key=lambda range_: range_[1]), *others[at:]])
        return wish

    def on_clock(self, who: int) -> int:
        """CLOCK_BOOTTIME: never twice the same."""
        now: int = (self.get("clock") or 0) + 1
        self.put(("clock",), now)
        return now

    # ---- events

    def _raise(self, inode: int, what: int) -> None:
        for process in self.setup.processes:
            watch = self.get("watch", process, inode)
            if watch is not None and watch[0] & what:
                self._add_news(process, inode)

    def _add_news(self, process: int, news: int) -> None:
        self.put(("news", process), (self.get("news", process) or frozenset()) | {news})

    def on_watch(self, who: int, fd: int, what: int, tell: Any) -> int:
        (process, _), inode = self._file(who, fd)
        cell = "watch", process, inode
        mask, told = self.cells.get(cell) or (0, frozenset())
        others = {token for token in told if token.who != who}
        self.put(cell, (mask | what, frozenset(others | {self._from(who, tell)})))
        return inode

    def on_unwatch(self, who: int, inode: int) -> None:
        process = self.setup.process[who]
        cell = "watch", process, inode
        if cell not in self.cells:
            return
        mask, told = self.cells[cell]
        others = frozenset(token for token in told if token.who != who)
        self.put(cell, (mask, others) if others else None)
        if not others:
            news = (self.get("news", process) or frozenset()) - {inode}
            self.put(("news", process), news | {_NOISE})

    def on_drain(self, who: int) -> tuple[Any, ...]:
        """Read all news; returns whom they concern."""
        told = self._read(self.setup.process[who])
        return tuple(self._to(who, token) for token in told)

    def _read(self, process: int) -> list[Any]:
        news = self.get("news", process) or ()
        self.put(("news", process), None)
        watches = [self.get("watch", process, inode) for inode in news]
        return sorted({token for watch in watches if watch is not None for token in watch[1]})

    def readable(self, process: int) -> bool:
        return ("news", process) in self.cells

    # ---- what happens by itself

    def local(self, who: int, request: Request) -> bool:
        if super().local(who, request):
            return True
        verb = request[0]
        cleaner = ("left", "cleanings") in self.cells
        if verb == "dup":
            return True
        if verb in ("fstat", "stat"):  # a file that nobody will unlink does not change
            return not cleaner
        if verb == "open":  # and opening it is not seen, though a killed process's closing it would be
            return not (cleaner or self.get("name") is None or ("left", "crashes") in self.cells)
        # Removing the process's own watch: whatever comes before or after it, only noise is left.
        return verb == "unwatch" and len(self.setup.threads[self.setup.process[who]]) == 1

    def background(self) -> list[Choice]:
        processes = self.setup.processes
        found: list[Choice] = [("bury", process) for process in processes if ("grave", process) in self.cells]
        if self.setup.tasks:  # an event loop reads the news of its process
            found += [("loop", process) for process in processes if self.readable(process)]
        return found

    def troubles(self) -> list[Choice]:
        if not self.get("left", "cleanings"):
            return []
        return [("clean", "unlink"), ("clean", "replace")] if self.get("name") is not None else []

    def nobody(self, choice: Choice) -> None:
        what, which = choice
        if what == "bury":
            first, *rest = self.cells["grave", which]
            if self._closed(which, first):
                self.put(("grave", which), tuple(rest) or None)
        elif what == "loop":
            for token in self._read(which):
                self.on_unpark(token.who, token)
        elif what == "clean":
            self.spend("cleanings")
            self._remove()
            if which == "replace":
                self._new_file()

    def _remove(self) -> None:
        inode = self.cells[("name",)]
        self.put(("name",), None)
        self.put(("nlink", inode), None)
        self.put(("lost", inode), self.get("flock", inode))
        self._raise(inode, REPLACED)

    def bury(self, process: int) -> None:
        for cell in [cell for cell in self.cells if cell[:2] in (("watch", process), ("news", process))]:
            self.put(cell, None)
        fds = sorted((cell[2] for cell in self.cells if cell[:2] == ("fd", process)), reverse=True)
        self.put(("grave", process), tuple(fds) or None)

    # ---- properties

    def holder(self) -> int | None:
        inode = self.get("name")
        owner = None if inode is None else self.get("flock", inode)
        return None if owner is None else owner[0]

    def excused(self, one: int, other: int) -> bool:
        """The lock file was taken away from one of them while it had the lock."""
        processes = {self.setup.process[one], self.setup.process[other]}
        return any(
            cell[0] == "lost" and owner[0] in processes and self.get("flock", cell[1]) == owner
            for cell, owner in self.cells.items()
        )

    def _lasts(self, cell: tuple[Any, ...]) -> bool:
        return cell[0] == "lost" or super()._lasts(cell)


class SimOps(Ops):
    """The table of system calls, with each of them a question to the simulated kernel."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def open(self, path: str | bytes, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        assert os.fsdecode(path) == PATH
        fd: int = self.script.ask("open", bool(flags & os.O_CREAT))
        return fd

    def close(self, fd: int) -> None:  # type: ignore[override]
        self.script.tell("close", fd)

    def fstat(self, fd: int) -> os.stat_result:  # type: ignore[override]
        return _status(*self.script.ask("fstat", fd))

    def stat(self, path: str | bytes, *, follow_symlinks: bool = True) -> os.stat_result:  # type: ignore[override]
        assert os.fsdecode(path) == PATH
        return _status(*self.script.ask("stat"))

    def flock(self, fd: int, operation: int) -> None:  # type: ignore[override]
        self.script.tell("flock", fd, operation)

    def fcntl(self, fd: int, command: int, wish: Any) -> Any:  # type: ignore[override]
        if command == fcntl.F_DUPFD_CLOEXEC:
            return self.script.ask("dup", fd, wish)  # type: ignore[no-any-return]
        return self.script.ask("fcntl", fd, command, wish)  # type: ignore[no-any-return]

    def utime(self, fd: int) -> None:  # type: ignore[override]
        self.script.tell("utime", fd)

    def boottime_ns(self) -> int:
        now: int = self.script.ask("clock")
        return now


def _status(inode: int, links: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | 0o666, inode, 1, links, os.geteuid(), 0, 0, 0, 0, 0))


class SimEvents:
    """Takes the place of the module `_wait.inotify`, and is its instance too. `trusted` False: nap, as on NFS."""

    CLOSED = CLOSED
    REPLACED = REPLACED

    def __init__(self, script: Script, trusted: bool = True, fd: int = 2) -> None:
        self._script = script
        self._trusted = trusted
        self._fd = fd

    def shared(self) -> SimEvents:
        return self

    def trusts(self, directory: str) -> bool:
        return self._trusted

    def fileno(self) -> int:
        return self._fd

    def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int:
        parker: Parker = tell.__self__  # type: ignore[attr-defined]
        assert isinstance(parker, SimParker)
        handle: int = self._script.ask("watch", fd, what, parker.token)
        return handle

    def unwatch(self, handle: int, key: object) -> None:
        self._script.tell("unwatch", handle)

    def drain(self) -> None:
        for token in self._script.ask("drain"):
            SimParker(self._script, token).unpark()


def kernel_engine(
    cls: type[KernelEngine] = KernelEngine,
    ops: type[SimOps] = SimOps,
    *,
    queue: bool = True,
    trusted: bool = True,
    events_fd: int = 2,
) -> Callable[[Memory], KernelEngine]:
    """Makes kernel engines on the simulated kernel, one per simulated thread.

    `queue` False: without tickets, as on macOS; `trusted` False: naps only, as on NFS; `events_fd`: which descriptor
    the process's inotify instance has (lock files get theirs from 3 on).
    """

    def make(memory: Memory) -> KernelEngine:
        return cls(ops(memory.script), SimEvents(memory.script, trusted, events_fd), queue)

    return make
