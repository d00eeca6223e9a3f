"""Every outside effect of the marker protocols, in one table that tests replace to fail, count or schedule
it."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from . import MarkerClaim

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS
UPDATE = READ | os.O_RDWR
PIN = getattr(os, "O_PATH", os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)) | _FLAGS
"""To keep an inode's number from being given away, and to watch it; raises no event, needs no permission to
read."""

_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}
_SIGURG = 23  # ignored by default


class Ops:
    """The system calls, by name."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    write = staticmethod(os.write)
    fstat = staticmethod(os.fstat)
    lstat = staticmethod(os.lstat)
    unlink = staticmethod(os.unlink)
    makedirs = staticmethod(os.makedirs)
    rename = staticmethod(os.rename)
    sleep = staticmethod(time.sleep)
    wall = staticmethod(time.time)

    def scandir(self, directory: str) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        return os.scandir(directory)

    def read(self, fd: int, size: int) -> bytes:
        """The start of the file, wherever the descriptor stands."""
        if sys.platform == "win32":
            os.lseek(fd, 0, os.SEEK_SET)
            return os.read(fd, size)
        return os.pread(fd, size, 0)

    def rewrite(self, fd: int, data: bytes) -> None:
        """Make `data` the whole content. Never empty in between: an empty marker means a holder."""
        if sys.platform == "win32":
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, data)
        else:
            os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))

    def settle(self, fd: int) -> None:
        """What was written is on the disk, or on the server, when this returns."""
        os.fsync(fd)

    def chmod(self, fd: int, mode: int) -> None:
        if sys.platform != "win32":
            try:
                os.fchmod(fd, mode)
            except PermissionError:  # a filesystem without modes
                pass

    def name_of(self, fd: int) -> str:
        """Where an open file is now: its directory may have been renamed. Empty where the kernel does not
        say."""
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    def guard(self, fd: int) -> bool:
        """Become the only process that breaks this very marker. Ends with `unguard` or with the process."""
        if sys.platform == "win32":
            return False
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unguard(self, fd: int) -> None:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError:
                pass

    def nobody_writes(self, fd: int) -> bool:
        """Does no process under this kernel have the file open for writing, in whatever container, of
        whatever user?

        A read lease (fcntl F_SETLEASE) is granted only then. False also where there is no answer. The lease
        is given back at once; should somebody open the file for writing meanwhile, the kernel sends the
        signal that F_SETSIG names, by default one that ends the process.
        """
        if sys.platform != "linux":
            return False
        import fcntl

        try:
            fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        return True

    def exchange(self, one: str, other: str) -> bool:
        """Swap two names in one step. False where the platform or the filesystem cannot."""
        call = _exchange()
        if call is None:
            return False
        number = call(os.fsencode(one), os.fsencode(other))
        if number in _NO_EXCHANGE:
            return False
        if number:
            raise OSError(number, os.strerror(number), one, None, other)
        return True

    # ---- made of these

    def unlink_closed(self, path: str, mine: os.stat_result, tries: int = 10) -> bool:
        """Windows: remove a file that nobody has open. Its closing is finished some time after the call returned."""
        for attempt in range(tries):
            try:
                if not same(self.lstat(path), mine):
                    return False
                self.unlink(path)
                return True
            except FileNotFoundError:
                return False
            except OSError:
                self.sleep(0.001 * 2**attempt if attempt + 1 < tries else 0.0)
        return False

    def create(self, claim: MarkerClaim, path: str, mode: int) -> None:
        """Make the file at `path`; the claim owns its descriptor from the instant that it exists (see the
        kernel engine on descriptors and signals)."""
        for claim.fd in map(os.open, (path,), (CREATE,), (mode,)):  # by name: dependents' tests replace it
            break

    def shut(self, fd: int) -> None:
        """close(2) of what was only looked at: the descriptor is gone, and an error of it says nothing."""
        try:
            self.close(fd)
        except OSError:
            pass

    def close_claim(self, claim: MarkerClaim) -> OSError | None:
        """The descriptor is gone, whatever close(2) says; its error is returned."""
        if claim.fd is None:
            return None
        try:
            for claim.fd in map(self.close, (claim.fd,)):  # noqa: B020
                break
        except OSError as error:
            claim.fd = None
            return error
        return None


def same(one: os.stat_result, other: os.stat_result) -> bool:
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def state(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """Changes with every write, touch, link and rename of a file, and from one file to the next of the same
    number."""
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_nlink


def kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return name
    return "not a regular file"


_exchanges: list[Callable[[bytes, bytes], int] | None] = []


def _exchange() -> Callable[[bytes, bytes], int] | None:
    """renameat2(RENAME_EXCHANGE) or renamex_np(RENAME_SWAP) as a function that returns an errno; looked up
    once."""
    if not _exchanges:
        _exchanges.append(_find_exchange())
    return _exchanges[0]


def _find_exchange() -> Callable[[bytes, bytes], int] | None:
    if sys.platform == "win32":
        return None
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        name = "renamex_np" if sys.platform == "darwin" else "renameat2"
        function = getattr(libc, name)
    except (ImportError, AttributeError, OSError):
        return None
    function.restype = ctypes.c_int
    here, flag = ctypes.c_int(-100), ctypes.c_uint(2)  # AT_FDCWD; RENAME_EXCHANGE and RENAME_SWAP are both 2

    def swap(one: bytes, other: bytes) -> int:
        first, second = ctypes.c_char_p(one), ctypes.c_char_p(other)
        done = function(first, second, flag) if name == "renamex_np" else function(here, first, here, second, flag)
        return 0 if done == 0 else ctypes.get_errno()

    return swap
