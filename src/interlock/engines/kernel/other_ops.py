"""The system calls of places that are not locked with flock(2): the two locks of `dual`, a range, and none at all.

`dual` is flock(2), then an OFD write lock on the first byte, on one descriptor; both or none. Each excludes those who
take it alone: flock(2) filelock and flock(1), the range lockf(3) and fasteners. So on a filesystem where one of the
two ends at the host and the other does not, it excludes everywhere (GPFS; NFS mounted in two ways on two hosts).

Lies that this rests on, or against:

- SMB makes both the same mandatory range: the second one of a descriptor meets the first one (EACCES). NFS does too,
  but knows the open file description as the owner of both. Elsewhere nobody has looked; so when the range is refused
  to who has the flock, a file of our own, unlinked before it is locked, tells whether that was because of ourselves.
- The SMB client of Linux opens a file once at the server for all processes of the host that open it with the same
  flags. Who closes it, or unlocks it without having it locked, ends the flock(2) that another process has (seen on 6.1:
  the next contender of another host gets in). close(2) ends OFD ranges of the same process only.
- A FUSE server that keeps ranges is not told when the holder of an OFD range dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys

assert sys.platform != "win32"

from ..._errors import UnsupportedError  # noqa: E402
from .ops import OPEN, UNLOCK, Ops  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .ops import Owner

_SETLK = 37  # F_OFD_SETLK: the fcntl module has it only where libc names it
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_TAKE = _FLOCK.pack(1, 0, 0, 1, 0)
_SHARE = _FLOCK.pack(0, 0, 0, 1, 0)
_FREE = _FLOCK.pack(2, 0, 0, 1, 0)
_CONTENDED = (errno.EAGAIN, errno.EACCES)


class DualOps(Ops):
    """flock(2) and an OFD range."""

    lock = "flock(2) with an OFD range"

    def __init__(self) -> None:
        self._tested = False
        self.one = fcntl.flock
        self.flock = self._flock

    def _flock(self, fd: int, how: int) -> None:
        if how == UNLOCK:
            try:
                self.fcntl(fd, _SETLK, _FREE)
            finally:
                self.one(fd, UNLOCK)
            return
        self.one(fd, how)
        try:
            self.fcntl(fd, _SETLK, _SHARE if how & fcntl.LOCK_SH else _TAKE)
        except OSError as error:
            self.one(fd, UNLOCK)
            if error.errno not in _CONTENDED:
                raise OSError(error.errno, f"the OFD range: {error.strerror}") from error
            self._refuse_conflict_with_itself(fd)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def lock_again(self, fd: int) -> None:
        self.one(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self.fcntl(fd, _SETLK, _TAKE)
        except PermissionError as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def _refuse_conflict_with_itself(self, fd: int) -> None:
        """Raise `UnsupportedError` where nobody could ever get both locks. Looks once."""
        if self._tested:
            return
        self._tested = True
        directory = os.path.dirname(os.readlink(f"/proc/self/fd/{fd}"))
        path = os.path.join(directory, f".interlock-{os.urandom(8).hex()}")
        try:
            for mine in map(os.open, (path,), (OPEN | os.O_CREAT | os.O_EXCL,), (0o600,)):  # noqa: B007
                break
        except OSError:  # it cannot be found out here
            return
        try:
            os.unlink(path)
            self.one(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.fcntl(mine, _SETLK, _TAKE)
        except OSError as error:
            if error.errno in _CONTENDED:
                raise UnsupportedError(
                    f"{directory}: on {self.place or 'this filesystem'} the two locks of 'dual' conflict with each"
                    " other; say 'flock' or 'marker' for it (INTERLOCK_PRIMITIVE, /etc/interlock.conf)"
                ) from error
        finally:
            os.close(mine)


class RangeOps(Ops):
    """An OFD range alone. It ends by close(2), and not before: see SMB, above."""

    lock = "an OFD range"

    def __init__(self) -> None:
        super().__init__()
        self.flock = self._flock

    def _flock(self, fd: int, how: int) -> None:
        if how == UNLOCK:
            return
        try:
            self.fcntl(fd, _SETLK, _SHARE if how & fcntl.LOCK_SH else _TAKE)
        except PermissionError as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


class RefusingOps(Ops):
    """Opens and locks nothing."""

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal
        self.open = self._no_open

    def _no_open(self, path: object, *flags: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, self._refusal)

    def open_lock_file(self, owner: Owner, path: str) -> NoReturn:
        """Say why."""
        raise UnsupportedError(f"{path}: {self._refusal}")
