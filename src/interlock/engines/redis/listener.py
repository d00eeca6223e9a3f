"""One thread and one connection for all that wait in this process: it hears whose turn it is, and wakes them.

The script publishes the id of a claim on the channel of its process. Messages that are sent while the connection is
away are lost; so whenever it is there again, all who wait are woken to look, and in any case they look for themselves
now and then.
"""

from __future__ import annotations

import threading
import time

from ..._wait.deaf import deafen
from .server import TROUBLE, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..._model import Parker

_QUIET = 5.0
"""Seconds without a word after which the server is asked whether it is there."""
_IDLE = 60.0
"""Seconds without anybody who waits after which the connection is given up."""
_LONGEST = 1.0


class Listener:
    def __init__(self, server: Server, process: bytes, back: Callable[[], None]) -> None:
        self._server = server
        self._channel = b"il1:" + process
        self._back = back
        """Called when the connection was lost and is there again."""
        self._waiting: dict[bytes, Parker] = {}
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        self._trouble: Exception | None = None
        self._connection: Any = None

    def add(self, who: bytes, parker: Parker) -> None:
        """Wake `parker` by every message for `who`. Returns once the server will send them, raises what hinders
        that."""
        self._waiting[who] = parker
        if self._ready.is_set():
            return
        with self._mutex:
            if self._thread is None or not self._thread.is_alive():
                self._trouble = None
                self._thread = threading.Thread(target=self._run, name="interlock redis listener", daemon=True)
                self._thread.start()
        until = time.monotonic() + 2 * self._server.timeout
        while not self._ready.wait(0.05):
            trouble = self._trouble
            if trouble is not None and (not isinstance(trouble, TROUBLE) or time.monotonic() > until):
                raise trouble
            if time.monotonic() > until:
                return  # who waits looks for itself meanwhile

    def remove(self, who: bytes) -> None:
        self._waiting.pop(who, None)

    def _run(self) -> None:
        deafen()
        mine, pause = threading.current_thread(), 0.05
        again = False
        while self._thread is mine:
            connection = None
            try:
                connection = self._connection = self._server.connect()
                self._subscribe(connection)
                pause = 0.05
                self._ready.set()
                self._wake_all()
                if again:
                    self._back()
                again = True
                if self._listen(connection):
                    return
            except Exception as error:  # noqa: BLE001 - told to who begins to wait; the others look for themselves
                self._trouble = error
                if not isinstance(error, TROUBLE) and not self._waiting:
                    self._thread = None
                    return
                self._ready.clear()
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST)
            finally:
                self._connection = None
                if connection is not None:
                    connection.disconnect()

    def _subscribe(self, connection: Any) -> None:
        connection.send_command("SUBSCRIBE", self._channel, check_health=False)
        connection.read_response(disable_decoding=True)
        self._trouble = None

    def _listen(self, connection: Any) -> bool:
        """Until trouble comes, or (True) nobody has waited for long."""
        asked = False
        idle = time.monotonic()
        while True:
            if connection.can_read(timeout=_QUIET):
                message = connection.read_response(disable_decoding=True)
                asked = False
                if isinstance(message, list) and message[0] == b"message":
                    parker = self._waiting.get(message[2])
                    if parker is not None:
                        parker.unpark()
            elif asked:
                raise TimeoutError("no answer to a ping")
            else:
                if self._waiting:
                    idle = time.monotonic()
                elif time.monotonic() - idle > _IDLE:
                    with self._mutex:
                        self._ready.clear()
                        if not self._waiting:
                            self._thread = None
                            return True
                        self._ready.set()
                connection.send_command("PING", check_health=False)
                asked = True

    def _wake_all(self) -> None:
        for parker in list(self._waiting.values()):
            parker.unpark()

    def close(self) -> None:
        """End, unless somebody waits."""
        with self._mutex:
            if not self._waiting and self._thread is not None:
                self._thread = None
                self._ready.clear()
                connection = self._connection
                if connection is not None:
                    connection.disconnect()  # which ends its sleep

    def forked(self) -> None:
        """In a child: this is the parent's."""
        connection, self._connection = self._connection, None
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            sock.close()
            connection._sock = None
        self._waiting = {}
        self._thread = None
