"""Those who contend in a trial: each kind of lock behind two verbs, and the loop of a process that uses it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import struct
import sys
import time
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    Verbs = tuple[Callable[[], Any], Callable[[Any], Any]]

assert sys.platform == "linux"

WITHIN = 20.0
"""Seconds for one acquire; a contender that waits longer says so."""

_TTL = 3.0
_WHOLE = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
_OFD_SETLK = 37


class Unavailable(Exception):
    """There is no such kind of lock in this version."""


def _nobody(_: str) -> Verbs:
    """No lock at all: the control. If this one does not overlap, the referee is blind."""
    return lambda: None, _nothing


def _nothing(_: object) -> None: ...


def _calls(lock: Callable[[int], object]) -> Callable[[str], Verbs]:
    """A bare system call, tried until it is granted: what the filesystem itself promises."""

    def kind(path: str) -> Verbs:
        def acquire() -> int:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                while True:
                    try:
                        lock(fd)
                        return fd
                    except (BlockingIOError, PermissionError):
                        time.sleep(random.random() * 0.002)
            except BaseException:
                os.close(fd)
                raise

        return acquire, os.close

    return kind


def _interlock(primitive: str) -> Callable[[str], Verbs]:
    def kind(path: str) -> Verbs:
        from interlock import Lock

        options: dict[str, Any] = {"primitive": primitive}
        if primitive == "marker":
            options["ttl"] = _TTL
        try:
            lock = Lock(path, **options)
        except ValueError as error:
            raise Unavailable(str(error)) from None
        return lambda: lock.acquire(WITHIN), lambda hold: hold.release()

    return kind


def _filelock(name: str) -> Callable[[str], Verbs]:
    def kind(path: str) -> Verbs:
        try:
            make = getattr(import_module("filelock"), name)
        except ImportError as error:
            raise Unavailable(str(error)) from None
        lock = make(path, timeout=WITHIN)
        return lock.acquire, lambda _: lock.release()

    return kind


KINDS: dict[str, Callable[[str], Verbs]] = {
    "no lock": _nobody,
    "flock(2)": _calls(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)),
    "OFD lock": _calls(lambda fd: fcntl.fcntl(fd, _OFD_SETLK, _WHOLE)),
    "auto": _interlock("auto"),
    "flock": _interlock("flock"),
    "ofd": _interlock("ofd"),
    "dual": _interlock("dual"),
    "marker": _interlock("marker"),
    "FileLock": _filelock("FileLock"),
    "SoftFileLock": _filelock("SoftFileLock"),
}
"""Bare system calls, interlock by its `primitive`, and filelock by its class."""


def contend(kind: str, path: str, referee: socket.socket) -> None:
    """Acquire, tell the referee, release; until killed. Errors are told, and tried again after."""
    chance = random.Random(os.getpid())
    try:
        acquire, release = KINDS[kind](path)
    except Unavailable as error:
        referee.send(b"U" + str(error).encode())
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        acquire, release = _raises(error), _nothing
    while True:
        try:
            held = acquire()
        except Exception as error:  # noqa: BLE001 - same
            referee.send(b"X" + json.dumps(_told(error)).encode())
            referee.recv(1)
            time.sleep(chance.random() * 0.01)
            continue
        referee.send(b"E")
        if not referee.recv(1):
            return
        if chance.random() < 0.1:
            time.sleep(chance.random() * 0.001)
        referee.send(b"L")
        try:
            release(held)
        except Exception as error:  # noqa: BLE001 - same
            referee.send(b"Y" + json.dumps(_told(error)).encode())
            referee.recv(1)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.0005)


def _raises(error: Exception) -> Callable[[], Any]:
    def acquire() -> Any:
        raise error

    return acquire


def _told(error: Exception) -> list[str]:
    """The kind of an error, and its words."""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        kind = errno.errorcode.get(error.errno, str(error.errno))
    return [kind, str(error)]
