"""The FUSE protocol as Linux speaks it over /dev/fuse: numbers and structures, from include/uapi/linux/fuse.h."""

from __future__ import annotations

import sys
from enum import IntEnum
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

assert sys.platform == "linux"


class Op(IntEnum):
    """What the kernel asks."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45


OPS = {op.value: op for op in Op}
NO_ANSWER = {Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT}

IN_HEADER = Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, extensions, padding
OUT_HEADER = Struct("<IiQ")  # len, error, unique
ATTR = Struct("<6Q10I")
ENTRY = Struct("<QQQQII")  # nodeid, generation, entry_valid, attr_valid, and their nanoseconds; then ATTR
ATTR_OUT = Struct("<QII")  # attr_valid, nanoseconds, dummy; then ATTR
OPEN_OUT = Struct("<QIi")  # fh, FOPEN_*, backing id
SETATTR = Struct("<II6Q8I")
CREATE = Struct("<IIII")  # flags, mode, umask, open_flags
MKNOD = Struct("<IIII")  # mode, rdev, umask, padding
MKDIR = Struct("<II")  # mode, umask
RENAME = Struct("<Q")
RENAME2 = Struct("<QII")  # new directory, flags, padding
LINK = Struct("<Q")
OPEN = Struct("<II")
READ = Struct("<QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding; a WRITE has the same
WRITE_OUT = Struct("<II")
RELEASE = Struct("<QIIQ")  # fh, flags, release_flags, lock_owner
FLUSH = Struct("<QIIQ")  # fh, unused, padding, lock_owner
FSYNC = Struct("<QII")
LOCK = Struct("<QQQQIIII")  # fh, owner, start, end, type, pid, lk_flags, padding
LOCK_OUT = Struct("<QQII")  # start, end, type, pid
INTERRUPT = Struct("<Q")
FORGET = Struct("<Q")
BATCH_FORGET = Struct("<II")
FORGET_ONE = Struct("<QQ")
INIT = Struct("<IIII")  # major, minor, max_readahead, flags
INIT_OUT = Struct("<IIIIHHIIHHI7I")
STATFS_OUT = Struct("<5Q4I6I")
DIRENT = Struct("<QQII")  # ino, off, namelen, type; then the name, padded to 8 bytes
INVALIDATE = Struct("<Qqq")  # nodeid, offset, length

NOTIFY_INVAL_INODE = 2
INIT_POSIX_LOCKS = 1 << 1
INIT_BIG_WRITES = 1 << 5
INIT_FLOCK_LOCKS = 1 << 10
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
LK_FLOCK = 1 << 0
RELEASE_FLOCK_UNLOCK = 1 << 1
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8
FATTR_ATIME, FATTR_MTIME, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 16, 32, 128, 256

MAX_WRITE = 1 << 17
BUFFER = MAX_WRITE + 4096


def attr(status: os.stat_result) -> bytes:
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return ATTR.pack(
        status.st_ino,
        status.st_size,
        status.st_blocks,
        *(time // 1_000_000_000 for time in times),
        *(time % 1_000_000_000 for time in times),
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_rdev & 0xFFFFFFFF,
        4096,
        0,
    )


def span(seconds: float) -> tuple[int, int]:
    """A validity, in the protocol's two numbers."""
    return int(seconds), int(seconds % 1 * 1e9)


def names(data: bytes) -> list[bytes]:
    """The NUL-terminated words at the end of a request."""
    return data.split(b"\0")[:-1]
