"""What read-write locks and semaphores have in common: claims that hold byte ranges of the lock file, and its flock.

What a claim has got it keeps while it waits for the rest (the ranges, while a `Lock` has the flock). So a failed
attempt leaves nothing to be given back, which others could have run into without being told when it is gone.
The order is always ranges before flock, and who has ranges minds nobody's place in line any more: so there is no cycle.
"""

from __future__ import annotations

import errno
import sys
from time import monotonic

from ..._errors import UnsupportedError
from . import KernelClaim, KernelEngine, tickets
from .tickets import _FLOCK, _NONE, _SETLK

if sys.platform != "win32":
    from .ops import BRIEF, UNLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import IO, Parker
    from . import Instance

assert sys.platform != "win32"

FIRST = 1 << 55
"""All these ranges lie from here on; the tickets are above them."""

_NO_RANGES = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, 524}


def pack(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, 0, start, length, 0)


_LEAVE_ALL = pack(_NONE, FIRST, 0)


class RangedClaim(KernelClaim):
    """A stake that consists of ranges and a flock."""

    got = False  # ranges, if not all that it needs
    arrived = 0  # CLOCK_BOOTTIME, in nanoseconds, since it waits


class RangedEngine(KernelEngine):
    """The kernel engine with ranges beside the flock. In line it stands as a `Lock` does."""

    claim_type = RangedClaim
    needs = "a lock file that may be written"

    def _race(self, claim: KernelClaim) -> bool | None:
        return None

    def _subscribe(self, io: IO, claim: KernelClaim, deadline: float) -> None:
        assert isinstance(claim, RangedClaim)
        claim.arrived = self.ops.boottime_ns()
        super()._subscribe(io, claim, deadline)
        if claim.instance is None:  # it naps, and stands in line all the same
            try:
                self._stand(claim)
            except OSError:
                pass

    def _stand(self, claim: RangedClaim) -> None:
        """Take a ticket, and show that it is in front."""
        claim.ticket = tickets.enter(self.ops, claim.fd)
        tickets.step_forward(self.ops, claim.fd, claim.ticket)

    def _enter(self, claim: KernelClaim, instance: Instance, parker: Parker) -> None:
        assert isinstance(claim, RangedClaim)
        if not claim.got:
            super()._enter(claim, instance, parker)
            return
        claim.wd = instance.watch(claim.fd, instance.REPLACED | instance.CLOSED, claim, parker.unpark)
        self._stand(claim)
        claim.front = claim.first = True

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        assert isinstance(claim, RangedClaim)
        return claim.got or super()._admitted(claim, fd, last)

    def _won(self, claim: KernelClaim) -> None:
        claim.parker = None
        tickets.leave(self.ops, claim.fd)

    # ---- the locks

    def _to_front(self, claim: KernelClaim) -> None:
        """Its ranges it has, so nothing but the end of the flock is worth waking up for: before that is tried."""
        if claim.instance is not None and claim.parker is not None and not claim.front:
            claim.front = claim.first = True
            tickets.step_forward(self.ops, claim.fd, claim.ticket)
            claim.instance.watch(claim.fd, claim.instance.CLOSED, claim, claim.parker.unpark)

    def _ranges(self, claim: KernelClaim, path: str, *wishes: bytes) -> bool:
        assert isinstance(claim, RangedClaim)
        for wish in wishes:
            if not self._range(claim.fd, wish, path):
                return False
            claim.got = True
        return True

    def _range(self, fd: int, wish: bytes, path: str) -> bool:
        try:
            self.ops.fcntl(fd, _SETLK, wish)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno == errno.EBADF:
                raise UnsupportedError(
                    f"{path} may only be read, and this needs {self.needs}; make it writable"
                ) from error
            if error.errno in _NO_RANGES:
                raise UnsupportedError(
                    f"{path}: this filesystem has no open file description locks ({error.strerror});"
                    " use Lock, or put the lock file on a local filesystem"
                ) from error
            error.filename = path
            raise
        return True

    def drop(self, claim: Any) -> None:
        # Interrupted anywhere, it goes on from there when it is called again.
        ops = self.ops
        fd = claim.fd
        if fd is not None and monotonic() - claim.since > BRIEF and not self._ours(claim):
            self._forget(claim)
            fd = None
        if fd is not None:
            try:
                ops.flock(fd, UNLOCK)
                ops.fcntl(fd, _SETLK, _LEAVE_ALL)  # after the flock, see above; tickets and marks as well
                if claim.parker is not None and claim.instance is not None:
                    tickets.promote(ops, fd)
            except OSError:  # the close that follows ends them in any case
                pass
            claim.got = False
            claim.fd = claim.identity = None
            try:
                ops.close(fd)
            except OSError:
                pass
        if claim.instance is not None:
            ops.yield_core()
            self._unwatch(claim)

    def _forget(self, claim: KernelClaim) -> None:
        assert isinstance(claim, RangedClaim)
        claim.got = False
        super()._forget(claim)

    def disown(self, claim: KernelClaim) -> None:
        assert isinstance(claim, RangedClaim)
        claim.got = False
        super().disown(claim)
