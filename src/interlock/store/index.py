"""The index that Spack reads: a database document per view, and the manifest that points to it.

A document is made from the rows of one generation, always the same bytes for the same rows. The pointer,
`index.manifest.json`, carries the number of that generation. It is replaced last, and then looked at again: a writer
that was stopped before the replacement may have put back an older one; whoever did that sees it and mends it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from . import files
from .errors import DamagedError
from .layout import (
    MANIFEST_MAX,
    Blob,
    Manifest,
    parse_json,
    parse_manifest,
    read_file,
    safe_hash,
    safe_name,
    safe_version,
)
from .rows import ADD, NEED, Row, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .store import Store

INDEX_MAX = 4 << 30


def document(state: State, view: str | None) -> tuple[bytes, int]:
    """The database of a view (`None`: of all) as JSON, and its version.

    Specs that the view's builds depend on are in it, marked as not in the build cache unless they are in the view.
    """
    builds = {row.hash for row in state.builds(view)}
    rows = state.closure(builds)
    counts = dict.fromkeys(rows, 0)
    for row in rows.values():
        for needed in row.dependencies:
            if needed in counts:
                counts[needed] += 1
    version = 9 if any(rows[hash_].spec_version > 5 for hash_ in builds) else 8
    installs = ", ".join(
        f'"{hash_}": {{"in_buildcache": {"true" if hash_ in builds else "false"}, "ref_count": {counts[hash_]}, '
        f'"spec": {rows[hash_].node}}}'
        for hash_ in sorted(rows)
    )
    return f'{{"database": {{"installs": {{{installs}}}, "version": "{version}"}}}}'.encode(), version


def media_type(version: int) -> str:
    return f"application/vnd.spack.db.v{version}+json"


def read_pointer(path: str) -> Manifest | None:
    """The manifest of an index; None: there is none."""
    try:
        return parse_manifest(read_file(path, MANIFEST_MAX), path)
    except FileNotFoundError:
        return None


def views_on_disk(directory: str) -> list[str]:
    """Views that have a pointer."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if os.path.isfile(os.path.join(directory, name, "index.manifest.json")))


def publish(store: Store, view: str | None, force: bool = False) -> int:
    """Let a view's pointer say what the newest generation says; returns its number. `force`: write it anew."""
    path = store.layout.pointer(view)
    with store.locks.briefly(f"index-{view}" if view else "index", patience=60.0):
        while True:
            try:
                pointer = read_pointer(path)  # before the state: which is not older then, unless it is another chain's
            except DamagedError:
                pointer = None
            state = store.chain.load()
            if pointer is not None and pointer.generation == state.generation and not force:
                return state.generation
            _point(store, view, path, state, pointer)
            force = False


def _point(store: Store, view: str | None, path: str, state: State, old: Manifest | None) -> None:
    text, version = document(state, view)
    kind = media_type(version)
    with store.blob([text]) as (checksum, size):
        blobs = [Blob(size, kind, "none", checksum)]
        # Other versions of Spack may keep theirs there.
        blobs += [blob for blob in (old.blobs if old else ()) if blob.media_type not in (media_type(8), media_type(9))]
        store.sync_names()
        files.make_directory(os.path.dirname(path), store.durable)
        with files.Draft(store.layout.temporary, store.durable) as draft:
            draft.write(Manifest(tuple(blobs), generation=state.generation).as_bytes())
            draft.sync()
            draft.replace(path)
    if store.durable:
        files.sync_directory(os.path.dirname(path))


# ---- an index that Spack wrote


def database_blob(pointer: Manifest, path: str) -> Blob:
    """The newest database of a pointer that can be read."""
    kinds = {media_type(version): version for version in (6, 7, 8, 9)}
    found = [blob for blob in pointer.blobs if blob.media_type in kinds]
    if not found:
        raise DamagedError(f"{path} points to no database of versions 6 to 9")
    return max(found, key=lambda blob: kinds[blob.media_type])


def rows_of(text: bytes, origin: str) -> Iterator[Row]:
    """The rows of a database document that somebody else wrote. Sizes are not in it."""
    top = parse_json(text, origin)
    base = top.get("database") if isinstance(top, dict) else None
    installs = base.get("installs") if isinstance(base, dict) else None
    if not isinstance(base, dict) or not isinstance(installs, dict):
        raise DamagedError(f"{origin} is no database: it has no database.installs")
    number = str(base.get("version"))
    spec_version = max(1, int(number) - 3) if number.isdecimal() and len(number) < 3 else 5
    for hash_, record in installs.items():
        node = record.get("spec") if isinstance(record, dict) else None
        if not isinstance(node, dict):
            raise DamagedError(f"{origin}: the record {hash_[:40]!r} has no spec")
        yield _row(hash_, node, bool(record.get("in_buildcache", True)), spec_version, origin)


def _row(hash_: str, node: dict[str, Any], here: bool, spec_version: int, origin: str) -> Row:
    listed = node.get("dependencies", [])
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise DamagedError(f"{origin}: the dependencies of {hash_[:40]!r} are no list of objects")
    return Row(
        ADD if here else NEED,
        safe_hash(hash_, origin),
        safe_name(node.get("name"), "package name", origin),
        safe_version(node.get("version"), origin),
        spec_version,
        0,
        False,
        (),
        tuple(safe_hash(item.get("hash"), origin) for item in listed),
        "",
        json.dumps(node),
    )
