"""`Store`: a directory of builds that many processes on many hosts publish into and read from."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import check, files, index, mirror, publish, single, sweep
from .chain import Chain
from .entry import Build, Entry, Snapshot, check_blob
from .errors import DamagedError, StoreError
from .layout import MANIFEST_MAX, Layout, parse_manifest, read_file, safe_hash
from .locks import Locks
from .rows import ADD, State, add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from .check import Verified
    from .layout import Manifest
    from .locks import LockLike
    from .mirror import Imported
    from .publish import ArchiveSource, Item, SpecSource
    from .rows import Row
    from .single import Builder, Waiting
    from .sweep import Swept

    Progress = Callable[[str, int, int], None]

__all__ = ["Store"]


def _unseen(_what: str, _done: int, _total: int) -> None:
    """The progress that nobody asked for."""


class _Unsynced(threading.local):
    """Directories with names that are not durable yet: each thread syncs its own before it commits."""

    def __init__(self) -> None:
        self.directories: set[str] = set()


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
        self._unsynced = _Unsynced()
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
        for entry in publish.put_all(self, items, job, progress):
            yield entry
            self._follow()

    def get_or_build(
        self,
        spec: SpecSource,
        build: Builder,
        *,
        views: Iterable[str] = (),
        timeout: float | None = None,
        progress: Callable[[Waiting], None] | None = None,
        job: str | None = None,
    ) -> Build:
        """The build of a spec, leased; made by `build` if there is none, by one process at a time.

        `build` gets a `Job`, and returns the archive: its path (in `job.directory`, say) or its bytes. Others who ask
        for the same spec wait, at most `timeout` seconds (`None`: for ever), and take the result. If the builder dies,
        the next one builds at once. If `build` raises, its exception is raised here, and `BuildFailed`, with its text,
        in those who waited; whoever asks later builds again. `progress` is called after a second of waiting, then less
        and less often.

        Raises `Timeout`, too. Not promised: that `build` runs once where the lock lies (see `lock`); then two build,
        and all get the first result that was published.
        """
        found = single.get_or_build(self, spec, build, views, timeout, progress, job)
        self._follow()
        return found

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

    def gc(
        self,
        *,
        keep: Iterable[str] | None = None,
        max_age: float | None = None,
        max_size: int | None = None,
        grace: float = 3600.0,
        dry_run: bool = False,
        progress: Progress = _unseen,
    ) -> Swept:
        """Delete builds by rules, and files that nothing refers to; never what somebody reads or is publishing.

        `keep`: hashes, `/` and the first characters of one, names, or patterns of `name@version`; these and what they
        depend on stay. `max_age` (seconds since publishing) and `max_size` (bytes of all archives; the oldest go
        first) choose among the others; without both, a `keep` means that all others go. `grace`: seconds for which
        files that nothing refers to are spared. `dry_run` only tells. If another gc is at work, this one does nothing
        and says so.

        Raises `UnsupportedError` where the filesystem has no locks, since then nobody can tell what is being read.
        """
        return sweep.gc(self, keep, max_age, max_size, grace, dry_run, progress)

    def verify(
        self, *, repair: bool = False, checksums: bool = True, grace: float = 3600.0, progress: Progress = _unseen
    ) -> Verified:
        """Compare all files with their checksums, and the lists with the files; see `Verified`.

        `repair` mends what it finds: see the module. Without it nothing is written, so a read-only mount will do.
        `checksums=False`: only sizes.
        """
        return check.verify(self, repair, checksums, grace, progress)

    def import_mirror(
        self,
        source: str | os.PathLike[str],
        *,
        views: Iterable[str] = (),
        job: str | None = None,
        progress: Progress = _unseen,
    ) -> Imported:
        """Copy the builds of a Spack file mirror (layout version 2 or 3), with its views, and into `views`. The source
        is only read."""
        done = mirror.import_mirror(self, os.fspath(source), publish.check_views(views), job, progress)
        self.index()
        return done

    def _views_of(self) -> dict[str, tuple[str, ...]]:
        """Of all builds, by hash; nothing where the lists cannot be read."""
        try:
            return {row.hash: row.views for row in self._state().builds()}
        except StoreError:
            return {}

    def sync_names(self) -> None:
        """Make new names durable, before something lists them. All at once: the first sync pays for the others."""
        directories = self._unsynced.directories
        while directories:
            directory = directories.pop()
            if self.durable:
                files.sync_directory(directory)

    def sync_later(self, path: str) -> None:
        """The name is new, and to be made durable by `sync_names`."""
        self._unsynced.directories.add(os.path.dirname(path))

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
            for row in self._rows_on_disk(view):
                add(rows, row._replace(views=(view,) if view and row.kind == ADD else ()))
        return State(0, rows)

    def _rows_on_disk(self, view: str | None) -> list[Row]:
        """Of the index that Spack reads. Raises `DamagedError`."""
        path = self.layout.pointer(view)
        pointer = index.read_pointer(path)
        if pointer is None:
            return []
        blob = index.database_blob(pointer, path)
        where = self.layout.blob(blob.checksum)
        try:
            check_blob(blob, where)
            text = read_file(where, index.INDEX_MAX)
        except FileNotFoundError:
            raise DamagedError(f"{path} points to {where}, which is missing") from None
        return list(index.rows_of(text, where))
