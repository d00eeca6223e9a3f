"""Every outside effect of the kernel engine on Windows, in one table: `LockFileEx` instead of flock(2).

What is different from POSIX:

- A descriptor is a handle, made by CreateFileW itself: os.open follows links, and says EACCES for half a
  dozen different refusals.
- The lock is byte 0 of the file, length 1: what filelock and fasteners lock, and what portalocker's range
  covers. It is *mandatory*: while it is held nobody else can read or write that byte. A lock file is empty,
  so nobody misses it; do not lock a file that has content.
- The handle shares reading and writing but not deletion: while anybody holds the lock or waits for it, the
  system lets nobody unlink, rename or replace the file. The identity is compared after the lock all the
  same: the server of a network drive deletes what it likes.
- The lock is released explicitly. Where a handle was only closed, or its process died, Windows promises no
  more than that the lock goes, after a time that "depends upon available system resources".
- Nothing announces that a range was unlocked. Waiters nap, with full jitter, at most `BLIND_NAP` (the
  system's timer may round that up by 15.6 ms). There is no queue and no order, so `fair=True` is refused.
- There is no fork, and no child inherits a handle.

Who holds a lock is not told (see `unseen`). Run on Windows by the hosted CI matrix, and under Wine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from itertools import starmap
from time import monotonic

from ..._errors import UnsafePathError, UnsupportedError

assert sys.platform == "win32"

import _winapi  # noqa: E402 - exists on Windows only, as the line above tells mypy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Protocol

    class Owner(Protocol):
        fd: int | None

    _Arguments = tuple[str, int, int, int, int, int, int]

EXCLUSIVE = 0x1 | 0x2  # LOCKFILE_FAIL_IMMEDIATELY | LOCKFILE_EXCLUSIVE_LOCK
UNLOCK = 0
BRIEF = 5e-6
"""As in `ops`."""

_READ_WRITE = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
_READ_ONLY = _winapi.GENERIC_READ
_ATTRIBUTES = 0x80  # FILE_READ_ATTRIBUTES: an open for this alone conflicts with no sharing
_SHARE = 0x1 | 0x2  # FILE_SHARE_READ | FILE_SHARE_WRITE, not FILE_SHARE_DELETE
_SHARE_ALL = _SHARE | 0x4
_CREATE_NEW, _EXISTING = 1, _winapi.OPEN_EXISTING
_THE_LINK = 0x00200000  # FILE_FLAG_OPEN_REPARSE_POINT: never follow what stands at the path
OPENING = _READ_WRITE, _SHARE, 0, _EXISTING, _THE_LINK, 0
"""What CreateFileW is told, behind the path, to open a lock file that exists."""

_NOT_FOUND, _NO_DIRECTORY, _DENIED, _WRITE_PROTECT = 2, 3, 5, 19
_EXISTS = {80, 183}  # ERROR_FILE_EXISTS, ERROR_ALREADY_EXISTS
_SHARING_VIOLATION = 32
_DELETE_PENDING = 303  # only new systems say so; all others say ERROR_ACCESS_DENIED
_CONTENDED = {33, 997}  # ERROR_LOCK_VIOLATION, ERROR_IO_PENDING
_UNSUPPORTED = {1, 50, 120}  # ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED, ERROR_CALL_NOT_IMPLEMENTED

DENIED_FOR = 1.0
"""Seconds for which "access denied" is taken for a lock file that is being deleted; then it is an error.

A file that was unlinked while somebody still has it open keeps its name, and every open of it is denied until
the last handle is closed. filelock unlinks at each release, so in a mixed fleet this is ordinary contention,
over in microseconds. The system says the same to those who have no right to the file."""

_Overlapped = ctypes.c_uint64 * 4  # OVERLAPPED, all zero: offset 0, no event (on 32 bits it is only 20 bytes)
_Information = ctypes.c_uint32 * 13  # BY_HANDLE_FILE_INFORMATION
_DWORD, _HANDLE = ctypes.c_uint32, ctypes.c_void_p

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.LockFileEx.argtypes = _HANDLE, _DWORD, _DWORD, _DWORD, _DWORD, ctypes.POINTER(_Overlapped)
_kernel32.UnlockFileEx.argtypes = _HANDLE, _DWORD, _DWORD, _DWORD, ctypes.POINTER(_Overlapped)
_kernel32.GetFileInformationByHandle.argtypes = _HANDLE, ctypes.POINTER(_Information)


def _arguments(path: str, access: int, how: int, share: int = _SHARE) -> list[_Arguments]:
    return [(path, access, share, 0, how, _THE_LINK, 0)]


class Ops:
    """The system calls, by name, and what a lock file's life is made of."""

    open = staticmethod(_winapi.CreateFile)
    close = staticmethod(_winapi.CloseHandle)
    kind = staticmethod(_winapi.GetFileType)
    stat = staticmethod(os.stat)
    makedirs = staticmethod(os.makedirs)
    lock_range = staticmethod(_kernel32.LockFileEx)
    unlock_range = staticmethod(_kernel32.UnlockFileEx)
    information = staticmethod(_kernel32.GetFileInformationByHandle)
    error = staticmethod(ctypes.get_last_error)
    now = staticmethod(monotonic)
    owned: ClassVar[dict[int, float]] = {}
    """Handle -> `KernelClaim.proof` of the claim that had it last."""

    def __init__(self) -> None:
        self._denied: dict[str, tuple[float, float]] = {}  # path -> when first, when last

    def ours(self, handle: int, proof: float) -> bool:
        """Was its number given to another claim meanwhile? What else it may be now is not known."""
        return not proof or self.owned.get(handle) is proof

    def flock(self, handle: int, how: int) -> None:
        """flock(2) as the engine knows it: `EXCLUSIVE` (never waits) or `UNLOCK`."""
        if how == UNLOCK:
            done = self.unlock_range(handle, 0, 1, 0, _Overlapped())
        else:
            done = self.lock_range(handle, how, 0, 1, 0, _Overlapped())
        if not done:
            raise ctypes.WinError(self.error())

    def fstat(self, handle: int) -> os.stat_result:
        """Type, identity and link count of what a handle is on. The rest is zero."""
        words = _Information()
        if not self.information(handle, words):
            raise ctypes.WinError(self.error())
        attributes, volume, links, index = words[0], words[7], words[10], words[11] << 32 | words[12]
        mode = stat.S_IFREG
        if attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT:
            mode = stat.S_IFLNK
        elif attributes & stat.FILE_ATTRIBUTE_DIRECTORY:
            mode = stat.S_IFDIR
        return os.stat_result((mode, index, volume, links, 0, 0, 0, 0, 0, 0))

    # ---- a lock file's life. `for owner.fd in starmap(open, ...)`: the handle is owned the moment that it
    # exists, see "Descriptors" in the engine.

    def open_lock_file(self, owner: Owner, path: str) -> None:
        """Open (or create) the lock file at `path`; `owner.fd` is its handle.

        It stays None where the file exists but cannot be opened just now: somebody deletes it, or has it open
        without sharing it. That is contention like any other.
        """
        for _ in range(100):
            try:
                self._open(owner, path)
            except OSError as error:
                error.filename = path
                code = error.winerror
                if code == _NO_DIRECTORY:
                    self.makedirs(os.path.dirname(path), exist_ok=True)
                elif code == _DENIED:
                    self._refuse_directory(path)
                    if self._denied_for_good(path):
                        raise
                    return
                elif code in (_SHARING_VIOLATION, _DELETE_PENDING):
                    return
                elif code not in _EXISTS:  # created by another since we looked
                    raise
            else:
                self._denied.pop(path, None)
                assert owner.fd is not None
                self._refuse_unsafe(owner.fd, path)
                return
        raise OSError(errno.EAGAIN, "the lock file is created and removed faster than it can be opened", path)

    def _open(self, owner: Owner, path: str) -> None:
        """Open what is there; a file that may only be read is opened so, which is enough for LockFileEx."""
        try:
            for owner.fd in starmap(self.open, _arguments(path, _READ_WRITE, _EXISTING)):
                return
        except OSError as error:
            if error.winerror not in (_NOT_FOUND, _DENIED, _WRITE_PROTECT):
                raise
            missing = error.winerror == _NOT_FOUND
        again = _arguments(path, _READ_WRITE, _CREATE_NEW) if missing else _arguments(path, _READ_ONLY, _EXISTING)
        for owner.fd in starmap(self.open, again):
            return

    def _denied_for_good(self, path: str) -> bool:
        now = self.now()
        first, last = self._denied.get(path, (now, now))
        if now - last > DENIED_FOR:  # that was another time
            first = now
        self._denied[path] = first, now
        return now - first >= DENIED_FOR

    def _refuse_directory(self, path: str) -> None:
        """A directory is "denied" too, and so is a link to one."""
        try:
            mode = self.stat(path, follow_symlinks=False).st_mode
        except OSError:
            return
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise UnsafePathError(f"{path} is a link, not a lock file; nothing was opened or locked")

    def _refuse_unsafe(self, handle: int, path: str) -> None:
        if self.kind(handle) != _winapi.FILE_TYPE_DISK:
            raise UnsafePathError(f"{path} is a device or a pipe, not a lock file")
        if not stat.S_ISREG(self.fstat(handle).st_mode):
            raise UnsafePathError(f"{path} is a symbolic link or another reparse point, not a lock file")

    def try_lock(self, handle: int, path: str) -> bool:
        """One attempt. Translates errors once: contended (False), unsupported, failed."""
        try:
            self.flock(handle, EXCLUSIVE)
        except OSError as error:
            if error.winerror in _CONTENDED:
                return False
            self._refuse_unsafe(handle, path)
            if error.winerror in _UNSUPPORTED:
                raise UnsupportedError(
                    f"{path}: this drive has no LockFileEx (WinError {error.winerror}); "
                    "put the lock file on a local drive"
                ) from error
            error.filename = path
            raise
        return True

    def current(self, handle: int, path: str) -> bool:
        """Is the locked handle still on the file at `path`? Raises UnsafePathError for what is not a lock file."""
        self._refuse_unsafe(handle, path)
        mine = self.fstat(handle)
        there = None
        try:
            for there in starmap(self.open, _arguments(path, _ATTRIBUTES, _EXISTING, _SHARE_ALL)):
                other = self.fstat(there)
        except OSError as error:
            if error.winerror in (_NOT_FOUND, _NO_DIRECTORY, _DENIED, _DELETE_PENDING):
                return False
            error.filename = path
            raise
        finally:
            if there is not None:
                self.close(there)
        return (other.st_dev, other.st_ino) == (mine.st_dev, mine.st_ino)
