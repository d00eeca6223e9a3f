"""Every outside effect of the kernel engine on POSIX, in one table that tests replace to fail, count or schedule it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from functools import cache

from ..._errors import UnsafePathError, UnsupportedError
from . import answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Protocol

    class Owner(Protocol):
        fd: int | None

assert sys.platform != "win32"

OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Never O_TRUNC: the path may turn out to be somebody's file. O_NONBLOCK: opening a FIFO must not hang."""

_CREATE = OPEN | os.O_CREAT | os.O_EXCL
READ_ONLY = OPEN & ~os.O_RDWR
EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
UNLOCK = fcntl.LOCK_UN
_GONE = (errno.EIO, errno.ESTALE, errno.EBADF)
_LOST = {"nfs": _GONE, "cifs": (*_GONE, errno.EACCES, errno.EAGAIN), "smb": (*_GONE, errno.EACCES, errno.EAGAIN)}
"""Beginnings of `Ops.place` where a read tells whether a lock still stands, and the answers that say no."""

_NFS3 = "nfs at "
"""Beginning of `Ops.place` where a server keeps locks for ever, or forgets all of them at once."""

_APART = "this host stood still or was cut off for longer than the server keeps locks"
_DIRECT = getattr(os, "O_DIRECT", 0)
_LEASE = b"interlock-lease?see-the-directory-beside-it"
"""What the file at the path says where leases are used (`engines.marker.lease_fence`)."""

BRIEF = 5e-6
"""Seconds. A hold that ends sooner ends without a look whether its descriptor is still its own: nobody closes it and
opens another file in that time."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Ops:
    """The system calls, by name. Bound once: the uncontended path is made of little else."""

    # Annotated as variables: they are functions that the table holds, not methods, also where gevent or a test has put
    # functions of Python in the place of the system's.
    open: Callable[..., int] = staticmethod(os.open)
    close: Callable[[int], None] = staticmethod(os.close)
    fstat: Callable[[int], os.stat_result] = staticmethod(os.fstat)
    stat: Callable[..., os.stat_result] = staticmethod(os.stat)
    lstat: Callable[[bytes], os.stat_result] = staticmethod(os.lstat)
    flock: Callable[[int, int], None] = staticmethod(fcntl.flock)
    flags: Callable[..., int] = staticmethod(fcntl.fcntl)
    fcntl: Callable[..., Any] = flags
    makedirs: Callable[..., None] = staticmethod(os.makedirs)
    pread: Callable[[int, int, int], bytes] = staticmethod(os.pread)
    utime: Callable[[int], None] = staticmethod(os.utime)
    lock = "flock(2)"  # what it is called in messages
    place = ""  # the filesystem, where it is known
    yield_core: Callable[[], None] = staticmethod(getattr(os, "sched_yield", lambda: None))
    owned: ClassVar[dict[int, float]] = {}
    """Descriptor -> `KernelClaim.proof` of the claim that had it last. One for all engines of the process."""

    def __init__(self) -> None:
        # An instance's own attributes are found faster than its class's: 3 % of acquire and release.
        self.close, self.fstat, self.flock = self.close, self.fstat, self.flock

    def ours(self, fd: int, proof: float) -> bool:
        """Is this still the descriptor that the claim opened, or has other code closed it and its number was given to
        somebody else? `proof` tells claims apart, by identity; 0.0: it has none yet."""
        if proof and self.owned.get(fd) is not proof:
            return False
        try:
            shown: int = self.flags(fd, fcntl.F_GETFL)
            return not _signature() & ~shown
        except OSError as error:  # any other says that it is open; and to disown it would leave it locked for good
            return error.errno != errno.EBADF

    getpid: Callable[[], int] = staticmethod(os.getpid)

    def stopped(self, pid: int | None) -> bool:
        """Is this process stopped, or dead? Not if nothing is known of it."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1] in (b"T", b"t", b"Z", b"X")
        except OSError:
            return False

    def touch(self, fd: int) -> None:
        """Raise IN_ATTRIB for those who watch this file. Harmless where it is not allowed."""
        try:
            self.utime(fd)
        except OSError:
            pass

    def tell(self, fd: int) -> None:
        """`touch`, or what comes near to it for those in front where the file may only be read."""
        try:
            self.utime(fd)
        except OSError:
            try:
                self.close(self.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                pass

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(_CLOCK)

    # ---- a lock file's life. `for owner.fd in map(open, ...)`: the descriptor is owned the moment that it exists,
    # see "Descriptors" in the engine.

    def open_lock_file(self, owner: Owner, path: str) -> None:
        """Open (or create) the lock file at `path`; `owner.fd` is its descriptor.

        Opens without O_CREAT first: in a sticky directory with fs.protected_regular (Debian: 2) O_CREAT on
        another user's file is EACCES although opening it is allowed. A file that may only be read is opened
        read-only, which is enough for flock(2) on local filesystems.
        """
        missing = False
        for _ in range(100):
            try:
                for owner.fd in map(self.open, (path,), (OPEN,)):
                    return
            except FileNotFoundError:
                pass
            except PermissionError:
                self._refuse_unsafe(path)
                self._open_read_only(owner, path)
                return
            except OSError as error:
                if error.errno == errno.EROFS:
                    self._open_read_only(owner, path)
                    return
                self._refuse_unsafe(path)
                raise
            try:
                for owner.fd in map(self.open, (path,), (_CREATE,), (0o666,)):
                    return
            except FileExistsError:
                self._refuse_unsafe(path)  # a dangling symbolic link is "not found" and "exists"
            except FileNotFoundError:
                directory = os.path.dirname(path)
                if missing and os.path.isdir(directory):  # not gone again: nothing can be made in it (/proc)
                    raise
                missing = True
                self.makedirs(directory, exist_ok=True)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise OSError(error.errno, f"{error.strerror} ({_CANNOT_MAKE})", path) from error
                raise
        raise OSError(errno.EAGAIN, "the lock file is created and removed faster than it can be opened", path)

    def _open_read_only(self, owner: Owner, path: str) -> None:
        for owner.fd in map(self.open, (path,), (READ_ONLY,)):
            return

    def lift(self, owner: Owner, above: int) -> None:
        """Give an open lock file a higher descriptor than `above`, the event instance's.

        A dying process closes its highest descriptors first (task_work is last in, first out), and closing an
        inotify instance that watches something takes up to 25 ms (SRCU, measured): meanwhile the lock would stay.
        """
        fd = owner.fd
        if fd is None or fd > above:
            return
        try:
            for owner.fd in map(self.fcntl, (fd,), (fcntl.F_DUPFD_CLOEXEC,), (above,)):
                break
            self.close(fd)
        except OSError:  # no descriptors left
            pass

    def _refuse_unsafe(self, path: str) -> None:
        try:
            mode = self.stat(path, follow_symlinks=False).st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UnsafePathError(f"{path} is {_kind(mode)}, not a lock file; nothing was opened or locked")

    def try_lock(self, fd: int, path: str, operation: int = EXCLUSIVE) -> bool:
        """One attempt. Translates errors once: contended (False), unsupported, failed."""
        try:
            self.flock(fd, operation)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EACCES:  # flock(2) over SMB says so for contention
                return False
            if error.errno == errno.EBADF and self._forgotten(fd):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path) from error  # which opens it again
            refusal = answers.refusal(path, error, self.lock, self.place)
            if refusal is not None:
                raise refusal from error
            error.filename = path
            raise
        return True

    def _forgotten(self, fd: int) -> bool:
        """After EBADF: does the kernel know this descriptor, and its server does not any more?

        SMB, after a restart of the server: the client could not open the file again behind our back.
        """
        if not self.place.startswith(("cifs", "smb")):
            return False
        try:
            return self.flags(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        except OSError:
            return False

    def current(self, fd: int, path: str) -> bool:
        """Is the locked descriptor still the file at `path`? Raises UnsafePathError for what is not a lock file."""
        mine = self.fstat(fd)
        if not stat.S_ISREG(mine.st_mode):
            raise UnsafePathError(f"{path} is {_kind(mine.st_mode)}, not a lock file")
        if mine.st_nlink > 1 and mine.st_uid != os.geteuid():
            raise UnsafePathError(
                f"{path} is a hard link to a file of user {mine.st_uid}: somebody else's file would be locked"
            )
        if 0 < mine.st_size < 128 and _LEASE in os.pread(fd, 128, 0):
            raise UnsupportedError(
                f"{path} is locked by leases (primitive='marker'), which kernel locks do not exclude; nothing was"
                " locked. Give all who lock it the same setting (INTERLOCK_PRIMITIVE, /etc/interlock.conf), or remove"
                f" it and {path}.interlock when nobody uses them"
            )
        try:
            there = self.stat(path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def disowned(self, fd: int, path: str) -> str:
        """Why the server of a network filesystem has given the lock of this descriptor up; "" if it has not, or if
        nothing can be asked.

        A client that stood still for longer than its lease (NFSv4), or that was cut off (SMB), has lost its locks on
        the server, and neither fstat(2) nor stat(2) tells. Reading through the descriptor does: NFS answers EIO from
        then on for one whose lock was lost, SMB refuses (EACCES) what another client has locked, and EBADF or ESTALE is
        what is left of a file that could not be opened again. It must reach the server, so O_DIRECT: the file is empty,
        and a cached read of nothing asks nobody.
        """
        lost = next((errors for kind, errors in _LOST.items() if self.place.startswith(kind)), ())
        if not lost:
            return ""
        try:
            flags = self.flags(fd, fcntl.F_GETFL)
            if not flags & _DIRECT:  # and it stays: another thread may be about to read
                self.flags(fd, fcntl.F_SETFL, flags | _DIRECT)
        except OSError:  # SMB cannot with some mount options, nor need it: it keeps nothing of a file that others lock
            pass
        try:
            self.pread(fd, 1, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:  # O_DIRECT wants whole blocks here, so it is another kind of filesystem
                return ""
            if error.errno not in lost:
                raise
            return f"the server does not know its lock on {path} any more (a read says: {error.strerror}); " + _APART
        return self._given_to_another(fd, path) if self.place.startswith(_NFS3) else ""

    def lock_again(self, fd: int) -> None:
        """Take what is held already. Whatever comes of it, nothing is unlocked."""
        self.flock(fd, EXCLUSIVE)

    def _given_to_another(self, fd: int, path: str) -> str:
        """NFSv3: a server that boots forgets its locks, and gives them away unless its `sm-notify` tells the clients to
        claim them again; reads go on as before. So lock once more: that asks the server, gets the lock back if nobody
        took it, and is refused if somebody has it. Waits for the end of the server's grace period.

        Through a descriptor of our own, as another thread may close this one and its number become another file's.
        """
        for mine in map(self.fcntl, (fd,), (fcntl.F_DUPFD_CLOEXEC,), (0,)):
            try:
                if self.current(mine, path):
                    self.lock_again(mine)
            except BlockingIOError:
                return f"the server has given {path} to another host: it booted and forgot its locks (NFSv3)"
            finally:
                self.close(mine)
        return ""


@cache
def _shown() -> int:
    fd = os.open(os.devnull, OPEN)
    try:
        return int(fcntl.fcntl(fd, fcntl.F_GETFL)) & (os.O_NOFOLLOW | os.O_NONBLOCK)
    finally:
        os.close(fd)


def _signature() -> int:
    """What F_GETFL shows, on this system, of the flags in OPEN that hardly anybody else has together."""
    try:
        return _shown()
    except OSError:  # no descriptors left, say
        return 0


_CANNOT_MAKE = (
    "there is no lock file, and only who may write in its directory can make one; RWLock.read() and, on local "
    "filesystems, Lock need no more than to read one that is there"
)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISDIR, "a directory"),
    ):
        if test(mode):
            return name
    return "not a regular file"
