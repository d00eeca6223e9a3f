"""`check_order`: two orders that can deadlock are found, and nothing else is said."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import interlock
from interlock import AsyncLock, Lock, LockOrderWarning, RLock, Timeout, _order, acquire_all, check_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C = "memory://#order-a", "memory://#order-b", "memory://#order-c"


@pytest.fixture(autouse=True)
def on() -> Iterator[None]:
    check_order()
    yield
    check_order(False)


@contextmanager
def said() -> Iterator[list[str]]:
    """What is warned of in the block."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    assert all(item.category is LockOrderWarning for item in caught)
    assert all(item.filename == __file__ for item in caught), "they point at the caller"
    texts += [str(item.message) for item in caught]


def first_this_way() -> None:
    with Lock(A):
        with Lock(B):
            pass


def then_the_other() -> None:
    with Lock(B):
        Lock(A).acquire().release()


def test_an_inversion_is_told_with_both_stacks() -> None:
    with said() as texts:
        first_this_way()
        then_the_other()
    (text,) = texts
    now, before = re.split(r"\nBefore, ", text)
    assert f"{A} while holding {B}, in thread MainThread" in now
    assert "in then_the_other\n    Lock(A).acquire()" in now
    assert before.startswith(f"{B} while holding {A}")
    assert "in first_this_way\n    with Lock(B):" in before
    assert "in then_the_other" not in before
    assert "interlock/_order.py" not in text


def test_it_is_told_once_for_each_pair() -> None:
    with said() as texts:
        for _ in range(3):
            first_this_way()
            then_the_other()
    assert len(texts) == 1


def test_the_orders_of_two_threads_are_compared() -> None:
    thread = threading.Thread(target=first_this_way, name="elsewhere")
    with said() as texts:
        thread.start()
        thread.join()
        then_the_other()
    assert "in thread elsewhere" in texts[0].partition("\nBefore")[2]


def test_a_longer_way_round_is_told_with_all_its_steps() -> None:
    with said() as texts:
        for one, other in ((A, B), (B, C), (C, A)):
            with Lock(one), Lock(other):
                pass
    (text,) = texts
    assert f"Now {A} while holding {C}" in text
    assert f"\nBefore, {B} while holding {A}" in text
    assert f"\nBefore, {C} while holding {B}" in text


def test_one_order_is_no_news() -> None:
    with said() as texts:
        for _ in range(2):
            with Lock(A), Lock(B), Lock(C):
                pass
            with Lock(A), Lock(C):
                pass
        with acquire_all([Lock(C), Lock(A), Lock(B)]):
            pass
    assert texts == []


def test_what_does_not_wait_cannot_deadlock() -> None:
    with said() as texts:
        first_this_way()
        with Lock(B):
            hold = Lock(A).try_acquire()
            assert hold is not None
            hold.release()
            Lock(A).acquire(0).release()
            with Lock(A, timeout=0):
                pass
    assert texts == []


def test_entering_again_is_no_wait() -> None:
    lock = RLock(A)
    with said() as texts:
        with lock, Lock(B), lock:
            pass
    assert texts == []


def test_a_wait_in_vain_counts() -> None:
    """The deadlock itself happens, bounded by timeouts, and is told of."""
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with Lock(B):
            inside.set()
            with pytest.raises(Timeout):
                Lock(A).acquire(0.05)
        done.set()

    with said() as texts:
        with Lock(A):
            thread = threading.Thread(target=other)
            thread.start()
            inside.wait(60)
            done.wait(60)
            thread.join()
        first_this_way()
    assert len(texts) == 1


def test_tasks_are_owners_of_their_own() -> None:
    async def this_way() -> None:
        async with AsyncLock(A):
            await asyncio.sleep(0)
            async with AsyncLock(B):
                pass

    async def apart() -> None:
        async with AsyncLock(B):
            await asyncio.sleep(0)

    async def main(*what: Any) -> None:
        await asyncio.gather(*(one() for one in what))

    async def other_way() -> None:
        async with AsyncLock(B), AsyncLock(A):
            pass

    with said() as texts:
        asyncio.run(main(this_way, apart, apart))
        assert texts == []
        asyncio.run(main(other_way))
    (text,) = texts
    assert f"{A} while holding {B}" in text
    assert f"{B} while holding {A}" in text


@pytest.mark.skipif(sys.platform != "linux", reason="read-write locks on paths need Linux")
def test_read_write_locks_count(tmp_path: Path) -> None:
    one, other = (interlock.RWLock(tmp_path / f"{letter}.lock") for letter in "ab")
    with said() as texts:
        with one.read(), other.write():
            pass
        with other.read():
            hold = one.try_write()
            assert hold is not None
            hold.release()
            one.write(timeout=0).release()
    assert texts == []
    with said() as texts:
        with other.read(), one.read():
            pass
    (text,) = texts
    assert f"{one.resource} while holding {other.resource}" in text


def test_semaphores_count() -> None:
    permit = interlock.Semaphore("memory://#order-permits", 2)
    with said() as texts:
        with permit.acquire(), Lock(A):
            pass
        with permit.acquire(), permit.acquire():
            pass
        with Lock(A), permit.acquire():
            pass
    (text,) = texts
    assert f"memory://#order-permits while holding {A}" in text


def test_as_an_error_it_is_raised_and_nothing_is_taken() -> None:
    first_this_way()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lock(B), pytest.raises(LockOrderWarning):
            Lock(A).acquire()
    assert not Lock(A).held


def test_off_there_is_nothing_in_the_way(tmp_path: Path) -> None:
    assert "interlock/_order.py" in Lock.__enter__.__code__.co_filename
    check_order()  # twice is once
    check_order(False)
    for verb in (Lock.acquire, Lock.__enter__, AsyncLock.acquire):
        assert verb.__code__.co_filename.endswith("interlock/lock.py")
    with said() as texts:
        first_this_way()
        then_the_other()
    assert texts == []
    check_order()
    with said() as texts:
        then_the_other()
    assert texts == [], "switched off, it has forgotten"


def test_somebody_who_wrapped_a_verb_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Lock.acquire
    own = next(own for own, replaced in _order._replaced.values() if replaced is ours)
    monkeypatch.setattr(Lock, "acquire", lambda self, timeout=None: ours(self, timeout))
    wrapped = Lock.acquire
    check_order(False)
    assert Lock.acquire is wrapped
    with said() as texts:
        first_this_way()
        then_the_other()
    assert texts == []
    monkeypatch.undo()
    Lock.acquire = own  # type: ignore[method-assign]


PROGRAM = """
import sys
from interlock import Lock
assert ("interlock._order" in sys.modules) == bool(int(sys.argv[1]))
for names in ("ab", "ba"):
    with Lock("memory://#" + names[0]), Lock("memory://#" + names[1]):
        pass
"""


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("0", 0), (None, 0)])
def test_the_environment_switches_it_on(value: str | None, expected: int) -> None:
    import os

    environment = {name: word for name, word in os.environ.items() if name != "INTERLOCK_CHECK_ORDER"}
    if value is not None:
        environment["INTERLOCK_CHECK_ORDER"] = value
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(expected)], env=environment, stderr=subprocess.PIPE, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LockOrderWarning") == expected


def test_names_are_public() -> None:
    assert interlock.check_order is check_order
    assert issubclass(LockOrderWarning, UserWarning)
