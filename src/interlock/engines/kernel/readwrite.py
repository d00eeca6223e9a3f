"""Read-write locks on a lock file: byte ranges say who may share, flock(2) keeps everybody else out. Linux only.

Theory of operation
-------------------
Each claim has a descriptor of its own, and on it locks of two kinds:

    mode     UPDATER byte   DATA byte   flock(2)
    read     -              read        shared
    update   write          read        shared
    write    write          write       exclusive

The bytes lie far beyond any content and are locks of the open file description (F_OFD_SETLK), so threads exclude
each other as processes do, and the kernel takes them away with the descriptor. A reader needs no more than a file
that it may read. Nothing is written.

The flock is there for those who know only that: `Lock`, filelock, flock(1). It alone would do for readers and
writers, but not for an upgrade: where a conversion of a flock fails, Linux has dropped the old lock. A range's
conversion is one step, and leaves the old one if it fails. So an upgrade first makes its DATA lock a write lock, which
it can when the last reader has left; and since a reader takes DATA before the flock, and gives it back after, no reader
has the flock then, and the conversion of the flock succeeds. Only who locks the same file shared by other means
(`flock -s`) can make it fail; then the shared lock is taken again at once. Should a `Lock` come in between, the hold is
lost, and says so.

UPDATER comes before DATA, and the ranges before the flock; see `ranges` for why that leaves no cycle.

Order
-----
Who wants exclusion waits with a ticket (see `tickets`), an upgrade too. A reader or updater that waits has a mark in a
region of its own, at its time of arrival. Readers and updaters do not pass an older ticket: so a writer waits for
those only who were there when it came. A writer does not pass older marks: so readers do not starve either. Updaters
stand in order among themselves, and readers do not mind them. An upgrade minds nobody's ticket: the others wait
for it.

A stopped process at the head may not block the others for ever. Who has waited PATIENCE since the last news and
finds that *nobody* holds anything may pass. That is not so while somebody holds: a ticket is then right to wait. Nor
where a writer that waited for a `Lock` stands still: it has its ranges already, and keeps them until it goes on.
"""

from __future__ import annotations

import sys
from _thread import RLock
from itertools import repeat, starmap
from os import fsencode
from time import monotonic

from ..._errors import LostError, NotHeldError
from .. import kernel
from . import tickets
from .tickets import _GETLK, _NONE, _READ, _SETLK, _WRITE, BASE

if sys.platform != "win32":
    from .ops import EXCLUSIVE, READ_ONLY, SHARED, UNLOCK
    from .ranges import RangedClaim, RangedEngine, pack
    from .slots import READ_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from ..._core.arbiter import Line
    from ..._model import IO, Mode, Parker
    from . import Instance, KernelClaim

    T = TypeVar("T")

assert sys.platform != "win32"

UPDATER = READ_WRITE
DATA = UPDATER + 1
READERS = 1 << 59  # marks: + the time of arrival, which stays below 1 << 59 for 18 years of uptime
UPDATERS = 1 << 60
_MARKS_END = 1 << 61

_READ_DATA = pack(_READ, DATA, 1)
_WRITE_DATA = pack(_WRITE, DATA, 1)
_WRITE_UPDATER = pack(_WRITE, UPDATER, 1)
_WRITE_BOTH = pack(_WRITE, UPDATER, 2)
_LEAVE_UPDATER = pack(_NONE, UPDATER, 1)
_LEAVE_MARKS = pack(_NONE, READERS, _MARKS_END - READERS)
_ANYBODY_QUEUED = pack(_WRITE, BASE, 0)
_ANYBODY_WAITING = pack(_WRITE, READERS, 0)


class SharedClaim(RangedClaim):
    """A stake in one mode, which an upgrade or a downgrade changes."""

    step: Any = None
    """An RLock, once the mode was to be changed: another thread that releases this claim waits for the step."""
    upgrading = False
    gone = ""  # why the hold is lost, if the kernel took it


class ReadClaim(SharedClaim):
    mode: Mode = "read"


class UpdateClaim(SharedClaim):
    mode: Mode = "update"


class Lane(RangedEngine):
    """What the three modes have in common."""

    claim_type = SharedClaim
    mode: Mode

    def try_now(self, claim: KernelClaim, timeout: float) -> bool:
        return False

    # ---- waiting

    def _enter(self, claim: KernelClaim, instance: Instance, parker: Parker) -> None:
        assert isinstance(claim, SharedClaim)
        claim.wd = instance.watch(claim.fd, instance.REPLACED | instance.CLOSED, claim, parker.unpark)
        self._stand(claim)

    def _stand(self, claim: RangedClaim) -> None:
        assert isinstance(claim, SharedClaim)
        if claim.upgrading:
            super()._stand(claim)
        else:
            base = READERS if claim.mode == "read" else UPDATERS
            self.ops.fcntl(claim.fd, _SETLK, pack(_READ, base + claim.arrived, 1))

    def _nap(self, claim: KernelClaim) -> float:
        if claim.instance is not None:
            if claim.echo < len(kernel._ECHOES):
                return kernel._ECHOES[claim.echo]
            if claim.echo == len(kernel._ECHOES):
                return kernel.PATIENCE
        return super()._nap(claim)

    def _won(self, claim: KernelClaim) -> None:
        claim.parker = None
        self.ops.fcntl(claim.fd, _SETLK, _LEAVE_MARKS)

    # ---- whose turn it is to try

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        assert isinstance(claim, SharedClaim)
        if claim.got:
            return True
        overdue, claim.overdue = claim.overdue or last, False
        if claim.parker is None:
            closed = tickets.anybody(self.ops, fd)
        else:
            closed = self._older(claim, fd, BASE)
        if closed:
            return overdue and self._pass_by(fd)
        return overdue or not self._behind(claim, fd)

    def _behind(self, claim: SharedClaim, fd: int) -> bool:
        return False

    def _older(self, claim: SharedClaim, fd: int, base: int) -> bool:
        return claim.arrived > 0 and tickets.anybody_since(self.ops, fd, base, base + claim.arrived)

    def _pass_by(self, fd: int) -> bool:
        """Nobody holds anything, although somebody older waits: it is stopped, or slow. Gets what `_lock` wants.

        The flock first: with a `Lock` held it is not free, and DATA would then be kept, while older ones wait.
        """
        ops = self.ops
        if ops.fcntl(fd, _GETLK, _WRITE_BOTH)[0] != _NONE:
            return False
        try:
            ops.flock(fd, SHARED)
        except OSError:
            return False
        try:
            ops.fcntl(fd, _SETLK, _READ_DATA)
        except OSError:
            ops.flock(fd, UNLOCK)
            ops.tell(fd)  # a writer may have run into it
            return False
        return True

    def lost(self, claim: KernelClaim) -> str:
        assert isinstance(claim, SharedClaim)
        reason = claim.gone or super().lost(claim)
        if not reason or claim.step is None:
            return reason
        with claim.step:  # an upgrade that begins to wait moves the descriptor, perhaps while we looked
            return claim.gone or super().lost(claim)

    # ---- from one mode to another

    def _unreleased(self, claim: SharedClaim, change: Callable[..., T], *args: Any) -> T:
        """One step of a change of mode. A release in another thread would otherwise close the descriptor under it, and
        the step go on with a copy of that, or with what the number means next; in a signal handler it still can."""
        step = claim.__dict__.setdefault("step", RLock())
        try:
            with step:
                if claim.depth:
                    return change(*args)
        except Exception:
            if claim.depth:
                raise
        raise NotHeldError(f"{claim.line.resource} was released while its mode was changed")

    def _drop_between_steps(self, claim: Any) -> None:
        if claim.step is None:
            super().drop(claim)
            return
        with claim.step:
            super().drop(claim)

    def _subscribe(self, io: IO, claim: KernelClaim, deadline: float) -> None:
        assert isinstance(claim, SharedClaim)
        if claim.upgrading:
            self._unreleased(claim, super()._subscribe, io, claim, deadline)
        else:
            super()._subscribe(io, claim, deadline)

    async def upgrade(self, io: IO, claim: SharedClaim) -> bool:
        return await io.call(self._unreleased, claim, self._upgrade, claim)

    def _upgrade(self, claim: SharedClaim) -> bool:
        fd, path = claim.fd, claim.line.key
        assert fd is not None
        if not self._ours(claim):
            raise LostError(f"{claim.line.resource} is lost: {self.lost(claim)}")
        claim.upgrading = True
        granted = self._range(fd, _WRITE_DATA, path)
        if granted and not self.ops.try_lock(fd, path, EXCLUSIVE):
            self._share_again(claim)
            granted = False
        reason = self.lost(claim)  # it may have waited long, and at the path another one may write by now
        if reason:
            raise LostError(f"{claim.line.resource} is lost: {reason}")
        if not granted:
            return False
        claim.mode = "write"
        self._calm(claim)
        return True

    def _share_again(self, claim: SharedClaim) -> None:
        """A conversion that failed has dropped the shared flock."""
        if not self.ops.try_lock(claim.fd, claim.line.key, SHARED):
            claim.gone = f"somebody who does not use RWLock locked {claim.line.key} in the middle of an upgrade"
            raise LostError(f"{claim.line.resource} is lost: {claim.gone}")

    async def stay(self, io: IO, claim: SharedClaim) -> None:
        if not claim.depth:
            self._unwatch(claim)  # a handler released it within `_subscribe`, say
        elif claim.upgrading and claim.fd is not None and self._ours(claim):
            try:
                await io.call(self._unreleased, claim, self._stay, claim)
            except NotHeldError:  # told by the step that ended the upgrade, or by whoever uses the hold next
                pass

    def _stay(self, claim: SharedClaim) -> None:
        claim.mode = "update"
        self._share_again(claim)
        self.ops.fcntl(claim.fd, _SETLK, _READ_DATA)
        self._calm(claim)
        self.ops.tell(claim.fd)  # who came meanwhile waits for the ticket to go

    def _calm(self, claim: SharedClaim) -> None:
        """The end of an upgrade's waiting, if it waited."""
        if claim.parker is not None:
            tickets.leave(self.ops, claim.fd)
            claim.parker = None
        claim.upgrading = False

    def downgrade(self, claim: SharedClaim, mode: Mode) -> None:
        self._unreleased(claim, self._downgrade, claim, mode)

    def _downgrade(self, claim: SharedClaim, mode: Mode) -> None:
        ops, fd = self.ops, claim.fd
        if claim.mode == "write":
            ops.flock(fd, SHARED)  # of the same description, so it never fails, and nobody comes in between
            ops.fcntl(fd, _SETLK, _READ_DATA)
        if mode == "read":
            ops.fcntl(fd, _SETLK, _LEAVE_UPDATER)
        claim.mode = mode
        ops.tell(fd)


class Readers(Lane):
    """Any number beside each other, and beside one updater."""

    claim_type = ReadClaim
    mode = "read"

    def try_now(self, claim: Any, timeout: float) -> bool:
        ops = self.ops
        line = claim.line
        try:
            for claim.fd in line.opens or self._opens(line):  # see "Descriptors" in the kernel engine
                break
            fd = claim.fd
            if ops.fcntl(fd, _GETLK, _ANYBODY_QUEUED)[0] != _NONE:
                return False
            ops.fcntl(fd, _SETLK, _READ_DATA)
            claim.got = True
            ops.flock(fd, SHARED)
            status = ops.fstat(fd)
        except OSError:  # contended, or an error that the loop meets again and translates
            return False
        if status[3] == 1 and status[0] >> 12 == 8 and not status[6]:
            claim.moves = True
            claim.since = ops.owned[fd] = monotonic()
            claim.moves = False
            return True
        return False

    def _opens(self, line: Line) -> Iterator[int]:
        line.opens = starmap(self.ops.open, repeat((fsencode(line.key), READ_ONLY)))
        return line.opens

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        return self._ranges(claim, path, _READ_DATA) and self.ops.try_lock(fd, path, SHARED)


class Updaters(Lane):
    """One at a time, beside readers."""

    claim_type = UpdateClaim
    mode = "update"
    drop = Lane._drop_between_steps

    def _behind(self, claim: SharedClaim, fd: int) -> bool:
        if claim.parker is None:
            return tickets.anybody_since(self.ops, fd, UPDATERS, _MARKS_END)
        return self._older(claim, fd, UPDATERS)

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        return self._ranges(claim, path, _WRITE_UPDATER, _READ_DATA) and self.ops.try_lock(fd, path, SHARED)


class Writers(Lane):
    """One, alone. They wait in the queue of the kernel engine, together with `Lock`.

    What has been downgraded to an update claim, and is upgraded again, waits as all upgrades do.
    """

    mode = "write"
    drop = Lane._drop_between_steps

    def _enter(self, claim: KernelClaim, instance: Instance, parker: Parker) -> None:
        (RangedEngine if claim.mode == "write" else Lane)._enter(self, claim, instance, parker)

    def _stand(self, claim: RangedClaim) -> None:
        RangedEngine._stand(self, claim)

    def _nap(self, claim: KernelClaim) -> float:
        return (RangedEngine if claim.mode == "write" else Lane)._nap(self, claim)

    def _won(self, claim: KernelClaim) -> None:
        RangedEngine._won(self, claim)

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        assert isinstance(claim, SharedClaim)
        if last or claim.got:
            return True
        if claim.parker is None:
            if monotonic() < claim.line.courtesy:
                return True
            if self.ops.fcntl(fd, _GETLK, _ANYBODY_WAITING)[0] != _NONE:
                return False
            claim.line.courtesy = monotonic() + kernel._COURTESY
            return True
        overdue = claim.overdue
        if not self._may_try(claim, fd):
            return False
        return overdue or not (self._older(claim, fd, READERS) or self._older(claim, fd, UPDATERS))

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        if not self._ranges(claim, path, _WRITE_BOTH):
            return False
        self._to_front(claim)
        return self.ops.try_lock(fd, path, EXCLUSIVE)


LANES: dict[str, type[Lane]] = {"read": Readers, "update": Updaters, "write": Writers}
