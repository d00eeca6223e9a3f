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

ROUNDS = "rounds of "
"""How a contender's limit of rounds is called among the limits."""

Choice = tuple[Any, ...]
"""What happens next: `("step", who)`, `("kill", process)`, … A list of them from the start is a schedule."""


How = str | int


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


Parts = tuple[tuple[int, Any], ...]


class _Bits(dict[tuple[Any, Any], tuple[tuple[int, int], ...]]):
    """Random numbers for each cell and value, and whose they are: a contender's, or (-1) the world's."""

    def __init__(self, parts: Callable[[tuple[Any, ...], Any], Parts]) -> None:
        self._parts = parts
        self._random = random.Random(1)
        self._numbers: dict[Any, int] = {}

    def __missing__(self, key: tuple[Any, Any]) -> tuple[tuple[int, int], ...]:
        bits = self[key] = tuple((who, self._number(what)) for who, what in self._parts(*key))
        return bits

    def _number(self, what: Any) -> int:
        if what not in self._numbers:
            self._numbers[what] = self._random.getrandbits(128)
        return self._numbers[what]


def _nobodys(*_: Any) -> Parts:
    return ()


AGAIN = object()
"""What `World.do` returns when a system call has come only part of its way: others may run before it goes on."""


class World:
    """Cells, and the memory that the threads of each process share.

    A subclass adds `on_VERB` methods, one per outside effect. `None` is the value of a cell that is not there.
    """

    __slots__ = ("_bits", "_digests", "cells", "setup")
    LASTING = frozenset({"at", "gone", "last", "left", "now", "courtesy", "tokens"})
    """Cells that may be there when everybody has ended."""

    def __init__(self) -> None:
        self.cells: dict[tuple[Any, ...], Any] = {}
        self.setup: Setup = None  # type: ignore[assignment]
        self._bits = _Bits(_nobodys)  # until an exploration begins
        self._digests = [0]

    def begin(self, setup: Setup) -> None:
        self.setup = setup
        self._bits = _Bits(self.parts)
        self._digests = [0] * (len(setup.contenders) + 1)
        for cell, value in self.cells.items():
            self._count(cell, value)

    def copy(self) -> World:
        new = object.__new__(type(self))
        new.cells = self.cells.copy()
        new.setup = self.setup
        new._bits = self._bits
        new._digests = self._digests.copy()
        return new

    def get(self, *cell: Any) -> Any:
        return self.cells.get(cell)

    def put(self, cell: tuple[Any, ...], value: Any) -> None:
        cells = self.cells
        old = cells.get(cell)
        if old == value:
            return
        if old is not None:
            self._count(cell, old)
        if value is None:
            del cells[cell]
        else:
            cells[cell] = value
            self._count(cell, value)

    def _count(self, cell: tuple[Any, ...], value: Any) -> None:
        """In or out: this is its own reverse."""
        digests = self._digests
        for who, bits in self._bits[cell, value]:
            digests[who] ^= bits

    def key(self) -> tuple[int, ...]:
        """Equal for equal worlds, and for worlds in which twins have changed places."""
        digests = self._digests
        twins = [digest for group in self.setup.twins for digest in sorted([digests[who] for who in group])]
        return (digests[-1], *twins)

    def parts(self, cell: tuple[Any, ...], value: Any) -> Parts:
        """What of a cell belongs to whom among those that have a twin, said without saying who it is."""
        kind = cell[0]
        if kind == "inside":
            return tuple(self._part(who, kind, how) for who, how in value)
        if kind == "last":
            return (self._part(value, kind),)
        if kind in ("at", "gone", "acquiring", "meets"):
            return (self._part(cell[1], kind, value),)
        if kind == "set":
            return (self._part(cell[1].who, kind, cell[1].number),)
        if kind == "left" and cell[1].startswith(ROUNDS):
            return (self._part(int(cell[1].removeprefix(ROUNDS)), kind, value),)
        if kind in ("memory", "stopped"):
            return (self._process_part(cell[1], kind, cell[2:], value),)
        return ((-1, (cell, value)),)

    def _part(self, who: int, *what: Any) -> tuple[int, Any]:
        return (who, what) if who in self.setup.has_twin else (-1, (who, what))

    def _process_part(self, process: int, *what: Any) -> tuple[int, Any]:
        who = self.setup.threads[process][0]
        if who in self.setup.has_twin:  # then it is the only thread
            return who, _anonymous(what, who)
        return -1, (process, what)

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

    def holders(self) -> set[int]:
        """The processes that have the lock, or a part of it, by whatever means."""
        return set()

    def bury(self, process: int) -> None:
        """The process was killed."""

    # ---- the critical section

    def on_begin(self, who: int) -> None:
        self.put(("acquiring", who), True)

    def on_enter(self, who: int, token: int | None = None, how: How = "write") -> None:
        """`how`: the mode of a read-write lock, or the slot of a semaphore."""
        self.put(("acquiring", who), None)
        inside: tuple[tuple[int, How], ...] = self.get("inside") or ()
        for other, its in inside:
            if not compatible(how, its) and not self.excused(who, other):
                got, has = ("", "") if how == its == "write" else (f" ({how})", f" ({its})")
                raise Broken(f"two holders: contender {who} got the lock{got} while contender {other} has it{has}")
        self.put(("inside",), (*inside, (who, how)))
        if token is not None:
            if token <= (self.get("tokens") or 0):
                raise Broken(f"fencing token {token} came after {self.get('tokens')}")
            self.put(("tokens",), token)
        self._met()

    def on_meet(self, who: int, token: Token) -> None:
        """It will hold until nobody else waits any more: `token` wakes it when all others are inside, or have ended."""
        self.put(("meets", who), token.number)
        self._met()

    def _met(self) -> None:
        for cell in [cell for cell in self.cells if cell[0] == "meets"]:
            within = {who for who, _ in self.get("inside") or ()}
            others = set(range(len(self.setup.contenders))) - within - {cell[1]}
            if all(("gone", other) in self.cells for other in others):
                self.put(("set", Token("parker", cell[1], self.cells[cell])), True)
                self.put(cell, None)

    def on_become(self, who: int, how: How) -> None:
        """Go on in another mode."""
        self.on_leave(who)
        self.on_enter(who, None, how)

    def on_leave(self, who: int) -> None:
        self.put(("inside",), tuple(one for one in self.get("inside") or () if one[0] != who) or None)

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
        more = how == "done" and self.spend(f"{ROUNDS}{who}")
        self._forget(who, None if more else how)
        self._met()
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
        return ROUND * (self.setup.contenders[who].rounds - 1 - (self.get("left", f"{ROUNDS}{who}") or 0))

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


def compatible(one: How, other: How) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return one != other
    return {one, other} <= {"read", "update"} and "read" in (one, other)


_MEMORY = frozenset("begin load exchange setdefault values append item items pop remove length unpark".split())


def _anonymous(value: Any, who: int) -> Any:
    """The same with this contender's tokens as it sees them itself."""
    if type(value) is Token:
        return value._replace(who=MINE) if value.who == who else value
    if type(value) in (tuple, frozenset):
        return type(value)(_anonymous(part, who) for part in value)
    return value


class Setup:
    """What stays the same in all states of one exploration."""

    def __init__(self, contenders: Sequence[Contender], outcomes: frozenset[str], tasks: bool, symmetric: bool) -> None:
        self.contenders = tuple(contenders)
        self.process = tuple(contender.process for contender in contenders)
        self.processes = tuple(sorted(set(self.process)))
        self.threads = {
            process: tuple(who for who, its in enumerate(self.process) if its == process) for process in self.processes
        }
        self.outcomes = outcomes
        self.tasks = tasks
        alike: dict[Any, list[int]] = {}
        for who, contender in enumerate(contenders):
            if len(self.threads[contender.process]) == 1 and symmetric:
                alike.setdefault((contender.program, contender.rounds, contender.cancellable), []).append(who)
        self.twins = [group for group in alike.values() if len(group) > 1]
        """Contenders that may change places without anybody noticing."""
        self.has_twin = {who for group in self.twins for who in group}
