"""What each error of a system call on a lock file means, and what is done about it. The documented table is this one.

One rule stands behind all of it: an error never leads to another mechanism. A process that falls back from the kernel's
lock to a marker excludes none of those that still have the kernel's.
"""

from __future__ import annotations

import errno
import os

from ..._errors import UnsupportedError

_ENOTSUPP = 524
"""The kernel's own ENOTSUPP, which must not reach users and does (Lustre, NFS through some gateways)."""

ANSWERS: tuple[tuple[str, tuple[int, ...], str, str, str], ...] = (
    ("ENOSYS", (errno.ENOSYS,), "lock", "the filesystem has no such lock (Lustre without flock)", "unsupported"),
    (
        "ENOLCK",
        (errno.ENOLCK,),
        "lock",
        "there is no lock service (NFS without lockd), or its table is full (Amazon EFS)",
        "unsupported",
    ),
    (
        "ENOTSUP, 524",
        (errno.EOPNOTSUPP, _ENOTSUPP),
        "lock",
        "the filesystem does not support such locks",
        "unsupported",
    ),
    ("EINVAL", (errno.EINVAL,), "lock", "the filesystem or the kernel does not know such locks", "unsupported"),
    (
        "EBADF",
        (errno.EBADF,),
        "lock",
        "such a lock needs a file that may be written (NFS, OFD ranges), and this one may only be read; one on SMB that"
        " may be written was forgotten by its server, and is opened again as after ESTALE",
        "unsupported",
    ),
    (
        "EROFS",
        (errno.EROFS,),
        "open",
        "the filesystem is read-only: a lock file that is there is opened read-only, which is enough for flock(2);"
        " one that is missing cannot be made",
        "OSError",
    ),
    (
        "EACCES",
        (errno.EACCES,),
        "open",
        "the file may not be written: it is opened read-only; if it may not be read either, or not be made",
        "OSError",
    ),
    ("EACCES", (errno.EACCES,), "lock", "somebody else holds it (SMB, OFD ranges)", "contended"),
    ("EIO", (errno.EIO,), "open, lock", "the disk or the server failed", "OSError"),
    ("EIO", (errno.EIO,), "unlock, close", "the lock is gone with the descriptor, whatever is said", "ignored"),
    (
        "ESTALE",
        (errno.ESTALE,),
        "lock",
        "the file was removed or replaced on the server: the path is opened again, up to 100 times",
        "OSError",
    ),
    ("ESTALE", (errno.ESTALE,), "open", "the directory is gone from the server", "OSError"),
)

OUTCOMES = {
    "unsupported": "`UnsupportedError`, which names path, cause and setting",
    "OSError": "then the kernel's `OSError`, with its path",
    "contended": "wait, or `None`",
    "ignored": "nothing is raised",
}

_REFUSED = {
    number: meaning
    for _, numbers, call, meaning, outcome in ANSWERS
    if call == "lock" and outcome == "unsupported"
    for number in numbers
}


def refusal(path: str, error: OSError, lock: str, place: str) -> UnsupportedError | None:
    """The refusal that a failed lock call deserves; None where the error is to pass unchanged."""
    meaning = _REFUSED.get(error.errno or 0)
    if meaning is None:
        return None
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return UnsupportedError(
        f"{path}: {lock} failed with {name}{f' on {place}' if place else ''}: {meaning}. Nothing was locked. Put the"
        f" lock file on a local filesystem, or say how to lock in {os.path.dirname(path) or os.curdir}"
        " (INTERLOCK_PRIMITIVE, /etc/interlock.conf; 'marker' needs no kernel lock), or ask `interlock doctor` there"
    )
