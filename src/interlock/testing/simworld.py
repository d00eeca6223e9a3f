"""The world of a simulation, as data: cells, the memory that threads share, sleepers. Why it is data: see `sim`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from .simscript import MINE, Raised, Script, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .simscript import Request

ROUND = 1000
"""More objects than this are not made in one round."""

Choice = tuple[Any, ...]
"""What happens next: `("step", who)`, `("kill", process)`, … A list of them from the start is a schedule."""


class Broken(Exception):
    """A property does not hold in this interleaving."""


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
    LASTING = frozenset({"at", "gone", "last", "left", "now", "courtesy", "by_hand", "tokens"})
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
        return bool(verb == "enter")  # taking the critical section early, and leaving late, hides no overlap

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

    def on_items(self, who: int, name: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._to(who, value) for value in self.cells.get(self._cell(who, name)) or ())

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
        return False if until <= self.cells[("now",)] else None

    def on_park(self, who: int, token: Token, sourced: bool, until: float, shielded: bool) -> bool:
        woken = self.awake(who, ("park", token, sourced, until, shielded))
        assert woken is not None
        self.put(("set", token._replace(who=who)), None)
        return woken


_MEMORY = frozenset(
    "begin load exchange setdefault values append item items pop remove length unpark".split()
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
