"""Names and documents of Spack's build cache, layout version 3: what may be written, and what is believed when read.

Everything read here may come from a stranger. A name becomes a path only after `safe_name`; a document is read to a
limit, and only with the types that it should have.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import zlib
from typing import Any, NamedTuple

from .errors import DamagedError, HostileError

SIDE = ".interlock"
"""Our own folder in a mirror; Spack looks at `v3`, `blobs` and `build_cache` only."""

SPEC_SUFFIX = ".spec.manifest.json"
TARBALL = "application/vnd.spack.install.v2.tar+gzip"
OTHER = "application/octet-stream"

MANIFEST_MAX = 1 << 20
SPEC_MAX = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]{0,199}")
_VERSION = re.compile(r"[!-~]{1,200}")
_IMPOLITE = re.compile(r"[^A-Za-z0-9_+.-]")
_HASH = re.compile(r"[a-z0-9]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPEC_TYPE = re.compile(r"application/vnd\.spack\.spec\.v(\d{1,3})\+json")


def safe_name(name: object, what: str, origin: str) -> str:
    """A package's name, a version or a view, fit to be part of a file's name on every filesystem."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        shown = repr(name)[:80]
        raise HostileError(f"{origin}: {shown} cannot be a {what}: allowed are up to 200 of A-Z a-z 0-9 _ . + = @ ~ -")
    return name


def safe_version(version: object, origin: str) -> str:
    """A version; it may be one of git's. Only `file_version` of it gets into a path."""
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or ".." in version:
        raise HostileError(f"{origin}: {repr(version)[:80]} is no version: up to 200 visible ASCII characters")
    return version


def file_version(version: str) -> str:
    """As Spack does it: whatever is not harmless in a file's name becomes an underscore."""
    return _IMPOLITE.sub("_", version)


def safe_hash(value: object, origin: str) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise HostileError(f"{origin}: {repr(value)[:80]} is no hash of a spec: 32 characters of a-z 0-9")
    return value


def is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None


class Blob(NamedTuple):
    """One line of a manifest."""

    size: int
    media_type: str
    compression: str
    checksum: str

    def as_dict(self) -> dict[str, object]:
        return {
            "contentLength": self.size,
            "mediaType": self.media_type,
            "compression": self.compression,
            "checksumAlgorithm": "sha256",
            "checksum": self.checksum,
        }

    @property
    def spec_version(self) -> int | None:
        """The version of the spec format if this is a spec file."""
        found = _SPEC_TYPE.fullmatch(self.media_type)
        return int(found[1]) if found else None


class Manifest(NamedTuple):
    """What a manifest says. `signed`: it is a clearsigned document; the signature is not checked here."""

    blobs: tuple[Blob, ...]
    signed: bool = False
    generation: int | None = None

    @property
    def spec(self) -> Blob | None:
        return next((blob for blob in self.blobs if blob.spec_version is not None), None)

    @property
    def archive(self) -> Blob | None:
        return next((blob for blob in self.blobs if blob.spec_version is None), None)

    def as_bytes(self) -> bytes:
        document: dict[str, object] = {"version": 3, "data": [blob.as_dict() for blob in self.blobs]}
        if self.generation is not None:
            document["generation"] = self.generation
        # Spack writes them with line breaks, since gpg cuts long lines.
        return json.dumps(document, indent=0, separators=(",", ":")).encode()


class Layout:
    """Where everything lies below a root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.side = os.path.join(root, SIDE)
        self.temporary = os.path.join(self.side, "tmp")
        self.chain = os.path.join(self.side, "generations")
        self.building = os.path.join(self.side, "building")
        self.locks = os.path.join(self.side, "locks")
        self.quarantine = os.path.join(self.side, "quarantine")
        self.specs = os.path.join(root, "v3", "manifests", "spec")
        self.indexes = os.path.join(root, "v3", "manifests", "index")
        self.blobs = os.path.join(root, "blobs", "sha256")

    @property
    def layout_file(self) -> str:
        return os.path.join(self.root, "v3", "layout.json")

    def blob(self, checksum: str) -> str:
        if not _SHA256.fullmatch(checksum):
            raise HostileError(f"{checksum[:80]!r} is no SHA-256 checksum")
        return os.path.join(self.blobs, checksum[:2], checksum)

    def manifest(self, name: str, version: str, hash_: str) -> str:
        return os.path.join(self.specs, name, f"{name}-{file_version(version)}-{hash_}{SPEC_SUFFIX}")

    def pointer(self, view: str | None) -> str:
        return os.path.join(self.indexes, *([view] if view else []), "index.manifest.json")


# ---- reading


def read_file(path: str, limit: int) -> bytes:
    """A regular file's content. Raises `FileNotFoundError`, and `HostileError` for anything that is no file or is
    longer than `limit` bytes."""
    # Without O_NONBLOCK a FIFO would hang us; O_BINARY is for Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise HostileError(f"{path} is not a regular file; remove it")
        if facts.st_size > limit:
            raise HostileError(f"{path} has {facts.st_size} bytes; at most {limit} are read")
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def parse_json(text: bytes | str, origin: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise HostileError(f"{origin} is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"{origin} is not JSON: {error}") from None


def unsign(text: bytes, origin: str) -> tuple[bytes, bool]:
    """The JSON in a clearsigned document, and whether it was one. The signature is not checked."""
    if not text.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----"):
        return text, False
    text = text.replace(b"\r\n", b"\n")
    _head, blank, rest = text.partition(b"\n\n")
    body, mark, _signature = rest.partition(b"\n-----BEGIN PGP SIGNATURE-----")
    if not blank or not mark:
        raise DamagedError(f"{origin}: a clearsigned document without its signature's block")
    return b"\n".join(line.removeprefix(b"- ") for line in body.split(b"\n")), True


def parse_manifest(text: bytes, origin: str) -> Manifest:
    body, signed = unsign(text, origin)
    document = parse_json(body, origin)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise DamagedError(f"{origin} is not a manifest")
    if document.get("version") != 3:
        raise DamagedError(f"{origin} is a manifest of version {document.get('version')!r}; only 3 is known")
    blobs = tuple(_blob(item, origin) for item in document["data"])
    generation = document.get("generation")
    return Manifest(blobs, signed, generation if isinstance(generation, int) else None)


def _blob(item: object, origin: str) -> Blob:
    if not isinstance(item, dict):
        raise DamagedError(f"{origin}: an entry of its data is no object")
    size, algorithm, checksum = item.get("contentLength"), item.get("checksumAlgorithm"), item.get("checksum")
    media_type, compression = item.get("mediaType"), item.get("compression")
    if algorithm != "sha256":
        raise DamagedError(f"{origin}: checksums by {algorithm!r} cannot be checked; only sha256 can")
    if not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
        raise HostileError(f"{origin}: {repr(checksum)[:80]} is no SHA-256 checksum")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise DamagedError(f"{origin}: {repr(size)[:80]} is no length")
    if not isinstance(media_type, str) or not isinstance(compression, str):
        raise DamagedError(f"{origin}: a blob without media type or compression")
    return Blob(size, media_type, compression, checksum)


def unpack(data: bytes, compression: str, origin: str) -> bytes:
    """A spec blob's text. A small file that would grow without end is refused."""
    if compression == "none":
        return data
    if compression != "gzip":
        raise DamagedError(f"{origin}: compression {compression[:40]!r} is not known")
    try:
        machine = zlib.decompressobj(wbits=31)
        text = machine.decompress(data, SPEC_MAX)
        if machine.unconsumed_tail:
            raise HostileError(f"{origin} unpacks to more than {SPEC_MAX} bytes")
        if not machine.eof:
            raise DamagedError(f"{origin} is cut off")
    except zlib.error as error:
        raise DamagedError(f"{origin} is not gzip: {error}") from None
    return text


def pack(text: bytes) -> bytes:
    """gzip, the same bytes for the same text."""
    return gzip.compress(text, compresslevel=6, mtime=0)
