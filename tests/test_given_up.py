"""Waiting that is given up, by a timeout or with its event loop: those behind it get what they wait for."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import AsyncLock, Lock, RWLock, Timeout, inspect

if TYPE_CHECKING:
    from pathlib import Path


def test_an_upgrade_that_is_given_up_lets_those_in_who_came_meanwhile() -> None:
    target = "memory://#given up"
    ended: dict[str, float] = {}

    def upgrade() -> None:
        with pytest.raises(Timeout):
            update.upgrade(2.0)
        ended["upgrade"] = time.monotonic()

    def read() -> None:
        with RWLock(target).read(30.0):
            ended["read"] = time.monotonic()

    with RWLock(target).read(), RWLock(target).update() as update:
        threads = [threading.Thread(target=upgrade), threading.Thread(target=read)]
        threads[0].start()
        limit = time.monotonic() + 60
        while (hold := RWLock(target).try_read()) is not None:  # until it waits, and new readers are kept out
            hold.release()
            assert time.monotonic() < limit
        threads[1].start()
        for thread in threads:
            thread.join(60)
    assert ended["upgrade"] - 0.5 < ended["read"] < ended["upgrade"] + 10


@pytest.mark.skipif(sys.platform != "linux", reason="holds the file as flock(1) does")
def test_who_has_its_turn_in_a_loop_that_was_closed_over_it_is_passed_by(tmp_path: Path) -> None:
    """It waited for another program; so nobody of this process holds, whose release would find it dead."""
    import fcntl

    path = str(tmp_path / "lock")
    foreign = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(foreign, fcntl.LOCK_EX)
    loop = asyncio.new_event_loop()
    task = loop.create_task(AsyncLock(path).acquire())
    limit = time.monotonic() + 60
    while not inspect(path).waiters:
        loop.run_until_complete(asyncio.sleep(0.001))
        assert time.monotonic() < limit
    loop.close()
    os.close(foreign)
    with Lock(path, timeout=30):
        pass
    assert not inspect(path).waiters
    task._log_destroy_pending = False  # type: ignore[attr-defined]
