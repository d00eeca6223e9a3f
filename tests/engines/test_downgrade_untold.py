"""A downgrade whose answer is lost: the server may have let others in, so the hold must not be believed to exclude."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import EngineError, RWLock
from interlock.testing.proxy import Proxy

if TYPE_CHECKING:
    from ..servers import Server

SERVERS = ("redis", "etcd", "zookeeper", "postgres")


def urls(server: Server, port: int) -> tuple[str, str]:
    """By the proxy, and directly: two engines of this process."""
    query = "?il_settle=0" if server.url_scheme == "redis" else ""
    name = f"untold-{time.monotonic_ns()}"
    return f"{server.url.replace(str(server.port), str(port))}{query}#{name}", f"{server.url}{query}#{name}"


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize("mode", ["update", "read"])
def test_who_cannot_tell_the_server_of_a_downgrade_does_not_write_on(
    engine: str, mode: Any, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"{engine}_server")
    with Proxy(server.host, server.port) as network:
        url, direct = urls(server, network.port)
        with RWLock(url).write() as hold:
            if engine == "postgres":  # there a connection that ends is the end of the hold
                network.drop()
            else:
                network.lose_answers()
            with pytest.raises(EngineError):
                hold.downgrade(mode)
            network.heal()
            assert hold.lost or hold.mode == mode
            hold.downgrade(mode)  # may be repeated
            with RWLock(direct).read(timeout=20):
                assert hold.lost or hold.mode == mode
                hold.assert_held()
            if mode == "update":
                hold.upgrade(timeout=20)
                assert RWLock(direct).try_read() is None
                hold.assert_held()
                assert hold.mode == "write"
        with RWLock(direct).write(timeout=20):
            pass


@pytest.mark.parametrize("engine", SERVERS)
def test_an_upgrade_after_a_downgrade_that_was_not_told_waits_for_readers(
    engine: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"{engine}_server")
    with Proxy(server.host, server.port) as network:
        url, direct = urls(server, network.port)
        with RWLock(url).write() as hold:
            if engine == "postgres":
                network.drop()
            else:
                network.lose_answers()
            with pytest.raises(EngineError):
                hold.downgrade("update")
            network.heal()
            reader = RWLock(direct).try_read()
            if reader is not None:
                assert not hold.try_upgrade()
                hold.assert_held()
                timer = threading.Timer(0.2, reader.release)
                timer.start()
                hold.upgrade(timeout=20)
                assert timer.finished.is_set()
            else:
                hold.upgrade(timeout=20)
            assert hold.mode == "write"
            assert RWLock(direct).try_read() is None
            hold.downgrade("update")
            RWLock(direct).read(timeout=20).release()
