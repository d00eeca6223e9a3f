"""`Store`: a directory of builds that many processes on many hosts publish into and read from."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import files, index, publish
from .chain import Chain
from .entry import Build, Entry, Snapshot, check_blob
from .errors import DamagedError
from .layout import MANIFEST_MAX, Layout, parse_manifest, read_file, safe_hash
from .locks import Locks
from .rows import ADD, State, add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from .layout import Manifest
    from .locks import LockLike
    from .publish import ArchiveSource, Item, SpecSource
    from .rows import Row

__all__ = ["Store"]


class Store:
    """A store in a directory. Making the object touches nothing; the first write makes what is missing.

    `lock`: where the locks are: a directory (default: in the store), an URL of an engine (`file:///dir`), or a function
    from a name to a lock. Locks save work here; nothing is lost without them.
    `durable=False` leaves out fsync(2): for stores that may be lost with the machine's power.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        lock: str | os.PathLike[str] | Callable[[str], LockLike] | None = None,
        durable: bool = True,
    ) -> None:
        self.root = os.path.abspath(root)
        self.layout = Layout(self.root)
        self.durable = durable
        place = self.layout.locks if lock is None else lock if callable(lock) else os.fspath(lock)
        self.locks = Locks(place)
        self.chain = Chain(self.layout.chain, self.layout.temporary, self.locks, durable)
        self._prepared = False

    def __repr__(self) -> str:
        return f"<Store {self.root!r}>"

    # ---- writing

    def put(
        self, spec: SpecSource, archive: ArchiveSource, *, views: Iterable[str] = (), job: str | None = None
    ) -> Entry:
        """Publish a build: durable, readable and listed when this returns.

        `spec`: a concrete spec document, or the path of a `.spec.json`. `archive`: its bytes, or a path. A build that
        is there already is adopted, whatever its archive; its views are added to. `job` is noted in the provenance
        (default: what CI systems and batch schedulers put into the environment). The index that Spack reads follows
        now and then; `index()` brings it up to date.

        Raises `HostileError` and `DamagedError` for a spec that cannot be used; then nothing was published.
        """
        [entry] = self.put_all([(spec, archive, views)], job=job)
        return entry

    def put_all(
        self, items: Iterable[Item], *, job: str | None = None, progress: Callable[[int], None] | None = None
    ) -> Iterator[Entry]:
        """Publish many builds, (spec, archive, views) each; yields each when it is durable and listed: a batch has
        one generation, so this is faster than `put`. `progress` is called with the number of builds written."""
        self._prepare()
        for entry in publish.put_all(self, items, job, progress):
            yield entry
            self._follow()

    def index(self, views: Iterable[str] | None = None) -> dict[str, int]:
        """Bring the index that Spack reads up to date, of the views (default: all) and of the root, which is called
        "root" in the answer: the generation that each is of."""
        self._prepare()
        if views is None:
            views = {*self.chain.load().views(), *index.views_on_disk(self.layout.indexes)}
        done = {"root": index.publish(self, None)}
        for view in sorted(publish.check_views(views)):
            done[view] = index.publish(self, view)
        return done

    def blob(self, parts: Iterable[bytes]) -> AbstractContextManager[tuple[str, int]]:
        return publish.write_blob(self, parts)

    def _prepare(self) -> None:
        if not self._prepared:
            publish.prepare(self)
            self._prepared = True

    def _follow(self) -> None:
        """The index follows the snapshots: so each of its bytes, too, is written a bounded number of times."""
        if self.chain.fresh_snapshot:
            self.chain.fresh_snapshot = False
            self.index()

    # ---- reading

    def snapshot(self) -> Snapshot:
        """All entries and views at the newest generation. Raises `DamagedError`, which names the file."""
        return Snapshot(self._state())

    def entries(self, view: str | None = None) -> Iterator[Entry]:
        """Sorted by hash."""
        return self.snapshot().entries(view)

    def find(self, hash_: str) -> Entry | None:
        """The entry of that hash; `None`: a miss."""
        return self.snapshot().find(safe_hash(hash_, self.root))

    def get(self, hash_: str, *, verify: bool = True) -> Build | None:
        """Lease a build for reading; `None`: a miss. Close it, or use it in a `with` block.

        `verify`: compare the checksums of its files first; without, only their sizes. Raises `DamagedError`, which
        names the file, and never hands out what it found damaged.
        """
        entry = self.find(hash_)
        return None if entry is None else self._lease(entry, verify)

    def manifest_path(self, entry: Entry) -> str:
        return self.layout.manifest(entry.name, entry.version, entry.hash)

    def manifest(self, entry: Entry) -> Manifest | None:
        """What its manifest says (sizes, media types, checksums); `None`: it is gone."""
        path = self.manifest_path(entry)
        try:
            return parse_manifest(read_file(path, MANIFEST_MAX), path)
        except FileNotFoundError:
            return None

    def blob_path(self, checksum: str) -> str:
        """Where the blob of a SHA-256 checksum is, if there is one."""
        return self.layout.blob(checksum)

    def _lease(self, entry: Entry, verify: bool) -> Build | None:
        with ExitStack() as stack:
            leases: list[files.Lease] = []

            def keep(path: str) -> bool:
                taken = files.lease(path)
                if taken is not None:
                    stack.callback(taken.close)
                    leases.append(taken)
                return taken is not None

            if not keep(self.manifest_path(entry)):
                return None
            manifest = self.manifest(entry)
            if manifest is None:
                return None
            for blob in manifest.blobs:
                path = self.layout.blob(blob.checksum)
                if not keep(path):
                    return None
                check_blob(blob, path, verify)
            stack.pop_all()
        return Build(entry, manifest, self.layout, leases)

    def _state(self) -> State:
        state = self.chain.load()
        if state.generation:
            return state
        return self._spacks_state()

    def _spacks_state(self) -> State:
        """What the indexes say where only Spack has written."""
        rows: dict[str, Row] = {}
        for view in (None, *index.views_on_disk(self.layout.indexes)):
            path = self.layout.pointer(view)
            pointer = index.read_pointer(path)
            if pointer is None:
                continue
            blob = index.database_blob(pointer, path)
            where = self.layout.blob(blob.checksum)
            try:
                check_blob(blob, where)
                text = read_file(where, index.INDEX_MAX)
            except FileNotFoundError:
                raise DamagedError(f"{path} points to {where}, which is missing") from None
            for row in index.rows_of(text, where):
                add(rows, row._replace(views=(view,) if view and row.kind == ADD else ()))
        return State(0, rows)
