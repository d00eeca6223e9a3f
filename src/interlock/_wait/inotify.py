"""One inotify instance per process, shared by all its waiters. Linux only.

Facts this rests on (measured on Linux 6.18, see docs/concepts/waiting.md):

- Closing a lock file raises IN_CLOSE for every watcher, whoever held it and however it ended, SIGKILL included.
- Opening and closing an inotify instance per wait stalls about 10 ms in the kernel (it waits for an SRCU grace
  period): so one instance, kept open for the life of the process, and only watches come and go.
- A watch is on an inode. Going through /proc/self/fd watches exactly the file that a descriptor is on, whatever
  happens to the path meanwhile.
- Only local closes raise events: nothing that happens on another host of a network filesystem, or behind FUSE.
- The number of instances per user is limited (fs.inotify.max_user_instances, often 128): without one,
  waiters nap.

Any waiter of the process may read the instance; whoever reads tells all whom the news concern, so nobody depends
on a thread that may be busy elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from threading import RLock

from .._core import fork
from .mounts import LOCAL, fstype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_IN_ATTRIB = 0x4
_IN_CLOSE = 0x8 | 0x10
_IN_MOVE_SELF = 0x800
_IN_DELETE_SELF = 0x400
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_MASK_ADD = 0x20000000

_EVENT = struct.Struct("iIII")


class Instance:
    """An inotify instance as an io source: `watch` registers a callback per descriptor, `drain` delivers the news."""

    CLOSED = _IN_CLOSE
    REPLACED = _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._add = libc.inotify_add_watch
        self._rm = libc.inotify_rm_watch
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._fd = fd
        self._watchers: dict[int, dict[object, Callable[[], None]]] = {}
        self._lock = RLock()  # a finalizer may unwatch while we are inside

    def fileno(self) -> int:
        return self._fd

    def watch(self, fd: int, what: int, key: object, tell: Callable[[], None]) -> int:
        """Call `tell` at each event of `what` on the file that `fd` is on. Returns the handle for `unwatch`.

        Watching again adds to what is watched. Raises `OSError` (ENOSPC: fs.inotify.max_user_watches).
        """
        with self._lock:
            wd: int = self._add(self._fd, b"/proc/self/fd/%d" % fd, what | _IN_MASK_ADD)
            if wd < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "inotify_add_watch")
            self._watchers[wd] = {**self._watchers.get(wd, {}), key: tell}
            return wd

    def unwatch(self, handle: int, key: object) -> None:
        with self._lock:
            left = {other: tell for other, tell in self._watchers.get(handle, {}).items() if other is not key}
            if left:
                self._watchers[handle] = left
            elif self._watchers.pop(handle, None) is not None:
                self._rm(self._fd, handle)

    def drain(self) -> None:
        """Read what has come and tell whom it concerns; never blocks."""
        try:
            news = os.read(self._fd, 8192)
        except BlockingIOError:
            return
        at = 0
        told: set[int] = set()
        while at < len(news):
            wd, mask, _cookie, length = _EVENT.unpack_from(news, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                told.update(self._watchers)
            elif not mask & _IN_IGNORED:
                told.add(wd)
        for wd in told:
            for tell in self._watchers.get(wd, {}).values():
                tell()

    def close(self) -> None:
        os.close(self._fd)


_instance: Instance | None = None
_unavailable = False
_registered = False


def shared() -> Instance | None:
    """The process's instance, made at the first wait. None where there is none to be had."""
    global _instance, _unavailable, _registered
    if _instance is None and not _unavailable:
        if not _registered:
            _registered = True
            fork.in_child(_forget)
        try:
            made = Instance()
        except OSError as error:
            # EMFILE may pass (the limit is per user); anything else will not.
            _unavailable = error.errno not in (errno.EMFILE, errno.ENFILE)
            return None
        except AttributeError:  # a libc without inotify
            _unavailable = True
            return None
        if _instance is None:
            _instance = made
        else:  # another thread was faster
            made.close()
    return _instance


def trusts(directory: str) -> bool:
    """Does every close of a file in this directory (canonical) happen under this kernel's eyes?"""
    return fstype(directory) in LOCAL


def _forget() -> None:
    """In a forked child: reading the inherited instance would steal the parent's news."""
    global _instance
    if _instance is not None:
        instance, _instance = _instance, None
        instance.close()
