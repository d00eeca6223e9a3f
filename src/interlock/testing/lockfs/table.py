"""The server's lock table: what the hosts that ask the server agree on.

Two kinds that know nothing of each other, as in Linux: `flock` (a whole file, one owner per open file) and `posix`
(byte ranges; the owner is a process, or an open file for OFD locks: the kernel gives those another owner number).
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["flock", "posix"]
    File = tuple[int, int]


@dataclass(frozen=True)
class Held:
    """A lock, or the wish for one. `owner` is the kernel's number for who asks, `handle` the open file it came by."""

    host: int
    owner: int
    handle: int
    start: int
    end: int
    write: bool
    pid: int

    def same_owner(self, other: Held) -> bool:
        return self.host == other.host and self.owner == other.owner

    def overlaps(self, other: Held) -> bool:
        return self.start <= other.end and other.start <= self.end

    def part(self, start: int, end: int) -> Held:
        return Held(self.host, self.owner, self.handle, start, end, self.write, self.pid)


@dataclass(frozen=True)
class Blocked:
    """A request that waits for its answer."""

    host: int
    unique: int
    file: File
    kind: Kind
    wish: Held


class Table:
    """All locks of one place."""

    def __init__(self) -> None:
        self._held: dict[tuple[File, Kind], list[Held]] = {}
        self._blocked: list[Blocked] = []

    def conflict(self, file: File, kind: Kind, wish: Held) -> Held | None:
        """A lock of somebody else that excludes this one."""
        for held in self._held.get((file, kind), ()):
            if held.overlaps(wish) and (held.write or wish.write) and not held.same_owner(wish):
                return held
        return None

    def lock(self, file: File, kind: Kind, wish: Held) -> bool:
        if self.conflict(file, kind, wish) is not None:
            return False
        self._cut(file, kind, wish)
        self._held.setdefault((file, kind), []).append(wish)
        return True

    def unlock(self, file: File, kind: Kind, what: Held) -> None:
        self._cut(file, kind, what)

    def _cut(self, file: File, kind: Kind, hole: Held) -> None:
        """Take a range away from what its owner has."""
        kept = []
        for held in self._held.get((file, kind), ()):
            if not held.same_owner(hole) or not held.overlaps(hole):
                kept.append(held)
                continue
            if held.start < hole.start:
                kept.append(held.part(held.start, hole.start - 1))
            if held.end > hole.end:
                kept.append(held.part(hole.end + 1, held.end))
        self._keep(file, kind, kept)

    def _keep(self, file: File, kind: Kind, kept: list[Held]) -> None:
        if kept:
            self._held[file, kind] = kept
        else:
            self._held.pop((file, kind), None)

    def forget(
        self, host: int, *, handle: int | None = None, owner: int | None = None, kind: Kind | None = None
    ) -> None:
        """Take away everything of a host, or what came by one of its open files, or is one of its owners'."""
        for (file, this), locks in list(self._held.items()):
            if kind is not None and kind != this:
                continue
            kept = [
                held
                for held in locks
                if held.host != host
                or (handle is not None and held.handle != handle)
                or (owner is not None and held.owner != owner)
            ]
            if len(kept) != len(locks):
                self._keep(file, this, kept)
        if handle is None and owner is None:
            self._blocked = [blocked for blocked in self._blocked if blocked.host != host]

    # ---- those who wait

    def block(self, blocked: Blocked) -> None:
        self._blocked.append(blocked)

    def interrupt(self, host: int, unique: int) -> bool:
        """Take a waiting request back. False: it does not wait (any more)."""
        before = len(self._blocked)
        self._blocked = [one for one in self._blocked if (one.host, one.unique) != (host, unique)]
        return len(self._blocked) != before

    def granted(self) -> list[Blocked]:
        """Those who have what they waited for now, in the order of their arrival."""
        if not self._blocked:
            return []
        done = [one for one in self._blocked if self.lock(one.file, one.kind, one.wish)]
        self._blocked = [one for one in self._blocked if one not in done]
        return done

    def as_list(self) -> list[dict[str, object]]:
        return [
            {"inode": file[1], "kind": kind, "host": held.host, "pid": held.pid, "write": held.write,
             "start": held.start, "end": held.end}
            for (file, kind), locks in self._held.items()
            for held in locks
        ]  # fmt: skip
