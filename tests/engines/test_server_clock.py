"""The wall clock of the server is set by an hour, under holders and waiters.

Not etcd's: Go asks the kernel past every library, so it cannot be told another time here. Nor that of Debian's Redis,
whose allocator and libfaketime wait for each other; Valkey stands for it, which runs the same script.
"""

from __future__ import annotations

import glob
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from interlock.testing.conformance import acts
from interlock.testing.conformance.crew import WORLDS, Crew, acquire, look, release, try_acquire

from ..servers import Postgres, Redis, Valkey, ZooKeeper
from ..support import missing, need_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..servers import Server

TTL = 2.0


def library() -> str:
    for found in glob.glob("/usr/lib/*/faketime/libfaketime.so.1"):
        return found
    missing("needs libfaketime (the Debian package of that name)")
    raise AssertionError


@contextmanager
def with_a_clock(kind: type[Server]) -> Iterator[tuple[Server, Callable[[int], None]]]:
    """A server, and what sets its wall clock to so many seconds beside the right time."""
    server: Any = kind()
    stamp = f"{server.directory}-clock"

    def set_clock(offset: int) -> None:
        with open(stamp + ".new", "w") as file:
            file.write(f"{offset:+d}")
        os.chmod(stamp + ".new", 0o644)
        os.replace(stamp + ".new", stamp)

    set_clock(0)
    server.environment = {
        "LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": stamp, "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    try:
        with server:
            yield server, set_clock
    finally:
        os.unlink(stamp)


def time_of(server: Server) -> float:
    """What the server says that it is."""
    if isinstance(server, Redis):
        import redis

        with redis.Redis(port=server.port) as client:
            said: Any = client.time()
            return float(said[0])
    if isinstance(server, Postgres):
        import psycopg

        with psycopg.connect(server.url) as connection:
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
            assert row is not None
            return float(row[0])
    from kazoo.client import KazooClient

    client = KazooClient(f"{server.host}:{server.port}")
    client.start(30)
    try:
        _, stat = client.create("/clock-", ephemeral=True, sequence=True, include_data=True)
        return float(stat.created)
    finally:
        client.stop()
        client.close()


def moved(server: Server, set_clock: Callable[[int], None], offset: int) -> None:
    set_clock(offset)
    limit = time.monotonic() + 60
    while abs(time_of(server) - time.time() - offset) > 300:
        assert time.monotonic() < limit, "the server's clock was not set"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Postgres, ZooKeeper])
def test_nothing_is_lost_or_kept_by_the_servers_clock(kind: type[Server]) -> None:
    """Nothing here hangs on the wall clock: holders keep it, waiters wait, tokens rise, and the dead are found."""
    if kind is Postgres:
        need_module("psycopg")
    ttl = {"ttl": TTL}
    with with_a_clock(kind) as (server, set_clock), Crew() as crew:
        held = []
        for number, world in enumerate(WORLDS):
            target = server.target(world)
            holder, waiter = crew.hire(world), crew.hire(WORLDS[(number + 1) % 3])
            token = holder.do(acquire, target, 30.0, "", ttl).token
            held.append((target, holder, waiter, waiter.begin(acquire, target, None, "", ttl), token))
        for offset in (3600, -3600):
            moved(server, set_clock, offset)
            time.sleep(TTL)
            for _, _, _, waiting, _ in held:
                assert not waiting.done()
            for target, holder, *_ in held:
                assert holder.do(look, target) == (True, "")
        moved(server, set_clock, -3600)
        for number, (target, holder, waiter, waiting, token) in enumerate(held):
            if number:
                holder.do(release, target)
            else:
                holder.kill()
            grant = waiting.result(60)
            assert grant.token > token
            waiter.do(release, target)


@pytest.mark.slow
def test_redis_counts_by_its_clock() -> None:
    """Set back, nothing is lost, and tokens rise all the same. The bad news: set forward, leases run out there, and a
    holder believes in its own until its next renewal; its token is older then."""
    ttl = {"ttl": TTL}
    with with_a_clock(Valkey) as (server, set_clock), Crew() as crew:
        held = []
        for world in WORLDS:
            holder = crew.hire(world)
            target = server.target(world)
            held.append((target, holder, holder.do(acquire, target, 60.0, "", ttl, patience=90).token))
        moved(server, set_clock, -3600)
        time.sleep(TTL)
        other = crew.hire()
        for target, holder, _ in held:
            assert holder.do(look, target) == (True, "")
            assert other.do(try_acquire, target, "", ttl) is None
        again = []
        for target, holder, token in held:
            holder.do(release, target)
            grant = holder.do(acquire, target, 60.0, "", ttl, patience=90)
            assert grant.token > token
            again.append((target, holder, grant.token))
        moved(server, set_clock, 0)
        for target, holder, token in again:
            # Also where the jump ended the lease, it is told at the next renewal, a third of the ttl away at most.
            second = other.do(acquire, target, 60.0, "", ttl, patience=90)
            assert second.token > token
            assert holder.do(acts.until_lost, target, 30.0), f"{holder} was not told"
            assert holder.do(acts.guarded, target)
            other.do(release, target)
