"""A network that fails when it is told to: a TCP proxy on the loopback, between a client and its server.

    with Proxy("127.0.0.1", 6379) as network:
        ... connect to network.port ...
        network.drop()          # nothing gets through, and nobody is told: a partition
        network.heal()          # what was held back is delivered, as TCP does it
        network.lose_answers()  # requests still arrive; what the server says to them is lost, and so is the connection
        network.cut()           # all connections are reset

`requests` counts what clients have sent, one for each piece that arrived here: so a test sees who asks how often.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Proxy"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


class _Pair:
    """One connection: the client's end and the server's."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        self.proxy = proxy
        proxy.pairs.add(self)  # before the first piece: `cut` must find it
        for source, sink, upward in ((client, server, True), (server, client, False)):
            threading.Thread(target=self._pump, args=(source, sink, upward), name="proxy", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        proxy = self.proxy
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if upward:
                    proxy.requests += 1
                    proxy.times.append(time.monotonic())
                    proxy.open.wait()
                elif proxy.answers_lost:
                    proxy.lost += 1
                    break
                else:
                    proxy.open.wait()
                if self not in proxy.pairs:
                    break
                sink.sendall(data)
        self.close()

    def close(self, reset: bool = False) -> None:
        self.proxy.pairs.discard(self)
        for end in self.ends:
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # wakes the thread that reads there, which would keep the connection open
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Forwards `port` of the loopback to a server, until it is told not to."""

    def __init__(self, host: str, port: int) -> None:
        self.behind = (host, port)
        self.open = threading.Event()
        self.open.set()
        self.requests = 0
        self.times: list[float] = []
        """When each was sent, by the monotonic clock."""
        self.answers_lost = False
        self.lost = 0
        """Answers that were lost."""
        self.pairs: set[_Pair] = set()
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            # a thread, since a server that is stopped lets its caller wait
            threading.Thread(target=self._connect, args=(client,), name="proxy", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self.open.wait()
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self.behind, timeout=10.0)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Pair(self, client, server)

    @property
    def connections(self) -> int:
        """How many are open through it."""
        return len(self.pairs)

    def drop(self) -> None:
        """A partition: nothing gets through in either direction, and nobody is told."""
        self.open.clear()

    def heal(self) -> None:
        """The end of every trouble that was made."""
        self.answers_lost = False
        self._refusing = False
        self.open.set()

    def cut(self) -> None:
        """Reset all connections. New ones are let through."""
        for pair in tuple(self.pairs):
            pair.close(reset=True)

    def refuse(self) -> None:
        """Reset all connections, and each new one."""
        self._refusing = True
        self.cut()

    def lose_answers(self) -> None:
        """From now on requests arrive, but not what the server says to them: its connection ends instead."""
        self.answers_lost = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()
        self.open.set()
