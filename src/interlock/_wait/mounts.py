"""Which filesystem a path is on, from the kernel's mount table. Linux only; elsewhere nothing is known.

What was read is kept until the table changes. poll(2) on /proc/self/mountinfo tells of that, once for each time that
the file was opened (proc(5)), so one descriptor stays open for the life of the process. A device number is no sign:
the one of a filesystem that was unmounted is given to the next one that is mounted. Not seen is what makes no news: a
directory above a mount point that is renamed, chroot(2); and a process that goes over to another mount namespace
(setns(2), unshare(2)) goes on watching the one that it came from.
"""

from __future__ import annotations

import errno
import os
import sys
from itertools import count
from types import BuiltinFunctionType

from .._core import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

LOCAL = frozenset(
    "ext2 ext3 ext4 xfs btrfs tmpfs ramfs overlay f2fs zfs bcachefs jfs nilfs2 reiserfs vfat exfat ntfs3 hfsplus udf"
    " squashfs erofs iso9660 devtmpfs".split()
)
"""Filesystems whose every user is a process of this kernel: its close events are all the close events there are."""


class Mount:
    """One line of the mount table. `options`: those of this mount and those of the filesystem behind it."""

    __slots__ = ("device", "fstype", "options", "point", "root", "source")

    def __init__(self, device: str, root: str, point: str, fstype: str, source: str, options: tuple[str, ...]) -> None:
        self.device = device
        self.root = root
        self.point = point
        self.fstype = fstype
        self.source = source
        self.options = options

    def holds(self, path: str) -> bool:
        """Is `path` (canonical) at or below the mount point?"""
        return path == self.point or path.startswith(self.point if self.point.endswith(os.sep) else self.point + os.sep)

    def __repr__(self) -> str:
        return f"<Mount {self.point} {self.fstype} {','.join(self.options)}>"


def fstype(path: str) -> str:
    """The type of the filesystem that holds `path` (canonical), `""` when unknown."""
    best, found = -1, ""
    for fields, right in _lines():
        point = _unescape(fields[4])
        prefix = point if point.endswith(os.sep) else point + os.sep
        # Later lines are mounted over earlier ones: at equal length the last wins.
        if len(point) >= best and (path == point or path.startswith(prefix)):
            best, found = len(point), right.split(" ", 1)[0]
    return found


def table() -> list[Mount]:
    """All mounts that this process sees, in the order of the table."""
    return mounts(_lines())


def mounts(lines: Iterable[tuple[list[str], str]]) -> list[Mount]:
    found = []
    for fields, right in lines:
        kind, source, above = [*right.rstrip("\n").split(" "), "", ""][:3]
        options = tuple(dict.fromkeys(word for word in f"{fields[5]},{above}".split(",") if word))
        found.append(
            Mount(fields[2], _unescape(fields[3]), _unescape(fields[4]), kind, _unescape(source), options)
        )
    return found


def mount_of(path: str) -> Mount | None:
    """The mount that holds `path` (canonical); None when unknown."""
    found: Mount | None = None
    for mount in table():
        if mount.holds(path) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


_local: dict[str, tuple[int, bool]] = {}


def is_local(directory: str) -> bool:
    """Is `directory` (canonical) on a filesystem of `LOCAL`? The answer is kept while nothing is mounted or unmounted:
    who asks is on a hot path."""
    now = changes()
    known = _local.get(directory)
    if known is None or known[0] != now:
        known = _local[directory] = now, fstype(directory) in LOCAL
    return known[1]


def changes() -> int:
    """A number that is another one when the mount table has changed since; each time another one where that cannot be
    known. What is kept about a place is kept with the number from before the table was read."""
    global seen
    watch = _watch
    if watch is None or not watch.same():  # else the program has closed all descriptors, or this one
        _forget()
        watch = _begin_watch()
    sure = False
    if watch is not None:
        _looks.append(watch)
        try:
            # In C from the system call to the list: no signal handler runs in between and loses the news.
            _news.extend(filter(None, map(watch.look(), (0,))))
            sure = True
        except (OSError, IndexError):  # ENOMEM, or another thread gave it up
            pass
        finally:
            _looks.pop()
    # In the middle of another thread's look, the news may be in its hands.
    seen = len(_news) if sure and not _looks else -next(_unknown)
    return seen


seen = 0
"""What `changes` said last, for who is on a hotter path."""
_looks: list[_Watch] = []
_news: list[object] = []
"""An item for each change."""
_unknown = count(1)


class _Watch:
    """The open mount table, and what tells whether the descriptor is still on it."""

    _poll: Callable[[], Any]
    _what: int

    def __init__(self) -> None:
        self._is: tuple[int, int] | None = None
        self._fds: list[int] = []
        if sys.platform == "win32":
            raise OSError(errno.ENOSYS, "there is no mount table")
        import select

        if not isinstance(getattr(select, "poll", None), BuiltinFunctionType):  # gevent's knows no POLLPRI
            raise OSError(errno.ENOSYS, "there is no poll(2)")

        # In C from the system call to the list, as above.
        self._fds.extend(map(os.open, (_TABLE,), (os.O_RDONLY | os.O_CLOEXEC,)))
        found = os.fstat(self._fds[0])
        self._is = found.st_dev, found.st_ino
        self._poll, self._what = select.poll, select.POLLPRI

    def look(self) -> Callable[[int], list[tuple[int, int]]]:
        """What to call with 0 to hear of news. One for each caller: two threads cannot use one object of these."""
        poller = self._poll()
        poller.register(self._fds[0], self._what)
        call: Callable[[int], list[tuple[int, int]]] = poller.poll
        return call

    def same(self) -> bool:
        try:
            found = os.fstat(self._fds[0])
        except (OSError, IndexError):
            return False
        return (found.st_dev, found.st_ino) == self._is

    def close(self) -> None:
        """Unless the descriptor is another file's by now. Idempotent."""
        try:
            if self._is is None or self.same():
                os.close(self._fds[0])
        except (OSError, IndexError):  # closed by others, or never opened
            pass
        self._fds.clear()  # the next watch may get the same number

    __del__ = close


_TABLE = "/proc/self/mountinfo"
_watch: _Watch | None = None
_registered = False


def _begin_watch() -> _Watch | None:
    """None where there is no table to watch (without /proc), and where no descriptor is left."""
    global _watch, _registered
    if not _registered:
        fork.in_child(_forget)
        _registered = True
    _news.append("what happened before is not known")
    try:
        made = _Watch()
    except OSError:
        _news.pop()
        return None
    if _watch is None:
        _watch = made
    return _watch


def _forget() -> None:
    """Also in a forked child: what it was told would be kept from its parent."""
    global _watch
    watch, _watch = _watch, None
    if watch is not None:
        watch.close()


def _lines() -> Iterator[tuple[list[str], str]]:
    """The fields before the " - " of each line, at least six, and what is after it."""
    try:
        with open(_TABLE, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except OSError:
        _news.append("what was answered without it is not kept")
        return
    yield from split(lines)


def split(lines: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """The same of these lines; what is none is left out."""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) > 5 and right:
            yield fields, right


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
