"""Where indexes come from: an index file, a mirror of layout v2 or v3, or a store (which is a v3 mirror).

A source is written `LABEL=PLACE`. PLACE is a file or a directory; `DIRECTORY#VIEW` is the index of one view of a
v3 mirror. A PLACE without label gives `root`, and for a directory with views also one label for each of them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

from .model import ROOT, CatalogueError
from .scan import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .model import Node

__all__ = ["Blob", "Source", "manifest_blobs", "parse_sources"]

LARGEST_MANIFEST = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TARBALL = re.compile(r"-([a-z0-9]{32})\.spack\Z")


@dataclass(frozen=True)
class Blob:
    """One entry of a v3 manifest."""

    path: str
    digest: str
    length: int
    media: str

    @property
    def is_package(self) -> bool:
        """The binary package, in contrast to its description."""
        return self.media.startswith("application/vnd.spack.install.")


@dataclass(frozen=True)
class Source:
    """One labelled place, looked at once: `path` is the index file that it led to."""

    label: str
    place: str
    path: str
    layout: str
    """`file`, `v2` or `v3`."""
    mirror: str
    """The mirror's directory; empty for a file."""
    blob: Blob | None = None
    """The index as the manifest of a v3 mirror describes it."""

    @property
    def title(self) -> str:
        """How errors name it."""
        return f"{self.label}={self.place}"

    def size_of(self, node: Node) -> int | None:
        """Bytes of the build's binary package by its v3 manifest; None if there is none that can be read."""
        if self.layout != "v3":
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

    def tarballs(self, step: Callable[[int], None] | None = None) -> Iterator[tuple[str, int]]:
        """Hash and size of each binary package of a v2 mirror."""
        for directory, _, names in os.walk(os.path.join(self.mirror, "build_cache")):
            for name in names:
                found = _TARBALL.search(name)
                if found:
                    if step is not None:
                        step(1)
                    try:
                        yield found[1], os.stat(os.path.join(directory, name)).st_size
                    except OSError:  # removed meanwhile
                        continue


def parse_sources(words: Iterable[str]) -> list[Source]:
    """The sources that `LABEL=PLACE` or `PLACE` words name; `root` comes first. Reads manifests, no indexes."""
    found: dict[str, Source] = {}
    for word in words:
        label, separator, place = word.partition("=")
        more: list[tuple[str, str]] = []
        if not separator or "/" in label:
            label, place = ROOT, word
            more = _views(place)
        if not label or not place:
            raise CatalogueError(f"--source {word!r}: write LABEL=PLACE, for example {ROOT}=index.json")
        if any(not char.isprintable() for char in label):
            raise CatalogueError(f"--source {word!r}: a label is one line of printable characters")
        for name, where in [(label, place), *more]:
            if name in found:
                raise CatalogueError(f"--source {word!r}: the label {name!r} is taken by {found[name].place}")
            found[name] = _locate(name, where)
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


def _locate(label: str, place: str) -> Source:
    path, view = place, ""
    if not os.path.exists(path):
        path, _, view = place.rpartition("#")
    if not os.path.exists(path):
        raise CatalogueError(f"{label}={place}: there is no such file or directory")
    if os.path.isfile(path):
        if view:
            raise CatalogueError(f"{label}={place}: a file has no views; name the mirror's directory")
        if os.path.basename(path) == "index.manifest.json":
            return _of_manifest(label, place, path, _mirror_above(path))
        return Source(label, place, path, "file", "")
    if not os.path.isdir(path):
        raise CatalogueError(f"{label}={place}: it is neither a file nor a directory")
    if os.path.basename(view) != view or view in {".", ".."}:
        raise CatalogueError(f"{label}={place}: {view!r} is not the name of a view")
    indexes = os.path.join(path, "v3", "manifests", "index")
    manifest = os.path.join(indexes, view, "index.manifest.json")
    if os.path.isfile(manifest):
        return _of_manifest(label, place, manifest, path)
    if view:
        known = ", ".join(name for name, _ in _views(path)) or "none"
        raise CatalogueError(f"{label}={place}: there is no view {view!r} (views: {known})")
    old = os.path.join(path, "build_cache", "index.json")
    if os.path.isfile(old):
        return Source(label, place, old, "v2", path)
    raise CatalogueError(
        f"{label}={place}: neither v3/manifests/index/index.manifest.json nor build_cache/index.json is there: it is "
        "no mirror, or has no index yet (interlock store index, spack buildcache update-index)"
    )


def _of_manifest(label: str, place: str, manifest: str, mirror: str) -> Source:
    for _ in range(3):
        try:
            blobs = manifest_blobs(manifest, mirror)
        except OSError as error:
            raise CatalogueError(f"{label}={place}: {manifest}: {error.strerror}") from None
        found = [blob for blob in blobs if blob.media.startswith("application/vnd.spack.db.")]
        if len(found) != 1:
            raise CatalogueError(f"{label}={place}: {manifest} lists {len(found)} database indexes, not one")
        if os.path.isfile(found[0].path):
            return Source(label, place, found[0].path, "v3", mirror, found[0])
        # A writer has published a newer index, and the old one is gone: the manifest says so by now.
    raise CatalogueError(
        f"{label}={place}: {manifest} names the index {found[0].path}, which is missing: have the index made again "
        "(interlock store index, spack buildcache update-index)"
    )


def verify(source: Source) -> None:
    """Compare the index file of a v3 mirror with its checksum; `CatalogueError` if it is another."""
    if source.blob is None:
        return
    try:
        with open(source.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CatalogueError(f"{source.title}: {source.path}: {error.strerror}") from None
    if digest != source.blob.digest:
        raise CatalogueError(
            f"{source.title}: {source.path} is damaged: its sha256 is {digest}; have the index made again "
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


def _views(place: str) -> list[tuple[str, str]]:
    indexes = os.path.join(place, "v3", "manifests", "index")
    try:
        names = sorted(os.listdir(indexes))
    except OSError:
        return []
    return [
        (name, f"{place}#{name}")
        for name in names
        if os.path.isfile(os.path.join(indexes, name, "index.manifest.json"))
    ]
