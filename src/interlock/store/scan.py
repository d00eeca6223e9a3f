"""From the files of a v3 layout to rows, whoever wrote them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from .errors import DamagedError
from .layout import MANIFEST_MAX, SPEC_MAX, SPEC_SUFFIX, Layout, parse_manifest, read_file, unpack
from .rows import ADD, Row, need
from .spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .layout import Manifest
    from .spec import Spec


def manifest_paths(layout: Layout) -> Iterator[str]:
    """Of all spec manifests, sorted."""
    try:
        packages = sorted(os.listdir(layout.specs))
    except FileNotFoundError:
        return
    for package in packages:
        directory = os.path.join(layout.specs, package)
        try:
            names = sorted(os.listdir(directory))
        except NotADirectoryError:
            continue
        yield from (os.path.join(directory, name) for name in names if name.endswith(SPEC_SUFFIX))


def blob_paths(layout: Layout) -> Iterator[tuple[str, str]]:
    """(checksum, path) of all blobs, sorted."""
    try:
        shelves = sorted(os.listdir(layout.blobs))
    except FileNotFoundError:
        return
    for shelf in shelves:
        directory = os.path.join(layout.blobs, shelf)
        if os.path.isdir(directory):
            yield from ((name, os.path.join(directory, name)) for name in sorted(os.listdir(directory)))


def referring_paths(layout: Layout) -> Iterator[str]:
    """Of all manifests of any kind: specs, indexes, keys. What they name is no orphan."""
    top = os.path.dirname(layout.specs)
    for directory, _inner, names in os.walk(top):
        yield from (os.path.join(directory, name) for name in sorted(names) if name.endswith(".manifest.json"))


def read_manifest(path: str) -> Manifest:
    return parse_manifest(read_file(path, MANIFEST_MAX), path)


def spec_of(layout: Layout, manifest: Manifest, path: str) -> Spec:
    blob = manifest.spec
    if blob is None:
        raise DamagedError(f"{path} names no spec")
    where = layout.blob(blob.checksum)
    try:
        data = read_file(where, SPEC_MAX)
    except FileNotFoundError:
        raise DamagedError(f"{path} names the blob {where}, which is missing") from None
    return parse_spec(unpack(data, blob.compression, where), where)


def row_for(spec: Spec, manifest: Manifest, views: tuple[str, ...] = (), provenance: str = "") -> Row:
    archive = manifest.archive
    root = spec.root
    return Row(
        ADD,
        root.hash,
        root.name,
        root.version,
        spec.version,
        archive.size if archive is not None else 0,
        manifest.signed,
        views,
        root.dependencies,
        provenance,
        root.text,
    )


def rows_for(spec: Spec, manifest: Manifest, views: tuple[str, ...] = (), provenance: str = "") -> list[Row]:
    """The build's row, and those of what it depends on."""
    return [row_for(spec, manifest, views, provenance), *(need(node, spec.version) for node in spec.others)]


def rows_at(layout: Layout, path: str) -> list[Row]:
    """The rows of one manifest. Raises `DamagedError` or `HostileError` if it is not what its name says."""
    manifest = read_manifest(path)
    spec = spec_of(layout, manifest, path)
    if path != layout.manifest(spec.root.name, spec.root.version, spec.hash):
        raise DamagedError(f"{path} is the manifest of another spec: {spec.root.name}@{spec.root.version}/{spec.hash}")
    return rows_for(spec, manifest)


def is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
