"""What happens to queues, as the server tells it: one stream for all waits of a process, and one thread that listens.

Theory of operation
-------------------
The stream is one HTTP request to `/v3/watch` whose body and whose answer both go on: each chunk that we send asks for a
further watch, each line that comes is news. (Go's HTTP/1.1 server reads on after it has begun to answer only if the
request says `Connection: close`.)

A watch is on the whole queue of a lock and starts "now". One that starts at a revision which has passed is served only
every 100 ms; that is what makes the server's own Lock API slow. So it must be known what was missed before "now": the
server says at which revision the watch began (`live_from`), the claim at which it read the queue (`seen`). If the watch
is older than the reading, and has told nothing since, nothing was missed (`tells`); else the queue is read once more.
The thread notes how far it has heard *before* it looks whom that concerns, a waiter says what concerns it *before* it
compares: one of the two sees the other.

When the stream breaks, everybody is woken, looks for itself, and subscribes again: there is no gap to be filled in.
A watch that nobody needs any more stays for a while, since who waits for a lock often waits for it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import select
import socket
import threading
from itertools import count
from time import monotonic, sleep

from ..._core import arbiter, fork
from ..._core.lost import tell
from ..._wait.deaf import deafen
from ..._wait.workers import workers
from .client import number, plain
from .entries import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection
    from typing import Any

    from .client import Client
    from .entries import EtcdClaim

__all__ = ["Listener", "Watch"]

_LINGER = 5.0
_BEFORE_RETRY = 1.0
_CONNECT = 5.0
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}(;[^\r\n]*)?")
_MOST = 64 << 20
"""Bytes of one message: more than etcd has in one answer."""


class Watch:
    """On the entries of one lock. `puts`: also of changes, not only of those that leave."""

    def __init__(self, prefix: bytes, puts: bool, number: int) -> None:
        self.prefix = prefix
        self.puts = puts
        self.number = number
        self.claims: dict[EtcdClaim, None] = {}
        self.live_from = 0  # the revision after which all is told; 0: nothing is
        self.heard = 0  # the newest revision that was told
        self.idle_since = 0.0

    def tells(self, seen: int) -> bool:
        """Was nothing missed since this revision?"""
        return 0 < self.live_from <= seen and self.heard <= seen


class Listener:
    """The watches of one server, and their thread: from the first wait on, asleep until there is news."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._begin()
        fork.in_child(self._forget)

    def _begin(self) -> None:
        self._watches: dict[tuple[bytes, bool], Watch] = {}
        self._numbers = count(1)
        self._wakes: dict[str, tuple[socket.socket, socket.socket]] = {}  # of the one thread, once it runs
        self._stream: _Stream | None = None

    def _forget(self) -> None:
        """In a forked child: close what is the parent's."""
        ends = [end for pair in self._wakes.values() for end in pair]
        for end in (*ends, *((self._stream.socket,) if self._stream else ())):
            end.close()
        self._begin()

    def attach(self, claim: EtcdClaim, prefix: bytes, puts: bool) -> Watch:
        """Have the claim's parker unparked when a key of its `concern` leaves or changes, and when nothing is told any
        more."""
        while True:
            watch = self._watches.get((prefix, puts))
            new = watch is None
            if watch is None:
                watch = self._watches.setdefault((prefix, puts), Watch(prefix, puts, next(self._numbers)))
            watch.claims[claim] = None
            if self._watches.get((prefix, puts)) is watch:
                break
        claim.watch = watch
        if new or not watch.live_from:
            self._start()
        return watch

    def detach(self, claim: EtcdClaim) -> None:
        watch, claim.watch = claim.watch, None
        if watch is not None:
            watch.claims.pop(claim, None)
            watch.idle_since = monotonic()

    def _start(self) -> None:
        wake = self._wakes.get("")
        if wake is None:
            threading.Thread(target=self._run, name="interlock etcd", daemon=True).start()
        else:
            _send(wake)

    # ---- in the thread

    def _run(self) -> None:
        """Threads that wait first at the same moment start one each, and all but one of those end at once. They find
        that out for themselves, as who starts them may be interrupted at any point."""
        deafen()
        mine = socket.socketpair()
        for end in mine:
            end.setblocking(False)
        wake = self._wakes.setdefault("", mine)
        if wake is mine:
            while True:
                self._listen(wake[0])
        for end in mine:
            end.close()
        _send(wake)

    def _listen(self, wake: socket.socket) -> None:
        stream = None
        began = monotonic()
        try:
            if self._watches:
                self._stream = stream = _Stream(self._client)
                self._serve(stream, wake)
            else:
                self._nap(wake, None)
        except Exception as error:  # noqa: BLE001 - whatever a server may say: without this thread nobody is told
            logging.getLogger("interlock").debug("the watch on %s ended: %r", self._client.public, error)
        finally:
            self._stream = None
            if stream is not None:
                stream.close()
        self._down()
        if self._watches and monotonic() - began < _BEFORE_RETRY:
            sleep(_BEFORE_RETRY)

    def _nap(self, wake: socket.socket, seconds: float | None) -> None:
        select.select([wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)

    def _down(self) -> None:
        """Nothing is told any more: everybody looks for itself."""
        for watch in list(self._watches.values()):
            watch.live_from = 0
            if not watch.claims:
                self._watches.pop((watch.prefix, watch.puts), None)
            for claim in list(watch.claims):
                _unpark(claim)

    def _serve(self, stream: _Stream, wake: socket.socket) -> None:
        """Until the stream ends, by an error, or because nobody needs it."""
        asked: dict[int, Watch] = {}
        while self._watches:
            for watch in list(self._watches.values()):
                if watch.number not in asked:
                    asked[watch.number] = watch
                    stream.send(_create(watch))
            for message in stream.receive(wake, _LINGER):
                self._heard(message, asked)
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            for watch in list(asked.values()):
                if self._drop_idle(watch):
                    del asked[watch.number]
                    stream.send({"cancel_request": {"watch_id": str(watch.number)}})

    def _drop_idle(self, watch: Watch) -> bool:
        if watch.claims or monotonic() - watch.idle_since < _LINGER:
            return False
        where = (watch.prefix, watch.puts)
        self._watches.pop(where, None)
        if watch.claims:  # somebody came meanwhile
            return self._watches.setdefault(where, watch) is not watch
        return True

    def _heard(self, message: dict[str, Any], asked: dict[int, Watch]) -> None:
        result = message.get("result")
        if result is None:
            error = message.get("error", {})
            if "auth" in str(error):
                self._client.forget_token()
            raise ValueError(str(error))
        watch = asked.get(number(result, "watch_id"))
        if watch is None:
            return
        if result.get("canceled"):
            raise ValueError(f"canceled: {result.get('cancel_reason') or 'compacted'}")
        if result.get("created"):
            watch.live_from = number(result["header"], "revision")
            for claim in list(watch.claims):
                _unpark(claim)
            return
        changes: dict[bytes, bool] = {}
        for event in result.get("events", ()):
            kv = event["kv"]
            changes[plain(kv["key"])] = event.get("type") == "DELETE"
            watch.heard = max(watch.heard, number(kv, "mod_revision"))
        for claim in list(watch.claims):
            if not claim.concern.isdisjoint(changes):
                _unpark(claim)
            if claim.since and changes.get(claim.key) and claim.watch is watch:
                claim.gone = claim.gone or "its entry was removed by somebody else"
                tell(claim, claim.gone)


def _send(wake: tuple[socket.socket, socket.socket]) -> None:
    with contextlib.suppress(BlockingIOError):  # then there is one to be read already
        wake[1].send(b"x")


def _create(watch: Watch) -> dict[str, Any]:
    filters = [] if watch.puts else ["NOPUT"]
    return {"create_request": {**whole(watch.prefix), "watch_id": str(watch.number), "filters": filters}}


def _unpark(claim: EtcdClaim) -> None:
    parker = claim.parker
    if parker is not None and parker.unpark() is False and not claim.since:
        workers().submit(lambda: arbiter.abandon(claim))  # it waits in an event loop that was closed over it


class _Stream:
    """One request whose body and answer go on: JSON in chunks, both ways."""

    def __init__(self, client: Client) -> None:
        """Connected, and the head of the answer not read yet: it comes with the first news."""
        self._client = client
        client.ready()
        self._connection: HTTPConnection = client.connection(client.preferred, _CONNECT)
        try:
            self._connection.connect()
            self._connection.putrequest("POST", "/v3/watch")
            heads = {
                "Connection": "close", "Transfer-Encoding": "chunked", "Content-Type": "application/json",
                # so that a member without a leader ends the stream, and is not believed that nothing happens
                "Grpc-Metadata-hasleader": "true", **client.headers(),
            }  # fmt: skip
            for key, value in heads.items():
                self._connection.putheader(key, value)
            self._connection.endheaders()
            self.socket = self._connection.sock
        except BaseException:
            self.close()
            client.skip(client.preferred)
            raise
        self._begun = False
        self._buffer = b""
        self._text = b""

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        self.socket.settimeout(_CONNECT)
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def receive(self, wake: socket.socket, seconds: float) -> Iterator[dict[str, Any]]:
        """What has come, after waiting for it at most so long, or until `wake` is readable."""
        if not self._pending():
            ready = select.select([self.socket, wake], [], [], seconds)[0]
            if self.socket not in ready:
                return
        if not self._begun:
            self._begin()
            return
        self.socket.settimeout(0.0)
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            if isinstance(error, BlockingIOError) or type(error).__name__ == "SSLWantReadError":
                return  # of TLS, less than a record
            raise
        if not data:
            raise ValueError("the server ended the stream")
        yield from self._lines(data)

    def _pending(self) -> bool:
        pending = getattr(self.socket, "pending", None)  # what TLS has read already
        return bool(pending is not None and pending())

    def _begin(self) -> None:
        """The head of the answer, byte by byte: what stands behind it must stay in the socket."""
        self.socket.settimeout(_CONNECT)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte or len(head) > 65536:
                raise ValueError("the server ended the stream")
            head += byte
        status = [*head.split(None, 2), b"", b""][1]
        if status != b"200":
            self._client.skip(self._client.preferred)
            self._client.forget_token()
            raise ValueError(f"no watch: the server answers {status.decode(errors='replace')}")
        self._begun = True

    def _lines(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Chunks to text, text to lines, lines to messages."""
        self._buffer += data
        if len(self._buffer) + len(self._text) > _MOST:
            raise ValueError(f"a message has more than {_MOST} bytes")
        while True:
            size, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                break
            if not _SIZE.fullmatch(size):
                raise ValueError("the stream is not in chunks")
            length = int(size.partition(b";")[0], 16)
            if length == 0:
                raise ValueError("the server ended the stream")
            if len(rest) < length + 2:
                break
            self._text += rest[:length]
            self._buffer = rest[length + 2 :]
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            if line.strip():
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("a message is no object")
                yield message

    def close(self) -> None:
        self._client.discard(self._connection)
