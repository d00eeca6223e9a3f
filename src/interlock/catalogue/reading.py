"""From sources to a catalogue."""

from __future__ import annotations

import os

from .model import ROOT, Catalogue, CatalogueError, Index
from .records import Builder, RecordError
from .scan import records
from .sources import Source, parse_sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .model import Node

    Every = Callable[[Source, str, Any, Node], None]
    Progress = Callable[[str, int], None]

__all__ = ["KNOWN_VERSIONS", "add_sizes", "add_source", "read"]

KNOWN_VERSIONS = range(6, 10)


def read(
    sources: Iterable[str | Source],
    *,
    skip_damaged: bool = False,
    every: Every | None = None,
    progress: Progress | None = None,
) -> Catalogue:
    """Read labelled sources (`LABEL=PLACE`) into a catalogue.

    Raises `CatalogueError` for what cannot be read. With `skip_damaged` a record that is damaged becomes a warning
    instead; a file that is no JSON does not. A database version that is not known yet is a warning, too.
    `every` is called with each source, key, record and node. `progress` gets a label and a number of bytes.
    """
    listed = list(sources)
    found = [source for source in listed if isinstance(source, Source)]
    words = [source for source in listed if isinstance(source, str)]
    if words or not found:
        found += parse_sources(words)
    found.sort(key=lambda source: (source.label != ROOT, source.label))
    catalogue = Catalogue()
    builder = Builder()
    for source in found:
        add_source(catalogue, source, builder, skip_damaged, every, progress)
    if ROOT in catalogue.indexes:
        catalogue.packages()  # so that the first page costs no more than the others
    return catalogue


def add_source(
    catalogue: Catalogue,
    source: Source,
    builder: Builder,
    skip_damaged: bool,
    every: Every | None,
    progress: Progress | None,
) -> None:
    """Read one source into the catalogue. Raises `CatalogueError`."""
    hashes: set[str] = set()
    builds: set[str] = set()
    version = ""
    nodes = catalogue.nodes
    step = None if progress is None else (lambda count: progress(source.label, count))
    for key, record in records(source.open(), source.title, step):
        if key is None:
            version = _version(catalogue, source, record)
            continue
        try:
            if key in hashes:
                raise RecordError("the key comes twice")
            known = nodes.get(key)
            if known is not None and every is None and type(record) is dict:
                # Nearly all records of a stack are in root, too; all that is news is whether it is a build here.
                node, built = known, record.get("in_buildcache", False)
                if type(built) is not bool:
                    raise RecordError("in_buildcache is not true or false")
            else:
                node = builder.node(key, record)
                built = node.in_buildcache
                if every is not None:
                    every(source, key, record, node)
        except RecordError as error:
            text = f"{source.title}: record {key[:80]!r}: {error}"
            if not skip_damaged:
                raise CatalogueError(f"{text}; --skip-damaged leaves such records out") from None
            catalogue.warnings.append(text)
            continue
        key = node.hash
        hashes.add(key)
        if built:
            builds.add(key)
        if known is None:
            nodes[key] = node
    generation = source.snapshot.generation if source.snapshot is not None else None
    catalogue.indexes[source.label] = Index(
        source.label, source.place, version, frozenset(hashes), frozenset(builds), generation
    )


def _version(catalogue: Catalogue, source: Source, version: object) -> str:
    if type(version) is not str or not version.isascii() or not version.isdigit() or len(version) > 9:
        raise CatalogueError(
            f"{source.title}: the database's version is {repr(version)[:40]}, where '6' to '9' are known: "
            "it is no index of a Spack since 0.18"
        )
    if int(version) < KNOWN_VERSIONS[0]:
        raise CatalogueError(
            f"{source.title}: a database of version {version} is too old, 6 to 9 are read: "
            "have the index made again by a newer Spack (spack buildcache update-index)"
        )
    if int(version) not in KNOWN_VERSIONS:
        catalogue.warnings.append(
            f"{source.title}: the database has version {version}, and 6 to 9 are known; it is read as if it were 9"
        )
    return version


def add_sizes(catalogue: Catalogue, sources: Iterable[Source], progress: Progress | None = None) -> None:
    """Look up the sizes of all builds in those sources that are mirrors. A manifest that is missing is no error here
    (`check` names it): the size stays unknown."""
    for source in sources:
        builds = catalogue.indexes[source.label].builds
        step = None if progress is None else (lambda count, label=source.label: progress(label, count))
        if source.layout == "v2":
            for key, path in source.old_files()[0].items():
                if step is not None:
                    step(1)
                if key in builds and os.path.isfile(path):
                    catalogue.sizes.setdefault(key, os.path.getsize(path))
        elif source.snapshot is not None:
            for entry in source.snapshot.entries(source.view or None):
                if entry.size:
                    catalogue.sizes.setdefault(entry.hash, entry.size)
        elif source.layout == "v3":
            for key in builds:
                if step is not None:
                    step(1)
                if key not in catalogue.sizes:
                    length = source.size_of(catalogue.nodes[key])
                    if length is not None:
                        catalogue.sizes[key] = length
