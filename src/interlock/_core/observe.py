"""Telling observers what locks do, at no cost while there are none.

Theory of operation
-------------------
Whatever shell asks, a lock is won and let go by verbs of its line's engine. While somebody observes, each engine in
use is of a class derived from its own, made here, whose verbs also tell; when nobody observes any more, it gets its
own class back. So without observers the verbs are the engine's very own: there is no flag to test, and the engine is
the same object throughout. That a contender waits, and gives up, the process's queue says (`arbiter.Place`), where
nobody is in a hurry.

Each claim has one `Story`: told in order, each stage at most once, so interrupted verbs that are called twice, and
verbs that call one another, tell once. A claim that was won before the observation began has a story from its
release on.

A grant is timed after it was won, a release before it is done: the times in which somebody certainly held the lock.
So intervals of different processes never overlap unless exclusion failed.
"""

from __future__ import annotations

from . import arbiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .._model import IO, Claim, Engine

    class Teller(Protocol):
        """Makes an event of it. `when`: monotonic seconds. Of an upgrade or a downgrade, `was` is the mode before, and
        `asked` since when it was wanted."""

        def __call__(
            self,
            kind: str,
            claim: Claim,
            story: Story,
            when: float,
            reason: str = "",
            was: str = "",
            asked: float = 0.0,
        ) -> None: ...


class Story:
    """What was told of a claim. `number` is the claim's own in this process; `asked`, `granted` and `changed` (when it
    last got another mode) are monotonic."""

    __slots__ = ("asked", "changed", "granted", "lost", "number", "stage")

    def __init__(self, number: int) -> None:
        self.number = number
        self.stage = ""
        self.asked = 0.0
        self.granted = 0.0
        self.changed = 0.0
        self.lost = False


class Listener:
    """What the observed engines and the process's queue tell. One at a time, in `arbiter.listener`."""

    def __init__(self, tell: Teller, clock: Callable[[], float], number: Callable[[], int]) -> None:
        self._tell = tell
        self.clock = clock
        self._number = number

    def _story(self, claim: Claim) -> Story:
        story: Story | None = claim.story
        if story is None:
            story = claim.story = Story(self._number())
        return story

    def waiting(self, claim: Claim) -> None:
        """It will wait now; called before each sleep."""
        story = self._story(claim)
        if not story.stage:
            story.stage = "waiting"
            story.asked = claim.began or self.clock()
            self._tell("waiting", claim, story, story.asked)

    def withdrawn(self, claim: Claim) -> None:
        """It gave up: a timeout, a cancellation, an error, or one try that failed."""
        story = self._story(claim)
        if story.stage in ("", "waiting"):
            story.stage = "withdrawn"
            story.asked = story.asked or claim.began or self.clock()
            self._tell("withdrawn", claim, story, self.clock())

    def acquired(self, claim: Claim) -> None:
        story = self._story(claim)
        if story.stage in ("", "waiting"):
            story.stage = "acquired"
            story.granted = self.clock()
            story.asked = claim.began or story.granted
            self._tell("acquired", claim, story, story.granted)

    def released(self, claim: Claim, when: float) -> None:
        if claim.story is None and not claim.since:
            return  # it never held anything
        story = self._story(claim)
        if story.stage in ("", "acquired"):
            story.stage = "released"
            story.granted = story.granted or claim.since
            self._tell("released", claim, story, when)

    def changing(self, kind: str, claim: Claim, was: str, when: float, asked: float = 0.0) -> None:
        """A hold waits for more ("waiting"), gave that up ("withdrawn"), got it ("upgraded"), or has less now
        ("downgraded"). Told by the shell of read-write locks, where nobody is in a hurry."""
        story = self._story(claim)
        if story.stage in ("", "acquired"):
            story.granted = story.granted or claim.since
            self._tell(kind, claim, story, when, was=was, asked=asked)
            if kind not in ("waiting", "withdrawn"):
                story.changed = when

    def lost(self, claim: Claim, reason: str) -> None:
        story = self._story(claim)
        if not story.lost and story.stage in ("", "acquired"):
            story.lost = True
            story.granted = story.granted or claim.since
            self._tell("lost", claim, story, self.clock(), reason)

    def meet(self, line: arbiter.Line) -> None:
        """Observe the engine of this line from now on."""
        engine = line.engine
        kind = type(engine)
        if kind not in _own_class:
            _met.append(engine)
            engine.__class__ = _observed(kind)
        line.bind()


def listen(listener: Listener | None) -> None:
    """Begin to tell this listener, or, with None, let every engine be as it was."""
    arbiter.listener = listener
    if listener is not None:
        for line in arbiter.lines():
            listener.meet(line)
        return
    while _met:
        engine = _met.pop()
        engine.__class__ = _own_class.get(type(engine), type(engine))
    for line in arbiter.lines():
        line.bind()


_met: list[Engine] = []
_own_class: dict[type[Any], type[Any]] = {}
"""Of each class made here, the one that it is derived from."""


def _observed(kind: Any) -> type[Any]:
    for derived, own in list(_own_class.items()):
        if own is kind:
            return derived

    class Observed(kind):  # type: ignore[misc]
        """The verbs that tell."""

        __slots__ = ()

        def try_now(self, claim: Claim, timeout: float) -> bool:
            won: bool = super().try_now(claim, timeout)
            listener = arbiter.listener
            if won and listener is not None:
                listener.acquired(claim)
            return won

        async def try_acquire(self, io: IO, claim: Claim, deadline: float) -> bool:
            won: bool = await super().try_acquire(io, claim, deadline)
            listener = arbiter.listener
            if won and listener is not None:
                listener.acquired(claim)
            return won

        async def release(self, io: IO, claim: Claim) -> None:
            listener = arbiter.listener
            when = 0.0 if listener is None else listener.clock()
            await super().release(io, claim)
            if listener is not None:
                listener.released(claim, when)

        def drop(self, claim: Claim) -> None:
            listener = arbiter.listener
            when = 0.0 if listener is None else listener.clock()
            super().drop(claim)
            if listener is not None:
                listener.released(claim, when)

        def let_go(self, claim: Claim) -> None:
            listener = arbiter.listener
            when = 0.0 if listener is None else listener.clock()
            super().let_go(claim)
            if listener is not None:
                listener.released(claim, when)

        def lost(self, claim: Claim) -> str:
            reason: str = super().lost(claim)
            listener = arbiter.listener
            if reason and listener is not None:
                listener.lost(claim, reason)
            return reason

    Observed.__name__, Observed.__qualname__ = kind.__name__, kind.__qualname__
    _own_class[Observed] = kind
    return Observed
