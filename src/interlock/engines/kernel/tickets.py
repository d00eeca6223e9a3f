"""The queue of processes on a lock file: byte-range locks that say who waits, since when, and who wakes. Linux only.

Theory of operation
-------------------
`flock(2)` excludes; it does not queue waiters that have a timeout, since those cannot block in the kernel. If all
of them sleep on inotify and race at each release, a release wakes everybody (32 processes: 62 us instead of 12)
and the same few win (Jain index 0.3 to 0.8 over 32 processes, measured).

So each waiter puts a *ticket* beside the lock: an open-file-description lock (F_OFD_SETLK) on one byte of the lock
file, far beyond any content. The byte's offset is the time of arrival in nanoseconds of CLOCK_BOOTTIME, so the
order of offsets is the order of arrival, with no counter to keep. The kernel removes a ticket with the descriptor:
a waiter that dies leaves nothing behind. Nothing is written to the file.

- The FRONT oldest tickets watch for the lock file's close and race for the lock; the others sleep on.
  They know their rank from F_OFD_GETLK queries. A ticket in front is a write lock, another one a read lock, so
  "is anybody in front?" is one query.
- Who acquires takes its ticket away. A loser that finds itself alone in front while others wait touches the file's
  times (IN_ATTRIB), which wakes those at the back to look at their rank; so does a winner that leaves nobody there.
- The queue decides who *tries first*, never who *holds*: exclusion is flock's alone. Every decision here may be
  wrong or late and only order or speed suffer. So stopped waiters, foreign byte-range locks, clocks of another
  time namespace and lost wake-ups are all answered by one rule: whoever napped its full nap tries, whatever its rank.

FIFO (`fair=True`) is the same queue in which only the oldest ticket tries. A stopped waiter at the head is passed by:
see `patience`.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys

    if sys.platform == "win32":
        from typing import Any as Ops
    else:
        from .ops import Ops

FRONT = 4
"""How many waiters a release wakes. One would do if none could be stopped or slow; each further one costs a wake-up."""

BASE = 1 << 62  # foreign byte-range locks live near the start of files
TAKEN = 1 << 61
"""Where a holder's mark lies: TAKEN + the time when it got the lock. For `holders` to read; not a ticket."""

_GETLK = 36  # F_OFD_GETLK, F_OFD_SETLK: the fcntl module has them only from 3.9 on, and only where libc names them
_SETLK = 37
_READ, _WRITE, _NONE = 0, 1, 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid

_ANYBODY = _FLOCK.pack(_WRITE, 0, BASE, 0, 0)
_ANYBODY_IN_FRONT = _FLOCK.pack(_READ, 0, BASE, 0, 0)
_MINE = _FLOCK.pack(_NONE, 0, BASE, 0, 0)


def anybody(ops: Ops, fd: int) -> bool:
    """Does another contender wait for this lock file?"""
    return bool(ops.fcntl(fd, _GETLK, _ANYBODY)[0] != _NONE)


def enter(ops: Ops, fd: int) -> int:
    """Queue up; returns the ticket."""
    ticket: int = BASE + ops.boottime_ns()
    ops.fcntl(fd, _SETLK, _FLOCK.pack(_READ, 0, ticket, 1, 0))
    return ticket


def anybody_since(ops: Ops, fd: int, base: int, end: int) -> bool:
    """Is there another one's range between these offsets?"""
    return bool(ops.fcntl(fd, _GETLK, _FLOCK.pack(_WRITE, 0, base, end - base, 0))[0] != _NONE)


def first_since(ops: Ops, fd: int, base: int, end: int) -> int | None:
    """Where one of these ranges of others is, if there is any."""
    found = ops.fcntl(fd, _GETLK, _FLOCK.pack(_WRITE, 0, base, end - base, 0))
    return None if found[0] == _NONE else max(int(_FLOCK.unpack(found)[2]), base)


def mark(ops: Ops, fd: int) -> None:
    """Let everybody see since when this lock is held. Gone with the last copy of the descriptor."""
    ops.fcntl(fd, _SETLK, _FLOCK.pack(_READ, 0, TAKEN + ops.boottime_ns(), 1, 0))


def unmark(ops: Ops, fd: int) -> None:
    ops.fcntl(fd, _SETLK, _FLOCK.pack(_NONE, 0, TAKEN, BASE - TAKEN, 0))


def rank(ops: Ops, fd: int, ticket: int, limit: int) -> int:
    """How many older tickets there are, counted up to `limit`."""
    older = 0
    ranges = [(BASE, ticket)]
    while ranges and older < limit:
        start, end = ranges.pop()
        if start >= end:
            continue
        found = ops.fcntl(fd, _GETLK, _FLOCK.pack(_WRITE, 0, start, end - start, 0))
        if found[0] == _NONE:
            continue
        older += 1
        # The kernel reports any one conflicting lock: look on both sides of it.
        at = max(_FLOCK.unpack(found)[2], start)
        ranges.append((at + 1, end))
        ranges.append((start, at))
    return older


def step_forward(ops: Ops, fd: int, ticket: int) -> None:
    """Show that this ticket is in front."""
    try:
        ops.fcntl(fd, _SETLK, _FLOCK.pack(_WRITE, 0, ticket, 1, 0))
    except OSError:  # a read-only descriptor, or two tickets of one nanosecond: it is not counted as in front
        pass


def leave(ops: Ops, fd: int) -> None:
    """Take the ticket away, after winning or giving up."""
    ops.fcntl(fd, _SETLK, _MINE)
    promote(ops, fd)


def promote(ops: Ops, fd: int) -> None:
    """If there is nobody else in front, call those who wait at the back to look at their rank.

    A touch wakes them all, and they take the caller's core; so it is the losers that call, while the winner only
    calls when it leaves nobody in front to do so.
    """
    found = ops.fcntl(fd, _GETLK, _ANYBODY)[0]
    if found == _READ and _in_front(ops, fd) is None:
        ops.touch(fd)


def _in_front(ops: Ops, fd: int) -> int | None:
    """The ticket of somebody else in front, or None."""
    found = ops.fcntl(fd, _GETLK, _ANYBODY_IN_FRONT)
    return None if found[0] == _NONE else int(_FLOCK.unpack(found)[2])
