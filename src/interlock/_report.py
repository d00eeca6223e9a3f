"""What `inspect` and `Timeout` tell about a lock: who holds, who waits, since when."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from ._errors import printable

__all__ = ["Party", "Report"]


@dataclass(frozen=True)
class Party:
    """A holder or a waiter, as far as the system knows it.

    `since` is in seconds of the Unix epoch. Where `since_exact` is false it is the earliest that it can have been
    (the process's start): kernels do not record when a lock was taken, only `interlock run` does.
    `waited` is in seconds: of a waiter how long so far, of a holder how long it had to, `None` where that is not known.
    `position` is a waiter's place in the queue, 1 for the next; `None` where there is no order (blocked in flock(2)).
    `thread` names the thread, `task` the asyncio or trio task: known of this very process; of others the thread only
    where they have but one, or block in flock(2); "" otherwise. `mode`: "read", "update" or "write"; "permit" of a
    semaphore, with the `slot` of its holder; "" if unknown.
    `inherited`: the process got the descriptor from the one that locked, and keeps the lock should that one die.
    """

    pid: int | None
    command: str = ""
    user: str = ""
    host: str = ""
    since: float | None = None
    since_exact: bool = False
    inherited: bool = False
    thread: str = ""
    task: str = ""
    mode: str = ""
    waited: float | None = None
    position: int | None = None
    slot: int | None = None

    def __str__(self) -> str:
        name = f"pid {self.pid}" if self.pid is not None else "an unknown process"
        if self.command:
            name += f" ({printable(self.command)})"  # its own words
        if self.inherited:
            name += ", which inherited the descriptor,"
        if self.since is None:
            return name
        return f"{name} for {'' if self.since_exact else 'at most '}{duration(time.time() - self.since)}"


@dataclass(frozen=True)
class Report:
    """The state of one lock at one moment, from the engine's own tables.

    `enforced` is false where locks of this kind exclude nobody here, `None` where that is unknown. `complete` is false
    where processes could not be seen (other users', other pid namespaces'): then an empty list proves nothing.
    """

    resource: str
    engine: str
    holders: tuple[Party, ...] = ()
    waiters: tuple[Party, ...] = ()
    enforced: bool | None = None
    complete: bool = True
    hint: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def duration(seconds: float) -> str:
    """A duration for people: 0.3 s, 12 s, 3 min 20 s, 5 h 2 min, 3 d 4 h."""
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    for size, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= size:
            return f"{total // size} {name} {total % size // below} {below_name}"
    return f"{total} s"
