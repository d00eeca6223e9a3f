"""`gc`: delete builds that nobody wants to keep, and files that nothing refers to; never what somebody reads.

Theory of operation
-------------------
A build goes in this order: out of the lists (a generation), then its manifest, then its blobs as orphans. So no list
ever promises what is gone; killed in between, gc leaves a manifest that no list has (`verify` says so) or orphans
(the next gc takes them).

Each file is deleted under an exclusive lock on it, which no reader's and no publisher's lease lets us have (see
`files`). That an orphan is one is decided twice: once by all manifests, and once more, with the exclusive locks held,
by those that have come since. A publisher leases the blobs that it relies on until its manifest is there; so either it
had them when we tried to lock, and they stay; or its manifest came before, and the second look finds it; or it comes
later, finds them gone, and writes its own.

`grace` is for the case that locks lie (some network filesystems): orphans that are younger stay. Where a filesystem
says that it has no locks, nothing is deleted.
"""

from __future__ import annotations

import fnmatch
import json
import os
import time
from calendar import timegm
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from . import files, publish
from .errors import DamagedError, HostileError
from .layout import is_hash
from .rows import State, add
from .scan import blob_paths, read_manifest, referring_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .layout import Layout
    from .rows import Row
    from .store import Store

    Progress = Callable[[str, int, int], None]

__all__ = ["Swept"]

_AT_ONCE = 200
"""Orphans that are locked at a time."""


class Swept(NamedTuple):
    """What gc did, or would do."""

    builds: tuple[str, ...]
    """Hashes of the builds that were removed."""
    blobs: int
    freed: int
    """Bytes."""
    held: tuple[str, ...]
    """Paths that were spared because somebody holds them."""
    young: int
    """Orphans that were spared because they are younger than the grace period."""
    skipped: bool
    """Another gc is at work; nothing was done."""
    dry_run: bool

    def as_dict(self) -> dict[str, object]:
        return self._asdict()


def gc(
    store: Store,
    keep: Iterable[str] | None,
    max_age: float | None,
    max_size: int | None,
    grace: float,
    dry_run: bool,
    progress: Progress,
) -> Swept:
    if not dry_run:
        store._prepare()
    with nullcontext(True) if dry_run else store.locks.attempt("gc") as ours:  # that writes nothing
        if not ours:
            return Swept((), 0, 0, (), 0, True, dry_run)
        state = store._state()
        if dry_run and not state.generation:  # what the real one takes over first
            found: dict[str, Row] = {}
            for row in publish.to_adopt(store):
                add(found, row)
            state = State(0, found)
        doomed = choose(state, keep, max_age, max_size, time.time(), store.layout)
        held: list[str] = []
        gone = doomed if dry_run else _remove_builds(store, doomed, held, progress)
        if gone and not dry_run:
            store.index()
        spared = {store.layout.manifest(row.name, row.version, row.hash) for row in gone} if dry_run else set()
        blobs, freed, young = remove_orphans(store, spared, grace, dry_run, held, progress)
        if not dry_run:
            files.sweep(store.layout.temporary)
        return Swept(tuple(row.hash for row in gone), blobs, freed, tuple(held), young, False, dry_run)


# ---- which builds


def choose(
    state: State,
    keep: Iterable[str] | None,
    max_age: float | None,
    max_size: int | None,
    now: float,
    layout: Layout,
) -> list[Row]:
    """The builds that the rules do not keep, oldest first.

    What the keep-list names, and whatever that depends on, stays. Without age and size, a keep-list means that all
    else goes; without any rule, no build goes.
    """
    if keep is None and max_age is None and max_size is None:
        return []
    rows = state.builds()
    kept = state.closure(row.hash for row in rows if _named(row, list(keep or ())))
    total = sum(row.size for row in rows)
    doomed = []
    when = {row.hash: _when(row, layout) for row in rows}
    for row in sorted(rows, key=lambda row: (when[row.hash], row.hash)):
        if row.hash in kept:
            continue
        old = max_age is not None and now - when[row.hash] > max_age
        large = max_size is not None and total > max_size
        if old or large or (max_age is None and max_size is None):
            doomed.append(row)
            total -= row.size
    return doomed


def _named(row: Row, patterns: list[str]) -> bool:
    """By hash, by the first characters of one (with a slash, as Spack writes it), or by a pattern of name@version."""
    for pattern in patterns:
        if pattern.startswith("/"):
            if row.hash.startswith(pattern[1:]):
                return True
        elif is_hash(pattern):
            if row.hash == pattern:
                return True
        elif fnmatch.fnmatchcase(f"{row.name}@{row.version}", pattern) or row.name == pattern:
            return True
    return False


def _when(row: Row, layout: Layout) -> float:
    """When it was published. Spack notes nothing of the kind: there it is the age of the manifest."""
    try:
        return timegm(time.strptime(json.loads(row.provenance)["when"], "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        pass
    try:
        return os.stat(layout.manifest(row.name, row.version, row.hash)).st_mtime
    except FileNotFoundError:
        return 0.0


# ---- deleting


def _remove_builds(store: Store, doomed: list[Row], held: list[str], progress: Progress) -> list[Row]:
    gone: list[Row] = []
    for start in range(0, len(doomed), _AT_ONCE):
        locked: list[tuple[Row, str, int]] = []
        try:
            for row in doomed[start : start + _AT_ONCE]:
                path = store.layout.manifest(row.name, row.version, row.hash)
                fd = files.sole(path)
                if fd is not None:
                    locked.append((row, path, fd))
                elif os.path.exists(path):
                    held.append(path)
                else:
                    publish.forget(store, [row.hash])  # a list that promised what is gone
            publish.forget(store, [row.hash for row, _path, _fd in locked])
            for row, path, _fd in locked:
                files.ops.unlink(path)
                gone.append(row)
        finally:
            for _row, _path, fd in locked:
                os.close(fd)
        progress("builds", min(start + _AT_ONCE, len(doomed)), len(doomed))
    return gone


class References:
    """The blobs that manifests name; each manifest is read once per version of it."""

    def __init__(self, store: Store, without: set[str]) -> None:
        self._store, self._without = store, without
        self._seen: set[tuple[str, int, int]] = set()
        self.checksums: set[str] = set()

    def look(self) -> None:
        """Read what is new."""
        for path in referring_paths(self._store.layout):
            try:
                facts = os.stat(path)
            except FileNotFoundError:
                continue
            version = (path, facts.st_ino, facts.st_mtime_ns)
            if version in self._seen or path in self._without:
                continue
            try:
                self.checksums.update(blob.checksum for blob in read_manifest(path).blobs)
            except FileNotFoundError:
                continue
            except (DamagedError, HostileError) as error:
                raise DamagedError(
                    f"{error}. Nobody can tell which blobs it names, so no blob was deleted: "
                    "first mend it: interlock store verify --repair"
                ) from None
            self._seen.add(version)


def remove_orphans(
    store: Store, without: set[str], grace: float, dry_run: bool, held: list[str], progress: Progress
) -> tuple[int, int, int]:
    references = References(store, without)
    blobs = list(blob_paths(store.layout))
    references.look()
    orphans, young, now = [], 0, time.time()
    for checksum, path in blobs:
        if checksum in references.checksums:
            continue
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            continue
        if now - max(facts.st_mtime, facts.st_ctime) < grace:
            young += 1
        else:
            orphans.append((checksum, path, facts.st_size))
    if dry_run:
        return len(orphans), sum(size for _sum, _path, size in orphans), young
    count = freed = 0
    for start in range(0, len(orphans), _AT_ONCE):
        some = orphans[start : start + _AT_ONCE]
        done, size = _remove_some(references, some, held)
        count, freed = count + done, freed + size
        progress("blobs", min(start + _AT_ONCE, len(orphans)), len(orphans))
    return count, freed, young


def _remove_some(
    references: References, orphans: list[tuple[str, str, int]], held: list[str]
) -> tuple[int, int]:
    locked: list[tuple[str, str, int, int]] = []
    count = freed = 0
    try:
        for checksum, path, size in orphans:
            fd = files.sole(path)
            if fd is not None:
                locked.append((checksum, path, size, fd))
            elif os.path.exists(path):
                held.append(path)
        references.look()
        for checksum, path, size, _fd in locked:
            if checksum not in references.checksums:
                files.ops.unlink(path)
                count += 1
                freed += size
    finally:
        for _checksum, _path, _size, fd in locked:
            os.close(fd)
    return count, freed
