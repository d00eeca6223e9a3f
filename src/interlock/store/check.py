"""`verify`: is every file what its name and its manifest say, and do the lists agree with the files?

With `repair` the store is clean afterwards: what is damaged is moved into the store's quarantine, builds that are not
whole leave the lists, builds that no list has get into them, the indexes are written anew. Nothing that somebody reads
or is just publishing is touched; it is reported as not mended.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from . import files, index, publish, sweep
from .entry import check_blob
from .errors import DamagedError, HostileError
from .layout import Blob, parse_json, read_file
from .rows import ADD
from .scan import blob_paths, manifest_paths, read_manifest, rows_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows import Row, State
    from .store import Store

    Progress = Callable[[str, int, int], None]

__all__ = ["Problem", "Verified"]


class Problem(NamedTuple):
    """Something that is not as it should be. `kind` is one of damaged-blob, damaged-manifest, damaged-list,
    damaged-index, unlisted, missing."""

    kind: str
    path: str
    text: str
    mended: bool


class Verified(NamedTuple):
    """What verify found."""

    builds: int
    blobs: int
    generation: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What is no fault: orphans and leftovers of writers that died, an index that lags behind."""

    @property
    def clean(self) -> bool:
        """No problem is left."""
        return all(problem.mended for problem in self.problems)

    def as_dict(self) -> dict[str, object]:
        found = self._asdict()
        found["problems"] = [problem._asdict() for problem in self.problems]
        return found | {"clean": self.clean}


class _Check:
    def __init__(self, store: Store, repair: bool, checksums: bool, grace: float, progress: Progress) -> None:
        self.store, self.repair, self.checksums, self.grace, self.progress = store, repair, checksums, grace, progress
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.whole: dict[str, list[Row]] = {}
        """Rows of the builds whose files are all there, by hash."""
        self.blobs: dict[str, str | None] = {}
        """What is wrong with a blob, by checksum."""
        self.removed: set[str] = set()
        """Manifests that were moved away."""
        self.builds = 0
        self.lost = False
        """A list was damaged, and what it said is gone."""

    def run(self) -> Verified:
        self._top()
        self._chain()
        self._builds()
        state = self._lists()
        self._indexes(state)
        self._orphans()
        if self.repair:
            state = self.store._state()
        return Verified(self.builds, len(self.blobs), state.generation, tuple(self.problems), tuple(self.notes))

    def _problem(self, kind: str, path: str, text: object, mended: bool = False) -> None:
        self.problems.append(Problem(kind, path, str(text), mended))

    # ---- the store's own files

    def _top(self) -> None:
        path = self.store.layout.layout_file
        try:
            if not isinstance(parse_json(read_file(path, 1 << 16), path), dict):
                raise DamagedError(f"{path} is not an object")
        except FileNotFoundError:
            self._problem("missing", path, "Spack takes the directory for no build cache without it", self.repair)
        except (DamagedError, HostileError) as error:
            self._problem("damaged-manifest", path, error, self.repair and self._away(path))
        if self.repair:
            publish.prepare(self.store)

    def _chain(self) -> None:
        for path, text in self.store.chain.damaged():
            self.lost = True
            self._problem("damaged-list", path, text, self.repair and self._away(path))
        if self.repair:
            self.store.chain.forget()

    def _state(self) -> State:
        try:
            return self.store._state()
        except DamagedError as error:
            if not any(problem.text == str(error) for problem in self.problems):
                self._problem("damaged-list", self.store.layout.chain, error)
            return self.store.chain.older_than_all()

    # ---- builds

    def _builds(self) -> None:
        paths = list(manifest_paths(self.store.layout))
        self.builds = len(paths)
        for done, path in enumerate(paths, 1):
            fault = self._build(path)
            if fault is not None:
                kind, where, text = fault
                self._problem(kind, where, text, self.repair and self._remove_build(path))
            self.progress("builds", done, len(paths))

    def _build(self, path: str) -> tuple[str, str, str] | None:
        """What is wrong with the build of a manifest: kind, path, text."""
        try:
            manifest = read_manifest(path)
            for blob in manifest.blobs:
                if blob.checksum not in self.blobs:
                    self.blobs[blob.checksum] = self._blob_fault(blob.checksum, blob.size)
                fault = self.blobs[blob.checksum]
                if fault is not None:
                    where = self.store.layout.blob(blob.checksum)
                    return ("damaged-blob" if os.path.exists(where) else "missing"), where, f"{fault} ({path} names it)"
            rows = rows_at(self.store.layout, path)
        except FileNotFoundError:
            return None  # deleted meanwhile
        except (DamagedError, HostileError) as error:
            return "damaged-manifest", path, str(error)
        self.whole[rows[0].hash] = rows
        return None

    def _blob_fault(self, checksum: str, size: int) -> str | None:
        path = self.store.layout.blob(checksum)
        try:
            check_blob(Blob(size, "", "", checksum), path, self.checksums)
        except FileNotFoundError:
            return f"{path} is missing"
        except DamagedError as error:
            return str(error)
        return None

    def _remove_build(self, path: str) -> bool:
        """Move a broken manifest away, and those of its blobs that are damaged."""
        try:
            manifest = read_manifest(path)
        except (DamagedError, HostileError):
            manifest = None
        except FileNotFoundError:
            return True
        for blob in manifest.blobs if manifest is not None else ():
            where = self.store.layout.blob(blob.checksum)
            damaged = self._blob_fault(blob.checksum, blob.size) is not None
            if damaged and os.path.exists(where) and not self._away(where):
                return False
        self.removed.add(path)
        return self._away(path)

    def _away(self, path: str) -> bool:
        """Into the quarantine, unless somebody holds it."""
        fd = files.sole(path)
        if fd is None:
            return not os.path.exists(path)
        try:
            files.make_directory(self.store.layout.quarantine, self.store.durable)
            name = f"{os.path.basename(path)}.{os.urandom(4).hex()}"
            files.ops.replace(path, os.path.join(self.store.layout.quarantine, name))
        finally:
            os.close(fd)
        return True

    # ---- lists against files

    def _lists(self) -> State:
        state = self._state()  # read after the files: what was published meanwhile is in it
        listed = {row.hash: row for row in state.builds()}
        unlisted = [hash_ for hash_ in self.whole if hash_ not in listed]
        known = self._views_on_disk() if self.repair and (unlisted or self.lost) else {}
        for hash_ in unlisted:
            row = self.whole[hash_][0]
            path = self.store.layout.manifest(row.name, row.version, hash_)
            fd = files.sole(path)
            if fd is None:
                self.notes.append(f"{path} is just being published, or read")
                continue
            os.close(fd)
            if self.repair:
                row, *others = self.whole[hash_]
                publish.commit(self.store, [row._replace(views=tuple(sorted(known.get(hash_, ())))), *others])
            self._problem(
                "unlisted", path, "no list has this build: its publisher died, or the list is damaged", self.repair
            )
        if self.repair and self.lost:
            self._restore_views(listed, known)
        gone = [row for hash_, row in listed.items() if hash_ not in self.whole]
        gone = [row for row in gone if not self._readable(row)]
        if self.repair:
            publish.forget(self.store, [row.hash for row in gone])
        for row in gone:
            path = self.store.layout.manifest(row.name, row.version, row.hash)
            if not os.path.exists(path) and path not in self.removed:
                self._problem("missing", path, "it is listed, but not there", self.repair)
        return self._state() if self.repair else state

    def _views_on_disk(self) -> dict[str, set[str]]:
        """The views of each build, as far as the indexes that Spack reads still say it."""
        found: dict[str, set[str]] = {}
        for view in index.views_on_disk(self.store.layout.indexes):
            try:
                rows = self.store._rows_on_disk(view)
            except (DamagedError, HostileError):
                continue  # `_indexes` names it
            for row in rows:
                if row.kind == ADD:
                    found.setdefault(row.hash, set()).add(view)
        return found

    def _restore_views(self, listed: dict[str, Row], known: dict[str, set[str]]) -> None:
        """Of builds that another list has, too."""
        rows = []
        for hash_, row in listed.items():
            more = known.get(hash_, set()) - set(row.views)
            if more and hash_ in self.whole:
                rows.append(row._replace(views=tuple(sorted(more))))
        if rows:
            publish.commit(self.store, rows)

    def _readable(self, row: Row) -> bool:
        """Published since the files were looked at?"""
        path = self.store.layout.manifest(row.name, row.version, row.hash)
        return os.path.exists(path) and self._build(path) is None

    # ---- what Spack reads

    def _indexes(self, state: State) -> None:
        layout = self.store.layout
        for view in (None, *sorted({*state.views(), *index.views_on_disk(layout.indexes)})):
            path = layout.pointer(view)
            fault = self._index_fault(path, view, state)
            if fault is not None:
                if self.repair:
                    index.publish(self.store, view, force=True)
                self._problem("damaged-index", path, fault, self.repair)
            elif self.repair:
                index.publish(self.store, view)

    def _index_fault(self, path: str, view: str | None, state: State) -> str | None:
        try:
            pointer = index.read_pointer(path)
            if pointer is None or pointer.generation is None:
                if state.generation:
                    self.notes.append(f"{path} is not of this store's making, or missing: interlock store index")
                return None
            for blob in pointer.blobs:
                check_blob(blob, self.store.layout.blob(blob.checksum), self.checksums)
        except (DamagedError, HostileError) as error:
            return str(error)
        except FileNotFoundError as error:
            return f"it points to {error.filename}, which is missing"
        if pointer.generation > state.generation:
            return f"it is of generation {pointer.generation}; the lists have only {state.generation}"
        if pointer.generation < state.generation:
            lag = f"{path} is of generation {pointer.generation} of {state.generation}"
            self.notes.append(f"{lag}: interlock store index")
            return None
        text, _version = index.document(state, view)
        if hashlib.sha256(text).hexdigest() not in {blob.checksum for blob in pointer.blobs}:
            return f"it is not the index of its generation, {state.generation}"
        return None

    # ---- what nothing refers to

    def _orphans(self) -> None:
        if self.repair:
            held: list[str] = []
            count, freed, young = sweep.remove_orphans(self.store, set(), self.grace, False, held, self.progress)
            left = files.sweep(self.store.layout.temporary)
            if count or left:
                self.notes.append(f"removed {count} orphan blobs ({freed} bytes) and {left} files of dead writers")
            self.notes += [f"{path} is an orphan that somebody holds" for path in held]
            if young:
                self.notes.append(f"{young} orphan blobs are younger than {self.grace:g} s, and stay")
            return
        references = sweep.References(self.store, set())
        try:
            references.look()
        except DamagedError as error:
            self.notes.append(f"orphans were not looked for: {error}")
            return
        for checksum, path in blob_paths(self.store.layout):
            if checksum not in references.checksums:
                self.notes.append(f"{path} is an orphan: interlock store gc")


def verify(store: Store, repair: bool, checksums: bool, grace: float, progress: Progress) -> Verified:
    return _Check(store, repair, checksums, grace, progress).run()
