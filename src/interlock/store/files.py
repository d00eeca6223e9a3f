"""How files get into the store, and how readers keep them there.

Theory of operation
-------------------
*Publishing.* A file is written under a temporary name on the same filesystem, synced, and then linked to its final
name with link(2), which fails if the name exists: it is there whole or not at all, nobody's file is ever
overwritten, and whoever comes second knows it. No lock is needed for that, so none can spoil it.

*Leases.* Whoever reads a file of the store, or relies on it while publishing, holds a shared flock(2) on that very
file; whoever wants to delete one must first get the exclusive lock on it, without waiting, and look again at what
refers to it. So a lease needs no file of its own, works on read-only mounts, and ends with its process. After
locking, the name is compared with the descriptor: a file deleted in between is a miss.

*Temporary files* are leased by their writer in the same way: one that can be locked exclusively is a dead
writer's, and anybody may remove it.

All system calls that have an effect go through `ops`, so that tests can fail, pause or kill at each of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

from .. import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, 524}
"""A filesystem without flock(2). 524 is ENOTSUPP, which some NFS servers let through."""
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, 524}


class Ops:
    """The outside effects."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    link = staticmethod(os.link)
    replace = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    close = staticmethod(os.close)

    if sys.platform == "win32":

        @staticmethod
        def flock(_fd: int, _exclusive: bool) -> bool:
            """An open file cannot be deleted there: the descriptor is the lease."""
            return True

    else:

        @staticmethod
        def flock(fd: int, exclusive: bool) -> bool:
            """One attempt. False: somebody holds a lock that excludes this one."""
            import fcntl

            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


ops = Ops()


def make_directory(path: str, durable: bool) -> None:
    """With its parents. `durable`: each is on the disk before the next is made."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directory(parent, durable)
    try:
        ops.mkdir(path, 0o777)
    except FileExistsError:
        return
    if durable:
        sync_directory(parent)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable; where directories cannot be opened or synced, it is the system's job."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _BINARY)
    except OSError:
        if sys.platform == "win32":
            return
        raise
    try:
        ops.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def pause(attempt: int) -> None:
    """Back off with full jitter: 1 ms at first, at most 64 ms."""
    time.sleep(random.random() * 0.001 * (1 << min(attempt, 6)))


# ---- leases


class Lease:
    """A shared lock on one file, until closed. `enforced` is False where the filesystem has no locks: the file may
    go away then."""

    __slots__ = ("enforced", "fd", "path")

    def __init__(self, path: str, fd: int, enforced: bool) -> None:
        self.path, self.fd, self.enforced = path, fd, enforced

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            ops.close(fd)

    def reader(self) -> BinaryIO:
        """A file of its own position; closing it leaves the lease."""
        return open(self.path, "rb")


def lease(path: str) -> Lease | None:
    """Keep a file from being deleted. None: there is none, or it is just being deleted."""
    for attempt in range(10_000):
        try:
            fd = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            return None
        try:
            locked, enforced = _shared(fd)
            if locked and same_file(fd, path):
                taken = Lease(path, fd, enforced)
                fd = -1
                return taken
        finally:
            if fd >= 0:
                os.close(fd)
        pause(attempt)
    raise UnsupportedError(f"{path} is locked exclusively, and stays so; see who holds it: interlock who '{path}'")


def _shared(fd: int) -> tuple[bool, bool]:
    try:
        return ops.flock(fd, False), True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return True, False


def same_file(fd: int, path: str) -> bool:
    """Is the open file still the one of that name?"""
    try:
        there, here = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def sole(path: str) -> int | None:
    """A descriptor of a file that nobody leases, locked exclusively: it may be deleted. None: it is leased, or gone.

    Raises `UnsupportedError` where locks do not work: there nobody can tell who reads.
    """
    try:
        # NFS wants a descriptor for writing to lock exclusively.
        fd = os.open(path, os.O_RDWR | _BINARY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
            raise
        fd = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        if ops.flock(fd, True) and same_file(fd, path):
            taken, fd = fd, -1
            return taken
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UnsupportedError(
            f"{path}: this filesystem has no locks ({error.strerror}), so nobody can tell which files are being read. "
            "Nothing was deleted; run this where flock(2) works, for example on the file server"
        ) from None
    finally:
        if fd >= 0:
            os.close(fd)
    return None


def remove_sole(path: str) -> bool:
    """Delete a file unless somebody leases it. False: it is leased, or gone."""
    fd = sole(path)
    if fd is None:
        return False
    try:
        ops.unlink(path)
    finally:
        os.close(fd)
    return True


# ---- publishing


class Draft:
    """A temporary file, leased by its writer: by this process, until `discard`. Linked to a name it stays leased."""

    def __init__(self, directory: str, durable: bool) -> None:
        self.path = os.path.join(directory, f"{os.getpid()}-{os.urandom(8).hex()}")
        self.durable = durable
        self.size = 0
        self._sum = hashlib.sha256()
        while True:
            self.fd = ops.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
            try:
                if _shared(self.fd)[0] and same_file(self.fd, self.path):
                    return
            except BaseException:
                self.discard()
                raise
            self.discard()  # somebody sweeps, and was quicker than our lock

    @property
    def checksum(self) -> str:
        return self._sum.hexdigest()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._sum.update(data)
        view = memoryview(data)
        while view:
            view = view[ops.write(self.fd, view) :]

    def sync(self) -> None:
        if self.durable:
            ops.fsync(self.fd)

    def link(self, final: str) -> bool:
        """Publish under a name. False: the name is taken."""
        try:
            ops.link(self.path, final)
        except FileExistsError:
            # A network filesystem repeats a request whose answer was lost: then it is our own.
            return same_file(self.fd, final)
        except OSError as error:
            if same_file(self.fd, final):
                return True
            if error.errno in _NO_LINKS:
                raise UnsupportedError(
                    f"{final}: this filesystem has no hard links ({error.strerror}), and nothing else publishes a "
                    "file without ever overwriting another's; keep the store on a filesystem that has them"
                ) from None
            raise
        return True

    def replace(self, final: str) -> None:
        """Put it in the place of whatever has that name."""
        ops.replace(self.path, final)

    def discard(self) -> None:
        """Remove the temporary name (not what was linked), and end the lease."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        try:
            ops.unlink(self.path)
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.discard()


def chunks(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(1 << 20):
        yield part


def sweep(directory: str) -> int:
    """Remove what dead writers left among the temporary files; returns how many."""
    count = 0
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    for name in names:
        try:
            count += remove_sole(os.path.join(directory, name))
        except (UnsupportedError, IsADirectoryError, PermissionError):
            continue
    return count
