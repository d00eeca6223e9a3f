"""Put, get and the index, in one process."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock.store import DamagedError, HostileError, Store, simple_spec

from .support import hashes, node, numbered, spec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", durable=False)


def pointer(store: Store, view: str | None = None) -> dict[str, Any]:
    with open(store.layout.pointer(view), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def database(store: Store, view: str | None = None) -> dict[str, Any]:
    [blob] = pointer(store, view)["data"]
    with open(store.blob_path(blob["checksum"]), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)["database"]
    return found


def test_what_was_put_is_read(store: Store) -> None:
    document, archive = numbered(3)
    entry = store.put(document, archive, views=["e4s"], job="job 7")
    assert (entry.name, entry.version, entry.size) == ("package3", "3.1", len(archive))
    with store.get(entry.hash) or pytest.fail("missed") as build:
        assert build.leased
        assert build.read() == archive
        assert build.spec() == document
        assert build.entry.provenance["job"] == "job 7"
        assert build.entry.node == document["spec"]["nodes"][0]
    assert hashes(store) == hashes(store, "e4s") == [entry.hash]
    assert hashes(store, "other") == []


def test_a_miss_is_none(store: Store) -> None:
    assert store.get("a" * 32) is None
    assert not os.path.exists(store.root), "a reader makes nothing"


def test_the_layout_is_spacks(store: Store) -> None:
    document, archive = numbered(3)
    entry = store.put(document, archive)
    with open(store.manifest_path(entry), encoding="utf-8") as file:
        manifest = json.load(file)
    assert store.manifest_path(entry).endswith(
        f"/v3/manifests/spec/package3/package3-3.1-{entry.hash}.spec.manifest.json"
    )
    assert manifest["version"] == 3
    assert [blob["mediaType"] for blob in manifest["data"]] == [
        "application/vnd.spack.install.v2.tar+gzip",
        "application/vnd.spack.spec.v5+json",
    ]
    for blob in manifest["data"]:
        path = os.path.join(store.root, "blobs", "sha256", blob["checksum"][:2], blob["checksum"])
        assert os.path.getsize(path) == blob["contentLength"]
    assert os.path.exists(os.path.join(store.root, "v3", "layout.json"))


def test_the_index_has_builds_and_what_they_need(store: Store) -> None:
    document, archive = numbered(3)
    root, base = document["spec"]["nodes"]
    store.put(document, archive, views=["e4s"])
    assert store.index() == {"root": 1, "e4s": 1}
    found = database(store)
    assert found["version"] == "8"
    assert found["installs"] == {
        root["hash"]: {"spec": root, "ref_count": 0, "in_buildcache": True},
        base["hash"]: {"spec": base, "ref_count": 1, "in_buildcache": False},
    }
    assert pointer(store)["generation"] == 1
    store.put(spec(base), b"base")
    store.index()
    assert database(store)["installs"][base["hash"]]["in_buildcache"] is True
    assert database(store, "e4s")["installs"][base["hash"]]["in_buildcache"] is False, "it is not in that view"


def test_the_index_does_not_depend_on_the_order(tmp_path: Path) -> None:
    documents: list[Any] = []
    for order in (range(30), reversed(range(30))):
        store = Store(tmp_path / f"store{len(documents)}", durable=False)
        for number in order:
            store.put(*numbered(number), views=[f"view{number % 3}"])
        store.index()
        documents.append([pointer(store, view)["data"] for view in (None, "view0", "view1", "view2")])
    assert documents[0] == documents[1]


def test_the_same_build_twice_is_one(store: Store) -> None:
    document, archive = numbered(3)
    store.put(document, archive, views=["a"])
    again = store.put(document, b"another archive", views=["b"])
    assert again.size == len(archive), "who comes second adopts what is there"
    [entry] = store.entries()
    assert entry.views == ("a", "b")
    generation = store.snapshot().generation
    store.put(document, archive, views=["a"])
    assert store.snapshot().generation == generation, "nothing to add, no generation"


def test_snapshots_keep_what_deltas_said(store: Store) -> None:
    for number in range(150):
        store.put(*numbered(number))
    listing = store.chain.listing()
    assert listing.snapshot >= 64
    assert hashes(Store(store.root)) == sorted(numbered(number)[0]["spec"]["nodes"][0]["hash"] for number in range(150))
    assert Store(store.root).snapshot().document() == store.snapshot().document()


def test_put_all_makes_a_generation_per_batch(store: Store) -> None:
    ticks: list[int] = []
    entries = list(store.put_all(((*numbered(number), ["v"]) for number in range(100)), progress=ticks.append))
    assert [entry.version for entry in entries] == [f"{number}.1" for number in range(100)]
    assert sum(ticks) == 100
    assert store.snapshot().generation == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../etc"},
        {"name": "a/b"},
        {"name": "a\0b"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": 7},
        {"version": "1\t2"},
        {"version": ".."},
        {"version": None},
        {"hash": "../../../../../../../etc/passwd.."},
        {"hash": "A" * 32},
        {"dependencies": {}},
        {"dependencies": [7]},
        {"dependencies": [{"hash": "x"}]},
    ],
)
def test_hostile_specs_are_refused_and_change_nothing(store: Store, bad: dict[str, Any]) -> None:
    document = spec(node("good") | bad)
    with pytest.raises((HostileError, DamagedError)):
        store.put(document, b"archive")
    assert not os.path.exists(store.root)


@pytest.mark.parametrize("view", ["..", "a/b", "a,b", "", "index.manifest.json", "a\0"])
def test_hostile_views_are_refused(store: Store, view: str) -> None:
    with pytest.raises(HostileError):
        store.put(simple_spec("a", "1"), b"", views=[view])
    assert hashes(store) == []


def test_a_damaged_archive_is_named_and_not_served(store: Store) -> None:
    entry = store.put(*numbered(3))
    build = store.get(entry.hash)
    assert build is not None
    path = build.archive
    build.close()
    with open(path, "r+b") as file:
        file.seek(10)
        file.write(b"X")
    with pytest.raises(DamagedError, match=os.path.basename(path)):
        store.get(entry.hash)


def test_a_blob_that_vanished_is_a_miss(store: Store) -> None:
    entry = store.put(*numbered(3))
    with store.get(entry.hash) or pytest.fail("missed") as build:
        os.unlink(build.archive)
    assert store.get(entry.hash) is None


def test_putting_a_broken_build_again_mends_it(store: Store) -> None:
    document, archive = numbered(3)
    entry = store.put(document, archive)
    with store.get(entry.hash) or pytest.fail("missed") as build:
        os.unlink(build.archive)
    store.put(document, archive)
    with store.get(entry.hash) or pytest.fail("missed") as build:
        assert build.read() == archive


def test_odd_versions_get_polite_names(store: Store) -> None:
    document = spec(node("a", "git.main/x=1.0"))
    entry = store.put(document, b"x")
    assert os.path.basename(store.manifest_path(entry)).startswith("a-git.main_x_1.0-")
    assert entry.version == "git.main/x=1.0"
