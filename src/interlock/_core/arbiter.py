"""Who of this process goes to the engine: threads and tasks queue here (FIFO) before one of them meets the kernel.

Theory of operation
-------------------
Each resource that the process knows has one `Line`. At most one claim per line has *the turn*; only that claim
has a descriptor (or a session) and talks to the engine, so a thousand waiting tasks cost one descriptor, and the
kernel sees one contender per process.

The turn is an entry of the dictionary `turns`. It is taken by `turns.setdefault(line, claim) is claim` and given
back by deleting the entry, both one atomic step of the interpreter, so the uncontended path needs no mutex that a
signal handler, a finalizer or a fork could find locked. Who finds the turn taken appends its `Place` to
`line.queue`, *then* looks again (subscribe before try), and parks. Whoever gives the turn back deletes the entry,
*then* unparks the first of the queue. One of the two always sees the other.

Only the first place of a queue may take the turn, and a newcomer goes behind a queue that is not empty: FIFO.
A place that leaves for any reason unparks the first place again, because its own wake-up may have been the one
that the next needs.

A claim that others may hold beside (a reader, a permit) gives its turn back once it is granted, by `share`, and
lives on in `granted`: contending is one at a time, holding is not. So does one that was lost (see `lost`).

Invariants: a claim is in `turns` or in `granted` from before its first outside effect until after its last; so
whoever walks both (a forked child, the exit handler) sees every descriptor that this process holds for a lock.
"""

from __future__ import annotations

from collections import deque
from weakref import KeyedRef
from weakref import _remove_dead_weakref as remove_dead  # type: ignore[attr-defined]

from .._errors import named
from .._identity import me

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .._model import IO, Claim, Engine
    from .observe import Listener

NAP = 1.0
"""Seconds after which the first in line looks for itself; the others after five times that."""

__all__ = [
    "Line",
    "Place",
    "abandon",
    "alive",
    "give_back",
    "granted",
    "line_for",
    "lines",
    "share",
    "take_turn",
    "turn_of",
    "turns",
]


class Line:
    """One resource, as this process sees it. `key` is canonical, `resource` is what messages show."""

    __slots__ = (
        "__weakref__", "claim_type", "courtesy", "engine", "key", "let_go", "opens", "queue", "remote", "resource",
        "secret",
    )  # fmt: skip

    def __init__(self, engine: Engine, key: str, resource: str) -> None:
        self.engine = engine
        self.claim_type = getattr(engine, "claim_type", None)  # where the uncontended path finds it fast
        self.key = key
        self.resource = resource
        self.queue: deque[Place] = deque()
        self.opens: Iterator[int] | None = None  # the kernel engine's
        self.courtesy = 0.0
        """Monotonic second from which a newcomer looks whether other processes wait, before it barges."""
        self.remote: bool = getattr(engine, "remote", False)
        """Is the engine a `Remote`?"""
        self.let_go: Callable[[Claim], None]
        """What an explicit release in a thread calls: the engine's `drop`, or a remote one's `let_go`."""
        self.bind()
        self.secret = False
        """Does the URL that leads here hold credentials, so that `resource` is not the whole of it?"""

    def bind(self) -> None:
        """Find the engine's verb of release, anew where the engine has got another class (`observe`)."""
        own: Any = self.engine
        self.let_go = own.let_go if self.remote else getattr(own, "drop", _nothing)


def _nothing(claim: Claim) -> None:
    """The release of an engine that has none: a line for its turns alone."""


turns: dict[Line, Claim] = {}
take_turn = turns.setdefault
turn_of = turns.get
"""Found at once: an attribute of an imported name is not (`turns.get`), and everybody's hot path needs both."""
granted: dict[Claim, None] = {}
"""Claims that are held without a turn."""
listener: Listener | None = None
"""Set while somebody observes: see `observe`."""

forks = 0
"""How many forks there are between this process and the one that first imported this."""

_lines: dict[tuple[int, str], KeyedRef[tuple[int, str], Line]] = {}
"""Not a WeakValueDictionary: its `setdefault` is several steps, and two threads may get two lines of one key."""


def line_for(engine: Engine, key: str, resource: str) -> Line:
    """The line of this key; all locks of the process on one key share it."""
    where = (id(engine), key)
    line = Line(engine, key, resource)
    mine = KeyedRef(line, _forget, where)
    while True:
        found = _lines.setdefault(where, mine)()
        if found is not None:
            told = listener
            if found is line and told is not None:
                told.meet(line)
            return found
        remove_dead(_lines, where)


def lines() -> list[Line]:
    """All lines of the process."""
    return [line for known in list(_lines.values()) if (line := known()) is not None]


def known(engine: Engine, key: str) -> bool:
    """Is there a line of this key?"""
    line = _lines.get((id(engine), key))
    return line is not None and line() is not None


def _forget(dead: KeyedRef[tuple[int, str], Line]) -> None:
    remove_dead(_lines, dead.key)  # one step: does nothing if there is a new line by now


def alive(claim: Claim) -> bool:
    """Is this claim of this process, and not yet ended?"""
    return turns.get(claim.line) is claim or claim in granted


def share(claim: Claim) -> None:
    """A won claim goes on without the turn, so that others of this process may contend."""
    granted[claim] = None
    give_back(claim)


def give_back(claim: Claim) -> None:
    """End a claim's turn, if it has it, and let the next place in."""
    line = claim.line
    if turns.get(line) is claim:
        try:
            del turns[line]
        except KeyError:  # a child that was forked by a handler, after the look
            pass
    if line.queue:
        wake_first(line)


def abandon(claim: Claim) -> None:
    """After an exception in acquire, wherever it struck: nothing stays behind. Interrupted, it begins again, since
    nobody else will do it."""
    interrupt: BaseException | None = None
    while True:
        try:
            line = claim.line
            if alive(claim):
                line.engine.drop(claim)
                granted.pop(claim, None)
            for place in tuple(line.queue):
                if place.claim is claim:
                    place.leave_queue()
            give_back(claim)
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupt = error
        else:
            break
    if interrupt is not None:
        raise interrupt


def wake_first(line: Line) -> None:
    while True:
        try:
            first = line.queue[0]
        except IndexError:
            return
        if first.parker.unpark() is not False:
            return
        first.leave_queue()  # nobody will ever come for this place


def _bury(line: Line) -> None:
    """End the turn of a claim that waits in an event loop which is closed: it will never go on."""
    claim = turns.get(line)
    parker = getattr(claim, "parker", None)
    if claim is not None and not claim.since and parker is not None and parker.unpark() is False:
        abandon(claim)


def forget_all() -> list[Claim]:
    """In a forked child: empty every line, and return the claims that belong to the parent."""
    global forks
    forks += 1
    inherited = [*turns.values(), *granted]
    turns.clear()
    granted.clear()
    for claim in inherited:
        claim.depth = 0
    for line in lines():
        for place in line.queue:  # one may be this thread's: a fork in a signal handler, in the middle of a wait
            place.queued = False
            place.parker.unpark()
        line.queue.clear()
    return inherited


class Place:
    """A claim's place in its line: the stake that the acquire loop drives."""

    __slots__ = ("claim", "overdue", "parker", "queued")

    def __init__(self, io: IO, claim: Claim) -> None:
        self.claim = claim
        claim.thread = me.token
        self.overdue = False
        self.parker = io.parker()
        self.queued = False

    def _take_turn(self) -> bool:
        claim = self.claim
        line = claim.line
        if turns.get(line) is claim:
            return True
        if not self.queued:
            self.queued = True
            line.queue.append(self)
        try:
            if line.queue[0] is not self and not self.overdue:
                return False
        except IndexError:  # a fork in between emptied the line
            self.queued = False
            return False
        if turns.setdefault(line, claim) is not claim:
            return False
        claim.depth = 1  # a fork in a handler of a signal, in the middle of a wait, has made it 0
        self.leave_queue()
        return True

    def leave_queue(self) -> None:
        if self.queued:
            try:
                self.claim.line.queue.remove(self)
            except ValueError:
                pass
            self.queued = False

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        claim = self.claim
        line = claim.line
        born = forks
        if turns.get(line) is not claim and not self._take_turn():
            return False
        try:
            won = await line.engine.try_acquire(io, claim, deadline)
        except Exception as error:
            if born == forks or line.remote:
                if isinstance(error, OSError):
                    named(error, line.key)
                raise
            won = False
        if born != forks and not line.remote:
            self._start_anew()
            return False
        return won

    def _start_anew(self) -> None:
        """In a child that was forked by a handler of a signal, in the middle of an attempt: that went on with a claim
        that was disowned, and whatever it got since is in no line."""
        claim = self.claim
        claim.line.engine.drop(claim)
        claim.line.engine.disown(claim)

    async def wait(self, io: IO, until: float) -> None:
        claim = self.claim
        born = forks
        told = listener
        if told is not None:
            told.waiting(claim)
        if turns.get(claim.line) is claim:
            try:
                await claim.line.engine.wait(io, claim, until)
            except Exception as error:
                if born == forks or claim.line.remote:
                    if isinstance(error, OSError):
                        named(error, claim.line.key)
                    raise
            if born != forks and not claim.line.remote:
                self._start_anew()
        else:
            # Whoever should wake this place may be in an event loop that was stopped, or closed over its tasks: so
            # it looks for itself now and then, and then takes a free turn whatever its rank.
            first = next(iter(tuple(claim.line.queue)), None) is self
            woken = await io.park(self.parker, min(until, io.now() + (NAP if first else 5 * NAP)))
            self.overdue = not woken
            if not woken:
                _bury(claim.line)

    async def withdraw(self, io: IO) -> None:
        claim = self.claim
        try:
            if turns.get(claim.line) is claim:
                await claim.line.engine.withdraw(io, claim)
        except BaseException:
            claim.line.engine.drop(claim)  # interrupted: once more, to the end
            raise
        finally:
            self.leave_queue()
            give_back(claim)
            told = listener
            if told is not None:
                told.withdrawn(claim)
