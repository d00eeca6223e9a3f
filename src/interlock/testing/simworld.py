"""The world of a simulation, as data, and the two things through which contenders meet it: a script and an IO.

What the world is made of and why nothing here needs a thread: see `sim`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import TypeVar

    from .._model import Parker, Source

    T = TypeVar("T")

FOREVER = float("inf")
START = 1000.0
"""Where the simulated clock begins."""

ROUND = 1000
"""More objects than this are not made in one round."""

Request = tuple[Any, ...]

Given = tuple[Any, float]
"""An answer, and what time it was then."""

Choice = tuple[Any, ...]
"""What happens next: `("step", who)`, `("kill", process)`, … A list of them from the start is a schedule."""



class Broken(Exception):
    """A property does not hold in this interleaving."""


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

    async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
        self._shields += 1
        try:
            return await awaitable
        finally:
            self._shields -= 1


class Contender(NamedTuple):
    """`program(script)` is its life, lived `rounds` times; it remembers nothing from one round to the next.

    Equal programs share what is learnt about them.
    """

    program: Callable[[Script], None]
    process: int = 0
    rounds: int = 1
    cancellable: bool = False


class _Bits(dict[tuple[Any, Any], int]):
    """A random number for each cell and value."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def __missing__(self, key: tuple[Any, Any]) -> int:
        bits = self[key] = self._random.getrandbits(128)
        return bits


AGAIN = object()
"""What `World.do` returns when a system call has come only part of its way: others may run before it goes on."""


class World:
    """Cells, and the memory that the threads of each process share.

    A subclass adds `on_VERB` methods, one per outside effect. `None` is the value of a cell that is not there.
    """

    __slots__ = ("bits", "cells", "digest", "setup")
    LASTING = frozenset({"at", "gone", "left", "now", "courtesy", "by_hand", "tokens"})
    """Cells that may be there when everybody has ended."""

    def __init__(self) -> None:
        self.cells: dict[tuple[Any, ...], Any] = {}
        self.digest = 0
        self.bits = _Bits()
        self.setup: Setup = None  # type: ignore[assignment]

    def copy(self) -> World:
        new = object.__new__(type(self))
        new.cells = self.cells.copy()
        new.digest = self.digest
        new.bits = self.bits
        new.setup = self.setup
        return new

    def get(self, *cell: Any) -> Any:
        return self.cells.get(cell)

    def put(self, cell: tuple[Any, ...], value: Any) -> None:
        cells = self.cells
        old = cells.get(cell)
        if old == value:
            return
        bits = self.bits
        if old is not None:
            self.digest ^= bits[cell, old]
        if value is None:
            del cells[cell]
        else:
            cells[cell] = value
            self.digest ^= bits[cell, value]

    def spend(self, what: str) -> bool:
        """Use up one of a limited number of choices, if any is left."""
        left: int = self.get("left", what) or 0
        if left:
            self.put(("left", what), left - 1 or None)
        return left > 0

    def step(self, who: int, request: Request) -> Any:
        return getattr(self, "on_" + request[0])(who, *request[1:])

    def local(self, who: int, request: Request) -> bool:
        """Can neither be seen nor be influenced by anybody else."""
        verb = request[0]
        if verb in _MEMORY:
            return len(self.setup.threads[self.setup.process[who]]) == 1
        return verb == "enter"  # taking the critical section early, and leaving late, hides no overlap

    # ---- what a subclass may add to

    def background(self) -> list[Choice]:
        """Steps of nobody that will come by themselves: a dying process."""
        return []

    def troubles(self) -> list[Choice]:
        """Steps of outside actors that may come or not."""
        return []

    def nobody(self, choice: Choice) -> None:
        """Take one of these steps."""

    def settled(self) -> None:
        """All have ended: what is left? `Broken` if anything is."""
        left = [cell for cell in self.cells if cell[0] not in self.LASTING and not self._lasts(cell)]
        if left and not any(cell[0] == "stopped" for cell in left):
            raise Broken(f"all have ended, and this is left: {', '.join(map(str, left))}")

    def _lasts(self, cell: tuple[Any, ...]) -> bool:
        return cell[0] == "memory" and cell[2] in self.LASTING

    def readable(self, process: int) -> bool:
        """Has the process's event source news?"""
        return False

    def excused(self, one: int, other: int) -> bool:
        """May these two be inside together, since the world itself took the lock from one of them?"""
        return False

    def holder(self) -> int | None:
        """The process that has the lock, by whatever means."""
        return None

    def bury(self, process: int) -> None:
        """The process was killed."""

    # ---- the critical section

    def on_begin(self, who: int) -> None:
        self.put(("acquiring", who), True)

    def on_enter(self, who: int, token: int | None = None) -> None:
        self.put(("acquiring", who), None)
        inside: tuple[int, ...] = self.get("inside") or ()
        for other in inside:
            if not self.excused(who, other):
                raise Broken(f"two holders: contender {who} got the lock while contender {other} has it")
        self.put(("inside",), (*inside, who))
        if token is not None:
            if token <= (self.get("tokens") or 0):
                raise Broken(f"fencing token {token} came after {self.get('tokens')}")
            self.put(("tokens",), token)

    def on_leave(self, who: int) -> None:
        self.put(("inside",), tuple(other for other in self.get("inside") or () if other != who) or None)

    def kill(self, process: int) -> None:
        for who in self.setup.threads[process]:
            self._forget(who, "killed")
        for cell in [cell for cell in self.cells if cell[0] == "memory" and cell[1] == process]:
            self.put(cell, None)
        self.bury(process)

    def finish(self, who: int, how: str) -> bool:
        """A round has ended, in this way; was it the last one?"""
        if how not in self.setup.outcomes:
            raise Broken(f"contender {who} ended with {how}")
        more = how == "done" and self.spend(f"rounds of {who}")
        self._forget(who, None if more else how)
        return not more

    def _forget(self, who: int, how: str | None) -> None:
        self.put(("gone", who), how)
        self.put(("acquiring", who), None)
        self.on_leave(who)
        for cell in [cell for cell in self.cells if cell[0] == "set" and cell[1].who == who]:
            self.put(cell, None)

    # ---- memory that threads of one process share; `name` may contain tokens, values may be tokens

    def _cell(self, who: int, name: tuple[Any, ...]) -> tuple[Any, ...]:
        return ("memory", self.setup.process[who], *(self._from(who, part) for part in name))

    def _from(self, who: int, value: Any) -> Any:
        return value._replace(who=who) if type(value) is Token and value.who == MINE else value

    def _to(self, who: int, value: Any) -> Any:
        return value._replace(who=MINE) if type(value) is Token and value.who == who else value

    def on_load(self, who: int, name: tuple[Any, ...]) -> Any:
        return self._to(who, self.get(*self._cell(who, name)))

    def on_exchange(self, who: int, name: tuple[Any, ...], value: Any) -> Any:
        cell = self._cell(who, name)
        before = self._to(who, self.cells.get(cell))
        self.put(cell, self._from(who, value))
        return before

    def on_setdefault(self, who: int, name: tuple[Any, ...], value: Any) -> Any:
        cell = self._cell(who, name)
        if cell not in self.cells:
            self.put(cell, self._from(who, value))
        return self._to(who, self.cells[cell])

    def on_values(self, who: int, name: tuple[Any, ...]) -> tuple[Any, ...]:
        start = self._cell(who, name)
        found = sorted(cell for cell in self.cells if cell[: len(start)] == start)
        return tuple(self._to(who, self.cells[cell]) for cell in found)

    def on_append(self, who: int, name: tuple[Any, ...], value: Any) -> None:
        cell = self._cell(who, name)
        self.put(cell, (*(self.cells.get(cell) or ()), self._from(who, value)))

    def on_item(self, who: int, name: tuple[Any, ...], at: int) -> Any:
        try:
            return self._to(who, (self.cells.get(self._cell(who, name)) or ())[at])
        except IndexError:
            return Raised(IndexError, ("deque index out of range",))

    def on_pop(self, who: int, name: tuple[Any, ...], at: int) -> Any:
        value = self.on_item(who, name, at)
        if type(value) is not Raised:
            self.on_remove(who, name, value)
        return value

    def on_remove(self, who: int, name: tuple[Any, ...], value: Any) -> Raised | None:
        cell = self._cell(who, name)
        queue = list(self.cells.get(cell) or ())
        try:
            queue.remove(self._from(who, value))
        except ValueError:
            return Raised(ValueError, ("deque.remove(x): x not in deque",))
        self.put(cell, tuple(queue) or None)
        return None

    def on_length(self, who: int, name: tuple[Any, ...]) -> int:
        return len(self.cells.get(self._cell(who, name)) or ())

    def on_unpark(self, who: int, token: Token) -> None:
        token = self._from(who, token)
        if ("gone", token.who) not in self.cells and token.number > self.first(token.who):
            self.put(("set", token), True)

    def first(self, who: int) -> int:
        """Below this are the numbers of objects of earlier rounds."""
        return ROUND * (self.setup.contenders[who].rounds - 1 - (self.get("left", f"rounds of {who}") or 0))

    # ---- sleeping

    def awake(self, who: int, request: Request) -> bool | None:
        """Can this sleeper go on, and was it woken? None: it sleeps."""
        _, token, sourced, until, _ = request
        if ("set", token._replace(who=who)) in self.cells:
            return True
        if sourced and not self.setup.tasks and self.readable(self.setup.process[who]):
            return True
        return False if until <= self.get("now") else None

    def on_park(self, who: int, token: Token, sourced: bool, until: float, shielded: bool) -> bool:
        woken = self.awake(who, ("park", token, sourced, until, shielded))
        assert woken is not None
        self.put(("set", token._replace(who=who)), None)
        return woken


_MEMORY = frozenset(
    "begin load exchange setdefault values append item pop remove length unpark".split()
)


class Setup:
    """What stays the same in all states of one exploration."""

    def __init__(self, contenders: Sequence[Contender], outcomes: frozenset[str], tasks: bool) -> None:
        self.contenders = tuple(contenders)
        self.process = tuple(contender.process for contender in contenders)
        self.processes = tuple(sorted(set(self.process)))
        self.threads = {
            process: tuple(who for who, its in enumerate(self.process) if its == process)
            for process in self.processes
        }
        self.outcomes = outcomes
        self.tasks = tasks
