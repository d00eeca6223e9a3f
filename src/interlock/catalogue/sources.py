"""Where indexes come from: an index file, a mirror of layout v2 or v3, or a store (a v3 mirror that knows more).

A source is written `LABEL=PLACE`. PLACE is a file or a directory; `DIRECTORY#VIEW` is the index of one view of a
v3 mirror. A PLACE without label gives `root`, and for a directory with views also one label for each of them.

Of a store the generations are read, not the index that Spack reads, which follows them now and then. All sources in
one store are of one generation: root and its views belong together.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass
from typing import IO, Any

from ..store import Snapshot, Store, StoreError
from ..store.layout import SIDE
from .model import ROOT, CatalogueError
from .scan import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .model import Node

__all__ = ["Blob", "Source", "manifest_blobs", "parse_sources"]

LARGEST_MANIFEST = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TARBALL = re.compile(r"-([a-z0-9]{32})\.spack\Z")
_DATABASE = re.compile(r"application/vnd\.spack\.db\.v([0-9]{1,4})\+json\Z")
_SPEC = re.compile(r"-([a-z0-9]{32})\.spec\.json(?:\.sig)?\Z")
_MANIFEST = re.compile(r"-([^-]+)\.spec\.manifest\.json\Z")


@dataclass(frozen=True)
class Blob:
    """One entry of a v3 manifest."""

    path: str
    digest: str
    length: int
    media: str

    @property
    def is_package(self) -> bool:
        """The archive, in contrast to its description. Spack's own are gzipped tarballs; a store takes others, too."""
        return self.media.startswith("application/vnd.spack.install.") or self.media == "application/octet-stream"

    @property
    def database(self) -> int:
        """The version of the database that it is; 0 if it is none."""
        found = _DATABASE.match(self.media)
        return int(found[1]) if found else 0

    @property
    def is_spec(self) -> bool:
        """The build's description."""
        return self.media.startswith("application/vnd.spack.spec.")


@dataclass(frozen=True)
class Source:
    """One labelled place, looked at once: `path` is the index file that it led to."""

    label: str
    place: str
    path: str
    layout: str
    """`file`, `v2`, `v3` or `store`."""
    mirror: str
    """The mirror's directory; empty for a file."""
    blob: Blob | None = None
    """The index as the manifest of a v3 mirror describes it."""
    view: str = ""
    snapshot: Snapshot | None = None
    """Of a store: all that is in it, at one generation."""

    @property
    def title(self) -> str:
        """How errors name it."""
        return f"{self.label}={self.place}"

    def open(self) -> IO[bytes]:
        """The index, compared with its checksum where there is one. Raises `CatalogueError`."""
        if self.snapshot is not None:
            return io.BytesIO(self.snapshot.document(self.view or None))
        try:
            if self.blob is not None:
                self._verify(self.blob.digest)
            return open(self.path, "rb")
        except OSError as error:
            raise CatalogueError(f"{self.title}: {self.path}: {error.strerror}") from None

    def _verify(self, wanted: str) -> None:
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted:
            raise CatalogueError(
                f"{self.title}: {self.path} is damaged: its sha256 is {digest}; have the index made again "
                "(interlock store index, spack buildcache update-index)"
            )

    @property
    def length(self) -> int:
        """About how many bytes are to be read, for progress."""
        return 0 if self.snapshot is not None else os.path.getsize(self.path)

    def size_of(self, node: Node) -> int | None:
        """Bytes of the build's binary package by its v3 manifest; None if there is none that can be read."""
        if self.layout not in {"v3", "store"}:
            return None
        try:
            blobs = self.blobs_of(node)
        except (CatalogueError, OSError):
            return None
        return sum(blob.length for blob in blobs if blob.is_package) or None

    def manifest_of(self, node: Node) -> str:
        """The path of the build's manifest in a v3 mirror."""
        for part in (node.name, node.version, node.hash):
            if part != os.path.basename(part) or "\0" in part or "\\" in part or part in {".", ".."}:
                raise CatalogueError(f"{self.title}: {part!r} cannot be part of a file's name")
        name = f"{node.name}-{node.version}-{node.hash}.spec.manifest.json"
        return os.path.join(self.mirror, "v3", "manifests", "spec", node.name, name)

    def blobs_of(self, node: Node) -> list[Blob]:
        """What the build's manifest lists. Raises `OSError` or `CatalogueError`."""
        return manifest_blobs(self.manifest_of(node), self.mirror)

    @property
    def is_view(self) -> bool:
        """Whether this is the index of a part of the mirror."""
        return bool(self.view)

    def manifests(self) -> Iterator[tuple[str, str]]:
        """Hash and path of each build's manifest in a v3 mirror, sorted."""
        top = os.path.join(self.mirror, "v3", "manifests", "spec")
        for directory, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                found = _MANIFEST.search(name)
                if found:
                    yield found[1], os.path.join(directory, name)

    def old_files(self) -> tuple[dict[str, str], dict[str, str]]:
        """By hash, the paths of the binary packages of a v2 mirror and those of their descriptions."""
        packages: dict[str, str] = {}
        specs: dict[str, str] = {}
        for directory, _, names in os.walk(os.path.join(self.mirror, "build_cache")):
            for name in names:
                for pattern, paths in ((_TARBALL, packages), (_SPEC, specs)):
                    found = pattern.search(name)
                    if found:
                        paths[found[1]] = os.path.join(directory, name)
        return packages, specs


def parse_sources(words: Iterable[str]) -> list[Source]:
    """The sources that `LABEL=PLACE` or `PLACE` words name; `root` comes first. Reads manifests, no indexes."""
    found: dict[str, Source] = {}
    stores: dict[str, Snapshot | None] = {}
    for word in words:
        label, separator, place = word.partition("=")
        more: list[tuple[str, str]] = []
        if not separator or "/" in label:
            label, place = ROOT, word
            more = [(view, f"{place}#{view}") for view in _views(place, stores)]
        if not label or not place:
            raise CatalogueError(f"--source {word!r}: write LABEL=PLACE, for example {ROOT}=index.json")
        if any(not char.isprintable() for char in label):
            raise CatalogueError(f"--source {word!r}: a label is one line of printable characters")
        for name, where in [(label, place), *more]:
            if name in found:
                raise CatalogueError(f"--source {word!r}: the label {name!r} is taken by {found[name].place}")
            found[name] = _locate(name, where, stores)
    if not found:
        raise CatalogueError(f"give at least one source, for example --source {ROOT}=index.json")
    return sorted(found.values(), key=lambda source: (source.label != ROOT, source.label))


def manifest_blobs(path: str, mirror: str) -> list[Blob]:
    """The blobs that a v3 manifest lists. Raises `OSError`, or `CatalogueError` if it is damaged."""
    with open(path, "rb") as file:
        data = file.read(LARGEST_MANIFEST + 1)
    if len(data) > LARGEST_MANIFEST:
        raise CatalogueError(f"{path}: it is too large for a manifest")
    manifest = document(data, path)
    if manifest.get("version") != 3:
        raise CatalogueError(f"{path}: a manifest of version {manifest.get('version')!r}, not 3")
    entries = manifest.get("data")
    if not isinstance(entries, list):
        raise CatalogueError(f"{path}: 'data' is no list")
    return [_blob(entry, path, mirror) for entry in entries]


def _blob(entry: Any, path: str, mirror: str) -> Blob:
    if not isinstance(entry, dict):
        raise CatalogueError(f"{path}: an entry of 'data' is no object")
    algorithm, digest = entry.get("checksumAlgorithm"), entry.get("checksum")
    length, media = entry.get("contentLength"), entry.get("mediaType")
    if algorithm != "sha256" or not isinstance(digest, str) or not _HEX.match(digest):
        raise CatalogueError(f"{path}: an entry of 'data' has no sha256 checksum")
    if type(length) is not int or length < 0 or not isinstance(media, str):
        raise CatalogueError(f"{path}: an entry of 'data' has no length or no media type")
    return Blob(os.path.join(mirror, "blobs", "sha256", digest[:2], digest), digest, length, media)


def _locate(label: str, place: str, stores: dict[str, Snapshot | None]) -> Source:
    path, view = place, ""
    if not os.path.exists(path):
        path, _, view = place.rpartition("#")
    if not os.path.exists(path):
        raise CatalogueError(f"{label}={place}: there is no such file or directory")
    if os.path.isfile(path):
        if view:
            raise CatalogueError(f"{label}={place}: a file has no views; name the mirror's directory")
        if os.path.basename(path) == "index.manifest.json":
            return _of_manifest(label, place, path, _mirror_above(path), "")
        return Source(label, place, path, "file", "")
    if not os.path.isdir(path):
        raise CatalogueError(f"{label}={place}: it is neither a file nor a directory")
    if os.path.basename(view) != view or view in {".", ".."}:
        raise CatalogueError(f"{label}={place}: {view!r} is not the name of a view")
    snapshot = _snapshot(path, stores)
    manifest = os.path.join(path, "v3", "manifests", "index", view, "index.manifest.json")
    known = _views(path, stores)
    if view and view not in known:
        raise CatalogueError(f"{label}={place}: there is no view {view!r} (views: {', '.join(known) or 'none'})")
    if snapshot is not None:
        return Source(label, place, os.path.join(path, SIDE), "store", path, None, view, snapshot)
    if os.path.isfile(manifest):
        return _of_manifest(label, place, manifest, path, view)
    old = os.path.join(path, "build_cache", "index.json")
    if os.path.isfile(old):
        return Source(label, place, old, "v2", path)
    raise CatalogueError(
        f"{label}={place}: neither v3/manifests/index/index.manifest.json nor build_cache/index.json is there: it is "
        "no mirror, or has no index yet (interlock store index, spack buildcache update-index)"
    )


def _snapshot(directory: str, stores: dict[str, Snapshot | None]) -> Snapshot | None:
    """A store's newest generation, looked up once; None if the directory is no store that was written to."""
    where = os.path.realpath(directory)
    if where not in stores:
        stores[where] = None
        if os.path.isdir(os.path.join(where, SIDE)):
            try:
                found = Store(where).snapshot()
            except (StoreError, OSError) as error:
                raise CatalogueError(f"{directory}: {error}") from None
            stores[where] = found if found.generation else None
    return stores[where]


def _of_manifest(label: str, place: str, manifest: str, mirror: str, view: str) -> Source:
    missing = ""
    for _ in range(3):
        try:
            blobs = manifest_blobs(manifest, mirror)
        except OSError as error:
            raise CatalogueError(f"{label}={place}: {manifest}: {error.strerror}") from None
        # Spack may keep one of each database version there.
        found = max(blobs, key=lambda blob: blob.database, default=None)
        if found is None or not found.database:
            raise CatalogueError(f"{label}={place}: {manifest} lists no database index")
        if os.path.isfile(found.path):
            return Source(label, place, found.path, "v3", mirror, found, view)
        missing = found.path
        # A writer has published a newer index, and the old one is gone: the manifest says so by now.
    raise CatalogueError(
        f"{label}={place}: {manifest} names the index {missing}, which is missing: have the index made again "
        "(interlock store index, spack buildcache update-index)"
    )


def _mirror_above(manifest: str) -> str:
    directory = os.path.dirname(os.path.abspath(manifest))
    while os.path.basename(directory) != "manifests":
        above = os.path.dirname(directory)
        if above == directory:
            raise CatalogueError(f"{manifest}: it does not stand in a mirror, whose blobs it names")
        directory = above
    return os.path.dirname(os.path.dirname(directory))


def _views(place: str, stores: dict[str, Snapshot | None]) -> list[str]:
    snapshot = _snapshot(place, stores)
    if snapshot is not None:
        return snapshot.views()
    indexes = os.path.join(place, "v3", "manifests", "index")
    try:
        names = sorted(os.listdir(indexes))
    except OSError:
        return []
    return [name for name in names if os.path.isfile(os.path.join(indexes, name, "index.manifest.json"))]
