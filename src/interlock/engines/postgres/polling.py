"""Waiting for sockets, a bounded time."""

from __future__ import annotations

import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CERTAIN = hasattr(select, "POLLRDHUP")
"""Is what `closed` says certain, or may there be only something to read?"""

if sys.platform == "win32":  # has no poll(2)

    def reader(fd: int) -> Callable[[float], object]:
        """A function that waits so many milliseconds until something can be read."""
        return lambda milliseconds: select.select([fd], [], [], milliseconds / 1000)[0]

    def writable(fd: int, seconds: float) -> bool:
        return bool(select.select([], [fd], [], seconds)[1])

    def closed(fds: Iterable[int], seconds: float) -> bool:
        """May the other side have closed one of these? It tells by data, so it may also be only that."""
        return bool(select.select(list(fds), [], [], seconds)[0])

else:
    _CLOSED: int = getattr(select, "POLLRDHUP", select.POLLIN)

    def reader(fd: int) -> Callable[[float], object]:
        """A function that waits so many milliseconds until something can be read. Not for two threads at once."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return poll.poll

    def writable(fd: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def closed(fds: Iterable[int], seconds: float) -> bool:
        """Has the other side closed one of these? Where the system cannot tell that apart: or sent something."""
        poll = select.poll()
        for fd in fds:
            poll.register(fd, _CLOSED)
        return bool(poll.poll(seconds * 1000))
