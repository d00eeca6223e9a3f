"""get_or_build in one process; more in test_many."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from interlock import Timeout
from interlock.store import BuildFailed, Job, Store, Waiting, simple_spec, single

from .storm import Liar

if TYPE_CHECKING:
    from pathlib import Path

SPEC = simple_spec("a", "1")
HASH = SPEC["spec"]["nodes"][0]["hash"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", durable=False)


def test_it_builds_once(store: Store) -> None:
    directories = []

    def build(job: Job) -> str:
        directories.append(job.directory)
        assert job.spec == SPEC
        path = os.path.join(job.directory, "archive")
        with open(path, "wb") as file:
            file.write(b"built")
        return path

    for _ in range(2):
        with store.get_or_build(SPEC, build, views=["v"]) as found:
            assert found.read() == b"built"
            assert found.leased
    assert len(directories) == 1
    assert not os.path.exists(directories[0])
    assert os.listdir(store.layout.building) == []
    assert [entry.hash for entry in store.entries("v")] == [HASH]


def test_another_view_builds_nothing(store: Store) -> None:
    store.put(SPEC, b"put")
    with store.get_or_build(SPEC, lambda _job: pytest.fail("built"), views=["w"]) as found:
        assert found.entry.views == ("w",)


def test_a_failure_is_raised_and_the_next_call_builds(store: Store) -> None:
    def fail(job: Job) -> bytes:
        raise KeyError("compiler")

    for _ in range(2):
        with pytest.raises(KeyError, match="compiler"):
            store.get_or_build(SPEC, fail)
    with store.get_or_build(SPEC, lambda _job: b"good") as found:
        assert found.read() == b"good"


def test_those_who_wait_see_progress_and_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "TOLD_FIRST", 0.05)
    started, seen = threading.Event(), threading.Event()
    told: list[Waiting] = []
    errors: list[BaseException] = []

    def slow(job: Job) -> bytes:
        job.tell("linking")
        started.set()
        assert seen.wait(60)
        raise RuntimeError("no space")

    def first() -> None:
        try:
            store.get_or_build(SPEC, slow)
        except RuntimeError as error:
            errors.append(error)

    def progress(state: Waiting) -> None:
        told.append(state)
        seen.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    with pytest.raises(BuildFailed, match="RuntimeError: no space") as caught:
        Store(store.root).get_or_build(SPEC, lambda _job: pytest.fail("built"), progress=progress)
    thread.join(60)
    assert len(errors) == 1
    assert caught.value.kind == "RuntimeError"
    assert str(os.getpid()) in caught.value.builder
    assert told[0].key == HASH
    assert told[0].news == "linking"


def test_a_builder_without_an_archive_has_failed_for_those_who_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, waiting = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    failure = single._failure

    def look(store: Store, hash_: str) -> dict[str, str] | None:
        """The second call has looked for former failures before the first one fails."""
        found = failure(store, hash_)
        if threading.current_thread() is threading.main_thread():
            waiting.set()
        return found

    def nothing(job: Job) -> str:
        started.set()
        assert waiting.wait(60)
        return os.path.join(job.directory, "none")

    def first() -> None:
        try:
            Store(store.root, durable=False).get_or_build(SPEC, nothing)
        except FileNotFoundError as error:
            errors.append(error)

    monkeypatch.setattr(single, "_failure", look)
    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    with pytest.raises(BuildFailed, match="FileNotFoundError"):
        store.get_or_build(SPEC, lambda _job: pytest.fail("built"))
    thread.join(60)
    assert len(errors) == 1


@pytest.mark.parametrize("told", [False, True])
def test_a_timeout(store: Store, told: bool) -> None:
    hold = store.locks.named(f"build-{HASH}").try_acquire()
    assert hold is not None
    with pytest.raises(Timeout):
        store.get_or_build(
            SPEC, lambda _job: b"", timeout=0.05, progress=(lambda _state: None) if told else None
        )
    hold.release()


def test_two_builders_under_a_lock_that_lies_get_one_result(tmp_path: Path) -> None:
    one = Store(tmp_path / "store", lock=Liar, durable=False)
    two = Store(tmp_path / "store", lock=Liar, durable=False)

    def build(job: Job) -> bytes:
        with two.get_or_build(SPEC, lambda _job: b"quick") as found:
            assert found.read() == b"quick"
        return b"slow"

    with one.get_or_build(SPEC, build) as found:
        assert found.read() == b"quick"
    assert one.verify().problems == ()


def test_a_damaged_build_is_built_again(store: Store) -> None:
    with store.get_or_build(SPEC, lambda _job: b"one") as found:
        path = found.archive
    with open(path, "r+b") as file:
        file.write(b"X")
    with store.get_or_build(SPEC, lambda _job: b"two") as found:
        assert found.read() == b"two"
    with store.get(HASH) or pytest.fail("missed") as found:
        assert found.read() == b"two"
