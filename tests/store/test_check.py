"""verify finds each kind of damage, names it, and mends it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from interlock.store import DamagedError, Store

from .support import hashes, numbered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", durable=False)
    for number in range(6):
        store.put(*numbered(number), views=["v"])
    store.index()
    return store


def archive(store: Store, number: int) -> str:
    build = store.get(numbered(number)[0]["spec"]["nodes"][0]["hash"])
    assert build is not None
    with build:
        return build.archive


def manifest(store: Store, number: int) -> str:
    entry = store.find(numbered(number)[0]["spec"]["nodes"][0]["hash"])
    assert entry is not None
    return store.manifest_path(entry)


def flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(20)
        byte = file.read(1)
        file.seek(20)
        file.write(bytes([byte[0] ^ 1]))


def newest(store: Store) -> str:
    listing = store.chain.listing()
    return os.path.join(store.layout.chain, listing.deltas[listing.tip])


def cut(path: str) -> None:
    os.truncate(path, 10)


def overwrite(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("{" * 100_000)


DAMAGE: dict[str, Callable[[Store], tuple[str, str]]] = {
    "a bit of an archive": lambda store: ("damaged-blob", archive(store, 4)),
    "a missing archive": lambda store: ("missing", archive(store, 4)),
    "a cut archive": lambda store: ("damaged-blob", archive(store, 4)),
    "a cut manifest": lambda store: ("damaged-manifest", manifest(store, 4)),
    "a missing manifest": lambda store: ("missing", manifest(store, 4)),
    "a hostile manifest": lambda store: ("damaged-manifest", manifest(store, 4)),
    "a bit of a generation": lambda store: ("damaged-list", newest(store)),
    "a cut index": lambda store: ("damaged-index", store.layout.pointer("v")),
    "a missing layout.json": lambda store: ("missing", store.layout.layout_file),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_mended(store: Store, name: str) -> None:
    assert store.verify().problems == ()
    kind, path = DAMAGE[name](store)
    if "missing" in name:
        os.unlink(path)
    else:
        (flip if "bit" in name else overwrite if "hostile" in name else cut)(path)
    fresh = Store(store.root, durable=False)
    found = fresh.verify()
    assert not found.clean
    assert (kind, path) in [(problem.kind, problem.path) for problem in found.problems], found.problems
    mended = fresh.verify(repair=True, grace=0)
    assert mended.clean, mended.problems
    assert Store(store.root).verify().problems == ()
    for hash_ in hashes(Store(store.root)):
        with Store(store.root).get(hash_) or pytest.fail("listed, and not there") as build:
            build.read()
    store.put(*numbered(4), views=["v"])
    store.put(*numbered(5), views=["v"])
    assert len(hashes(store)) == 6


def test_what_no_list_has_gets_into_one(store: Store) -> None:
    for number in store.chain.listing().deltas.values():
        os.unlink(os.path.join(store.layout.chain, number))
    fresh = Store(store.root, durable=False)
    assert fresh.verify(repair=True).clean
    assert len(hashes(fresh)) == 6
    assert len(hashes(fresh, "v")) == 6, "Spack's index still knew the views"


def test_views_survive_a_damaged_list(store: Store) -> None:
    """One list of several: those whose only list it was, and those of which it only said a further view."""
    store.put(*numbered(0), views=["w"])
    only_list, only_view = store.chain.listing().deltas[3], newest(store)
    store.put(*numbered(7))
    store.index()
    for name in (only_list, only_view):
        flip(os.path.join(store.layout.chain, name))
    fresh = Store(store.root, durable=False)
    assert fresh.verify(repair=True).clean
    assert len(hashes(fresh)) == 7
    assert len(hashes(fresh, "v")) == 6
    assert hashes(fresh, "w") == [numbered(0)[0]["spec"]["nodes"][0]["hash"]]
    assert Store(store.root).verify().problems == ()


def test_a_damaged_list_is_not_read(store: Store) -> None:
    flip(newest(store))
    with pytest.raises(DamagedError, match="d000000000006"):
        Store(store.root).snapshot()


def test_a_damaged_snapshot_costs_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", durable=False)
    for number in range(200):
        store.put(*numbered(number), views=[f"v{number % 2}"])
    before = store.snapshot().document("v1")
    listing = store.chain.listing()
    flip(os.path.join(store.layout.chain, listing.snapshots[listing.snapshot]))
    fresh = Store(store.root, durable=False)
    assert fresh.verify(repair=True).clean
    assert fresh.snapshot().document("v1") == before


def test_what_is_read_is_not_moved_away(store: Store) -> None:
    hash_ = numbered(4)[0]["spec"]["nodes"][0]["hash"]
    with store.get(hash_) or pytest.fail("missed") as build:
        flip(build.archive)
        found = store.verify(repair=True)
        assert not found.clean
        assert os.path.exists(build.archive)
    assert store.verify(repair=True).clean
    assert store.get(hash_) is None


def test_verify_writes_nothing_without_repair(store: Store) -> None:
    cut(archive(store, 4))

    def facts() -> list[tuple[str, int]]:
        return sorted(
            (os.path.join(where, name), os.stat(os.path.join(where, name)).st_mtime_ns)
            for where, inner, names in os.walk(store.root)
            for name in [*inner, *names]
        )

    before = facts()
    store.verify()
    assert facts() == before


def test_a_wrong_index_of_the_right_generation_is_found(store: Store) -> None:
    path = store.layout.pointer(None)
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    with open(store.layout.pointer("v"), encoding="utf-8") as file:
        other = json.load(file)
    store.put(*numbered(7))
    store.index()
    document["generation"] = store.snapshot().generation
    assert document["data"] == other["data"]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    assert [problem.kind for problem in store.verify().problems] == ["damaged-index"]
    assert store.verify(repair=True).clean
    assert store.verify().problems == ()
