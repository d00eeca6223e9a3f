"""Which filesystem a path is on, from the kernel's mount table. Linux only; elsewhere nothing is known."""

from __future__ import annotations

import os

LOCAL = frozenset(
    "ext2 ext3 ext4 xfs btrfs tmpfs ramfs overlay f2fs zfs bcachefs jfs nilfs2 reiserfs vfat exfat ntfs3 hfsplus udf"
    " squashfs erofs iso9660 devtmpfs".split()
)
"""Filesystems whose every user is a process of this kernel: its close events are all the close events there are."""


def fstype(path: str) -> str:
    """The type of the filesystem that holds `path` (canonical), `""` when unknown."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.readlines()
    except OSError:
        return ""
    best, found = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _unescape(fields[4])
        prefix = point if point.endswith(os.sep) else point + os.sep
        # Later lines are mounted over earlier ones: at equal length the last wins.
        if len(point) >= best and (path == point or path.startswith(prefix)):
            best, found = len(point), right.split(" ", 1)[0]
    return found


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
