"""The process that serves the mounts of one place, and obeys orders on its standard input. See `LockFS`.

One thread: a request is answered before the next one is read, so what hosts do happens in one order. It never
touches a path on its own mounts. At the end of its input, or by SIGTERM, it unmounts what it mounted and goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys

from . import wire
from .modes import Fault, Mode
from .table import Table

if sys.platform == "linux":
    from .host import Host, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

assert sys.platform == "linux"

_NOSUID_NODEV = 2 | 4
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, path: str, kind: str, flags: int, options: str) -> None:
    """mount(2)."""
    words = [word.encode() for word in (source, path, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind}: {os.strerror(number)}", path)


def unmount(path: str) -> None:
    """Take a mount away from its path at once, also one that hangs or is dead. Nothing happens if there is none."""
    _libc.umount2(path.encode(), _DETACH)


class Server:
    """All hosts of one place."""

    def __init__(self, disk: str, out: int) -> None:
        self.disk = disk
        self.table = Table()
        self.hosts: dict[int, Host] = {}
        self.paths: dict[int, str] = {}
        self._out = out
        self._last = 0
        self._buffer = bytearray(wire.BUFFER)
        self._poll = select.poll()
        self._by_fd: dict[int, Host] = {}

    # ---- orders

    def obey(self, order: dict[str, Any]) -> None:
        try:
            answer = getattr(self, "do_" + order.pop("do"))(**order)
        except OSError as error:
            answer = {"errno": error.errno, "error": str(error)}
        os.write(self._out, json.dumps(answer or {}).encode() + b"\n")

    def do_mount(self, path: str, mode: dict[str, Any], kind: str) -> dict[str, Any]:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        plays = Mode.from_dict(mode)
        try:
            options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
            mount("lockfs", path, kind, _NOSUID_NODEV, options)
        except OSError:
            os.close(fd)
            raise
        self._last += 1
        host = Host(self._last, fd, self.disk, plays, self.table)
        self.hosts[host.number] = self._by_fd[fd] = host
        self.paths[host.number] = path
        self._poll.register(fd, select.POLLIN)
        return {"host": host.number}

    def do_unmount(self, host: int) -> None:
        unmount(self.paths.pop(host))
        self._end(self.hosts.pop(host))

    def do_crash(self, host: int) -> None:
        """The host dies: its programs see ECONNABORTED and ENOTCONN, the server drops its locks."""
        self._end(self.hosts[host])

    def _end(self, host: Host) -> None:
        if host.fd < 0:
            return
        if not host.paused:
            self._poll.unregister(host.fd)
        del self._by_fd[host.fd]
        host.close()
        self._grant()

    def do_pause(self, host: int) -> None:
        """Read nothing from this host: all that its programs ask for waits."""
        one = self.hosts[host]
        if not one.paused and one.fd >= 0:
            one.paused = True
            self._poll.unregister(one.fd)

    def do_resume(self, host: int) -> None:
        one = self.hosts[host]
        if one.paused and one.fd >= 0:
            one.paused = False
            self._poll.register(one.fd, select.POLLIN)

    def do_fault(self, host: int, fault: dict[str, Any]) -> None:
        self.hosts[host].rules.append(Rule(Fault(**fault)))

    def do_heal(self, host: int) -> None:
        self.hosts[host].rules.clear()

    def do_state(self, host: int) -> dict[str, Any]:
        one = self.hosts[host]
        hits = [rule.hits for rule in one.rules]
        return {"requests": one.counts, "hits": hits, "locks": self.table.as_list()}

    # ---- the loop

    def run(self, orders: int) -> None:
        self._poll.register(orders, select.POLLIN)
        unread = b""
        while True:
            for fd, _ in self._poll.poll():
                if fd != orders:
                    self._serve(fd)
                    continue
                news = os.read(orders, 65536)
                if not news:
                    return
                *lines, unread = (unread + news).split(b"\n")
                for line in lines:
                    self.obey(json.loads(line))

    def _serve(self, fd: int) -> None:
        host = self._by_fd.get(fd)
        if host is None:  # it was ended by an order of this very round
            return
        try:
            size = os.readv(fd, [self._buffer])
        except (BlockingIOError, InterruptedError, FileNotFoundError):  # ENOENT: interrupted before we had read it
            return
        except OSError:  # ENODEV: unmounted by somebody else
            self._end(host)
            return
        with memoryview(self._buffer) as view:
            host.serve(view[:size])
        self._grant()

    def _grant(self) -> None:
        for done in self.table.granted():
            host = self.hosts.get(done.host)
            if host is not None and host.fd >= 0:
                host.answer(done.unique, 0)

    def close(self) -> None:
        for number, host in list(self.hosts.items()):
            with contextlib.suppress(OSError):
                unmount(self.paths[number])
                self._end(host)


def main(disk: str) -> None:
    """Serve until the input ends."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    os.umask(0)  # the kernel has applied the caller's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C for the tests must not take their filesystem away first
    signal.signal(signal.SIGTERM, leave)
    server = Server(disk, os.dup(1))
    os.write(1, b"{}\n")
    try:
        server.run(0)
    finally:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1])
