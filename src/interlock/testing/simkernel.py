"""A Linux kernel made of data: a lock file, its locks, its events, and processes that die in the kernel's own order.

What is simulated, and from where we know it is so:

- flock(2) and F_OFD_SETLK ranges belong to an open file description, which ends with its last descriptor.
  `tests/sim/test_simkernel_is_linux.py` runs random sequences of calls here and
  on the real kernel and compares every answer and every event.
- A description that is closed raises its close event first, then loses its ranges, then its flock (__fput:
  fsnotify_close, locks_remove_posix, locks_remove_flock). Others may run in between. A killed process closes its
  descriptors one by one, the highest first, at any later time.
- inotify: a watch that nobody needs any more is idle until the process's next `watch`, see `_wait.inotify`; it makes
  the instance readable and tells nobody. Removing one raises an event of its own (IN_IGNORED). Not simulated: the
  end of a watch whose file is gone altogether.
- An outside actor, the *cleaner*, unlinks or replaces the lock file `cleanings` times, at any moment.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from ..engines.kernel.tickets import BASE
from .simscript import Raised
from .simworld import AGAIN, Broken, World

if TYPE_CHECKING:
    from .simscript import Request
    from .simworld import Choice, How, Parts

CLOSED, REPLACED = 1, 2
EXCLUSIVE = 6  # LOCK_EX | LOCK_NB
_FLOCK = struct.Struct("hhqqi4x")
_GETLK, _SETLK, DUP, _UNLOCK = 36, 37, 1030, 8  # Linux's F_OFD_GETLK, F_OFD_SETLK, F_DUPFD_CLOEXEC, LOCK_UN
_READ, _WRITE, _NONE = 0, 1, 2
_END = (1 << 63) - 1
NUMBERS, SHARES, MARKS = 1 << 56, 1 << 57, 1 << 59
"""Of semaphores' slots, the end; what holders share and exclude with; and from MARKS on who waits."""

_NOISE = 0
"""In a process's news: an event that concerns no watch."""
Owner = tuple[int, int]


def _failed(number: int) -> Raised:
    return Raised(OSError, (number, os.strerror(number)))


def _conflicts(kind: int, start: int, end: int, range_: tuple[Any, ...]) -> bool:
    _, its_start, its_end, its_kind = range_
    return start < its_end and its_start < end and _WRITE in (kind, its_kind)


def _joined(ranges: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One owner's ranges in order; neighbours of one kind are one range."""
    joined: list[tuple[Any, ...]] = []
    for owner, start, end, kind in sorted(ranges, key=lambda range_: range_[1]):
        if joined and joined[-1][2] == start and joined[-1][3] == kind:
            start = joined.pop()[1]
        joined.append((owner, start, end, kind))
    return joined


class SimKernel(World):
    """The kernel that all simulated processes share.

    Cells: `name` -> inode at the path; `nlink`; `fd` (process, descriptor) -> number of the open file description,
    `file` (process, number) -> its inode; `flock` inode -> owners, each with whether exclusively; `ranges` inode ->
    locked ranges; `watch` (process, inode) -> what for, and whom to tell; `news` process -> inodes. An owner is a
    description: (process, number).
    """

    __slots__ = ()
    LASTING = World.LASTING | {"name", "nlink", "inodes", "clock", "news", "fifo", "heeded"}

    def __init__(self, cleanings: int = 0, exists: bool = True, fifo: bool = False, heeded: bool = False) -> None:
        """`exists`: there is a lock file from the beginning. `fifo`: nobody who queued may be overtaken. `heeded`: who
        comes to read or update while tickets stand may not get in before these are gone."""
        super().__init__()
        self.put(("heeded",), heeded or None)
        self.put(("left", "cleanings"), cleanings or None)
        self.put(("fifo",), () if fifo else None)
        if exists:
            self._new_file()

    def parts(self, cell: tuple[Any, ...], value: Any) -> Parts:
        kind = cell[0]
        if kind in ("fd", "file", "copy", "closing", "grave", "watch", "news"):
            return (self._process_part(cell[1], kind, cell[2:], value),)
        if kind in ("flock", "lost"):
            return tuple(self._process_part(owner[0], *cell, owner[1], alone) for owner, alone in value)
        if kind == "ranges":
            return tuple(
                self._process_part(owner[0], *cell, at, owner[1], *range_) for at, (owner, *range_) in enumerate(value)
            )
        if kind == "ahead":
            return (self._part(cell[1], kind, value),)
        if kind == "fifo":
            placed = (self._process_part(owner[0], *cell, at, owner[1]) for at, owner in enumerate(value))
            return ((-1, cell), *placed)
        return super().parts(cell, value)

    # ---- files

    def on_open(self, who: int, create: bool) -> Any:
        process = self.setup.process[who]
        inode = self.get("name")
        if self.get("heeded"):  # it comes now
            # Told by their offsets, which are times that never come again, and not by whose they are: see `parts`.
            self.put(("ahead", who), self._tickets() or None)
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

    def on_copy(self, who: int, fd: int) -> None:
        """A child process gets a copy of the descriptor, and keeps it."""
        owner, _ = self._file(who, fd)
        self.put(("copy", *owner), True)

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
        others = [cell for cell, its in self.cells.items() if cell[:2] == ("fd", process) and its == number]
        if len(others) > 1 or ("copy", process, number) in self.cells:
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
            self._leave_flock(inode, owner)
        left = [
            has
            for has, is_there in (
                ("ranges", any(range_[0] == owner for range_ in self._ranges(inode))),
                ("flock", any(its == owner for its, _ in self.get("flock", inode) or ())),
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
        alone = operation == EXCLUSIVE
        if operation != _UNLOCK and (owner, alone) in (self.get("flock", inode) or ()):
            return None
        others = self._leave_flock(inode, owner)  # as Linux does before it looks whether it can convert
        if operation == _UNLOCK:
            return None
        if others and (alone or others[0][1]):
            return _failed(errno.EWOULDBLOCK)
        self._check_order(owner, self._ranges(inode))
        self.put(("flock", inode), tuple(sorted([*others, (owner, alone)])))
        return None

    def _leave_flock(self, inode: int, owner: Owner) -> tuple[tuple[Owner, bool], ...]:
        others = tuple(one for one in self.get("flock", inode) or () if one[0] != owner)
        self.put(("flock", inode), others or None)
        return others

    def _check_order(self, owner: Owner, ranges: tuple[tuple[Any, ...], ...]) -> None:
        """Nobody with an older ticket, which was there before ours, may still be waiting."""
        placed: tuple[Owner, ...] = self.get("fifo") or ()
        tickets = {its: start for its, start, _, _ in ranges if start >= BASE}
        for its in placed[: placed.index(owner)] if owner in placed else ():
            if its in tickets and tickets[its] < tickets[owner]:
                raise Broken(f"process {its[0]} queued earlier and was overtaken by process {owner[0]}")

    def _ranges(self, inode: int) -> tuple[tuple[Any, ...], ...]:
        return self.get("ranges", inode) or ()

    def _set_ranges(self, inode: int, ranges: list[tuple[Any, ...]]) -> None:
        self.put(("ranges", inode), tuple(ranges) or None)
        placed = self.get("fifo")
        if placed is not None:
            queued = [range_[0] for range_ in ranges if range_[1] >= BASE]
            placed = [its for its in placed if its in queued]
            self.put(("fifo",), (*placed, *(its for its in queued if its not in placed)))

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
        # The kernel lists owners in the order in which they came, each with its ranges in order, neighbours joined.
        at = next((at for at, range_ in enumerate(ranges) if range_[0] == owner), len(ranges))
        others = [range_ for range_ in ranges if range_[0] != owner]
        self._set_ranges(inode, [*others[:at], *_joined(mine), *others[at:]])
        return wish

    def on_enter(self, who: int, token: int | None = None, how: How = "write") -> None:
        ahead = self.get("ahead", who) or ()
        if how in ("read", "update") and not set(ahead).isdisjoint(self._tickets()):
            raise Broken(f"contender {who} came to {how} and has overtaken one that had queued before")
        self.put(("ahead", who), None)
        super().on_enter(who, token, how)

    def _forget(self, who: int, how: str | None) -> None:
        self.put(("ahead", who), None)
        super()._forget(who, how)

    def _tickets(self) -> tuple[int, ...]:
        return tuple(sorted(start for _, start, _, _ in self._ranges(self.get("name")) if start >= BASE))

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
        mask, told = self.get("watch", process, inode) or (0, frozenset())
        others = {token for token in told if token.who != who}
        # One that was idle is not watched for what it was watched for before; what came meanwhile is still told.
        new = mask | what if told else what
        self.put(("watch", process, inode), (new, frozenset(others | {self._from(who, tell)})))
        idle = [cell for cell, watch in self.cells.items() if cell[:2] == ("watch", process) and not watch[1]]
        for cell in idle:
            self.put(cell, None)
            news = (self.get("news", process) or frozenset()) - {cell[2]}
            self.put(("news", process), news | {_NOISE})
        return inode

    def on_unwatch(self, who: int, inode: int) -> None:
        """An inode of 0: whatever this contender watches. A watch that nobody needs is idle, until the next one."""
        process = self.setup.process[who]
        for cell in [cell for cell in self.cells if cell[:2] == ("watch", process) and inode in (0, cell[2])]:
            mask, told = self.cells[cell]
            self.put(cell, (mask, frozenset(token for token in told if token.who != who)))

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
            seen = ("left", "crashes") in self.cells or self.get("heeded")
            return not (cleaner or self.get("name") is None or seen)
        # An idle watch gets the same events as the one before, and its process alone sees the difference.
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
            inode = self._remove()
            self.put(("lost", inode), self.get("flock", inode))
            if which == "replace":
                self._new_file()

    def _remove(self) -> int:
        inode: int = self.cells[("name",)]
        self.put(("name",), None)
        self.put(("nlink", inode), None)
        self._raise(inode, REPLACED)
        return inode

    def on_unlink(self, who: int) -> Any:
        return _failed(errno.ENOENT) if self.get("name") is None else (self._remove() and None)

    def bury(self, process: int) -> None:
        for cell in [cell for cell in self.cells if cell[:2] in (("watch", process), ("news", process))]:
            self.put(cell, None)
        fds = sorted((cell[2] for cell in self.cells if cell[:2] == ("fd", process)), reverse=True)
        self.put(("grave", process), tuple(fds) or None)

    # ---- properties

    def holders(self) -> set[int]:
        inode = self.get("name")
        holds = {owner[0] for owner, _ in self.get("flock", inode) or ()}
        ranges = [(owner[0], start) for owner, start, _, _ in self._ranges(inode)]
        return holds | {process for process, start in ranges if start < NUMBERS or SHARES <= start < MARKS}

    def excused(self, one: int, other: int) -> bool:
        """The lock file was taken away from one of them while it had the lock."""
        processes = {self.setup.process[one], self.setup.process[other]}
        return any(
            owner[0] in processes and (owner, alone) in (self.get("flock", cell[1]) or ())
            for cell, owners in self.cells.items()
            if cell[0] == "lost"
            for owner, alone in owners
        )

    def _lasts(self, cell: tuple[Any, ...]) -> bool:
        idle = cell[0] == "watch" and not self.cells[cell][1]
        kept = cell[0] == "copy" or (cell[0] == "file" and ("copy", *cell[1:]) in self.cells)
        return idle or kept or cell[0] == "lost" or super()._lasts(cell)
