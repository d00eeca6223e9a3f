"""Who holds and who waits, as `Timeout` and `inspect` tell it."""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, Timeout, inspect

from ..support import need
from .workers import queues, state, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock import Party

    from .workers import Worker

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


def holder_by_timeout(path: str) -> Party:
    with pytest.raises(Timeout) as caught:
        Lock(path).acquire(0)
    holder = caught.value.holder
    assert holder is not None
    assert str(holder.pid) in str(caught.value)
    assert path in str(caught.value)
    return holder


def test_a_timeout_names_the_holder(spawn: Spawn, path: str) -> None:
    before = time.time()
    worker = spawn()
    worker.ask("acquire", path)
    holder = holder_by_timeout(path)
    assert holder.pid == worker.pid
    assert "workers.py" in holder.command
    assert holder.user == getpass.getuser()
    assert holder.since is not None
    assert before - 1 <= holder.since <= time.time()
    assert not holder.inherited
    assert inspect(path).holders[0].pid == worker.pid


def test_the_message_says_everything(spawn: Spawn, path: str) -> None:
    worker = spawn()
    worker.ask("acquire", path)
    with pytest.raises(Timeout) as caught:
        Lock(path).acquire(0.05)
    text = str(caught.value)
    assert re.match(rf"{re.escape(path)} was not acquired within \d[.\d]* s: ", text)
    assert f"held by pid {worker.pid} (" in text
    assert 0.05 <= caught.value.waited < 30


def test_a_holder_in_this_process_is_named_exactly(path: str) -> None:
    before = time.time()
    hold = Lock(path).acquire()
    after = time.time()
    caught: list[Timeout] = []

    def attempt() -> None:
        with pytest.raises(Timeout) as info:
            Lock(path).acquire(0)
        caught.append(info.value)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    holder = caught[0].holder
    assert holder is not None
    assert holder.pid == os.getpid()
    assert holder.since_exact
    assert holder.since is not None
    assert before - 0.1 <= holder.since <= after + 0.1
    hold.release()


def test_a_child_that_inherited_the_descriptor_is_named(spawn: Spawn, path: str) -> None:
    """The holder died after it passed its descriptor on; the kernel's table still names the dead one."""
    worker = spawn()
    worker.ask("acquire", path)
    child = worker.ask("child_with_descriptor", True, True)["child"]
    try:
        report = inspect(path)
        assert [(party.pid, party.inherited) for party in report.holders] == [(worker.pid, False), (child, True)]
        assert holder_by_timeout(path).pid == worker.pid
        worker.kill()
        holder = holder_by_timeout(path)
        assert (holder.pid, holder.inherited, holder.command) == (child, True, "sleep 600")
        assert "inherited the descriptor" in str(holder)
        (only,) = inspect(path).holders
        assert (only.pid, only.inherited) == (child, True)
    finally:
        os.kill(child, signal.SIGKILL)
    until(lambda: not inspect(path).holders, "its end frees the lock")
    Lock(path).acquire(5).release()


def test_waiters_are_listed_in_order_with_their_time(spawn: Spawn, path: str) -> None:
    holder = spawn()
    holder.ask("acquire", path)
    began = []
    waiters = []
    for _ in range(6):
        waiter = spawn()
        waiter.ask("ready")
        began.append(time.time())
        waiter.tell("acquire", path)
        waiter.waits(path)
        waiters.append(waiter)
    report = inspect(path)
    assert [party.pid for party in report.holders] == [holder.pid]
    assert [party.pid for party in report.waiters] == [waiter.pid for waiter in waiters]
    now = time.time()
    for party, earliest in zip(report.waiters, began, strict=True):
        assert party.since is not None
        assert party.since_exact
        assert earliest - 0.1 <= party.since <= now + 0.1
    waiters[2].kill()
    assert [party.pid for party in inspect(path).waiters] == [w.pid for w in waiters if w is not waiters[2]]


def test_foreign_lockers_are_named(spawn: Spawn, path: str) -> None:
    """flock(1) holds, another flock(1) is blocked behind it, one of ours waits."""
    flock = need("flock")
    holder = subprocess.Popen([flock, path, "sleep", "600"])
    blocked = None
    try:
        until(lambda: inspect(path).holders, "flock(1) holds")
        pids = {party.pid for party in inspect(path).holders}
        assert holder.pid in pids  # and its `sleep`, to which it left the descriptor
        assert holder_by_timeout(path).pid == holder.pid
        blocked = subprocess.Popen([flock, path, need("true")])
        waiter = spawn()
        waiter.tell("acquire", path)
        waiter.waits(path)
        until(lambda: len(inspect(path).waiters) == 2, "both wait")
        assert {party.pid for party in inspect(path).waiters} == {blocked.pid, waiter.pid}
    finally:
        orphans = [party.pid for party in inspect(path).holders if party.command == "sleep 600"]
        for process in (blocked, holder):
            if process is not None:
                process.kill()
                process.wait()
        for pid in orphans:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
    assert waiter.answer()["event"] == "acquired"


def test_a_free_lock_has_no_holder(spawn: Spawn, path: str) -> None:
    assert inspect(path).holders == ()
    assert not os.path.exists(path)
    worker = spawn()
    worker.ask("acquire", path)
    worker.ask("release")
    report = inspect(path)
    assert (report.holders, report.waiters) == ((), ())


def test_a_killed_holder_is_not_named(spawn: Spawn, path: str) -> None:
    worker = spawn()
    worker.ask("acquire", path)
    worker.kill()
    assert inspect(path).holders == ()


def test_a_stopped_waiter_is_listed(spawn: Spawn, path: str) -> None:
    holder, waiter = spawn(), spawn()
    holder.ask("acquire", path)
    waiter.tell("acquire", path)
    waiter.waits(path)
    waiter.stop()
    assert state(waiter.pid) == "T"
    assert queues(waiter.pid, path)
    assert [party.pid for party in inspect(path).waiters] == [waiter.pid]
    waiter.signal(signal.SIGCONT)
