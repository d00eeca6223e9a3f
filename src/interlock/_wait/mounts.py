"""Which filesystem a path is on, from the kernel's mount table. Linux only; elsewhere nothing is known."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


_local: dict[str, bool] = {}


def is_local(directory: str) -> bool:
    """Is `directory` (canonical) on a filesystem of `LOCAL`? The answer is kept: who asks is on a hot path."""
    try:
        return _local[directory]
    except KeyError:
        known = _local[directory] = fstype(directory) in LOCAL
        return known


def _lines() -> Iterator[tuple[list[str], str]]:
    """The fields before the " - " of each line, at least six, and what is after it."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except OSError:
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
