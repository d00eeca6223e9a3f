"""`import`: copy what a mirror of Spack's has, in layout version 2 or 3, into a store.

Every file is checked on the way in; what is damaged or hostile is refused, named, and does not stop the rest.
Manifests of version 3 are kept byte for byte, with their signatures. Specs of version 2 become what Spack's own
migration makes of them, unsigned. Signatures are not checked.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from . import files, publish
from .errors import DamagedError, HostileError, StoreError
from .layout import MANIFEST_MAX, SPEC_MAX, Layout, Manifest, parse_json, parse_manifest, read_file, unsign
from .scan import manifest_paths, spec_of
from .spec import Spec, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

    from .rows import Row
    from .store import Store

    Progress = Callable[[str, int, int], None]
    Step = Callable[[str, ExitStack], list[Row]]

__all__ = ["Imported"]


class Imported(NamedTuple):
    """What an import did."""

    imported: int
    present: int
    """Builds that the store had, with all these views."""
    refused: tuple[tuple[str, str], ...]
    """(path, reason) of what was not taken."""

    def as_dict(self) -> dict[str, object]:
        return self._asdict()


def import_mirror(
    store: Store, source: str, views: tuple[str, ...], job: str | None, progress: Progress
) -> Imported:
    layout = Layout(os.path.abspath(source))
    old = os.path.join(layout.root, "build_cache")
    if not os.path.isdir(layout.specs) and not os.path.isdir(old):
        raise StoreError(
            f"{layout.root} is no mirror with a build cache: it has neither v3/manifests/spec nor build_cache"
        )
    if layout.root == store.root:
        raise StoreError(f"{source} is the store itself: interlock store index takes over what is in it")
    store._prepare()
    note = publish.provenance(job)
    steps: list[tuple[Step, list[str]]] = [
        (_Third(store, layout, views, note).take, list(manifest_paths(layout))),
        (_Second(store, old, views, note).take, _spec_paths(old)),
    ]
    total = sum(len(paths) for _take, paths in steps)
    imported = present = 0
    refused: list[tuple[str, str]] = []
    for take, paths in steps:
        for start in range(0, len(paths), publish.BATCH):
            with ExitStack() as leases:
                rows: list[Row] = []
                for path in paths[start : start + publish.BATCH]:
                    try:
                        new = take(path, leases)
                    except (StoreError, FileNotFoundError) as error:
                        refused.append((path, str(error)))
                        continue
                    rows += new
                    imported, present = imported + bool(new), present + (not new)
                if rows:
                    publish.commit(store, rows)
            progress("builds", imported + present + len(refused), total)
    return Imported(imported, present, tuple(refused))


class _Third:
    """Layout version 3: copy blobs and manifest."""

    def __init__(self, store: Store, layout: Layout, views: tuple[str, ...], note: dict[str, object]) -> None:
        self._store, self._layout, self._views, self._note = store, layout, views, note
        self._known = type(store)(layout.root)._views_of()

    def take(self, path: str, leases: ExitStack) -> list[Row]:
        text = read_file(path, MANIFEST_MAX)
        manifest = parse_manifest(text, path)
        spec = spec_of(self._layout, manifest, path)
        if path != self._layout.manifest(spec.root.name, spec.root.version, spec.hash):
            raise DamagedError(f"{path} is the manifest of another spec: {spec.root.name}/{spec.hash}")
        views = tuple(sorted({*self._views, *publish.check_views(self._known.get(spec.hash, ()))}))

        def make(stack: ExitStack) -> tuple[Manifest, bytes]:
            for blob in manifest.blobs:
                where = self._layout.blob(blob.checksum)
                with open_regular(where) as file:
                    checksum, size = stack.enter_context(self._store.blob(files.chunks(file)))
                if (checksum, size) != (blob.checksum, blob.size):
                    raise DamagedError(f"{where} is damaged: it has {size} bytes and the checksum {checksum}")
            return manifest, text

        return publish.publish(self._store, spec, make, views, self._note, leases)


class _Second:
    """Layout version 2: a spec file says the checksum of its archive, which has the same name."""

    def __init__(self, store: Store, directory: str, views: tuple[str, ...], note: dict[str, object]) -> None:
        self._store, self._views, self._note = store, views, note
        self._archives = {
            name.removesuffix(".spack"): os.path.join(where, name)
            for where, _inner, names in os.walk(directory)
            for name in names
            if name.endswith(".spack")
        }

    def take(self, path: str, leases: ExitStack) -> list[Row]:
        spec, checksum = self._spec(path)
        archive = self._archives.get(_stem(path))
        if archive is None:
            raise DamagedError(f"{path} has no archive {_stem(path)}.spack beside it or below")
        with open_regular(archive) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != checksum:
            raise DamagedError(f"{archive} is damaged: its checksum is {found}, not {checksum}")
        spec.document["archive_size"] = os.path.getsize(archive)
        make = publish.writer(self._store, spec, archive)
        return publish.publish(self._store, spec, make, self._views, self._note, leases)

    def _spec(self, path: str) -> tuple[Spec, str]:
        document = parse_json(unsign(read_file(path, SPEC_MAX), path)[0], path)
        if not isinstance(document, dict):
            raise DamagedError(f"{path} is not a spec document")
        if document.get("buildcache_layout_version") not in (1, 2):
            raise DamagedError(f"{path} is of a layout before version 1, whose archives are built otherwise")
        claim = document.pop("binary_cache_checksum", None)
        if not isinstance(claim, dict) or claim.get("hash_algorithm") != "sha256" or not isinstance(claim["hash"], str):
            raise DamagedError(f"{path} says no sha256 of its archive (binary_cache_checksum)")
        document["buildcache_layout_version"] = 2
        return read_spec(document), claim["hash"]


def _spec_paths(directory: str) -> list[str]:
    """Signed ones before unsigned ones of the same build."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    signed = [name for name in names if name.endswith(".spec.json.sig")]
    stems = {_stem(name) for name in signed}
    plain = [name for name in names if name.endswith(".spec.json") and _stem(name) not in stems]
    return [os.path.join(directory, name) for name in (*signed, *plain)]


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".sig").removesuffix(".spec.json")


def open_regular(path: str) -> BufferedReader:
    """A file for reading, and no FIFO or device."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise HostileError(f"{path} is not a regular file")
    return open(path, "rb")
