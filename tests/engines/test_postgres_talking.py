"""Ctrl-C wherever it can strike while this process talks with PostgreSQL: the connection is nobody's afterwards.

A test run takes every fifth point; all of them: python -m tests.engines.test_postgres_talking
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, LockError, RWLock, Semaphore
from interlock._target import resolve

from ..faults.sweep import Bomb
from ..servers import Postgres
from ..support import need_module

if TYPE_CHECKING:
    from collections.abc import Callable

need_module("psycopg")

STUCK = 8.0
"""Seconds; one that talks is waited for for ten."""


def acquired(kind: str, target: str) -> Any:
    if kind == "permit":
        return Semaphore(target, 1).acquire(timeout=15)
    if kind in ("read", "write"):
        return getattr(RWLock(target), kind)(timeout=15)
    return Lock(target).acquire(timeout=15)


def sweep(act: Callable[[], object], prepare: Callable[[], object], check: Callable[[str], None], step: int) -> int:
    """`act`, interrupted at each point, or each so many; how many there were."""
    points = at = clean = 0
    while clean < 2:
        at += step
        prepare()
        bomb = Bomb(at)
        bomb.run(act)
        clean = 0 if bomb.point else clean + 1
        points += bool(bomb.point)
        check(bomb.point)
    return points


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["lock", "read", "write", "permit"])
@pytest.mark.parametrize("verb", ["acquire", "release"])
def test_an_interrupt_costs_nobody_the_connection(postgres_server: Postgres, kind: str, verb: str) -> None:
    """One between two opcodes did: for ten seconds others waited for one that had gone, and failed. Others cost the
    lock itself, or one of the connections that a process may have."""
    assert interrupted(postgres_server, kind, verb, 5) >= 3


def interrupted(postgres_server: Postgres, kind: str, verb: str, step: int) -> int:
    target = postgres_server.target(f"talking {kind} {verb}", "il_connections=8")
    elsewhere = postgres_server.target(f"talking {kind} {verb}", "il_connections=7")
    holds: list[Any] = []

    def prepare() -> None:
        holds.clear()
        if verb == "release":
            holds.append(acquired(kind, target))

    def act() -> None:
        if verb == "release":
            holds.pop().release()
        else:
            holds.append(acquired(kind, target))

    def check(point: str) -> None:
        while holds:
            holds.pop().release()
        gc.collect()
        began = time.monotonic()
        acquired(kind, target).release()
        acquired(kind, elsewhere).release()
        assert time.monotonic() - began < STUCK, f"stuck after an interrupt at {point}"

    acquired(kind, target).release()
    return sweep(act, prepare, check, step)


def test_a_connection_that_is_not_given_back_is_told(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the bug that the sweep is there for, planted."""
    target = postgres_server.target("talking lock acquire", "il_connections=8")
    Lock(target).acquire().release()
    engine: Any = resolve(target).engine
    session = engine.pool.home()

    def never_given_back() -> None:
        """As if the interrupt had struck between two opcodes."""

    monkeypatch.setattr(session, "leave", never_given_back)
    try:
        with pytest.raises((AssertionError, LockError)):
            interrupted(postgres_server, "lock", "acquire", 5)
    finally:
        monkeypatch.undo()
        session.leave()
    Lock(target).acquire(timeout=60).release()


def test_another_thread_need_not_wait_for_one_that_was_interrupted(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = postgres_server.target("talking elsewhere")
    with Lock(target):
        engine: Any = resolve(target).engine
        session = engine.pool.home()
        session.leave()

        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "leave", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Lock(postgres_server.target("talking too")).acquire(timeout=60)
        monkeypatch.undo()
        gc.collect()
        took: list[float] = []

        def other() -> None:
            began = time.monotonic()
            Lock(postgres_server.target("talking three")).acquire(timeout=60).release()
            took.append(time.monotonic() - began)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert took
        assert took[0] < STUCK
    assert not session.gone


def test_one_that_talks_is_waited_for(postgres_server: Postgres) -> None:
    """The negative: a function that is still running has the connection, however long it takes."""
    target = postgres_server.target("talking long")
    Lock(target).acquire().release()
    engine: Any = resolve(target).engine
    session = engine.pool.home()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(session.enter(1.0)))
    thread.start()
    thread.join(60)
    assert answers == [False]
    assert not session.enter(1.0)  # nor does this thread have it twice
    session.leave()
    assert session.enter(1.0)
    session.leave()


def main() -> None:
    argparse.ArgumentParser(description="An interrupt at every point of the talk with a server.").parse_args()
    warnings.simplefilter("ignore")  # dropping holds, and coroutines that were not begun, is what this program does
    sys.unraisablehook = lambda _: None  # interrupts in finalizers, which the interpreter drops
    with Postgres() as server:
        for kind in ("lock", "read", "write", "permit"):
            for verb in ("acquire", "release"):
                print(f"{verb} {kind}: interrupted at {interrupted(server, kind, verb, 1)} points, nothing left")


if __name__ == "__main__":
    main()
