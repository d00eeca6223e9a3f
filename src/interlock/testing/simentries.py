"""The memory engine's read-write locks and semaphores in simulation: lists of entries that threads or tasks share.

What others look at in an entry is in the world, each field a cell of its own. Economies, all exact: what an entry
says of itself only its owner changes, so the owner reads it without a choice; what it says before it stands in the list
nobody can see, nor what changes nothing; and one that reads never becomes anything else. The property beside exclusion
is order: nobody gets in before one that stands before it and could not be beside it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..engines._memory_entries import Entry, Lists, Modes, Permits
from .simprocess import PATH, Elsewhere, Memory, SharedClaim, SimMap, SimQueue, kinds_elsewhere
from .simscript import Token
from .simworld import Broken, World, compatible

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from .._core.arbiter import Line
    from .._report import Report
    from .simscript import Request
    from .simworld import How

__all__ = ["SimEntries", "memory_modes", "memory_permits"]

_UNSAID: dict[str, Any] = {"mode": None, "permits": 0, "taken": False, "upgrading": False}


class SimEntries(World):
    """The world of one process whose contenders stand in a list."""

    __slots__ = ()
    LASTING = World.LASTING | {"mode", "permits"}

    def _list(self, who: int) -> tuple[Token, ...]:
        return self.get("memory", self.setup.process[who], "entries", PATH) or ()

    def local(self, who: int, request: Request) -> bool:
        if request[0] in ("load", "exchange") and len(request[1]) == 2:
            field, of = request[1]
            if type(of) is Token and of.kind == "entry":
                return self._unseen(who, field, self._from(who, of), request)
        return super().local(who, request)

    def _unseen(self, who: int, field: str, entry: Token, request: Request) -> bool:
        process = self.setup.process[who]
        if entry.who != who:
            constant = self.get("memory", process, "mode", entry) == "read"  # which becomes nothing else
            return field == "permits" or (constant and field in ("mode", "upgrading"))
        if request[0] == "load" or self._from(who, request[2]) == self.get("memory", process, field, entry):
            return True
        return field in ("mode", "permits") and entry not in self._list(who)

    def on_enter(self, who: int, token: int | None = None, how: How = "write") -> None:
        entries = self._list(who)
        place = next((place for place, entry in enumerate(entries) if entry.who == who), None)
        if place is None:
            raise Broken(f"contender {who} got in and stands in no list")
        process = self.setup.process[who]
        if isinstance(how, int):
            overtakes = place >= self.get("memory", process, "permits", entries[place])
        else:
            modes = [self.get("memory", process, "mode", entry) for entry in entries[:place]]
            overtakes = not all(compatible(how, mode) for mode in modes)
        if overtakes:
            raise Broken(f"contender {who} has overtaken one that stands before it")
        super().on_enter(who, token, how)

    def on_become(self, who: int, how: How) -> None:
        """An upgrade passes those that stand before it and have not found out yet that they may hold."""
        self.on_leave(who)
        super().on_enter(who, None, how)


def _said(memory: Memory, token: object, field: str) -> Any:
    value = memory.ask("load", (field, token))
    return _UNSAID[field] if value is None else value


class OthersEntry(Elsewhere):
    """Another one's entry."""

    def __getattr__(self, name: str) -> Any:
        if name not in _UNSAID:
            raise AttributeError(name)
        return _said(self._memory, self._token, name)

    @property
    def mode(self) -> Any:  # type: ignore[override]
        return _said(self._memory, self._token, "mode")


kinds_elsewhere["entry"] = OthersEntry


def _field(name: str) -> Any:
    def get(entry: SimEntry) -> Any:
        memory = entry.line.memory
        return _said(memory, memory.token(entry), name)

    def set_(entry: SimEntry, value: Any) -> None:
        memory = entry.line.memory
        memory.ask("exchange", (name, memory.token(entry)), None if value == _UNSAID[name] else value)

    return property(get, set_)


class SimEntry(Entry):
    """An entry whose fields are in the world."""

    kind = "entry"
    line: Any
    _name = SharedClaim._name
    parker = SharedClaim.parker
    mode = _field("mode")
    permits = _field("permits")
    taken = _field("taken")
    upgrading = _field("upgrading")


class SimList(SimQueue):
    """A list that is only ever copied: asked for its length before, as `tuple` does, it would be one step more."""

    __len__ = None  # type: ignore[assignment]


class SimLists(Lists):
    """What the contenders of one process share."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.lists = self  # type: ignore[assignment]
        self.slots = SimMap(memory, "slots")  # type: ignore[assignment]

    def setdefault(self, key: str, default: deque[Any]) -> SimList:
        """Of `lists`: an absent one is an empty one."""
        assert not default
        return SimList(self._memory, "entries", key)


def memory_modes(lanes: dict[str, type[Modes]] | None = None) -> Callable[[Memory, Any], Modes]:
    """Makes the memory engine's engines of read-write locks; `lanes` replaces some."""

    def make(memory: Memory, mode: Any) -> Modes:
        engine: Any = (lanes or {}).get(mode, Modes)(SimLists(memory), mode)
        engine.claim = partial(_claim, engine, mode)
        made: Modes = _made(engine)
        return made

    return make


def memory_permits(cls: type[Permits] = Permits) -> Callable[[Memory], Permits]:
    """Makes the memory engine's engine of semaphores."""
    return lambda memory: _made(cls(SimLists(memory)))


def _made(engine: Any) -> Any:
    engine.claim_type = SimEntry
    engine.inspect = _not_told
    return engine


def _claim(engine: Any, mode: Any, line: Line, owner: object, fair: bool) -> Entry:
    claim: Entry = type(engine).claim(engine, line, owner, fair)
    claim.mode = mode
    return claim


def _not_told(_: Line) -> Report:
    """Who waited in vain names nobody."""
    raise OSError
