"""Semaphores on a lock file: each permit is one byte, and the number of the byte is the slot. Linux only.

Theory of operation
-------------------
Who holds a permit has a write lock on one byte of the lock file (of the open file description, beyond any content), and
the flock shared: so a `Lock` on the same file excludes all permits. The kernel takes both away with the descriptor,
whatever ends its owner. Nothing is written; nothing is counted that could be counted wrong.

All must agree on the number of permits. Each contender has a read lock on a byte that stands for its number, from
before its first try to its end, and looks whether anybody has one for another number: first, so that a newcomer who is
wrong disturbs nobody, and again after it has taken its own, so that of two that come together one at least sees the
other. Then it is refused. It is refused, too, while somebody holds the file as a read-write lock.

Contenders queue by tickets, as for a `Lock`: see there. With `fair=True` only the oldest tries; and since a
permit may be left when it has got one, it calls the next.
"""

from __future__ import annotations

import sys
from time import monotonic

from ..._errors import ProtocolError
from .. import kernel
from . import tickets
from .tickets import _READ, _WRITE

if sys.platform != "win32":
    from .ops import SHARED
    from .ranges import FIRST, RangedClaim, RangedEngine, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._model import Claim
    from . import KernelClaim

assert sys.platform != "win32"

MOST = 1 << 20
"""No more permits than these."""

SLOTS = FIRST
NUMBERS = FIRST << 1
READ_WRITE = FIRST << 2
"""Where read-write locks have their bytes (`readwrite`): behind the numbers, so that one look sees both."""

READ_WRITE_END = READ_WRITE + 2


class PermitClaim(RangedClaim):
    """A stake in one of `permits` slots."""

    agreed = False  # its number is to be seen, and nobody had another one


class Slots(RangedEngine):
    """Grants slots, the lowest that is free."""

    claim_type = PermitClaim
    needs = "a lock file that may be written"

    def try_now(self, claim: KernelClaim, timeout: float) -> bool:
        ops = self.ops
        line = claim.line
        try:
            for claim.fd in line.opens or self._opens(line):  # see "Descriptors" in the kernel engine
                break
            fd = claim.fd
            now = monotonic()
            if timeout and (now >= line.courtesy or claim.fair):
                if tickets.anybody(ops, fd):
                    return False
                line.courtesy = now + kernel._COURTESY
            if not self._lock(claim, fd, line.key):
                return False
            status = ops.fstat(fd)
        except OSError:  # an error that the loop meets again and translates
            return False
        if status[3] == 1 and status[0] >> 12 == 8 and not status[6]:  # else the loop looks closer
            claim.moves = True
            claim.since = ops.owned[fd] = now
            claim.moves = False
            return True
        return False

    def _hinders(self, claim: KernelClaim, other: Claim) -> bool:
        return not isinstance(other, PermitClaim)

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        assert isinstance(claim, PermitClaim)
        if not claim.got:
            self._agree(claim, fd, path)
            for slot in range(claim.permits):
                if self._range(fd, pack(_WRITE, SLOTS + slot, 1), path):
                    claim.slot = slot
                    claim.got = True
                    break
            else:
                return False
            self._to_front(claim)
        return self.ops.try_lock(fd, path, SHARED)

    def _agree(self, claim: PermitClaim, fd: int, path: str) -> None:
        if claim.agreed:
            return
        mine = NUMBERS + claim.permits
        self._compare(claim, fd, mine)
        self._range(fd, pack(_READ, mine, 1), path)
        self._compare(claim, fd, mine)
        claim.agreed = True

    def _compare(self, claim: PermitClaim, fd: int, mine: int) -> None:
        for start, end in ((NUMBERS, mine), (mine + 1, READ_WRITE_END)):
            other = tickets.first_since(self.ops, fd, start, end)
            if other is not None and other >= READ_WRITE:
                raise ProtocolError(
                    f"{claim.line.resource} is in use as a read-write lock, whose readers would not exclude the holders"
                    " of permits: give the semaphore a file of its own"
                )
            if other is not None:
                raise ProtocolError(
                    f"{claim.line.resource} is in use as a semaphore of {other - NUMBERS} permits, and this one is of"
                    f" {claim.permits}: all who use it must name the same number, or another file"
                )

    def _won(self, claim: KernelClaim) -> None:
        super()._won(claim)
        if claim.fair and tickets.anybody(self.ops, claim.fd):
            self.ops.touch(claim.fd)

    def drop(self, claim: KernelClaim) -> None:
        assert isinstance(claim, PermitClaim)
        super().drop(claim)
        claim.agreed = False

    def _forget(self, claim: KernelClaim) -> None:
        assert isinstance(claim, PermitClaim)
        claim.agreed = False
        super()._forget(claim)

    def disown(self, claim: KernelClaim) -> None:
        assert isinstance(claim, PermitClaim)
        claim.agreed = False
        super().disown(claim)
