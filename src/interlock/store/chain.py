"""The chain of generations: what is in the store, as a history that only ever grows at its end.

Theory of operation
-------------------
A *delta* is a small file that says what was added or dropped; its number is its name, `d000000000042`. Committing is
linking a synced temporary file to the name after the last: link(2) fails if somebody else took that number, then
the next is tried. That is the compare-and-swap, and the whole truth: a lock around it only saves retries, so a lock
that lies, cannot be had in time, or is lost costs nothing but them.

A *snapshot*, `s000000000042.17`, holds all rows (17 of them) as they are at generation 42. State = the newest snapshot
and all deltas after it. Whoever commits writes a snapshot when the deltas since the last have become as many as a
quarter of its rows, but at least 64 and at most 1000 of them: each row is rewritten a bounded number of times
up to 4000 rows, and beyond that one commit in a thousand pays for all. Deltas are deleted once *two* snapshots
contain them, so a damaged one costs nothing.

Invariants, and who keeps them:
1. Numbers have no gap: a number is taken only by somebody who saw the one before it. (A power failure may break
   that on filesystems that reorder names; `_changes` finds it, and whoever writes a snapshot first fills the gap.)
2. A listing of a directory that is being written to may miss names. So a gap in a listing is opened by name.
3. Deleting old deltas frees their names, and a committer that was stopped for long may take one of those: it would
   have committed into the past. So after linking it looks for a snapshot of that number or a later one. Without
   one, its delta is in the future of every snapshot to come. With one, it looks whether the state has what it
   wanted, and commits again if not. (The name can only be free once such a snapshot is there.)
4. Files end with a checksum of themselves. A damaged one is named and never used.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from . import files
from .errors import DamagedError
from .layout import read_file
from .rows import Row, State, add, parse_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .locks import Locks

FEWEST, MOST = 64, 1000
"""Deltas between two snapshots."""

_NAME = re.compile(r"(d|s)(\d{12})(?:\.(\d+))?")
_MAX = 8 << 30
_MAGIC = "interlock generations 1"


class Listing(NamedTuple):
    snapshots: dict[int, str]
    deltas: dict[int, str]
    rows: int
    """Of the newest snapshot."""

    @property
    def snapshot(self) -> int:
        """The newest snapshot's generation; 0 without any."""
        return max(self.snapshots, default=0)

    @property
    def tip(self) -> int:
        return max(self.snapshot, max(self.deltas, default=0))


class Chain:
    """The generations in one directory."""

    def __init__(self, directory: str, temporary: str, locks: Locks, durable: bool) -> None:
        self._directory, self._temporary, self._locks, self._durable = directory, temporary, locks, durable
        self._cached = State(0, {})
        self.retries = 0
        """How often somebody else took the number that this object wanted."""
        self.fresh_snapshot = False
        """This object has written a snapshot; whoever follows them resets it."""

    # ---- reading

    def listing(self) -> Listing:
        snapshots: dict[int, str] = {}
        deltas: dict[int, str] = {}
        rows: dict[int, int] = {}
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            names = []
        for name in names:
            found = _NAME.fullmatch(name)
            if found is None:
                continue
            number = int(found[2])
            if found[1] == "d":
                deltas[number] = name
            else:
                snapshots[number] = name
                rows[number] = int(found[3] or 0)
        return Listing(snapshots, deltas, rows[max(rows)] if rows else 0)

    def load(self) -> State:
        """The state at the newest generation. Raises `DamagedError`, which names the file."""
        while True:
            listing = self.listing()
            cached = self._cached
            try:
                if listing.tip < cached.generation:  # somebody took the directory away, or put back an old one
                    cached = State(0, {})
                if listing.snapshot > cached.generation or not cached.generation:
                    cached = self._snapshot(listing)
                if listing.tip > cached.generation:
                    cached = cached.after(listing.tip, self._changes(cached.generation + 1, listing.tip))
            except FileNotFoundError:
                if self.listing() == listing:
                    raise
                continue  # deleted while we read: there is a newer snapshot
            self._cached = cached
            return cached

    def _snapshot(self, listing: Listing) -> State:
        if not listing.snapshots:
            return State(0, {})
        rows: dict[str, Row] = {}
        for row in self._read(listing.snapshots[listing.snapshot]):
            rows[row.hash] = row
        return State(listing.snapshot, rows)

    def _changes(self, first: int, last: int, fill: bool = False) -> Iterator[Row]:
        for number in range(first, last + 1):
            try:
                yield from self._read(_delta(number))
            except FileNotFoundError:
                if self.listing().snapshot >= number:
                    raise
                if fill:
                    self._fill(number)
                    yield from self._read(_delta(number))

    def _read(self, name: str) -> Iterator[Row]:
        path = os.path.join(self._directory, name)
        return (parse_row(line, path) for line in unseal(read_file(path, _MAX), path))

    # ---- writing

    def commit(self, rows: list[Row], done: Callable[[State], bool]) -> int:
        """Add a generation; returns its number. It is durable then. `done` tells whether a state has what these rows
        are to bring about."""
        with self._draft(rows) as draft:
            attempt = 0
            while True:
                with self._locks.briefly("generations"):
                    number = self.listing().tip + 1
                    won = draft.link(os.path.join(self._directory, _delta(number)))
                if won:
                    if self._durable:
                        files.sync_directory(self._directory)
                    listing = self.listing()
                    if listing.snapshot < number or done(self.load()):
                        break
                self.retries += 1
                files.pause(attempt)
                attempt += 1
        if number - listing.snapshot >= min(MOST, max(FEWEST, listing.rows // 4)):
            try:
                self.compact()
            except DamagedError:
                pass  # what was to be committed is; whoever reads is told, with the way out
        return number

    def compact(self) -> None:
        """Write a snapshot of the newest generation, and delete what two snapshots contain."""
        with self._locks.attempt("snapshot") as ours:
            if not ours:
                return  # somebody else is at it
            listing = self.listing()
            if listing.tip == listing.snapshot:
                return
            state = self._sealed(listing)
            if state is None:
                return
            lines = list(state.lines())
            with self._write(lines) as draft:
                draft.link(os.path.join(self._directory, f"s{state.generation:012}.{len(lines)}"))
            if self._durable:
                files.sync_directory(self._directory)
            self.fresh_snapshot = True
            self._clear()

    def _sealed(self, listing: Listing) -> State | None:
        """The state of a listing, read anew, with gaps in the numbers filled for good. None: somebody else has just
        written a snapshot."""
        try:
            state = self._snapshot(listing)
            return state.after(listing.tip, self._changes(state.generation + 1, listing.tip, fill=True))
        except FileNotFoundError:
            return None

    def _fill(self, number: int) -> None:
        with self._draft([]) as draft:
            draft.link(os.path.join(self._directory, _delta(number)))

    def _clear(self) -> None:
        listing = self.listing()
        kept = sorted(listing.snapshots)[-2:]
        if len(kept) < 2:
            return
        old = [name for number, name in listing.snapshots.items() if number < kept[0]]
        old += [name for number, name in listing.deltas.items() if number <= kept[0]]
        for name in old:
            try:
                files.ops.unlink(os.path.join(self._directory, name))
            except FileNotFoundError:
                pass

    def _draft(self, rows: list[Row]) -> files.Draft:
        return self._write([row.line() for row in rows])

    def _write(self, lines: list[str]) -> files.Draft:
        files.make_directory(self._directory, self._durable)
        files.make_directory(self._temporary, self._durable)
        draft = files.Draft(self._temporary, self._durable)
        try:
            draft.write(seal(lines))
            draft.sync()
        except BaseException:
            draft.discard()
            raise
        return draft

    # ---- for verify

    def damaged(self) -> list[tuple[str, str]]:
        """Paths of files of the chain that cannot be read, each with the reason."""
        found = []
        listing = self.listing()
        for name in (*listing.snapshots.values(), *listing.deltas.values()):
            try:
                for _row in self._read(name):
                    pass
            except FileNotFoundError:
                continue
            except DamagedError as error:
                found.append((os.path.join(self._directory, name), str(error)))
        return found

    def forget(self) -> None:
        """Read everything again at the next `load`."""
        self._cached = State(0, {})

    def older_than_all(self) -> State:
        """Rows of all files that can be read, oldest first: the best guess when some cannot."""
        rows: dict[str, Row] = {}
        listing = self.listing()
        numbered = [(number, 0, name) for number, name in listing.snapshots.items()]
        numbered += [(number, 1, name) for number, name in listing.deltas.items()]
        for _number, _kind, name in sorted(numbered):
            try:
                for row in list(self._read(name)):
                    add(rows, row)
            except (DamagedError, FileNotFoundError):
                continue
        return State(listing.tip, rows)


def _delta(number: int) -> str:
    return f"d{number:012}"


def seal(lines: list[str]) -> bytes:
    body = "".join(f"{line}\n" for line in (_MAGIC, *lines)).encode()
    return body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode()


def unseal(data: bytes, path: str) -> list[str]:
    end = data.rfind(b"\n", 0, len(data) - 1) + 1
    body, last = data[:end], data[end:]
    if last != f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode():
        raise DamagedError(f"{path} is damaged: its checksum is wrong; mend it: interlock store verify --repair")
    try:
        lines = body.decode().split("\n")
    except UnicodeDecodeError:
        raise DamagedError(f"{path} is not UTF-8, and its checksum is right: it was not made by a store") from None
    if lines[0] != _MAGIC:
        raise DamagedError(f"{path} is of a newer version ({lines[0][:40]!r}): use a newer interlock")
    return lines[1:-1]


