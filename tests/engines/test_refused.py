"""Who is refused, as it has another number of permits in mind, has left nothing on the server when it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interlock import Lock, ProtocolError, Semaphore

if TYPE_CHECKING:
    from ..servers import Server

SERVERS = ["redis", "postgres", "etcd", "zookeeper"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


def test_who_asks_next_for_the_right_number_gets_it(server: Server) -> None:
    target = server.target("of three", "il_settle=0" if server.name == "redis" else "")
    with Semaphore(target, 3):
        for _ in range(100):
            with pytest.raises(ProtocolError):
                Semaphore(target, 4).acquire(0.1)
            Semaphore(target, 3).acquire(5.0).release()
    with Semaphore(target, 4):
        pass


def test_a_lock_on_what_is_a_semaphore(server: Server) -> None:
    if server.name == "postgres":  # where the two have keys of their own
        return
    target = server.target("no lock", "il_settle=0" if server.name == "redis" else "")
    with Semaphore(target, 2):
        for _ in range(30):
            with pytest.raises(ProtocolError):
                Lock(target).acquire(0.1)
            Semaphore(target, 2).acquire(5.0).release()
