"""Signals while a process waits: handlers that return, and handlers that raise."""

# ruff: noqa: PT017 - pytest is not at work in a process of its own

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import AsyncLock, Lock, Timeout
from interlock._core.arbiter import turns

from .workers import Worker, isolated, locked_by_others, queues, tickets, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


class Alarm(Exception):
    """What the handler raises."""


def ring(*_: object) -> None:
    raise Alarm


def test_handlers_that_return_neither_end_a_wait_nor_prolong_it(spawn: Spawn, path: str) -> None:
    holder, waiter = spawn(), spawn()
    holder.ask("acquire", path)
    waiter.ask("handler", signal.SIGUSR1, "note")
    waiter.tell("acquire", path, 2.0)
    waiter.waits(path)
    while waiter.silent(0.005):
        waiter.signal(signal.SIGUSR1)
    timed_out = waiter.answer()
    assert timed_out["type"] == "Timeout"
    assert 2.0 <= timed_out["waited"] < 30

    waiter.tell("acquire", path)
    waiter.waits(path)
    for _ in range(50):
        waiter.signal(signal.SIGUSR1)
        assert waiter.silent(0.001)
    released = holder.ask("release")["at"]
    assert waiter.answer()["at"] - released < 20


def test_a_handler_that_raises_ends_the_wait(spawn: Spawn, path: str) -> None:
    """What it raises arrives unchanged; nothing stays, and those behind are served."""
    holder, waiter, behind = spawn(), spawn(), spawn()
    holder.ask("acquire", path)
    waiter.ask("handler", signal.SIGUSR1, "raise")
    waiter.tell("acquire", path)
    waiter.waits(path)
    behind.tell("acquire", path)
    behind.waits(path)
    waiter.signal(signal.SIGUSR1)
    failed = waiter.answer()
    assert (failed["type"], failed["text"]) == ("InterruptedError", f"signal {signal.SIGUSR1}")
    assert not queues(waiter.pid, path)
    assert tickets(path) == 1
    released = holder.ask("release")["at"]
    assert behind.answer()["at"] - released < 20
    behind.ask("release")
    assert waiter.ask("attempt", path)["event"] == "acquired"


def test_ctrl_c_ends_a_waiting_process(spawn: Spawn, path: str) -> None:
    holder, waiter = spawn(), spawn()
    holder.ask("acquire", path)
    waiter.tell("acquire", path)
    waiter.waits(path)
    waiter.signal(signal.SIGINT)
    assert waiter.wait() == -signal.SIGINT
    assert tickets(path) == 0
    assert holder.ask("check")["error"] is None


def interrupt_when(condition: Callable[[], object], number: int = signal.SIGALRM) -> threading.Thread:
    def wait() -> None:
        until(condition, "the moment to interrupt")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@isolated
def test_every_kind_of_wait_can_be_interrupted(path: str) -> None:
    """Asleep on events, asleep in naps, and behind another thread of this process."""
    from interlock.engines import kernel

    signal.signal(signal.SIGALRM, ring)
    stranger = Worker()
    stranger.ask("acquire", path)

    def interrupted(condition: Callable[[], object], timeout: float | None) -> None:
        helper = interrupt_when(condition)
        try:
            Lock(path).acquire(timeout)
        except Alarm:
            helper.join()
        else:
            raise AssertionError("acquired")

    for timeout in None, 30:
        interrupted(lambda: queues(os.getpid(), path), timeout)
        assert tickets(path) == 0

    line = Lock(path)._line
    vars(kernel.engine())["_hears"] = lambda path: False
    for timeout in None, 30:
        interrupted(lambda: any(getattr(claim, "parker", None) for claim in list(turns.values())), timeout)
    del vars(kernel.engine())["_hears"]

    first = threading.Thread(target=lambda: Lock(path).acquire().release())
    first.start()
    until(lambda: queues(os.getpid(), path), "a thread of this process waits in front")
    for timeout in None, 30:
        interrupted(lambda: line.queue, timeout)
        assert not line.queue
        assert tickets(path) == 1

    stranger.ask("release")
    first.join()
    Lock(path).acquire(5).release()
    assert not locked_by_others(path)
    stranger.close()


@isolated
def test_ctrl_c_in_asyncio(path: str) -> None:
    stranger = Worker()
    stranger.ask("acquire", path)
    helper = interrupt_when(lambda: queues(os.getpid(), path), signal.SIGINT)
    try:
        asyncio.run(_wait(path))
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("acquired")
    helper.join()
    assert tickets(path) == 0
    stranger.ask("release")
    asyncio.run(_wait(path))
    assert not locked_by_others(path)
    stranger.close()


@pytest.mark.usefixtures("trio")
@isolated
def test_ctrl_c_in_trio(path: str) -> None:
    import trio

    stranger = Worker()
    stranger.ask("acquire", path)
    helper = interrupt_when(lambda: queues(os.getpid(), path), signal.SIGINT)
    try:
        trio.run(_wait, path)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("acquired")
    helper.join()
    assert tickets(path) == 0
    stranger.ask("release")
    trio.run(_wait, path)
    assert not locked_by_others(path)
    stranger.close()


async def _wait(path: str) -> None:
    async with AsyncLock(path):
        pass


@isolated
def test_a_timeout_is_kept_under_a_hail_of_signals(path: str) -> None:
    stranger = Worker()
    stranger.ask("acquire", path)
    heard = []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    began = time.monotonic()
    try:
        Lock(path).acquire(0.5)
    except Timeout as error:
        assert 0.5 <= error.waited < 30
    else:
        raise AssertionError("acquired")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert 0.5 <= time.monotonic() - began < 30
    assert len(heard) > 10
    stranger.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_holder_ended_by_a_signal_lets_go(spawn: Spawn, path: str, number: int) -> None:
    holder, waiter = spawn(), spawn()
    holder.ask("acquire", path)
    waiter.tell("acquire", path)
    waiter.waits(path)
    holder.signal(number)
    assert waiter.answer()["event"] == "acquired"
