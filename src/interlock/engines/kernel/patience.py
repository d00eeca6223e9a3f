"""FIFO: who may pass a waiter that does not come. Linux only.

Theory of operation
-------------------
A free lock is for the oldest ticket. If that one does not take it, it is stopped (SIGSTOP, a debugger), or it is
about to: a busy machine may leave it without a core for tens of milliseconds. The first may not block the others for
ever, the second may not be overtaken. So a ticket of `fair=True` is *signed*: beside it its owner puts a byte whose
offset says its pid, and who has napped PATIENCE in vain looks into /proc/PID/stat of all who are older.

- All of them stopped (T, t) or dead (Z, X): it may pass, at once.
- Else it naps on, twice as long each time, and after STEPS naps (0.3 s) it passes all the same: whose event loop is
  blocked, or who cannot be known (another pid namespace, an unsigned ticket), is not waited for longer than that. Who
  is not in front has longer naps, and only LAST of them.

As with all that concerns the queue, being wrong costs order, never exclusion.
"""

from __future__ import annotations

from .tickets import _FLOCK, _READ, _SETLK, BASE, first_since

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys

    from . import KernelClaim

    if sys.platform == "win32":
        from typing import Any as Ops
    else:
        from .ops import Ops

STEPS = 5
LAST = 2

_PIDS = 1 << 22
"""Linux has no more pids than these."""
_TIMES = (1 << 38) - 1
SIGNED = BASE + (1 << 61)
"""From here on the signatures lie: + (microseconds of the ticket, the last three days of them) * _PIDS + pid. A ticket
that is given back takes its signature with it, see `tickets.leave`."""

assert SIGNED + (_TIMES + 1) * _PIDS <= 1 << 63


def sign(ops: Ops, fd: int, ticket: int) -> None:
    """Let others see whose ticket this is."""
    pid = ops.getpid()
    if 0 < pid < _PIDS:
        ops.fcntl(fd, _SETLK, _FLOCK.pack(_READ, 0, _signature(ticket) + pid, 1, 0))


def may_pass(ops: Ops, claim: KernelClaim) -> bool:
    """May a claim that has napped its nap try before all who are older?"""
    if claim.echo >= (STEPS if claim.front else LAST):
        return True
    start = BASE
    while (older := _oldest(ops, claim.fd, start, claim.ticket)) is not None:
        if not ops.stopped(_signer(ops, claim.fd, older)):
            return False
        start = older + 1
    return True


def _oldest(ops: Ops, fd: int, start: int, end: int) -> int | None:
    """The oldest ticket of others between these offsets. The kernel reports any one: ask until none is before it."""
    oldest = None
    while start < end and (found := first_since(ops, fd, start, end)) is not None:
        oldest = end = found
    return oldest


def _signer(ops: Ops, fd: int, ticket: int) -> int | None:
    """The pid of this ticket's owner, if it is signed."""
    signature = _signature(ticket)
    found = first_since(ops, fd, signature, signature + _PIDS)
    return None if found is None else found - signature


def _signature(ticket: int) -> int:
    return SIGNED + ((ticket - BASE >> 10) & _TIMES) * _PIDS
