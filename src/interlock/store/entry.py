"""What a reader is given: `Entry`, the `Snapshot` that it is of, and a `Build` that nobody deletes meanwhile."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import DamagedError
from .index import document
from .layout import SPEC_MAX, parse_json, read_file, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from . import files
    from .layout import Blob, Layout, Manifest
    from .rows import Row, State

__all__ = ["Build", "Entry", "Snapshot"]


class Entry:
    """One build, as the index has it."""

    __slots__ = ("_row",)

    def __init__(self, row: Row) -> None:
        self._row = row

    @property
    def hash(self) -> str:
        return self._row.hash

    @property
    def name(self) -> str:
        return self._row.name

    @property
    def version(self) -> str:
        return self._row.version

    @property
    def size(self) -> int:
        """Bytes of the archive; 0 where only an index of Spack's says that it exists."""
        return self._row.size

    @property
    def signed(self) -> bool:
        """Its manifest is signed. The signature is not checked."""
        return self._row.signed

    @property
    def views(self) -> tuple[str, ...]:
        return self._row.views

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Hashes of the specs that it depends on directly."""
        return self._row.dependencies

    @property
    def provenance(self) -> dict[str, Any]:
        """Who published it: `who`, `host`, `job`, `when` (UTC), `tool`; `adopted` if the file was there already. Empty
        where nobody noted it."""
        found: dict[str, Any] = _object(self._row.provenance, self) if self._row.provenance else {}
        return found

    @property
    def node(self) -> dict[str, Any]:
        """The spec's own node."""
        found: dict[str, Any] = _object(self._row.node, self)
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "hash": self.hash,
            "name": self.name,
            "version": self.version,
            "size": self.size,
            "signed": self.signed,
            "views": list(self.views),
            "provenance": self.provenance,
        }

    def __repr__(self) -> str:
        return f"<Entry {self.name}@{self.version}/{self.hash}>"


def _object(text: str, entry: Entry) -> dict[str, Any]:
    origin = f"what the store knows of {entry.hash[:80]}"
    found = parse_json(text, origin)
    if not isinstance(found, dict):
        raise DamagedError(f"{origin} is no object")
    return found


class Snapshot:
    """The whole store at one generation: the root index and all views belong together."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def generation(self) -> int:
        """0: nothing was ever published, or only Spack wrote here."""
        return self._state.generation

    def views(self) -> list[str]:
        return self._state.views()

    def entries(self, view: str | None = None) -> Iterator[Entry]:
        """Sorted by hash; `None`: of all views and of none."""
        return map(Entry, self._state.builds(view))

    def find(self, hash_: str) -> Entry | None:
        row = self._state.get(hash_)
        return Entry(row) if row is not None else None

    def document(self, view: str | None = None) -> bytes:
        """Spack's database document, as the index of that view has it: always the same bytes for a generation."""
        return document(self._state, view)[0]


class Build:
    """A build that is being read: its files are leased, so `gc` does not delete them, until `close`.

    `leased` is False where the filesystem has no locks; then nothing is promised but that an open file stays
    readable on a local filesystem.
    """

    def __init__(self, entry: Entry, manifest: Manifest, layout: Layout, leases: list[files.Lease]) -> None:
        self.entry, self.manifest = entry, manifest
        self._layout, self._leases = layout, leases

    @property
    def leased(self) -> bool:
        return bool(self._leases) and all(lease.enforced for lease in self._leases)

    @property
    def archive(self) -> str:
        """The path of the archive."""
        if not self._leases:
            raise ValueError(f"{self.entry!r} was closed")
        blob = self.manifest.archive
        if blob is None:
            raise DamagedError(f"the manifest of {self.entry.hash} names no archive")
        return self._layout.blob(blob.checksum)

    def open(self) -> BinaryIO:
        """The archive, for reading."""
        return open(self.archive, "rb")

    def read(self) -> bytes:
        """The whole archive."""
        with self.open() as file:
            return file.read()

    def spec(self) -> dict[str, Any]:
        """The spec document."""
        blob = self.manifest.spec
        if blob is None:
            raise DamagedError(f"the manifest of {self.entry.hash} names no spec")
        path = self._layout.blob(blob.checksum)
        found: dict[str, Any] = parse_json(unpack(read_file(path, SPEC_MAX), blob.compression, path), path)
        return found

    def filenos(self) -> tuple[int, ...]:
        """The descriptors that are the lease: a process that inherits them (`pass_fds` of `subprocess`) holds the
        build, too, also when this process is killed."""
        return tuple(lease.fd for lease in self._leases)

    def close(self) -> None:
        while self._leases:
            self._leases.pop().close()

    def __enter__(self) -> Build:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_leases", None):
            self.close()


def check_blob(blob: Blob, path: str, contents: bool = True) -> None:
    """Raise `DamagedError` unless the file has the size, and the checksum, that the manifest says."""
    size = os.stat(path).st_size
    if size != blob.size:
        raise DamagedError(f"{path} has {size} bytes, not {blob.size}; mend it: interlock store verify --repair")
    if not contents:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.checksum:
        raise DamagedError(f"{path} is damaged: its checksum is {found}; mend it: interlock store verify --repair")
