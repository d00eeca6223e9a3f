"""gc: which builds go, which files stay."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock import UnsupportedError
from interlock.store import Store, files, sweep
from interlock.store.rows import State

from .storm import Liar
from .support import hashes, node, numbered, spec

if TYPE_CHECKING:
    from pathlib import Path

    from interlock.store.layout import Layout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", durable=False)
    for number in range(6):
        store.put(*numbered(number))
    return store


def blobs(store: Store) -> set[str]:
    return {name for _where, _inner, names in os.walk(store.layout.blobs) for name in names}


def test_without_rules_only_orphans_go(store: Store) -> None:
    store.index()
    before = hashes(store)
    with store.blob([b"nobody refers to this"]) as (checksum, _size):
        pass
    assert store.gc(grace=3600).young == 1
    assert checksum in blobs(store)
    done = store.gc(grace=0)
    assert (done.builds, done.blobs, done.freed) == ((), 1, 21)
    assert checksum not in blobs(store)
    assert hashes(store) == before


def test_a_keep_list_keeps_what_it_needs(store: Store) -> None:
    base = node("base", "3")
    store.put(spec(base), b"base")
    done = store.gc(keep=["package3"], grace=0)
    assert len(done.builds) == 5
    assert {entry.name for entry in store.entries()} == {"package3", "base"}
    assert store.verify().problems == ()


def rule(rows: State, layout: Layout, **rules: Any) -> list[str]:
    rules = {"keep": None, "max_age": None, "max_size": None, **rules}
    doomed = sweep.choose(rows, rules["keep"], rules["max_age"], rules["max_size"], 2_000_000_000, layout)
    return [row.name for row in doomed]


def test_rules(store: Store) -> None:
    state = store.chain.load()
    ages = {f"package{number}": f"203{number}-01-01T00:00:00Z" for number in range(6)}
    rows = {
        row.hash: row._replace(provenance=f'{{"when": "{ages[row.name]}"}}', size=100) for row in state.builds()
    }
    state, layout = State(1, rows), store.layout
    assert rule(state, layout) == []
    assert rule(state, layout, keep=[]) == [f"package{number}" for number in range(6)]
    assert rule(state, layout, max_size=250) == ["package0", "package1", "package2", "package3"]
    assert rule(state, layout, max_size=250, keep=["package0@*"]) == ["package1", "package2", "package3", "package4"]
    assert rule(state, layout, max_age=2_000_000_000 - 1_950_000_000) == ["package0", "package1"]
    some = state.builds()[0]
    assert some.name not in rule(state, layout, keep=[f"/{some.hash[:6]}"])
    assert some.name not in rule(state, layout, keep=[some.hash])


def test_what_somebody_holds_stays(store: Store) -> None:
    held = hashes(store)[2]
    with store.get(held) or pytest.fail("missed") as build:
        done = store.gc(keep=[], grace=0)
        assert len(done.builds) == 5
        assert done.held
        assert hashes(store) == [held]
        build.read()
        build.spec()
    assert store.gc(keep=[], grace=0).builds == (held,)


def test_a_dry_run_changes_nothing(store: Store) -> None:
    before = hashes(store), blobs(store)
    dry = store.gc(keep=[], grace=0, dry_run=True)
    assert (hashes(store), blobs(store)) == before
    wet = store.gc(keep=[], grace=0)
    assert sorted(dry.builds) == sorted(wet.builds)
    assert dry.dry_run


def test_a_second_gc_does_nothing(store: Store) -> None:
    hold = store.locks.named("gc").try_acquire()
    assert hold is not None
    assert store.gc(keep=[]).skipped
    hold.release()
    assert len(hashes(store)) == 6


def test_without_locks_nothing_is_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, exclusive: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.ops, "flock", no_locks)
    mine = Store(store.root, lock=Liar, durable=False)
    with mine.get(hashes(mine)[0]) or pytest.fail("missed") as build:
        assert not build.leased
        assert build.read()
    with pytest.raises(UnsupportedError, match="no locks"):
        mine.gc(keep=[], grace=0)
    assert len(hashes(mine)) == 6
    mine.put(*numbered(9))
    assert len(hashes(mine)) == 7


def test_an_adopted_orphan_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that comes between gc's two looks keeps its blobs."""
    with store.blob([b"\x1f\x8bshared"]) as (checksum, _size):
        pass
    other = Store(store.root, durable=False)
    real = files.sole
    done: list[str] = []

    def sole(path: str) -> int | None:
        if path.endswith(checksum) and not done:
            done.append(path)
            other.put(spec(node("late")), b"\x1f\x8bshared")
        return real(path)

    monkeypatch.setattr(files, "sole", sole)
    store.gc(grace=0)
    assert done
    assert checksum in blobs(store)
    assert store.verify().problems == ()
