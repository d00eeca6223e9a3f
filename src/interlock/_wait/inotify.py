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

import errno
import os
import struct
import sys
from _thread import RLock

from .._core import fork
from .mounts import is_local

assert sys.platform == "linux"

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
        import ctypes  # the first wait loads it: most processes never wait

        libc = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._add = libc.inotify_add_watch
        self._rm = libc.inotify_rm_watch
        # In C from the system call to the list: no signal handler runs in between and loses the descriptor.
        self._fds: list[int] = []
        self._fds.extend(map(libc.inotify_init1, (os.O_NONBLOCK | os.O_CLOEXEC,)))
        if self._fds[0] < 0:
            raise OSError(self._errno(), "inotify_init1")
        self._watchers: dict[int, dict[object, Callable[[], object]]] = {}
        self._idle: set[int] = set()  # watches that the kernel still has and nobody needs
        self._lock = RLock()  # a finalizer may unwatch while we are inside

    def fileno(self) -> int:
        return self._fds[0]

    def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int:
        """Call `tell` at each event of `what` on the file that `fd` is on. Returns the handle for `unwatch`.

        Watching again adds to what is watched. Raises `OSError` (ENOSPC: fs.inotify.max_user_watches).
        """
        wds: list[int] = []
        path = b"/proc/self/fd/%d" % fd
        with self._lock:
            try:
                wds.extend(map(self._add, self._fds, (path,), (what | _IN_MASK_ADD,)))
                if wds[0] < 0:
                    number = self._errno()
                    raise OSError(number, f"{os.strerror(number)} (inotify_add_watch)")
                if wds[0] in self._idle:  # forget what it was watched for before
                    self._add(self._fds[0], path, what)
                    self._idle.discard(wds[0])
                self._watchers[wds[0]] = {**self._watchers.get(wds[0], {}), key: tell}
                while self._idle:
                    self._rm(self._fds[0], self._idle.pop())
                return wds[0]
            except BaseException:
                for wd in wds:
                    if wd not in self._watchers:
                        self._idle.discard(wd)
                        self._rm(self._fds[0], wd)
                raise

    def unwatch(self, handle: int, key: object) -> None:
        """End what `watch` began for this key, also when its handle was lost on the way (0). Idempotent.

        A watch that nobody needs stays in the kernel until the next `watch`: who calls this has just released a lock,
        and the one that it woke may be waiting for this very core.
        """
        with self._lock:
            for wd in (handle,) if handle else tuple(self._watchers):
                watchers = self._watchers.get(wd, {})
                if key not in watchers:
                    continue
                if len(watchers) > 1:
                    self._watchers[wd] = {other: tell for other, tell in watchers.items() if other is not key}
                else:
                    self._idle.add(wd)
                    del self._watchers[wd]

    def drain(self) -> None:
        """Read what has come and tell whom it concerns; never blocks."""
        news: list[bytes] = []
        try:
            news.extend(map(os.read, self._fds, (8192,)))
            self._tell(self._concerned(news[0]))
        except BlockingIOError:
            pass
        except BaseException:
            if news:  # read, so nobody else will hear of it
                self._tell(set(self._watchers))
            raise

    def _concerned(self, news: bytes) -> set[int]:
        at = 0
        concerned: set[int] = set()
        while at < len(news):
            wd, mask, _cookie, length = _EVENT.unpack_from(news, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                concerned.update(self._watchers)
            elif not mask & _IN_IGNORED:
                concerned.add(wd)
        return concerned

    def _tell(self, concerned: set[int]) -> None:
        for wd in concerned:
            for tell in self._watchers.get(wd, {}).values():
                tell()

    def close(self) -> None:
        os.close(self._fds[0])


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
    return is_local(directory)


def _forget() -> None:
    """In a forked child: reading the inherited instance would steal the parent's news."""
    global _instance
    if _instance is not None:
        instance, _instance = _instance, None
        instance.close()
