"""Engines of servers: found by scheme or entry point, made once per address, and never called in an event loop."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

import interlock
from interlock import (
    AsyncLock,
    AsyncNamespace,
    Lock,
    RLock,
    RWLock,
    Semaphore,
    Timeout,
    UnsupportedError,
    acquire_all,
    acquire_all_async,
    connect,
    inspect,
)
from interlock._target import resolve
from interlock._wait.workers import MOST, Workers, workers
from interlock.testing import conformance

from . import remote_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from .remote_engine import NowhereEngine


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another package had brought the engine."""
    info = tmp_path / "nowhere_locks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nowhere-locks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[interlock.engines]\nnowhere = tests.remote_engine\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


pytestmark = pytest.mark.usefixtures("installed")


class Nowhere:
    engine = "nowhere"

    def make_target(self, directory: Path) -> str:
        return f"nowhere://host#{directory}"

    @pytest.fixture(autouse=True)
    def _quiet(self, installed: None) -> Iterator[None]:
        yield
        workers().settle()


class TestBlockingEngine(Nowhere, conformance.BlockingEngineSuite):
    pass


class TestAsyncioEngine(Nowhere, conformance.AsyncioEngineSuite):
    pass


class TestTrioEngine(Nowhere, conformance.TrioEngineSuite):
    pass


class TestBlockingLock(Nowhere, conformance.BlockingLockSuite):
    pass


class TestAsyncioLock(Nowhere, conformance.AsyncioLockSuite):
    pass


class TestTrioLock(Nowhere, conformance.TrioLockSuite):
    pass


class TestMixed(Nowhere, conformance.MixedSuite):
    pass


def engine_of(target: str) -> NowhereEngine:
    return cast("NowhereEngine", resolve(target).engine)


def test_found_by_its_entry_point() -> None:
    with Lock("nowhere://host#a") as hold:
        assert hold.token == 1
        assert inspect("nowhere://host#a").facts == {"name": "a"}
    assert isinstance(resolve("nowhere://host#a").engine, remote_engine.NowhereEngine)


def test_one_engine_for_each_address() -> None:
    same = engine_of("nowhere://one#a")
    assert engine_of("nowhere://ONE#b") is same
    others = [engine_of(f"nowhere://{rest}#a") for rest in ("two", "one:1", "u@one", "one/x", "one?il_colour=red")]
    assert len({id(each) for each in [same, *others]}) == 6
    assert Lock("nowhere://one#a", ttl=3)._line.engine is not same
    assert Lock("nowhere://one#a", ttl=3)._line is Lock("nowhere://one#a", ttl=3)._line


def test_options() -> None:
    assert engine_of("nowhere://h?il_ttl=2.5#a").ttl == 2.5
    assert cast("Any", Lock("nowhere://h#a", ttl=4)._line.engine).ttl == 4
    with pytest.raises(ValueError, match=r"unknown options il_size; there are il_colour, il_ttl"):
        Lock("nowhere://h?il_size=1#a")
    with pytest.raises(ValueError, match="leave ttl out"):
        Lock("nowhere://h?il_ttl=1#a", ttl=2)
    for bad in ("x", "0", "-1", "inf", "nan"):
        with pytest.raises(ValueError, match="il_ttl"):
            Lock(f"nowhere://h?il_ttl={bad}#a")
    with pytest.raises(TypeError, match="ttl"):
        Lock("nowhere://h#a", ttl=True)
    with pytest.raises(UnsupportedError, match="lock files"):
        Lock("nowhere://h#a", primitive="marker")
    with pytest.raises(ValueError, match="names no lock"):
        Lock("nowhere://h")
    with pytest.raises(ValueError, match="no host"):
        Lock("nowhere://#a")
    with pytest.raises(UnsupportedError, match="read-write"):
        RWLock("nowhere://h#a")
    with pytest.raises(UnsupportedError, match="semaphores"):
        Semaphore("nowhere://h#a", 2)


def test_two_packages_that_bring_one_scheme(tmp_path: Path) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[interlock.engines]\nnowhere = somewhere.else\n")
    with pytest.raises(UnsupportedError, match=r"several packages.*somewhere\.else, tests\.remote_engine"):
        Lock("nowhere://h#a")


def test_credentials_are_shown_nowhere() -> None:
    url = "nowhere://user:SECRET@secrets#a"
    lock = Lock(url)
    with lock as hold, pytest.raises(Timeout) as caught:
        Lock(url).acquire(0)
    shown = [repr(lock), lock.resource, repr(hold), hold.resource, str(caught.value), repr(caught.value)]
    shown += [repr(inspect(url)), repr(resolve(url).engine), lock._line.key, lock._line.resource, repr(lock._line)]
    with connect("nowhere://user:SECRET@secrets") as names:
        shown += [repr(names), repr(names.lock("a"))]
    assert not [each for each in shown if "SECRET" in each]
    with pytest.raises(TypeError, match="credentials"):
        pickle.dumps(lock)
    with pytest.raises(TypeError):
        pickle.dumps(names)


def test_pickled_without_credentials() -> None:
    for lock in (Lock("nowhere://h?il_ttl=3#a%20b", timeout=4), RLock("nowhere://h#a", ttl=7), AsyncLock("nowhere://h#a")):
        again = pickle.loads(pickle.dumps(lock))
        assert again._line is lock._line
        assert again._timeout == lock._timeout


def test_in_a_thread_requests_are_made_there() -> None:
    its = engine_of("nowhere://inline#a")
    with Lock("nowhere://inline#a"):
        pass
    Lock("nowhere://inline#a").acquire().release()
    assert {thread for _, thread in its.requests} == {threading.get_ident()}
    assert [what for what, _ in its.requests] == ["try now", "release"] * 2


def test_a_release_that_nobody_waits_for_is_made_in_the_background() -> None:
    its = engine_of("nowhere://dropped#a")
    with pytest.warns(ResourceWarning):
        Lock("nowhere://dropped#a").acquire()
    workers().settle()
    assert [what for what, _ in its.requests] == ["try now", "release"]
    assert its.requests[1][1] != threading.get_ident()
    with Lock("nowhere://dropped#a").acquire(0):
        pass


RUN: list[Callable[[Callable[[], Coroutine[Any, Any, None]]], None]] = [
    lambda body: asyncio.run(body()),
    lambda body: trio.run(body),
]


@pytest.mark.parametrize("run", RUN, ids=["asyncio", "trio"])
def test_no_request_in_an_event_loop(run: Callable[..., None]) -> None:
    target = "nowhere://loop#a"
    its = engine_of(target)
    its.requests.clear()

    async def body() -> None:
        lock = AsyncLock(target)
        async with lock:
            with pytest.raises(Timeout):
                await AsyncLock(target).acquire(0)
            assert await AsyncLock(target).try_acquire() is None
        async with await lock.acquire() as hold:
            await hold.renew()
        hold = await lock.acquire()
        await hold.release()
        async with await acquire_all_async([lock]):
            pass
        await (await acquire_all_async([lock])).release()
        async with AsyncNamespace("nowhere://loop") as names, names.lock("a"):
            assert (await names.inspect("a")).holders

    run(body)
    assert its.requests
    assert threading.get_ident() not in {thread for _, thread in its.requests}
    assert "try now" not in [what for what, _ in its.requests]
    assert [what for what, _ in its.requests].count("release") == [what for what, _ in its.requests].count("try") - 0


def test_locks_of_several_places_have_one_order() -> None:
    locks = [Lock("nowhere://b#x"), Lock("nowhere://a#x"), Lock("memory://#x")]
    with acquire_all(locks) as holds:
        assert [hold.resource for hold in holds] == ["nowhere://b#x", "nowhere://a#x", "memory://#x"]
    with pytest.raises(ValueError, match="same resource"):
        acquire_all([Lock("nowhere://a#x"), Lock("nowhere://a#x", ttl=3)])


class TestNamespace:
    def test_names_mean_themselves(self) -> None:
        with connect("nowhere://names") as names:
            locks = [names.lock(name) for name in ("a", "A", "a/b", "a#b", "a%23b", "ü ", "x" * 1000, "\0", "?")]
            assert len({lock._line for lock in locks}) == len(locks)
            assert names.inspect("a#b").facts == {"name": "a#b"}
            for bad in ("", 3):
                with pytest.raises((ValueError, TypeError), match="name"):
                    names.lock(cast("Any", bad))

    def test_options_and_ttl(self) -> None:
        names = connect("nowhere://names", ttl=5)
        assert cast("Any", names.lock("a", timeout=3)._line.engine).ttl == 5
        with names.rlock("a") as one, names.rlock("a") as two:
            assert one.token == two.token

    def test_closing_lets_the_last_one_close_the_engine(self) -> None:
        one, two = connect("nowhere://closing"), connect("nowhere://closing")
        its = engine_of("nowhere://closing#x")
        one.close()
        one.close()
        assert its.closed == 0
        with two:
            pass
        assert its.closed == 1
        with pytest.raises(ValueError, match="closed"):
            one.lock("a")
        with Lock("nowhere://closing#x"):  # its engine goes on
            pass

    def test_directories_and_memory(self, tmp_path: Path) -> None:
        with connect(f"file://{tmp_path}/locks") as names:
            with names.lock("Deploy/eu"), names.rwlock("r").read(), names.semaphore("s", 2):
                pass
            assert (tmp_path / "locks" / "%44eploy%2Feu.lock").exists()
        with connect("memory://") as names, names.lock("x"):
            assert interlock.inspect("memory://#x").holders

    @pytest.mark.parametrize("url", ["nowhere://h#a", "file:///x#a"])
    def test_a_namespace_names_no_lock(self, url: str) -> None:
        with pytest.raises(ValueError, match="names a lock"):
            connect(url)

    def test_no_url(self) -> None:
        with pytest.raises(TypeError):
            connect(cast("Any", 3))
        with pytest.raises(ValueError, match="URL"):
            connect("just a path")
        with pytest.raises(UnsupportedError, match="gopher"):
            connect("gopher://h")


def test_workers_are_few_and_all_jobs_are_done() -> None:
    its, threads, done = Workers(), set(), []

    def job(number: int) -> None:
        threads.add(threading.get_ident())
        done.append(number)

    for number in range(500):
        its.submit(lambda number=number: job(number))  # type: ignore[misc]
    its.settle(20)
    assert sorted(done) == list(range(500))
    assert 1 <= len(threads) <= MOST


def test_jobs_are_done_at_the_end_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from CPython 3.12 on when the interpreter ends: what a program held would stay locked for its ttl."""
    its, done = Workers(), []

    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("interlock._wait.workers.start_new_thread", refuse)
    its.submit(lambda: done.append(1))
    its.submit(lambda: done.append(2))
    its.settle(20)
    assert done == [1, 2]


def test_a_job_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    its = Workers()
    its.submit(lambda: 1 / 0)
    its.settle(20)
    assert "in the background failed" in caplog.text


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("redis", "redis", "redis"), ("postgresql", "psycopg", "postgres"), ("zookeeper", "kazoo", "zookeeper")],
)
def test_a_client_that_is_missing_is_named_with_the_lock(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    url = f"{scheme}://nobody-of-{scheme}/"
    with pytest.raises(UnsupportedError) as caught:
        interlock.Lock(url + "#a")
    assert str(caught.value) == f"{url} needs the package {package}: pip install 'interlock[{extra}]'"
