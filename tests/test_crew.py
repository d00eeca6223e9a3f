"""The processes that tests tell what to do, and the network that fails."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock.testing.conformance.crew import (
    WORLDS,
    Crew,
    Desk,
    MemberError,
    acquire,
    first_of,
    look,
    release,
    try_acquire,
)
from interlock.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.mark.parametrize("world", WORLDS)
def test_members_exclude_each_other(crew: Crew, tmp_path: Path, world: str) -> None:
    target = str(tmp_path / "lock")
    one, two = crew.hire(world), crew.hire("blocking")
    first = one.do(acquire, target)
    assert two.do(try_acquire, target) is None
    waiting = two.begin(acquire, target)
    at = one.do(release, target)
    second = waiting.result()
    assert second.token > first.token
    assert at < second.got
    assert two.do(look, target) == (True, "")


@pytest.mark.parametrize("world", WORLDS)
def test_a_member_that_waits_can_be_cancelled_and_goes_on(crew: Crew, tmp_path: Path, world: str) -> None:
    target = str(tmp_path / "lock")
    one, two = crew.hire(), crew.hire(world)
    one.do(acquire, target)
    for _ in range(3):
        waiting = two.begin(acquire, target)
        time.sleep(0.02)
        waiting.cancel()
        with pytest.raises(MemberError, match=r"KeyboardInterrupt|Cancelled"):
            waiting.result()
    one.do(release, target)
    assert two.do(try_acquire, target) is not None


def test_killed_and_stopped(crew: Crew, tmp_path: Path) -> None:
    target = str(tmp_path / "lock")
    one, two = crew.hire(), crew.hire("trio")
    one.do(acquire, target)
    one.stop()
    waiting = two.begin(acquire, target)
    assert not waiting.done()
    one.kill()
    assert first_of([waiting]) is waiting
    with pytest.raises(MemberError, match="is gone"):
        one.do(look, target)


async def fail(desk: Desk) -> None:
    raise ZeroDivisionError(desk.world.name)


def test_errors_arrive(crew: Crew) -> None:
    for world in WORLDS:
        with pytest.raises(MemberError, match=world) as caught:
            crew.hire(world).do(fail)
        assert caught.value.kind == "ZeroDivisionError"


# ---- the network


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(100):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def ask(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(100)


def ended(connection: socket.socket) -> bool:
    try:
        return ask(connection, b"still there?") == b""
    except ConnectionError:
        return True


def test_it_forwards_counts_and_holds_back(echo: int) -> None:
    with Proxy("127.0.0.1", echo) as network, socket.create_connection(("127.0.0.1", network.port), 30) as connection:
        assert ask(connection, b"one") == b"one"
        assert (network.requests, network.connections) == (1, 1)
        network.drop()
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(connection, b"two")
        with socket.create_connection(("127.0.0.1", network.port), 0.2) as late, pytest.raises(TimeoutError):
            ask(late, b"new connections get nothing either")
        network.heal()
        connection.settimeout(30)
        assert connection.recv(100) == b"two"


@pytest.mark.parametrize("how", ["cut", "refuse"])
def test_it_resets(echo: int, how: str) -> None:
    with Proxy("127.0.0.1", echo) as network:

        def connect() -> Any:
            return socket.create_connection(("127.0.0.1", network.port), 30)

        with connect() as connection:
            assert ask(connection, b"one") == b"one"
            getattr(network, how)()
            assert ended(connection)
        if how == "cut":
            with connect() as connection:
                assert ask(connection, b"three") == b"three"
        else:
            with contextlib.suppress(ConnectionError), connect() as connection:
                assert ended(connection)
        network.heal()
        with connect() as connection:
            assert ask(connection, b"four") == b"four"


def test_it_loses_answers(echo: int) -> None:
    with Proxy("127.0.0.1", echo) as network:
        with socket.create_connection(("127.0.0.1", network.port), 30) as connection:
            assert ask(connection, b"one") == b"one"
            network.lose_answers()
            assert ask(connection, b"two") == b""
            assert network.lost == 1
        network.heal()
        with socket.create_connection(("127.0.0.1", network.port), 30) as connection:
            assert ask(connection, b"three") == b"three"


def test_members_inherit_nothing(crew: Crew, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as file:
        found = crew.hire().do(descriptors)
        assert file.name not in found


async def descriptors(desk: Desk) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found
