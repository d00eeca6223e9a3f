"""An etcd whose watch ends in each way that a stream can end: who waits gets the lock all the same.

Requests go to a real server; only what /v3/watch answers is made up.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock

from .test_etcd import queue, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..servers import Etcd

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(*messages: Any) -> bytes:
    text = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    return b"%x\r\n%s\r\n" % (len(text), text)


class Between:
    """A port that passes everything on to a server, but for watches: those get `answer`, and then nothing more."""

    def __init__(self, port: int, answer: bytes) -> None:
        self._port, self._answer = port, answer
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.watches = 0
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                end = self._door.accept()[0]
            except OSError:
                return
            self._ends.append(end)
            self._threads.append(threading.Thread(target=self._serve, args=(end,)))
            self._threads[-1].start()

    def _serve(self, end: socket.socket) -> None:
        try:
            first = end.recv(65536)
            if b"/v3/watch" in first:
                self.watches += 1
                end.sendall(self._answer)
                while end.recv(65536):
                    pass
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                server.sendall(first)
                while True:
                    for one in select.select([end, server], [], [])[0]:
                        data = one.recv(65536)
                        if not data:
                            return
                        (server if one is end else end).sendall(data)
        except OSError:
            pass
        finally:
            end.close()

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for end in self._ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive()


@pytest.fixture
def between(etcd_server: Etcd, request: pytest.FixtureRequest) -> Iterator[Between]:
    found = Between(etcd_server.port, request.param)
    yield found
    found.close()


CREATED = {"result": {"watch_id": "1", "created": True, "header": {"revision": "1"}}}
ENDINGS = {
    "refused": (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "the server answers 503"),
    "no chunks": (HEAD + b"what is this\r\n", "the stream is not in chunks"),
    "the last chunk": (HEAD + b"0\r\n\r\n", "the server ended the stream"),
    "no object": (HEAD + chunk(17), "a message is no object"),
    "an error": (HEAD + chunk({"error": {"message": "no leader"}}), "no leader"),
    "a user's error": (HEAD + chunk({"error": {"message": "invalid auth token"}}), "invalid auth token"),
    "compacted": (HEAD + chunk(CREATED, {"result": {"watch_id": "1", "canceled": True}}), "canceled: compacted"),
    "canceled": (
        HEAD + chunk({"result": {"watch_id": "1", "canceled": True, "cancel_reason": "for a reason"}}),
        "canceled: for a reason",
    ),
    "news of another": (HEAD + chunk({"result": {"watch_id": "99", "canceled": True}}) + b"ff\r\nhalf", ""),
}


@pytest.mark.parametrize(
    ("between", "said"), [pytest.param(*ending, id=name) for name, ending in ENDINGS.items()], indirect=["between"]
)
def test_a_watch_that_ends_costs_time_only(
    etcd_server: Etcd, between: Between, said: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.DEBUG, "interlock")
    name = request.node.name.replace("/", "")
    direct = f"etcd://127.0.0.1:{etcd_server.port}/streams#{name}"
    waiting = Lock(f"etcd://127.0.0.1:{between.port}/streams#{name}", ttl=30.0)
    got: list[int | None] = []

    def wait() -> None:
        with waiting.acquire(timeout=60.0) as hold:
            got.append(hold.token)

    with Lock(direct, ttl=30.0).acquire(timeout=60.0) as hold:
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: between.watches > 0 and len(queue(etcd_server, direct)) == 2, "waiting")
        if said:
            until(lambda: said in caplog.text, said)
        assert not got
        hold.assert_held()
        assert hold.token is not None
        token = hold.token
    thread.join(60.0)
    assert len(got) == 1
    assert got[0] is not None
    assert got[0] > token
    assert queue(etcd_server, direct) == []
