"""Read-write locks and semaphores in memory: the queue is the lock.

Theory of operation
-------------------
All who contend for a name stand in one list, in order of arrival, and stay in it while they hold. Who may hold is a
function of the list alone: a permit belongs to the first so many; a reader may go if no writer stands before it, an
updater if no other updater or writer does, a writer if it is the first. Entries only ever leave, so who may hold may do
so until it leaves. There is no state besides that could be out of step with it, and no mutex that a signal handler, a
finalizer or a fork could find locked: joining and leaving are single steps of the interpreter.

An upgrade is the exception: a holder becomes more than it was, and those behind it may hold already, or be about to.
So both sides announce first and look then: the one that it upgrades, the other that it holds. One of the two
at least sees the other; if both do, both draw back, and who has drawn back wakes the others.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from .._core import arbiter
from .._errors import ProtocolError
from .._model import Claim, Traits
from .._report import Party, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._core.arbiter import Line
    from .._model import IO, Mode, Parker


class Entry(Claim):
    """A claim that stands in the list of its name."""

    parker: Parker | None = None
    queued = False
    taken = False  # it holds, or will if nobody objects
    upgrading = False


class Lists:
    """What the engines of one process share: who stands where, and who has which slot."""

    def __init__(self) -> None:
        self.lists: dict[str, deque[Entry]] = {}
        self.slots: dict[tuple[str, int | None], Entry] = {}


class _Entries:
    """What permits and modes have in common."""

    claim_type: type[Entry] = Entry

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self.traits = Traits(
            name="memory",
            family="session",
            excludes="threads",
            fair="fifo",
            fences=False,
            survives_crash=True,
            wait="events",
        )

    def claim(self, line: Line, owner: object, fair: bool) -> Entry:
        claim = self.claim_type()
        claim.line = line
        claim.owner = owner
        return claim

    def require_fair(self, key: str) -> None:
        """It is fair."""

    def try_now(self, claim: Entry, timeout: float) -> bool:
        return self._try(claim)

    def _list(self, claim: Entry) -> deque[Entry]:
        return self._lists.lists.setdefault(claim.line.key, deque())

    def _try(self, claim: Entry) -> bool:
        entries = self._list(claim)
        if not claim.queued:
            claim.queued = True
            entries.append(claim)
        if not self._may(claim, tuple(entries)):
            return False
        claim.taken = True
        if not self._may(claim, tuple(entries)):
            claim.taken = False
            self._wake(claim)
            return False
        self._won(claim)
        claim.parker = None
        claim.since = monotonic()
        return True

    def _may(self, claim: Entry, entries: tuple[Entry, ...]) -> bool:
        raise NotImplementedError

    def _won(self, claim: Entry) -> None:
        pass

    async def try_acquire(self, io: IO, claim: Entry, deadline: float) -> bool:
        return await io.call(self._try, claim)

    async def wait(self, io: IO, claim: Entry, until: float) -> None:
        if claim.parker is None:
            claim.parker = io.parker()
            return  # subscribed: now try again
        await io.park(claim.parker, until)

    async def release(self, io: IO, claim: Entry) -> None:
        await io.call(self.drop, claim)

    async def withdraw(self, io: IO, claim: Entry) -> None:
        await io.call(self.drop, claim)

    def drop(self, claim: Entry) -> None:
        claim.parker = None
        claim.taken = claim.upgrading = False
        entries = self._list(claim)
        if claim in tuple(entries):
            try:
                entries.remove(claim)
            except ValueError:  # another thread was faster
                pass
        self._wake(claim)

    def _wake(self, claim: Entry) -> None:
        """Let the others look again."""
        others = tuple(self._list(claim))
        for other in others:
            parker = other.parker
            if other is not claim and parker is not None and parker.unpark() is False and not other.taken:
                arbiter.abandon(other)  # it waits in an event loop that was closed over it

    def disown(self, claim: Entry) -> None:
        """A forked child has a copy of all this memory, and nobody to share it with."""
        self.drop(claim)

    def lost(self, claim: Entry) -> str:
        return "" if claim in tuple(self._list(claim)) else "its entry is gone"

    def inspect(self, line: Line) -> Report:
        return Report(line.resource, "memory", *parties(self._lists, line.key), enforced=True)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        holders, _ = parties(self._lists, line.key)
        return (holders[0], "in this process") if holders else (None, "")


class ReadEntry(Entry):
    mode: Mode = "read"


class UpdateEntry(Entry):
    mode: Mode = "update"


class Modes(_Entries):
    """One mode of the read-write locks."""

    def __init__(self, lists: Lists, mode: Mode) -> None:
        super().__init__(lists)
        self.claim_type = {"read": ReadEntry, "update": UpdateEntry, "write": Entry}[mode]

    def _may(self, claim: Entry, entries: tuple[Entry, ...]) -> bool:
        mode = claim.mode
        before = True
        for other in entries:
            if other is claim:
                before = False
            elif (before or other.taken) and (
                mode == "write" or other.upgrading or other.mode == "write" or mode == other.mode == "update"
            ):
                return False
        return True

    async def upgrade(self, io: IO, claim: Entry) -> bool:
        return await io.call(self._upgrade, claim)

    def _upgrade(self, claim: Entry) -> bool:
        claim.upgrading = True
        if any(other.taken for other in tuple(self._list(claim)) if other is not claim):
            return False
        claim.mode = "write"
        claim.upgrading = False
        claim.parker = None
        return True

    async def stay(self, io: IO, claim: Entry) -> None:
        if claim.upgrading:
            claim.mode = "update"
            claim.upgrading = False
            claim.parker = None
            await io.call(self._wake, claim)

    def downgrade(self, claim: Entry, mode: Mode) -> None:
        claim.mode = mode
        self._wake(claim)


class Permits(_Entries):
    """Semaphores."""

    def _may(self, claim: Entry, entries: tuple[Entry, ...]) -> bool:
        other = next((other.permits for other in entries if other.permits != claim.permits), None)
        if other is not None and not claim.taken:
            self.drop(claim)
            claim.queued = False
            raise ProtocolError(
                f"{claim.line.resource} is in use as a semaphore of {other} permits, and this one is of"
                f" {claim.permits}: all who use it must name the same number, or another name"
            )
        return claim in entries and entries.index(claim) < claim.permits

    def _won(self, claim: Entry) -> None:
        # There are fewer others with a slot than there are slots, but they may change while we look.
        slots, key = self._lists.slots, claim.line.key
        while True:
            for slot in range(claim.permits):
                if slots.setdefault((key, slot), claim) is claim:
                    claim.slot = slot
                    return

    def drop(self, claim: Entry) -> None:
        slots, where = self._lists.slots, (claim.line.key, claim.slot)
        if slots.get(where) is claim:  # before it leaves the list: who comes after it needs the slot
            slots.pop(where, None)
        super().drop(claim)


def parties(lists: Lists, key: str) -> tuple[tuple[Party, ...], tuple[Party, ...]]:
    """Holders and waiters of a name."""
    from dataclasses import replace

    from .._parties import own

    holders: list[Party] = []
    waiters: list[Party] = []
    for claim in tuple(lists.lists.get(key, ())):
        party = own(claim)
        if claim.since:
            holders.append(party)
        if not claim.since:
            waiters.append(party)
        elif claim.upgrading and claim.parker is not None:
            waiters.insert(0, replace(party, mode="write", since=None, since_exact=False, waited=None))
    waiters = [replace(party, position=place) for place, party in enumerate(waiters, 1)]
    return tuple(holders), tuple(waiters)
