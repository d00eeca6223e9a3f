"""The shells: options, objects, and what a hold says of itself. What all engines promise is in `conformance`."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncHold,
    AsyncLock,
    AsyncRLock,
    DeadlockError,
    Hold,
    Lock,
    NotHeldError,
    RLock,
    Timeout,
)

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [Lock, RLock, AsyncLock, AsyncRLock]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.mark.parametrize("kind", KINDS)
def test_locks_are_small_and_closed(kind: Any, path: Path) -> None:
    lock = kind(path)
    assert not hasattr(lock, "__dict__")
    assert weakref.ref(lock)() is lock
    assert len({lock, kind(path)}) == 2  # objects, not values: two on one path are two
    with pytest.raises(AttributeError):
        lock.tiemout = 3


def test_a_hold_cannot_be_given_names_that_mean_nothing(path: Path) -> None:
    with Lock(path) as hold:
        assert weakref.ref(hold)() is hold
        with pytest.raises(AttributeError):
            hold.timeout = 3  # type: ignore[attr-defined]


def test_the_two_worlds_do_not_mix_by_accident(path: Path) -> None:
    """`with` on the lock of tasks, or the reverse, is an error before anything is locked."""
    with pytest.raises((TypeError, AttributeError)):
        with AsyncLock(path):  # type: ignore[attr-defined]
            pass

    async def wrong() -> None:
        async with Lock(path):  # type: ignore[attr-defined]
            pass

    with pytest.raises((TypeError, AttributeError)):
        asyncio.run(wrong())
    assert not Lock(path).held
    assert not path.exists()


def test_what_acquire_returns(path: Path) -> None:
    with Lock(path) as hold:
        assert type(hold) is Hold

    async def main() -> None:
        async with AsyncLock(path) as hold:
            assert type(hold) is AsyncHold

    asyncio.run(main())


def test_a_hold_that_nobody_keeps_is_no_hold(path: Path) -> None:
    """The trap of other libraries' temporaries: the lock is free, and there is a warning."""
    with pytest.warns(ResourceWarning, match=r"a\.lock was dropped without release"):
        Lock(path).acquire()
    gc.collect()
    assert not Lock(path).held


def test_a_lock_may_go_while_it_is_held(path: Path) -> None:
    hold = Lock(path).acquire()
    gc.collect()
    assert hold.held
    hold.assert_held()
    assert Lock(path).held
    hold.release()


def test_leaving_a_block_that_was_never_entered(path: Path) -> None:
    for kind in (Lock, RLock):
        with Lock(path) as hold:
            with pytest.raises((RuntimeError, IndexError)):
                kind(path).__exit__(None, None, None)
            assert hold.held


@pytest.mark.parametrize("kind", KINDS)
def test_what_survives_pickling(kind: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    lock = kind("a.lock", timeout=2.5, fair=sys.platform == "linux")
    monkeypatch.chdir("/")
    for again in (pickle.loads(pickle.dumps(lock)), copy.copy(lock), copy.deepcopy(lock)):
        assert type(again) is kind
        assert again._line is lock._line
        assert again._timeout == 2.5
        assert again._fair == lock._fair
    assert pickle.loads(pickle.dumps(kind(path)))._timeout == float("inf")


def test_a_pickled_lock_means_the_same_file_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    data = pickle.dumps(Lock("a.lock", timeout=0))
    program = "import pickle, sys; lock = pickle.load(sys.stdin.buffer); print(lock.try_acquire())"

    def elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], input=data, cwd="/", capture_output=True, check=True
        ).stdout.decode()

    assert "<Hold" in elsewhere()
    with Lock(path):
        assert elsewhere() == "None\n"


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_blocks_do_not_pile_up(kind: type[Lock], path: Path) -> None:
    lock = kind(path)
    before = list(lock._blocks)
    for early in (False, True) * 50:
        with lock as hold:
            if early:
                hold.release()
    assert lock._blocks == before


def test_two_threads_that_release_one_hold(path: Path) -> None:
    """One of them does; the other is told so, and closes no descriptor that is somebody else's by then."""
    lock, bystander = Lock(path), Lock(path.with_name("b.lock"))
    over = threading.Event()
    trouble: list[object] = []

    def stand_by() -> None:
        try:
            while not over.is_set():
                with bystander as hold:
                    hold.assert_held()
        except BaseException as error:  # noqa: BLE001 - shown below
            trouble.append(error)

    def release(hold: Hold, start: threading.Barrier, done: list[bool]) -> None:
        start.wait()
        try:
            hold.release()
            done.append(True)
        except NotHeldError:
            done.append(False)
        except BaseException as error:  # noqa: BLE001 - shown below
            trouble.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    watch = threading.Thread(target=stand_by)
    watch.start()
    try:
        for _ in range(500):
            start, done = threading.Barrier(2), list[bool]()
            hold = lock.acquire()
            threads = [threading.Thread(target=release, args=(hold, start, done)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(done) == [False, True]
    finally:
        over.set()
        watch.join()
        sys.setswitchinterval(before)
    assert trouble == []


def test_two_threads_that_release_two_holds_of_one_depth(path: Path) -> None:
    lock = RLock(path)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            holds = [lock.acquire() for _ in range(3)]
            threads = [threading.Thread(target=hold.release) for hold in holds]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not lock.held
    finally:
        sys.setswitchinterval(before)


def test_a_subclass_keeps_the_promises(path: Path) -> None:
    class Mine(Lock):
        def __init__(self, name: str) -> None:
            super().__init__(path.with_name(name), timeout=0)

    with Mine("b.lock"), pytest.raises(Timeout):
        Mine("b.lock").acquire()


def test_depth_is_per_resource_and_owner(path: Path) -> None:
    one, two = RLock(path), RLock(path)
    with one, two, one as innermost:
        innermost.release()
        assert one.held
        with pytest.raises(NotHeldError):
            innermost.release()
    assert not one.held


def test_an_inner_hold_may_outlive_the_outer_block(path: Path) -> None:
    lock = RLock(path)
    with lock:
        kept = lock.acquire()
    assert kept.held
    assert lock.held
    kept.release()
    assert not lock.held


def test_waiting_for_oneself_in_a_deeper_call(path: Path) -> None:
    def deeper() -> None:
        with Lock(path):
            raise AssertionError("locked twice")

    with Lock(path), pytest.raises(DeadlockError, match="RLock"):
        deeper()


def test_a_handler_of_a_signal_cannot_deadlock(path: Path) -> None:
    """It runs in the thread that holds: waiting there would be for ever."""
    caught: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            Lock(path).acquire()
        except DeadlockError as error:
            caught.append(error)

    if sys.platform == "win32":
        pytest.skip("has no signals of this kind")
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with Lock(path) as hold:
            signal.raise_signal(signal.SIGUSR1)
            assert hold.held
        assert len(caught) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_holds_of_several_locks(tmp_path: Path) -> None:
    locks = [Lock(tmp_path / f"{number}.lock") for number in range(50)]
    holds = [lock.acquire(0) for lock in locks]
    assert all(hold.held for hold in holds)
    for hold in reversed(holds):
        hold.release()
    assert not any(lock.held for lock in locks)


def test_a_hold_says_how_long_it_waited_and_for_what(path: Path) -> None:
    hold = Lock(path).acquire()
    try:
        assert hold.resource == str(path)
        assert hold.waited < 30
        assert hold.token == hold.token
        assert isinstance(hold.token, int)
    finally:
        hold.release()
    assert hold.resource == str(path)
    assert hold.waited < 30
    assert not hold.lost


def test_no_warning_for_holds_that_were_released(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (Lock, RLock):
            with kind(path):
                pass
            kind(path).acquire().release()
            with kind(path).acquire():
                pass
        gc.collect()


def test_locks_do_not_keep_tasks_or_threads_alive(path: Path) -> None:
    gone: list[weakref.ref[Any]] = []

    class Payload:
        pass

    async def work() -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        async with AsyncLock(path):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(work()) for _ in range(5)))

    asyncio.run(main())

    def thread() -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        with Lock(path):
            pass

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 6


def test_the_same_lock_object_in_many_threads(path: Path) -> None:
    lock = Lock(path)
    inside: list[int] = []
    overlaps: list[object] = []

    def work(number: int) -> None:
        for _ in range(50):
            with lock:
                inside.append(number)
                overlaps.extend(inside[1:])
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert not lock.held


def test_an_rlock_on_the_thread_pool_does_not_leak_into_the_next_job(path: Path) -> None:
    """The pool's thread is the same; a job that forgot its hold keeps it until the hold goes."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        hold = pool.submit(RLock(path).acquire).result()
        again = pool.submit(RLock(path).try_acquire).result()
        assert again is not None  # the same thread: re-entered
        other = ThreadPoolExecutor(1)
        assert other.submit(RLock(path).try_acquire).result() is None
        other.shutdown()
        again.release()
        assert hold.held
        hold.release()
    assert not Lock(path).held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_lock_object_works_in_a_forked_child(path: Path) -> None:
    program = """
import os, sys
from interlock import Lock, RLock
for kind in (Lock, RLock):
    lock = kind(sys.argv[1], timeout=10)
    with lock:
        pid = os.fork()
        if pid == 0:
            assert not lock.held
    if pid == 0:
        with lock:
            print(kind.__name__, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    with lock:
        pass
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.stdout, result.stderr) == ("Lock\nRLock\n", "")
