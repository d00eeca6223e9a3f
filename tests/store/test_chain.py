"""The chain of generations, with writers that are stopped at the worst moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock
from interlock.store import DamagedError, Store, chain, files, index, layout, locks

from .storm import Liar
from .support import hashes, numbered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def once_before(
    monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[..., bool], act: Callable[[], object]
) -> None:
    """Do something just before the first such call."""
    real = getattr(files.ops, name)
    left = [1]

    def acting(*args: Any) -> Any:
        if left[0] and when(*args):
            left[0] = 0
            act()
        return real(*args)

    monkeypatch.setattr(files.ops, name, acting)


def is_delta(_source: str, final: str) -> bool:
    return os.path.basename(final).startswith("d0")


def all_of(*numbers: int) -> list[str]:
    return sorted(numbered(number)[0]["spec"]["nodes"][0]["hash"] for number in numbers)


def test_who_comes_second_takes_the_next_number(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Store(root, lock=Liar, durable=False), Store(root, lock=Liar, durable=False)
    first.put(*numbered(0))
    once_before(monkeypatch, "link", is_delta, lambda: second.put(*numbered(1)))
    first.put(*numbered(2))
    assert hashes(first) == hashes(second) == all_of(0, 1, 2)
    assert first.chain.retries == 1
    assert first.snapshot().generation == 3


def test_a_number_from_the_past_is_not_a_commit(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer sleeps before its link until its number was used, contained in two snapshots and cleared away."""
    first, second = Store(root, lock=Liar, durable=False), Store(root, lock=Liar, durable=False)
    first.put(*numbered(0))

    def meanwhile() -> None:
        for number in range(1, 6):
            second.put(*numbered(number))
            second.chain.compact()
        assert not os.path.exists(os.path.join(second.layout.chain, "d000000000002")), "the name is free"

    once_before(monkeypatch, "link", is_delta, meanwhile)
    first.put(*numbered(9))
    assert hashes(first) == hashes(Store(root)) == all_of(0, 1, 2, 3, 4, 5, 9)


def test_a_reader_whose_files_are_cleared_away_starts_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Store(root, durable=False)
    for number in range(5):
        writer.put(*numbered(number))
    reader = Store(root)
    real = layout.read_file
    left = [1]

    def read_file(path: str, limit: int) -> bytes:
        if left[0]:
            left[0] = 0
            for number in range(5, 8):
                writer.put(*numbered(number))
                writer.chain.compact()
        return real(path, limit)

    monkeypatch.setattr(chain, "read_file", read_file)
    assert hashes(reader) == all_of(*range(8))


def test_a_listing_that_misses_a_name_loses_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root, durable=False)
    for number in range(5):
        store.put(*numbered(number))
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in real(path) if name != "d000000000003"])
    assert hashes(Store(root)) == all_of(*range(5))
    store.chain.compact()
    monkeypatch.undo()
    assert hashes(Store(root)) == all_of(*range(5))
    assert store.chain.listing().snapshot == 5


def test_a_gap_is_filled_for_good_before_a_snapshot(root: str) -> None:
    store = Store(root, durable=False)
    for number in range(5):
        store.put(*numbered(number))
    os.unlink(os.path.join(store.layout.chain, "d000000000003"))
    fresh = Store(root, durable=False)
    assert hashes(fresh) == all_of(0, 1, 3, 4)
    fresh.chain.compact()
    assert os.path.exists(os.path.join(store.layout.chain, "d000000000003"))
    assert fresh.verify(repair=True).clean
    assert hashes(fresh) == all_of(*range(5)), "the build's files were there, so it is listed again"


def test_a_late_writer_mends_the_older_pointer_it_put_back(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late, quick = Store(root, lock=Liar, durable=False), Store(root, lock=Liar, durable=False)
    late.put(*numbered(0))

    def meanwhile() -> None:
        quick.put(*numbered(1))
        quick.index()
        pointer = index.read_pointer(quick.layout.pointer(None))
        assert pointer is not None
        assert pointer.generation == 2

    once_before(monkeypatch, "replace", lambda _source, final: final == late.layout.pointer(None), meanwhile)
    assert late.index() == {"root": 2}
    pointer = index.read_pointer(late.layout.pointer(None))
    assert pointer is not None
    assert pointer.generation == 2
    assert late.verify().problems == ()


def test_a_holder_that_stands_still_stops_nobody(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.01)
    monkeypatch.setattr(locks.Locks.briefly.__wrapped__, "__defaults__", (0.01,))  # type: ignore[attr-defined]
    store = Store(root, durable=False)
    with Lock(os.path.join(store.layout.locks, "generations.lock")):
        store.put(*numbered(0))
    assert hashes(store) == all_of(0)


@pytest.mark.parametrize("place", ["memory://", "file:///{tmp}/locks", "{tmp}/locks"])
def test_locks_live_elsewhere(tmp_path: Path, place: str) -> None:
    store = Store(tmp_path / "store", lock=place.format(tmp=tmp_path), durable=False)
    store.put(*numbered(0))
    with store.get_or_build(numbered(1)[0], lambda _job: b"built") as build:
        assert build.read() == b"built"
    assert not os.path.exists(store.layout.locks)
    assert os.path.exists(tmp_path / "locks") == ("memory" not in place)


def test_lost_reply_of_a_link(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network filesystems repeat a request whose answer was lost: the name exists then, and it is our own."""
    real = files.ops.link

    def link(source: str, final: str) -> None:
        real(source, final)
        raise FileExistsError(17, "File exists", final)

    monkeypatch.setattr(files.ops, "link", link)
    store = Store(root, durable=False)
    store.put(*numbered(0))
    assert store.snapshot().generation == 1
    assert hashes(store) == all_of(0)


def test_seals() -> None:
    text = chain.seal(["a", "b"])
    assert chain.unseal(text, "x") == ["a", "b"]
    for place in range(len(text)):
        with pytest.raises(DamagedError):
            chain.unseal(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :], "x")
        with pytest.raises(DamagedError):
            chain.unseal(text[:place], "x")
