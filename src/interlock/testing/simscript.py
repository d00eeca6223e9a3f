"""How a simulated contender meets its world: by questions that a script answers. Why it needs no thread: see `sim`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")

FOREVER = float("inf")
START = 1000.0
"""Where the simulated clock begins."""

Request = tuple[Any, ...]

Given = tuple[Any, float]
"""An answer, and what time it was then."""


class Unrepeatable(Exception):
    """Played twice with the same answers, a contender did not do the same: it depends on something unseen."""


class Suspend(BaseException):
    """Ends the run of a contender at its first unanswered question. Never caught by code that is explored."""


class Raised(NamedTuple):
    """An answer that is an exception."""

    kind: type[BaseException]
    arguments: tuple[Any, ...] = ()


class Token(NamedTuple):
    """An object of some contender, as the world knows it: which kind, whose, the how-many-th."""

    kind: str
    who: int
    number: int


MINE = -1
"""In tokens that contenders see: their own."""


class Script:
    """The answers so far, while they are played; afterwards `request`, the first question beyond them."""

    __slots__ = ("_answers", "_asked", "_at", "describe", "first", "now", "place", "request")

    def __init__(self, first: int, asked: Sequence[Request], answers: Sequence[Given], now: float) -> None:
        self.first = first
        """Objects are numbered from here on, so that those of an earlier round are not taken for new ones."""
        self._asked = asked
        self._answers = answers
        self._at = 0
        self.now = now
        self.request: Request | None = None
        self.describe: Callable[[], Any] | None = None
        self.place: Any = None
        """Where the contender is when it asks, as `describe` describes it."""

    @property
    def dead(self) -> bool:
        """Was the run abandoned? Finalizers that run now must not ask."""
        return self.request is not None

    def ask(self, *request: Any) -> Any:
        if self.request is not None:
            raise Suspend
        at = self._at
        if at == len(self._answers):
            if self.describe is not None:
                try:
                    self.place = self.describe()
                except TypeError as error:
                    self.request = request  # who tidies up now is not heard
                    raise Unrepeatable(str(error)) from None
            self.request = request
            raise Suspend
        if self._asked[at] != request:
            raise Unrepeatable(f"question {at} was {self._asked[at]}, and is {request} when played again")
        self._at = at + 1
        answer, self.now = self._answers[at]
        if type(answer) is Raised:
            raise answer.kind(*answer.arguments)
        return answer

    def tell(self, *request: Any) -> None:
        self.ask(*request)


class Node:
    """One contender after one script. `request` is what it does next; `("end", how)` when it has ended."""

    __slots__ = ("children", "given", "number", "parent", "request")

    def __init__(self, number: int, parent: Node | None, given: Given) -> None:
        self.number = number
        self.parent = parent
        self.given = given
        self.children: dict[Given, Node] = {}
        self.request: Request = ()


class SimParker:
    """A sleeping place, known to the world by its token."""

    __slots__ = ("_script", "sourced", "token")

    def __init__(self, script: Script, token: Token, sourced: bool = False) -> None:
        self._script = script
        self.token = token
        self.sourced = sourced

    def unpark(self) -> None:
        self._script.tell("unpark", self.token)


class SimIO:
    """The IO port of a simulated contender: what it waits for is for the scheduler to say.

    Nothing here suspends, so it serves threads (`_core.acquire.run`) and tasks alike; a task is cancelled by an
    answer that is a CancelledError, in any sleep that is not shielded.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self._parkers = script.first
        self._shields = 0

    def now(self) -> float:
        return self.script.now

    def owner(self) -> object:
        return self.script

    def parker(self, source: Source | None = None) -> Parker:
        self._parkers += 1
        return SimParker(self.script, Token("parker", MINE, self._parkers), source is not None)

    async def park(self, parker: Parker, until: float) -> bool:
        assert isinstance(parker, SimParker)
        woken: bool = self.script.ask("park", parker.token, parker.sourced, until, self._shields > 0)
        return woken

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        """The effects inside `fn` are the questions, each by itself: finer than the port promises."""
        return fn(*args)

    async def work(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        self._shields += 1
        try:
            return await awaitable
        finally:
            self._shields -= 1
