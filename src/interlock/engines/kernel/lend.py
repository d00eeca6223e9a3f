"""A held lock file lent to a child process: the lock lives as long as either of the two wants it. POSIX.

Theory of operation
-------------------
The child gets a copy of the descriptor. Both are one open file description, to which a flock(2) lock
belongs: if this process is killed, the child's copy keeps the lock. The reverse is as important: LOCK_UN
through any copy frees the lock, so when the child has ended, this process frees it although daemons that the
child left behind may still have the descriptor open, without knowing it.

In that case no waiter is told: inotify reports the close of an open file description, that is of its *last*
copy. So `release` opens the file once more through /proc, and closes that; this raises the event that
waiters watch for. (Touching the file, IN_ATTRIB, would need the right to write it, and would wake those at
the back as well.)
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress

from . import tickets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._hold import Hold
    from . import KernelClaim, KernelEngine

assert sys.platform != "win32"

_HIGH = 100
"""The copy's number is not below this: shell scripts use the small ones for their own files (`exec 9>log`),
and would close the lock by it."""


class Loan:
    """A hold on a lock file and a descriptor for the child, `fd`, which is inherited over exec."""

    def __init__(self, hold: Hold) -> None:
        claim: KernelClaim = hold._claim  # type: ignore[assignment]
        engine: KernelEngine = claim.line.engine  # type: ignore[assignment]
        assert claim.fd is not None
        self._hold = hold
        self._ops = engine.ops
        try:
            self.fd = fcntl.fcntl(claim.fd, fcntl.F_DUPFD, _HIGH)
        except OSError:  # EINVAL: above RLIMIT_NOFILE
            self.fd = fcntl.fcntl(claim.fd, fcntl.F_DUPFD, 0)
        self._marked = engine._queues(claim.line.key)
        if self._marked:
            try:
                tickets.mark(self._ops, self.fd)
            except OSError:  # no byte-range locks here: then nobody knows since when it is held
                self._marked = False

    def release(self) -> None:
        """Free the lock, whoever still has copies of the descriptor, and tell the waiters."""
        try:
            if self._marked:
                tickets.unmark(self._ops, self.fd)
            self._hold.release()
            if sys.platform == "linux":
                with suppress(OSError):  # no /proc: then nobody watches, either
                    os.close(os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            os.close(self.fd)
