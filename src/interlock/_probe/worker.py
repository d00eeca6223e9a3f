"""The process that touches the filesystem for a probe: one request per line, one answer per line, both JSON.

It is a script of its own (standard library only, started without site packages), so that it starts fast and so that
nothing of the caller's process is in the way when it is stuck in a call that never returns. At the end of its input,
also when the caller was killed, it removes what it made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import struct
import sys
import time

assert sys.platform != "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OFD_SETLK = 37
_FLOCK = struct.Struct("hhqqi4x")
_TAKE, _FREE = _FLOCK.pack(1, 0, 0, 1, 0), _FLOCK.pack(2, 0, 0, 1, 0)
_CONTENDED = (errno.EAGAIN, errno.EACCES)
_NOREPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
_LETTER = 8192
_LONGEST = 600
"""Seconds that one call may take before the process ends by itself."""


class Worker:
    """`base`: the directory in which it works. `made`: a directory to remove at the end."""

    def __init__(self) -> None:
        self.base = ""
        self.made = ""
        self.fds: dict[str, int] = {}

    def hello(self) -> bool:
        """The interpreter has started."""
        return True

    # ---- where

    def look(self, path: str) -> dict[str, Any]:
        real = os.path.realpath(path)
        status = os.stat(real)
        return {"real": real, "directory": os.path.isdir(real), "device": status.st_dev}

    def scratch(self, path: str, name: str) -> None:
        os.mkdir(os.path.join(path, name), 0o777)
        self.made = self.base = os.path.join(path, name)

    def use(self, path: str) -> bool:
        self.base = path
        return os.path.isdir(path)

    def clean(self, path: str = "") -> None:
        path = path or self.made
        if not path:
            return
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()
        for _ in range(20):  # NFS keeps a file that is open elsewhere under another name for a while
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(path):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(path, name))
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.05)
        self.made = ""

    # ---- locks

    def _lock(self, kind: str, fd: int, take: bool) -> None:
        if kind in ("flock", "dual"):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN)
        if kind == "flock":
            return
        try:
            if kind == "posix":
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN, 1)
            else:
                fcntl.fcntl(fd, _OFD_SETLK, _TAKE if take else _FREE)
        except OSError:
            if kind == "dual" and take:
                fcntl.flock(fd, fcntl.LOCK_UN)
            raise

    def lock(self, kind: str, name: str) -> bool:
        """One attempt, without waiting."""
        if name not in self.fds:
            self.fds[name] = self._opened(os.path.join(self.base, name))
        try:
            self._lock(kind, self.fds[name], True)
        except OSError as error:
            if error.errno in _CONTENDED:
                return False
            raise
        return True

    def _opened(self, path: str) -> int:
        """As the engine does, without O_CREAT if that will do: to the SMB client that is another way of opening."""
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def unlock(self, kind: str, name: str) -> None:
        self._lock(kind, self.fds[name], False)

    def threads(self, kind: str, name: str) -> bool:
        """Do two descriptors of one process exclude each other?"""
        path = os.path.join(self.base, name)
        one, two = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) for _ in range(2))
        try:
            self._lock(kind, one, True)
            try:
                self._lock(kind, two, True)
            except OSError as error:
                if error.errno in _CONTENDED:
                    return True
                raise
            return False
        finally:
            os.close(two)
            os.close(one)

    # ---- names

    def create(self, kind: str, name: str) -> bool:
        """Make a name that must not be there yet. False: it is."""
        path = os.path.join(self.base, name)
        mine = f"{path}.{os.getpid()}"
        try:
            if kind == "excl":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            elif kind == "mkdir":
                os.mkdir(path)
            else:
                os.close(os.open(mine, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
                if kind == "link":
                    os.link(mine, path)
                    os.unlink(mine)
                else:
                    _rename(mine, path, _NOREPLACE)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(mine)
            return False
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(mine)
            raise
        return True

    def remove(self, name: str) -> None:
        path = os.path.join(self.base, name)
        try:
            os.unlink(path)
        except OSError:
            os.rmdir(path)

    def write(self, name: str, text: str, how: str = "rename") -> None:
        """Replace a file by another one, in one step."""
        path = os.path.join(self.base, name)
        fd = os.open(path + ".new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        if how == "rename":
            os.replace(path + ".new", path)
        else:
            _rename(path + ".new", path, _EXCHANGE)
            os.unlink(path + ".new")

    def read(self, name: str) -> str:
        """What is in a file, by an open of its own: caches of the host must ask the server then."""
        fd = os.open(os.path.join(self.base, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode()
        finally:
            os.close(fd)

    def post(self, name: str, text: str) -> None:
        """Write a letter over the last one: same file, same size, so that a reader's caches have nothing to keep."""
        fd = os.open(os.path.join(self.base, name), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(fd, text.encode().ljust(_LETTER), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    # ---- how long, how often

    def latency(self, kind: str, name: str, times: int = 15) -> float:
        """The median of taking and giving back, as often as a fraction of a second allows."""
        took: list[float] = []
        while len(took) < times and sum(took) < 0.3:
            began = time.perf_counter()
            if kind in ("flock", "ofd", "posix", "dual"):
                self.lock(kind, name)
                self.unlock(kind, name)
            elif kind in ("rename", "exchange"):
                self.write(name, "x", kind)
            else:
                self.create(kind, name)
                self.remove(name)
            took.append(time.perf_counter() - began)
        return sorted(took)[len(took) // 2]

    def storm(self, kind: str, name: str, seconds: float) -> dict[str, int]:
        """Take and give back as often as can be; inside, make a directory that must not be there: that is the witness,
        which needs no clock and no lock. `overlaps`: somebody else was inside."""
        holds = overlaps = refused = 0
        witness = os.path.join(self.base, name + ".inside")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.lock(kind, name):
                refused += 1
                time.sleep(0.0002)
                continue
            try:
                holds += 1
                try:
                    os.mkdir(witness)
                except FileExistsError:
                    overlaps += 1
                else:
                    os.rmdir(witness)
            finally:
                self.unlock(kind, name)
        return {"holds": holds, "overlaps": overlaps, "refused": refused}


def _rename(old: str, new: str, flags: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "renameat2")
    if rename(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def main() -> None:
    """Answer until the input ends."""
    os.chdir(os.sep)
    worker = Worker()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            method: Callable[..., Any] = getattr(worker, request.pop("do"))
            signal.alarm(_LONGEST)  # who asked may have gone without a kill: nobody stays for ever
            try:
                answer = {"is": method(**request)}
            except OSError as error:
                answer = {"errno": error.errno, "error": error.strerror or str(error)}
            signal.alarm(0)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    finally:
        worker.clean()


if __name__ == "__main__":
    main()
