"""A server that comes back with what it knew a while ago: `appendfsync everysec`, a snapshot, a promoted replica."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis

from interlock import LostError, RWLock, Semaphore, Timeout

from ..servers import Redis


def remember(server: Redis) -> None:
    """What the server will know when it is back."""
    with redis.Redis(port=server.port) as client:
        saved: Any = client.save()
        assert saved


def test_a_writer_that_the_server_takes_for_an_updater_again_is_told_so() -> None:
    with Redis() as server:
        url = f"{server.url}?il_settle=0#a"
        with RWLock(url).update() as hold:
            remember(server)
            hold.upgrade()
            hold.renew()
            server.restart(kill=True)
            with pytest.raises(LostError, match="memory"):
                hold.renew()
            assert hold.lost
            RWLock(url.replace("il_settle=0", "il_settle=0.0")).read(timeout=0).release()


def test_a_reader_that_the_server_takes_for_a_writer_again_goes_on() -> None:
    with Redis() as server, RWLock(f"{server.url}?il_settle=0#a").write() as hold:
        remember(server)
        hold.downgrade()
        server.restart(kill=True)
        hold.renew()
        hold.assert_held()


def test_no_upgrade_on_a_server_that_has_just_started() -> None:
    """Whom it has forgotten may still read."""
    with Redis() as server:
        url = f"{server.url}#a"
        with RWLock(url, ttl=2).update(timeout=20) as hold:
            remember(server)
            reader = RWLock(f"{server.url}?il_settle=0#a", ttl=2).read()
            server.restart(kill=True)
            with pytest.raises(Timeout):
                hold.upgrade(timeout=0)
            assert hold.mode == "update"
            hold.upgrade(timeout=10)
            assert reader.lost
            hold.assert_held()
            reader.release()


def test_a_permit_whose_slot_is_another_now_is_lost() -> None:
    """The server knows it as a waiter, and gives it the slot that is free then."""
    with Redis() as server:
        url = f"{server.url}?il_settle=0#a"
        first, second = Semaphore(url, 2).acquire(), Semaphore(url, 2).acquire()
        waiting = Semaphore(url.replace("il_settle=0", "il_settle=0.0"), 2)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(waiting.acquire(20)))
        thread.start()
        while not waiting.inspect().waiters:
            time.sleep(0.01)
        remember(server)
        first.release()
        thread.join(20)
        (third,) = found
        assert third.slot == 0
        server.restart(kill=True)
        second.release()
        with pytest.raises(LostError, match="memory"):
            third.renew()
        third.release()

