"""Where a path leads when its links are followed, unless a stranger planted one of them.

Locks are known by the path without links, so that two spellings are one lock. To follow links in user space goes round
a protection of the kernel's: in a directory where everybody may write and nobody may remove what is another's (/tmp),
it follows a link only for who made it, or if the directory's owner made it (proc_sys_fs(5), protected_symlinks). Else
anybody could lead a privileged program to any place. So `real` does as the kernel does, whatever that is set to.
"""

from __future__ import annotations

import os
import stat
import sys

from ._errors import UnsafePathError

__all__ = ["real"]

_MOST = 40
"""Links in one path; more are a loop, as the kernel has it."""


def real(path: str) -> str:
    """As `os.path.realpath`. Raises `UnsafePathError` for a link that is not to be followed."""
    found = os.path.realpath(path)
    if sys.platform == "win32" or found == os.path.abspath(path):
        return found  # no link, or none that leads elsewhere
    return _followed(path) or found


def _followed(path: str) -> str:
    """"" in a loop."""
    here = os.sep
    todo = (path if path.startswith(os.sep) else os.path.join(os.getcwd(), path)).split(os.sep)[::-1]
    links = 0
    while todo:
        name = todo.pop()
        if name in ("", os.curdir):
            continue
        if name == os.pardir:
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            status = os.lstat(there)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MOST:
                    return ""
                _require_trust(there, status, os.stat(here))
                leads = os.readlink(there)
                here = os.sep if leads.startswith(os.sep) else here
                todo += leads.split(os.sep)[::-1]
                continue
        except OSError:  # not there, or not to be seen: then there is no link to follow
            pass
        here = there
    return here


def _require_trust(path: str, link: os.stat_result, above: os.stat_result) -> None:
    everybodys = above.st_mode & stat.S_ISVTX and above.st_mode & stat.S_IWOTH
    if sys.platform != "win32" and everybodys and link.st_uid not in (os.geteuid(), above.st_uid):
        raise UnsafePathError(
            f"{path} is a symbolic link that user {link.st_uid} made in a directory where everybody may write: it is"
            " not followed, and nothing was locked"
        )
