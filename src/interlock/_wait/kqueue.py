"""One kqueue per process, shared by all its waiters: macOS, and FreeBSD.

Facts this rests on (kqueue(2), and the sources of XNU and FreeBSD; run on macOS by the hosted CI matrix, on
FreeBSD nowhere yet):

- macOS raises NOTE_FUNLOCK *after* a flock(2) lock is gone, whether by LOCK_UN, by the last close or by the
  holder's death. FreeBSD has no such event, but NOTE_CLOSE, which comes just *before* a dying holder's lock
  is free, as on Linux.
- A watch (knote) belongs to a descriptor, not to an inode: it goes when the descriptor is closed, and its
  number may then be used again. So a handle is the descriptor itself, and news for a number nobody watches
  are nobody's.
- Registering a descriptor again *replaces* what is watched.
- A child made by fork(2) has no copy of the queue: its number is free there, and may soon be another
  file's.
- Only what happens under this kernel raises events, nothing that other hosts do on a network filesystem: so
  only filesystems that the kernel itself calls local (MNT_LOCAL) are trusted.

Any waiter of the process may read the queue; whoever reads tells all whom the news concern.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from threading import RLock

from .._core import fork

assert sys.platform != "win32"
assert sys.platform != "linux"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_RELEASED = {
    "darwin": 0x100,  # NOTE_FUNLOCK
    "freebsd": 0x100 | 0x200,  # NOTE_CLOSE | NOTE_CLOSE_WRITE
}
_STATFS = {
    "darwin": (64, 4),  # where f_flags is in struct statfs, and its size
    "freebsd": (8, 8),
}
_MNT_LOCAL = 0x1000
_BATCH = 64

_SYSTEM = sys.platform.rstrip("0123456789")


class Instance:
    """A kqueue as an io source: `watch` registers a callback per descriptor, `drain` delivers the news."""

    CLOSED = _RELEASED.get(_SYSTEM, 0)
    REPLACED = select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME | select.KQ_NOTE_ATTRIB | select.KQ_NOTE_REVOKE

    def __init__(self) -> None:
        self._queue = select.kqueue()
        self._watchers: dict[int, dict[object, tuple[int, Callable[[], object]]]] = {}
        self._lock = RLock()  # a finalizer may unwatch while we are inside

    def fileno(self) -> int:
        return self._queue.fileno()

    def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int:
        """Call `tell` at each event of `what` on the file that `fd` is on. Returns the handle for `unwatch`.

        Watching again adds to what is watched. Raises `OSError` (EBADF, EINVAL: this file cannot be watched).
        """
        with self._lock:
            before = self._watchers.get(fd, {})
            if key in before:
                what |= before[key][0]
            self._watchers[fd] = {**before, key: (what, tell)}
            try:
                self._register(fd)
            except OSError:
                self._watchers[fd] = before
                raise
            return fd

    def unwatch(self, handle: int, key: object) -> None:
        """End what `watch` began for this key, also when its handle was lost on the way (0). Idempotent."""
        with self._lock:
            for fd in (handle,) if handle else tuple(self._watchers):
                watchers = self._watchers.get(fd, {})
                if key not in watchers:
                    continue
                self._watchers[fd] = {other: entry for other, entry in watchers.items() if other is not key}
                try:
                    self._register(fd)
                except OSError:  # the descriptor was closed, and the knote went with it
                    pass
                if not self._watchers[fd]:
                    del self._watchers[fd]

    def _register(self, fd: int) -> None:
        """Have the kernel watch on `fd` for whatever all its watchers want."""
        notes = 0
        for what, _ in self._watchers[fd].values():
            notes |= what
        # EV_CLEAR: an event is told once, not for as long as nobody has taken the lock.
        flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR if notes else select.KQ_EV_DELETE
        self._queue.control([select.kevent(fd, select.KQ_FILTER_VNODE, flags, notes)], 0, 0)

    def drain(self) -> None:
        """Read what has come and tell whom it concerns; never blocks."""
        news: list[list[select.kevent]] = []
        try:
            # In C from the system call to the list: no signal handler runs in between and loses the news.
            news.extend(map(self._queue.control, (None,), (_BATCH,), (0,)))
            if len(news[0]) == _BATCH:  # and more to come
                self._tell(tuple(self._watchers))
            else:
                self._tell({event.ident for event in news[0]})
        except BaseException:
            if news:  # read, so nobody else will hear of it
                self._tell(tuple(self._watchers))
            raise

    def _tell(self, concerned: Collection[int]) -> None:
        for fd in concerned:
            for _, tell in self._watchers.get(fd, {}).values():
                tell()

    def close(self) -> None:
        self._queue.close()


_instance: Instance | None = None
_registered = False
_strays: list[Instance] = []


def shared() -> Instance | None:
    """The process's instance, made at the first wait. None where there is none to be had."""
    global _instance, _registered
    if _instance is None and Instance.CLOSED:
        if not _registered:
            _registered = True
            fork.in_child(_forget)
        try:
            made = Instance()
        except OSError:  # EMFILE, ENFILE: may pass
            return None
        if _instance is None:
            _instance = made
        else:  # another thread was faster
            made.close()
    return _instance


def _forget() -> None:
    """In a forked child: there is no queue here. Python 3.11 does not know that, and closes its number."""
    global _instance
    instance, _instance = _instance, None
    if instance is None or instance._queue.closed:
        return
    try:
        os.fstat(instance.fileno())
    except OSError as error:
        if error.errno == errno.EBADF:
            try:
                instance.close()
            except OSError:
                pass
            return
    _strays.append(instance)  # its number is another file's already: never close it


def trusts(directory: str) -> bool:
    """Does every unlock of a file in this directory (canonical) happen under this kernel's eyes?"""
    where = _STATFS.get(_SYSTEM)
    if where is None:
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    # On x86_64 macOS has two statfs(2); the plain name is the one from before 64-bit inodes.
    statfs = getattr(libc, "statfs$INODE64", None) or libc.statfs
    answer = ctypes.create_string_buffer(4096)  # struct statfs is 2168 and 2344 bytes
    if statfs(os.fsencode(directory), answer) != 0:
        return False
    at, size = where
    return bool(int.from_bytes(answer.raw[at : at + size], sys.byteorder) & _MNT_LOCAL)
