"""Who holds, and who waits for whom, where all contenders for a lock stand in one queue on a server. Pure functions.

Theory of operation
-------------------
The server gives every entry a place when it is made, and nobody ever comes before an entry that stands. So an entry
with nothing before it that conflicts is granted, and stays granted until it leaves: others only leave. That holds for
every state of the queue that anybody has read since the entry was made, however old, so a grant needs no further
word:

- exclusive ("write"): it is the first;
- "read": no writer stands before it; "update": neither an updater nor a writer does;
- a permit of a semaphore: fewer than so many stand before it.

What is weaker from some moment on (a downgrade) only lets others in. What becomes stronger is the exception. An
updater that holds *marks* its entry as upgrading, and reads the queue in the same step. From the mark on nobody else
is granted, wherever it stands, except those whom that very state shows as granted (`hinderers`). Some of them hold;
some may not have found out yet, and they cannot tell from a later state that the updater counts with them: a reader
that stood behind a writer which has left since looks the same. So, unless there are none, the updater writes into its
entry whom it `awaits`: they may hold, and when all of them have left it may write. If the answer to the mark was
lost, the mark is taken off and made anew.

Whoever waits looks again when one of `concern` leaves or changes. Nothing else can be news to it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Protocol, TypeVar

    from .._model import Mode

    class Entry(Protocol):
        """`permits`: of the semaphore that it contends for, 0 for a lock. `upgrading`: it is marked. `awaits`: the
        idents of those it waits for, none while it has not written that down."""

        @property
        def ident(self) -> str: ...
        @property
        def mode(self) -> Mode: ...
        @property
        def permits(self) -> int: ...
        @property
        def upgrading(self) -> bool: ...
        @property
        def awaits(self) -> Collection[str]: ...

    E = TypeVar("E", bound=Entry)

__all__ = ["blockers", "concern", "foreign", "granted", "hinderers", "together"]


def together(one: Entry, other: Entry) -> bool:
    """May both hold a lock?"""
    return "write" not in (one.mode, other.mode) and "read" in (one.mode, other.mode)


def blockers(queue: Sequence[E], place: int) -> Sequence[E]:
    """What keeps the entry at this place, which does not hold yet, from holding; in order. Empty: it is granted."""
    mine = queue[place]
    if mine.permits:
        return queue[:place] if place >= mine.permits else ()
    return [other for where, other in enumerate(queue) if where != place and _hinders(other, mine, where < place)]


def _hinders(other: Entry, mine: Entry, before: bool) -> bool:
    if other.upgrading:
        return mine.ident not in other.awaits
    return before and not together(mine, other)


def concern(queue: Sequence[E], place: int) -> Sequence[E]:
    """Those of the blockers whose leaving or changing lets it look again.

    A writer waits for all, and so for the last of them. Others may be let in by any change: a writer that becomes a
    reader, an upgrade that is given up, a permit that comes back.
    """
    found = blockers(queue, place)
    mine = queue[place]
    return found[-1:] if mine.mode == "write" and not mine.permits else found


def granted(queue: Sequence[E], place: int) -> bool:
    """By its place alone: does it hold, as far as one can tell who looks on?"""
    mine = queue[place]
    if mine.permits:
        return place < mine.permits
    return all(together(mine, other) for other in queue[:place])


def hinderers(queue: Sequence[E], place: int) -> list[E]:
    """Whom an upgrade must wait for: `queue` is the state that its mark made, `place` its own."""
    return [other for where, other in enumerate(queue) if where != place and granted(queue, where)]


def foreign(queue: Sequence[E], place: int) -> E | None:
    """One that stands before and contends for something of another kind: a lock, or a semaphore of other permits."""
    permits = queue[place].permits
    return next((other for other in queue[:place] if other.permits != permits), None)
