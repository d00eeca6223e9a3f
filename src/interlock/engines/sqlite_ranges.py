"""Shared and exclusive locks on the byte ranges that SQLite locks in a database file, without SQLite.

Theory of operation
-------------------
filelock's ReadWriteLock is an SQLite transaction: a reader has SQLite's SHARED lock on the file, a writer EXCLUSIVE.
Those are locks on ranges of bytes around 1 GiB, beyond any content (os_unix.c, "The following describes the
implementation of the various locks"):

    PENDING   1 byte     read-locked for an instant by who wants SHARED, write-locked by a writer that waits
    RESERVED  1 byte     write-locked by the one connection that is going to write
    SHARED    510 bytes  read-locked by readers, write-locked by the writer

So a reader here takes a read lock on all 512 bytes (one system call: it fails while a writer has, or waits for, the
lock, so writers do not starve), then gives PENDING and RESERVED back. A writer takes a write lock on all 512
bytes; if that fails because of readers, it takes PENDING and RESERVED, which keeps new readers and other
writers out, and waits for SHARED.

The locks are of the open file description (F_OFD_SETLK), not of the process: each claim has a descriptor and a
lock of its own, so threads and tasks exclude each other like processes, and closing some other descriptor of the file
drops nothing. (SQLite's own locks are of the process. Should this process use the same file through SQLite too,
closing ours drops SQLite's: that is POSIX, and not to be mended from here.)

The file must be what SQLite takes for a database: empty, which is how it is created and stays, or with SQLite's header.
Nothing is ever written, so no journal arises. Of a real database somebody's journal may be hot: a connection
that gets SHARED rolls it back first, under RESERVED; we read nothing, so it does not concern us, and our SHARED only
makes such a connection wait. In WAL mode readers and writers do not exclude each other: such a file is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from os.path import dirname
from random import random

from .._core import fork
from .._errors import ProtocolError, UnsafePathError, UnsupportedError
from .._model import Claim, Traits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._core.arbiter import Line
    from .._model import IO, Parker
    from .._report import Party, Report
    from .kernel import Events, Instance

__all__ = ["NotADatabase", "RangeClaim", "RangesEngine", "WalDatabase", "engine"]

PENDING = 0x40000000
_GETLK, _SETLK = 36, 37  # F_OFD_GETLK, F_OFD_SETLK of Linux
_FLOCK = struct.Struct("hhqqi4x")
_READ, _WRITE, _NONE = 0, 1, 2


def _lock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, 0, PENDING + start, length, 0)


READ_ALL = _lock(_READ, 0, 512)
WRITE_ALL = _lock(_WRITE, 0, 512)
WRITE_ANNOUNCE = _lock(_WRITE, 0, 2)
LEAVE_ANNOUNCE = _lock(_NONE, 0, 2)
LEAVE_ALL = _lock(_NONE, 0, 512)

_OPEN = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
)
_MAGIC = b"SQLite format 3\0"
_CONTENDED = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524)

NAP = 1.0
BLIND_NAP = 0.05
_ECHOES = (0.00005, 0.0002, 0.001, 0.005)


class WalDatabase(ProtocolError):
    """The file is a database in WAL mode, whose readers and writers do not exclude each other."""


class NotADatabase(ProtocolError):
    """The file has content that is not an SQLite database's: filelock's processes could not lock it."""


class Ops:
    """The system calls, in one table that tests replace."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    stat = staticmethod(os.stat)
    makedirs = staticmethod(os.makedirs)
    if sys.platform != "win32":
        import fcntl as _fcntl

        fcntl: Callable[[int, int, bytes], bytes] = staticmethod(_fcntl.fcntl)  # type: ignore[assignment]
        pread = staticmethod(os.pread)

    def create(self, claim: RangeClaim, path: str) -> None:
        for claim.fd in map(self.open, (path,), (_OPEN,), (0o600,)):
            break

    def close_claim(self, claim: RangeClaim) -> None:
        if claim.fd is None:
            return
        try:
            for claim.fd in map(self.close, (claim.fd,)):  # noqa: B020
                break
        except OSError:
            claim.fd = None


class RangeClaim(Claim):
    """A stake in a database file: shared (`write` false) or exclusive, on a descriptor of its own."""

    fd: int | None = None
    announced = False
    held = False
    parker: Parker | None = None
    instance: Instance | None = None
    wd = 0
    echo = 0

    def __init__(self, line: Any = None, owner: object = None, write: bool = True) -> None:
        self.line = line
        self.owner = owner
        self.write = write

    # What the acquire loop drives is the bare claim: these locks need no turn in the process's line.

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        return await engine().try_acquire(io, self, deadline)

    async def wait(self, io: IO, until: float) -> None:
        await engine().wait(io, self, until)

    async def withdraw(self, io: IO) -> None:
        engine().drop(self)


class RangesEngine:
    """The engine of these files. One instance serves all of a process."""

    claim_type = RangeClaim

    def __init__(self, ops: Ops, events: Events | None) -> None:
        self.ops = ops
        self._events = events
        self._live: set[RangeClaim] = set()
        self.traits = Traits(
            name="sqlite ranges",
            family="session",
            excludes="processes",
            fair="no starvation",
            fences=False,
            survives_crash=True,
            wait="events" if events else "naps",
        )
        fork.in_child(self._forget)

    def attempt(self, claim: RangeClaim) -> bool:
        """One attempt. True: held. Whatever is raised, nothing is held."""
        path = claim.line.key
        self._live.add(claim)
        try:
            for _ in range(100):
                if claim.fd is None:
                    self._open(claim, path)
                fd = claim.fd
                assert fd is not None
                if self._current(fd, path):
                    if not self._try(claim, fd, path):
                        return False
                    if self._current(fd, path):
                        claim.held = True
                        return True
                # The file was unlinked or replaced: whoever comes next locks another one.
                self.drop(claim)
                self._live.add(claim)
        except BaseException:
            self.drop(claim)
            raise
        raise BlockingIOError(errno.EAGAIN, "the lock database is replaced faster than it can be locked", path)

    def look(self, claim: RangeClaim) -> None:
        """Create the file if there is none, and refuse one that cannot be locked; locks nothing."""
        try:
            self._open(claim, claim.line.key)
            assert claim.fd is not None
            self._current(claim.fd, claim.line.key)
        finally:
            self.ops.close_claim(claim)

    def _open(self, claim: RangeClaim, path: str) -> None:
        if sys.platform != "linux":
            raise UnsupportedError(f"{path}: read-write locks on a file need Linux (open file description locks)")
        try:
            self.ops.create(claim, path)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise UnsafePathError(f"{path} is not a lock database (a symbolic link, a FIFO)") from error
            raise

    def _current(self, fd: int, path: str) -> bool:
        """Is the descriptor on the file at the path? And may that be locked?"""
        mine = self.ops.fstat(fd)
        if not stat.S_ISREG(mine.st_mode):
            raise UnsafePathError(f"{path} is not a regular file; nothing was locked")
        if mine.st_size:
            self._check_content(fd, path)
        try:
            there = self.ops.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return there.st_ino == mine.st_ino and there.st_dev == mine.st_dev

    def _check_content(self, fd: int, path: str) -> None:
        if sys.platform == "win32":
            return
        header = self.ops.pread(fd, 20, 0)
        if not header.startswith(_MAGIC):
            raise NotADatabase(f"{path} is not a database: give the lock a file of its own")
        if 2 in header[18:20]:
            raise WalDatabase(f"refusing a WAL-mode lock database: {path!r}; give the lock a file of its own")

    def _try(self, claim: RangeClaim, fd: int, path: str) -> bool:
        if not claim.write:
            if not self._set(fd, READ_ALL, path):
                return False
            self._set(fd, LEAVE_ANNOUNCE, path)
            return True
        if self._set(fd, WRITE_ALL, path):
            return True
        if not claim.announced:
            claim.announced = self._set(fd, WRITE_ANNOUNCE, path)
            if claim.announced:  # a reader may have left in between
                return self._set(fd, WRITE_ALL, path)
        return False

    def _set(self, fd: int, lock: bytes, path: str) -> bool:
        if sys.platform == "win32":
            return False
        try:
            self.ops.fcntl(fd, _SETLK, lock)
        except OSError as error:
            if error.errno in _CONTENDED:
                return False
            if error.errno in _UNSUPPORTED:
                raise UnsupportedError(
                    f"{path}: this filesystem or kernel has no open file description locks"
                    f" ({error.strerror}); put the lock file on a local filesystem"
                ) from error
            error.filename = path
            raise
        return True

    def drop(self, claim: RangeClaim) -> None:
        """Release or withdraw. The lock goes before the close, whose event wakes those who wait."""
        if claim.instance is not None:
            self._unwatch(claim)
        fd = claim.fd
        if fd is not None:
            try:
                if claim.held or claim.announced:
                    self._set(fd, LEAVE_ALL, claim.line.key)
            except (OSError, UnsupportedError):  # the close ends it in any case
                pass
            finally:
                claim.held = claim.announced = False
                self.ops.close_claim(claim)
        self._live.discard(claim)

    def disown(self, claim: RangeClaim) -> None:
        """In a forked child: a copy of the descriptor shares the parent's lock; only closing it leaves that alone."""
        claim.parker = claim.instance = None
        claim.held = claim.announced = False
        self.ops.close_claim(claim)

    def _forget(self) -> None:
        for claim in list(self._live):
            self.disown(claim)
        self._live.clear()

    def lost(self, claim: RangeClaim) -> str:
        path = claim.line.key
        if claim.fd is None or not claim.held:
            return f"{path} is not held"
        return "" if self._current(claim.fd, path) else f"{path} was unlinked or replaced while it was held"

    # ---- waiting

    def _trusts(self, path: str) -> bool:
        return self._events is not None and self._events.trusts(dirname(path))

    async def try_acquire(self, io: IO, claim: RangeClaim, deadline: float) -> bool:
        if not await io.call(self.attempt, claim):
            return False
        if claim.instance is not None:
            self._unwatch(claim)
        claim.parker = None
        claim.since = io.now()
        return True

    async def wait(self, io: IO, claim: RangeClaim, until: float) -> None:
        if claim.parker is None or (claim.instance is None and self._trusts(claim.line.key) and not claim.echo):
            await io.call(self._subscribe, io, claim)
            if claim.instance is not None:
                return  # subscribed: now try again
        if claim.instance is not None:
            claim.instance.drain()
        assert claim.parker is not None
        if await io.park(claim.parker, min(until, io.now() + self._nap(claim))):
            claim.echo = 0
        else:
            claim.echo += 1

    def _nap(self, claim: RangeClaim) -> float:
        if claim.instance is None:
            return random() * min(BLIND_NAP, 0.001 * float(2 ** min(claim.echo, 10)))
        if claim.echo < len(_ECHOES):  # a dying holder's close comes before its lock is free
            return _ECHOES[claim.echo]
        return NAP * (0.75 + random() / 2)

    def _subscribe(self, io: IO, claim: RangeClaim) -> None:
        instance = self._events.shared() if self._events and self._trusts(claim.line.key) else None
        if claim.parker is None:
            claim.parker = io.parker(instance)
        claim.echo = 0
        if instance is None or claim.fd is None:
            return
        try:
            claim.wd = instance.watch(claim.fd, instance.CLOSED | instance.REPLACED, claim, claim.parker.unpark)
            claim.instance = instance
        except OSError:  # no watches left: nap
            claim.echo = 1

    def _unwatch(self, claim: RangeClaim) -> None:
        instance, claim.instance = claim.instance, None
        if instance is not None:
            instance.unwatch(claim.wd, claim)

    # ---- the rest of what an engine is

    def require_fair(self, key: str) -> None:
        """These locks have no queue."""
        raise UnsupportedError(f"{key}: a read-write lock on SQLite's ranges has no queue; leave fair out")

    def claim(self, line: Line, owner: object, fair: bool) -> RangeClaim:
        return RangeClaim(line, owner, True)

    def try_now(self, claim: RangeClaim, timeout: float) -> bool:
        if not self.attempt(claim):
            return False
        claim.since = time.monotonic()
        return True

    async def release(self, io: IO, claim: RangeClaim) -> None:
        await io.call(self.drop, claim)

    async def withdraw(self, io: IO, claim: RangeClaim) -> None:
        await io.call(self.drop, claim)

    def inspect(self, line: Line) -> Report:
        from .._report import Report

        return Report(line.resource, self.traits.name, enforced=True, complete=False)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        return None, ""


_engine: RangesEngine | None = None


def engine() -> RangesEngine:
    """The process's engine, made at the first use."""
    global _engine
    if _engine is None:
        from .kernel import engine as kernel_engine

        kernel = kernel_engine()
        _engine = RangesEngine(Ops(), kernel._events if sys.platform == "linux" else None)
    return _engine
