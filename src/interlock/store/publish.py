"""Publishing builds: blobs first, then the manifest that names them, then the generation that lists them.

Killed after any step this leaves whole files that nothing refers to (`gc` removes them), or a manifest that no
generation lists: it is good, and whoever puts the same build again, or `verify --repair`, lists it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from .. import __version__
from . import files
from .entry import Entry, check_blob
from .errors import DamagedError, HostileError
from .layout import OTHER, TARBALL, Blob, Manifest, pack, safe_name
from .rows import Row, drop
from .scan import manifest_paths, read_manifest, row_for, rows_at, rows_for, spec_of
from .spec import read_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from .rows import State
    from .spec import Spec
    from .store import Store

    SpecSource = Mapping[str, Any] | str | os.PathLike[str]
    ArchiveSource = bytes | str | os.PathLike[str]
    Item = tuple[SpecSource, ArchiveSource, Iterable[str]]

BATCH = 64
"""Builds per generation where many are put at once: each keeps its files open until it is committed."""

_JOBS = tuple("INTERLOCK_JOB CI_JOB_URL CI_JOB_ID GITHUB_RUN_ID BUILD_TAG SLURM_JOB_ID LSB_JOBID PBS_JOBID".split())


def provenance(job: str | None) -> dict[str, object]:
    """Who publishes here and now."""
    if job is None:
        job = next((os.environ[name] for name in _JOBS if os.environ.get(name)), "")
    return {
        "who": _user(),
        "host": platform.node(),
        "job": job[:200],
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "tool": f"interlock {__version__}",
    }


def _user() -> str:
    if sys.platform != "win32":
        import pwd

        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())
    return os.environ.get("USERNAME", "")


def prepare(store: Store) -> None:
    """Make what a store needs, remove what dead writers left, and take over what only Spack has written."""
    layout = store.layout
    for directory in (layout.side, layout.temporary, layout.chain, layout.building, layout.locks, layout.quarantine):
        if os.path.islink(directory):
            raise HostileError(f"{directory} is a symbolic link; a store's own folders are in it, so remove that")
    store.locks.named("generations")  # a place that cannot be is refused before anything is made
    for directory in (layout.temporary, layout.chain, layout.specs, layout.indexes, layout.blobs, layout.building):
        files.make_directory(directory, store.durable)
    files.sweep(layout.temporary)
    _once(store, layout.layout_file, b'{"signing": "unsigned"}')
    if store.chain.listing().tip == 0:
        adopt(store)


def _once(store: Store, path: str, data: bytes) -> None:
    if os.path.exists(path):
        return
    with files.Draft(store.layout.temporary, store.durable) as draft:
        draft.write(data)
        draft.sync()
        draft.link(path)
    if store.durable:
        files.sync_directory(os.path.dirname(path))


def adopt(store: Store) -> None:
    """List what is there already."""
    rows = to_adopt(store)
    if rows:
        hashes = [row.hash for row in rows if row.kind == "+"]
        store.chain.commit(rows, lambda state: all(state.get(hash_) is not None for hash_ in hashes))


def to_adopt(store: Store) -> list[Row]:
    """What the manifests say, with the views that Spack's indexes say."""
    paths = list(manifest_paths(store.layout))
    if not paths:
        return []
    try:
        known: State | None = store._spacks_state()
    except (DamagedError, HostileError):
        known = None
    rows: list[Row] = []
    for path in paths:
        try:
            row, *others = rows_at(store.layout, path)
        except (DamagedError, HostileError, FileNotFoundError):
            continue  # `verify` names it
        listed = known.get(row.hash) if known is not None else None
        rows += [row._replace(views=listed.views if listed is not None else ()), *others]
    return rows


# ---- one build


def put_all(
    store: Store, items: Iterable[Item], job: str | None, progress: Callable[[int], None] | None
) -> Iterator[Entry]:
    """Publish builds, a batch per generation; yields each once it is durable and listed."""
    note = provenance(job)
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield from _put_batch(store, batch, note, progress)
            batch = []
    if batch:
        yield from _put_batch(store, batch, note, progress)


def _put_batch(
    store: Store, batch: list[Item], note: dict[str, object], progress: Callable[[int], None] | None
) -> list[Entry]:
    checked = [(read_spec(spec), archive, check_views(views)) for spec, archive, views in batch]
    for _spec, archive, _views in checked:
        if not isinstance(archive, bytes):
            os.stat(archive)
    store._prepare()
    with ExitStack() as leases:
        rows: list[Row] = []
        for spec, archive, views in checked:
            rows += publish(store, spec, writer(store, spec, archive), views, note, leases)
            if progress is not None:
                progress(1)
        if rows:
            commit(store, rows)
        else:
            store.sync_names()
            if store.durable:  # somebody else's generation, of which we say that it is durable
                files.sync_directory(store.layout.chain)
        state = store.chain.load() if len(rows) == 0 or len(checked) > 1 else None
        return [_entry(spec, rows, state) for spec, _archive, _views in checked]


def _entry(spec: Spec, rows: list[Row], state: State | None) -> Entry:
    row = state.get(spec.hash) if state is not None else None
    return Entry(row if row is not None else next(row for row in rows if row.hash == spec.hash))


def commit(store: Store, rows: list[Row]) -> int:
    """Commit a generation; the names of the files that it lists are made durable first."""
    store.sync_names()
    wanted = {row.hash: row.views for row in rows if row.kind == "+"}
    dropped = [row.hash for row in rows if row.kind == "-"]

    def done(state: State) -> bool:
        for hash_, views in wanted.items():
            row = state.get(hash_)
            if row is None or not set(views) <= set(row.views):
                return False
        return all(state.get(hash_) is None for hash_ in dropped)

    return store.chain.commit(rows, done)


def check_views(views: Iterable[str]) -> tuple[str, ...]:
    if isinstance(views, str):
        raise TypeError("views is a list of names, not one name")
    found = tuple(sorted({safe_name(view, "view", "the views") for view in views}))
    for view in found:
        if view == "index.manifest.json" or "," in view:
            raise HostileError(f"{view!r} cannot be a view")
    return found


def publish(
    store: Store,
    spec: Spec,
    make: Callable[[ExitStack], tuple[Manifest, bytes]],
    views: tuple[str, ...],
    note: dict[str, object],
    leases: ExitStack,
    contents: bool = False,
) -> list[Row]:
    """Publish the files of a build, or adopt those that are there; returns the rows that are still to be committed.

    `make` writes the blobs, if they are needed, and returns the manifest and its text. The files stay leased until
    `leases` ends. `contents`: adopt nothing without comparing its checksums."""
    path = store.layout.manifest(spec.root.name, spec.root.version, spec.hash)
    ours: tuple[Manifest, bytes] | None = None
    while True:
        taken = files.lease(path)
        if taken is not None:
            leases.callback(taken.close)
            try:
                return _adopted(store, path, spec, views, note, leases, contents)
            except (DamagedError, HostileError, FileNotFoundError):
                pass  # a damaged entry is replaced by ours, which is whole
        if ours is None:
            ours = make(leases)
            files.make_directory(os.path.dirname(path), store.durable)
        draft = leases.enter_context(files.Draft(store.layout.temporary, store.durable))
        draft.write(ours[1])
        draft.sync()
        if taken is not None:
            draft.replace(path)
        elif not draft.link(path):
            continue  # somebody was quicker
        store.sync_later(path)
        return rows_for(spec, ours[0], views, json.dumps(note))


def adopt_one(
    store: Store, spec: Spec, views: tuple[str, ...], note: dict[str, object], leases: ExitStack
) -> list[Row] | None:
    """The rows that a build which is there, whole and undamaged, still needs; None: there is none."""
    path = store.layout.manifest(spec.root.name, spec.root.version, spec.hash)
    taken = files.lease(path)
    if taken is None:
        return None
    leases.callback(taken.close)
    try:
        return _adopted(store, path, spec, views, note, leases, contents=True)
    except (DamagedError, HostileError, FileNotFoundError):
        return None


def _adopted(
    store: Store,
    path: str,
    spec: Spec,
    views: tuple[str, ...],
    note: dict[str, object],
    leases: ExitStack,
    contents: bool,
) -> list[Row]:
    """The rows that an existing manifest still needs: none, as a rule. Raises if the entry is not whole."""
    manifest = read_manifest(path)
    for blob in manifest.blobs:
        where = store.layout.blob(blob.checksum)
        taken = files.lease(where)
        if taken is None:
            raise DamagedError(f"{path} names the blob {where}, which is missing")
        leases.callback(taken.close)
        check_blob(blob, where, contents)
    theirs = spec_of(store.layout, manifest, path)
    if theirs.hash != spec.hash:
        raise DamagedError(f"{path} is the manifest of another spec: {theirs.hash}")
    store.sync_later(path)
    row = store.chain.load().get(spec.hash)
    if row is None:
        return rows_for(theirs, manifest, views, json.dumps(note | {"adopted": True}))
    if set(views) <= set(row.views):
        return []
    return [row_for(theirs, manifest, views)]


def writer(store: Store, spec: Spec, archive: ArchiveSource) -> Callable[[ExitStack], tuple[Manifest, bytes]]:
    """What `publish` makes the files of a new build with."""

    def write(leases: ExitStack) -> tuple[Manifest, bytes]:
        manifest = _write_blobs(store, spec, archive, leases)
        return manifest, manifest.as_bytes()

    return write


def _write_blobs(store: Store, spec: Spec, archive: ArchiveSource, leases: ExitStack) -> Manifest:
    start, parts = _archive(archive, leases)
    gzipped = start.startswith(b"\x1f\x8b")
    checksum, size = leases.enter_context(write_blob(store, parts))
    data = Blob(size, TARBALL if gzipped else OTHER, "gzip" if gzipped else "none", checksum)
    text = json.dumps(spec.document).encode()
    checksum, size = leases.enter_context(write_blob(store, [pack(text)]))
    return Manifest((data, Blob(size, f"application/vnd.spack.spec.v{spec.version}+json", "gzip", checksum)))


def _archive(archive: ArchiveSource, leases: ExitStack) -> tuple[bytes, Iterable[bytes]]:
    if isinstance(archive, bytes):
        return archive[:2], [archive]
    file = leases.enter_context(open(archive, "rb"))  # noqa: SIM115
    start = file.read(2)
    file.seek(0)
    return start, files.chunks(file)


@contextmanager
def write_blob(store: Store, parts: Iterable[bytes]) -> Iterator[tuple[str, int]]:
    """A blob with this content, leased for the block: (checksum, size). There is never a second one."""
    with files.Draft(store.layout.temporary, store.durable) as draft:
        for part in parts:
            draft.write(part)
        blob = Blob(draft.size, "", "", draft.checksum)
        path = store.layout.blob(blob.checksum)
        taken = _settle(draft, blob, path)
        try:
            store.sync_later(path)
            yield blob.checksum, blob.size
        finally:
            if taken is not None:
                taken.close()


def _settle(draft: files.Draft, blob: Blob, path: str) -> files.Lease | None:
    """Link a draft to its blob's name, or lease the blob that is there. A damaged one is replaced."""
    synced = False
    while True:
        taken = files.lease(path)
        damaged = False
        if taken is not None:
            try:
                check_blob(blob, path)
                return taken
            except (DamagedError, FileNotFoundError):
                damaged = True
                taken.close()
        if not synced:
            draft.sync()
            files.make_directory(os.path.dirname(path), draft.durable)
            synced = True
        if damaged:
            draft.replace(path)
            return None
        if draft.link(path):
            return None


def forget(store: Store, hashes: Iterable[str]) -> None:
    """Take builds out of all lists."""
    rows = [drop(hash_) for hash_ in hashes]
    if rows:
        commit(store, rows)
