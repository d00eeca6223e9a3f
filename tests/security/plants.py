"""What an attacker can leave at a path before a lock is taken there, and how to see afterwards that nothing was done to
it or to its victim."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PLANTS", "VICTIM", "Plant", "facts"]

VICTIM = "victim"
"""Its name, in a directory beside that of the lock."""
PRECIOUS = b"precious\n" * 3
SIZE = 1 << 30
NOBODY = 65534


class Plant(NamedTuple):
    """`put(path, victim)` leaves it at `path`; `said` is what a refusal calls it, one of these words. `root`: only root
    can make it."""

    name: str
    put: Callable[[str, str], None]
    said: tuple[str, ...]
    root: bool = False


def _socket(path: str, victim: str) -> None:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(os.path.dirname(path))  # the path of a socket may have no more than 108 bytes
        try:
            server.bind(os.path.basename(path))
        finally:
            os.chdir(here)


def _loop(path: str, victim: str) -> None:
    os.symlink(os.path.basename(path) + ".2", path)
    os.symlink(os.path.basename(path), path + ".2")


def _others(path: str, victim: str) -> None:
    os.chown(victim, NOBODY, NOBODY)
    os.link(victim, path)


def _foreign(path: str, victim: str) -> None:
    """In a directory like /tmp, readable for all, as somebody else's files there are."""
    os.chmod(os.path.dirname(path), 0o1777)
    with open(path, "wb"):
        pass
    os.chmod(path, 0o644)
    os.chown(path, NOBODY, NOBODY)


def _sparse(path: str, victim: str) -> None:
    with open(path, "wb") as file:
        file.truncate(SIZE)


def _directory(path: str, victim: str) -> None:
    os.mkdir(path)
    with open(os.path.join(path, "inside"), "wb") as file:
        file.write(PRECIOUS)


PLANTS = (
    Plant("FIFO", lambda path, victim: os.mkfifo(path), ("FIFO", "not a regular file")),
    Plant("device", lambda path, victim: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
          ("character device", "not a regular file"), root=True),
    Plant("socket", _socket, ("socket", "not a regular file", "No such device or address")),
    Plant("symlink", lambda path, victim: os.symlink(victim, path), ("symbolic link",)),
    Plant("dangling symlink", lambda path, victim: os.symlink(victim + ".new", path), ("symbolic link",)),
    Plant("symlink loop", _loop, ("symbolic link",)),
    Plant("hard link of own", lambda path, victim: os.link(victim, path), ("hard link",)),
    Plant("hard link of other", _others, ("hard link",), root=True),
    Plant("1 GB", _sparse, ("bytes", "large")),
    Plant("directory", _directory, ("directory",)),
    Plant("file of other", _foreign, ("user",), root=True),
)  # fmt: skip


def facts(*paths: str) -> dict[str, object]:
    """All that a stranger could see change at these paths and in their directories: kind, mode, owner, links, size,
    content, what a link says, and names."""
    found: dict[str, object] = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            found[path] = None
            continue
        seen: list[object] = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, status.st_ino]
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                seen += [status.st_size, status.st_blocks, file.read(4096)]
        elif stat.S_ISLNK(status.st_mode):
            seen.append(os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            del seen[3]  # a directory's links are those of the directories in it, which a lease may have made
            inside = os.path.join(path, "inside")
            if os.path.exists(inside):
                found |= facts(inside)
        found[path] = seen
    return found
