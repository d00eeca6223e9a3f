"""Mirrors that Spack wrote: read in place, taken over, imported; and those that a stranger wrote."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock.store import Store, StoreError

from .support import hashes, node, numbered, spec

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def blob(root: Path, data: bytes) -> str:
    checksum = hashlib.sha256(data).hexdigest()
    write(root / "blobs" / "sha256" / checksum[:2] / checksum, data)
    return checksum


def record(root: Path, data: bytes, media_type: str, compression: str) -> dict[str, Any]:
    return {
        "contentLength": len(data),
        "mediaType": media_type,
        "compression": compression,
        "checksumAlgorithm": "sha256",
        "checksum": blob(root, data),
    }


def clearsigned(text: str) -> str:
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}\n"
        "-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n"
    )


def third(root: Path, documents: list[dict[str, Any]], view: str | None = None, signed: bool = False) -> None:
    """A build cache of layout version 3, as Spack writes it."""
    write(root / "v3" / "layout.json", b'{"signing": "gpg"}')
    installs: dict[str, Any] = {}
    for document in documents:
        top = document["spec"]["nodes"][0]
        archive = gzip.compress(f"archive of {top['hash']}".encode(), mtime=0)
        data = [
            record(root, archive, "application/vnd.spack.install.v2.tar+gzip", "gzip"),
            record(
                root, gzip.compress(json.dumps(document).encode()), "application/vnd.spack.spec.v5+json", "gzip"
            ),
        ]
        text = json.dumps({"version": 3, "data": data}, indent=0, separators=(",", ":"))
        name = f"{top['name']}-{top['version']}-{top['hash']}.spec.manifest.json"
        write(
            root / "v3" / "manifests" / "spec" / top["name"] / name, (clearsigned(text) if signed else text).encode()
        )
        installs |= {
            other["hash"]: {"spec": other, "ref_count": 1, "in_buildcache": False}
            for other in document["spec"]["nodes"][1:]
            if other["hash"] not in installs
        }
        installs[top["hash"]] = {"spec": top, "ref_count": 0, "in_buildcache": True}
    index = json.dumps({"database": {"version": "8", "installs": installs}}).encode()
    entry = record(root, index, "application/vnd.spack.db.v8+json", "none")
    where = root / "v3" / "manifests" / "index" / (view or "") / "index.manifest.json"
    write(where, json.dumps({"version": 3, "data": [entry]}).encode())


def second(root: Path, document: dict[str, Any], archive: bytes, signed: bool = False) -> str:
    """A build of layout version 2."""
    top = document["spec"]["nodes"][0]
    stem = f"linux-ubuntu24.04-x86_64_v3-gcc-11.4.0-{top['name']}-{top['version']}-{top['hash']}"
    checksum = hashlib.sha256(archive).hexdigest()
    more = {"buildcache_layout_version": 2, "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": checksum}}
    text = json.dumps(document | more)
    path = root / "build_cache" / (stem + (".spec.json.sig" if signed else ".spec.json"))
    write(path, (clearsigned(text) if signed else text).encode())
    deep = root / "build_cache" / "linux-ubuntu24.04-x86_64_v3" / "gcc-11.4.0" / f"{top['name']}-{top['version']}"
    write(deep / f"{stem}.spack", archive)
    return str(deep / f"{stem}.spack")


DOCUMENTS = [numbered(number)[0] for number in range(4)]
HASHES = sorted(document["spec"]["nodes"][0]["hash"] for document in DOCUMENTS)


def test_what_spack_wrote_is_read_in_place(tmp_path: Path) -> None:
    third(tmp_path, DOCUMENTS)
    third(tmp_path, DOCUMENTS[:2], view="e4s", signed=True)
    before = sorted(os.listdir(tmp_path))
    store = Store(tmp_path)
    assert hashes(store) == HASHES
    assert len(hashes(store, "e4s")) == 2
    with store.get(HASHES[0]) or pytest.fail("missed") as build:
        assert gzip.decompress(build.read()) == f"archive of {HASHES[0]}".encode()
    assert store.verify().problems == ()
    assert sorted(os.listdir(tmp_path)) == before, "a reader writes nothing"


def test_the_first_writer_takes_over(tmp_path: Path) -> None:
    third(tmp_path, DOCUMENTS)
    third(tmp_path, DOCUMENTS[:2], view="e4s", signed=True)
    store = Store(tmp_path, durable=False)
    store.put(*numbered(9), views=["new"])
    assert len(hashes(store)) == 5
    assert len(hashes(store, "e4s")) == 2
    assert sum(entry.signed for entry in store.entries()) == 2
    assert store.index() == {"root": 2, "e4s": 2, "new": 2}
    assert store.verify().problems == ()


def test_what_spack_wrote_is_as_old_as_its_manifest(tmp_path: Path) -> None:
    """Nobody noted when it was published; it was taken for infinitely old, and all of it went."""
    third(tmp_path, DOCUMENTS)
    store = Store(tmp_path, durable=False)
    assert store.gc(max_age=3600, grace=0).builds == ()
    assert hashes(store) == HASHES
    top = DOCUMENTS[0]["spec"]["nodes"][0]
    os.utime(store.layout.manifest(top["name"], top["version"], top["hash"]), (1, 1))
    assert store.gc(max_age=3600, grace=0).builds == (top["hash"],)


def test_a_dry_run_tells_what_the_first_gc_of_a_mirror_would_do(tmp_path: Path) -> None:
    third(tmp_path, DOCUMENTS)
    before = sorted(os.listdir(tmp_path))
    told = Store(tmp_path).gc(max_size=100, dry_run=True)
    assert sorted(os.listdir(tmp_path)) == before
    done = Store(tmp_path, durable=False).gc(max_size=100)
    assert told.builds == done.builds != ()


@pytest.mark.parametrize("signed", [False, True])
def test_import_of_version_3(tmp_path: Path, signed: bool) -> None:
    third(tmp_path / "mirror", DOCUMENTS, signed=signed)
    third(tmp_path / "mirror", DOCUMENTS[:2], view="e4s", signed=signed)
    store = Store(tmp_path / "store", durable=False)
    ticks: list[tuple[str, int, int]] = []
    done = store.import_mirror(tmp_path / "mirror", views=["all"], progress=lambda *tick: ticks.append(tick))
    assert (done.imported, done.present, done.refused) == (4, 0, ())
    assert ticks[-1] == ("builds", 4, 4)
    assert hashes(store) == hashes(store, "all") == HASHES
    assert len(hashes(store, "e4s")) == 2
    for entry in store.entries():
        name = os.path.relpath(store.manifest_path(entry), store.root)
        assert (tmp_path / "mirror" / name).read_bytes() == (tmp_path / "store" / name).read_bytes()
        assert entry.signed == signed
        assert entry.size
    assert store.verify().problems == ()
    again = store.import_mirror(tmp_path / "mirror", views=["all"])
    assert (again.imported, again.present) == (0, 4)


def test_import_of_version_2(tmp_path: Path) -> None:
    for number, document in enumerate(DOCUMENTS):
        second(tmp_path / "mirror", document, b"\x1f\x8barchive %d" % number, signed=number % 2 == 0)
    store = Store(tmp_path / "store", durable=False)
    done = store.import_mirror(tmp_path / "mirror")
    assert (done.imported, done.refused) == (4, ())
    assert hashes(store) == HASHES
    with store.get(DOCUMENTS[2]["spec"]["nodes"][0]["hash"]) or pytest.fail("missed") as build:
        assert build.read() == b"\x1f\x8barchive 2"
        document = build.spec()
    assert "binary_cache_checksum" not in document
    assert document["buildcache_layout_version"] == 2
    assert document["archive_size"] == len(b"\x1f\x8barchive 2")
    assert store.verify().problems == ()


def test_what_is_damaged_is_refused_and_named_and_stops_nothing(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    third(mirror, DOCUMENTS[:2])
    for path in (mirror / "v3" / "manifests" / "spec").rglob("*.json"):
        [archive, _spec] = json.loads(path.read_text())["data"]
        bad = mirror / "blobs" / "sha256" / archive["checksum"][:2] / archive["checksum"]
        data = bad.read_bytes()
        bad.write_bytes(data[:-1] + b"X")
        break
    evil = spec(node("evil") | {"name": "../evil"})
    third(tmp_path / "other", [spec(node("fine"))])
    worse = second(mirror, DOCUMENTS[2], b"\x1f\x8bcut")
    os.truncate(worse, 2)
    second(mirror, DOCUMENTS[3], b"\x1f\x8bgood")
    write(mirror / "build_cache" / "evil.spec.json", json.dumps(evil | {"buildcache_layout_version": 2}).encode())
    write(mirror / "build_cache" / "deep.spec.json", b"[" * 100_000)
    os.mkfifo(mirror / "build_cache" / "pipe.spec.json")
    store = Store(tmp_path / "store", durable=False)
    done = store.import_mirror(mirror)
    assert done.imported == 2
    assert len(done.refused) == 5
    reasons = " ".join(reason for _path, reason in done.refused)
    for word in (str(bad), worse, "deep.spec.json", "evil.spec.json", "pipe.spec.json"):
        assert word in reasons
    assert store.verify().problems == ()
    assert len(hashes(store)) == 2


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 3, "data": {}}',
        b'{"version": 4, "data": []}',
        b'{"version": 3, "data": [{"contentLength": 1, "mediaType": "x", "compression": "none",'
        b' "checksumAlgorithm": "sha256", "checksum": "../../../../etc/passwd"}]}',
        b'{"version": 3, "data": [{"contentLength": -1, "mediaType": "x", "compression": "none",'
        b' "checksumAlgorithm": "sha256", "checksum": "' + b"0" * 64 + b'"}]}',
        b'{"version": 3, "data": [{"contentLength": true, "mediaType": "x", "compression": "none",'
        b' "checksumAlgorithm": "md5", "checksum": "0"}]}',
        b"[" * 200_000,
        b" " * (2 << 20),
        b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: x\n\n{}",
        b"\xff\xfe",
    ],
)
def test_hostile_manifests_are_named(tmp_path: Path, manifest: bytes) -> None:
    store = Store(tmp_path / "store", durable=False)
    entry = store.put(*numbered(1))
    path = store.manifest_path(entry)
    with open(path, "wb") as file:
        file.write(manifest)
    found = Store(store.root).verify()
    assert [(problem.kind, problem.path) for problem in found.problems] == [("damaged-manifest", path)]
    with pytest.raises(StoreError, match="package1"):
        Store(store.root).get(entry.hash)
    assert store.verify(repair=True, grace=0).clean
    assert hashes(Store(store.root)) == []


def test_a_spec_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    bomb = gzip.compress(b" " * (65 << 20), mtime=0)
    data = [
        record(mirror, b"archive", "application/octet-stream", "none"),
        record(mirror, bomb, "application/vnd.spack.spec.v5+json", "gzip"),
    ]
    path = mirror / "v3" / "manifests" / "spec" / "a" / f"a-1-{'a' * 32}.spec.manifest.json"
    write(path, json.dumps({"version": 3, "data": data}).encode())
    done = Store(tmp_path / "store", durable=False).import_mirror(mirror)
    [(where, reason)] = done.refused
    assert where == str(path)
    assert "unpacks to more" in reason


def test_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="neither"):
        Store(tmp_path / "store").import_mirror(tmp_path)
