"""The Python world around a simulated contender: memory that its process's threads share, clocks, and its programs.

The code under test reads and writes module globals, lines and queues as if it were alone. Here these are stand-ins
whose every access is a question to the world, so threads of one simulated process are interleaved at each of them.
`tests/sim` compares the fields that lines, claims and engines have with those known here: a new one that threads
share would otherwise be private to each simulated thread, unnoticed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import _deadline, _hold, _rwhold, lock, rwlock, semaphore
from .._core import arbiter
from .._core.acquire import acquire, run
from .._core.arbiter import Line, Place
from .._io import blocking
from .._model import Claim
from ..engines import _memory_entries, kernel
from ..engines import memory as memory_module
from ..engines.memory import MemoryClaim, MemoryEngine
from .simscript import MINE, START, Script, SimIO, SimParker, Token
from .simworld import ROUND

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator

    from .._model import IO, Engine, Parker

    Patch = tuple[object, str, object]

PATH = "/sim/lock"
_LATE = ("interlock.engines.kernel.readwrite", "interlock.engines.kernel.slots")
"""Not for every platform."""

_PATCHED = (arbiter, lock, rwlock, semaphore, _hold, _rwhold, kernel, memory_module, _memory_entries)


class Elsewhere:
    """A claim or a place of another thread, as this one meets it in memory that they share."""

    owner = thread = "another thread"
    mode = "write"
    since = START

    def __init__(self, memory: Memory, token: Token) -> None:
        self._memory = memory
        self._token = token

    @property
    def line(self) -> object:
        return self

    key = engine = None

    @property
    def claim(self) -> Elsewhere:
        """Of a place: not one of ours."""
        return self

    @property
    def parker(self) -> Parker | None:
        if self._token.kind == "place":
            return SimParker(self._memory.script, self._token._replace(kind="parker"))
        parker: Parker | None = self._memory.ask("load", ("parker", self._token))
        return parker


kinds_elsewhere: dict[str, type[Elsewhere]] = {}
"""Of claims that are more than that."""


class Memory:
    """Turns objects into tokens for the world, and back."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._mine: dict[Token, object] = {}
        self._tokens: dict[int, Token] = {}

    def ask(self, verb: str, name: tuple[Any, ...], *values: Any) -> Any:
        return self.find(self.script.ask(verb, name, *map(self.token, values)))

    def token(self, value: object) -> object:
        if isinstance(value, SimParker):
            return value.token
        if not isinstance(value, (Place, Claim)):
            return value
        token = self._tokens.get(id(value))
        if token is None:
            if isinstance(value, Place):  # numbered like its parker, so that others can wake it
                assert isinstance(value.parker, SimParker)
                token = Token("place", MINE, value.parker.token.number)
            else:
                token = Token(getattr(value, "kind", "claim"), MINE, self.script.first + len(self._tokens))
            self._tokens[id(value)] = token
            self._mine[token] = value
        return token

    def find(self, value: Any) -> Any:
        if type(value) is not Token:
            return value
        if value.kind == "parker":
            return SimParker(self.script, value)
        return self._mine[value] if value.who == MINE else kinds_elsewhere.get(value.kind, Elsewhere)(self, value)


class SimMap:
    """A dictionary that threads share. Keyed by `line.key`, or by strings."""

    def __init__(self, memory: Memory, kind: str) -> None:
        self._memory = memory
        self._kind = kind

    def _name(self, key: Any) -> tuple[Any, ...]:
        return (self._kind, getattr(key, "name", key))

    def get(self, key: Any, default: Any = None) -> Any:
        # A finalizer may come here when its contender's run was abandoned, even in the run of another one.
        if self._memory.script.dead or getattr(key, "script", self._memory.script) is not self._memory.script:
            return None
        value = self._memory.ask("load", self._name(key))
        return default if value is None else value

    def setdefault(self, key: Any, value: Any) -> Any:
        return self._memory.ask("setdefault", self._name(key), value)

    def pop(self, key: Any, default: Any = None) -> Any:
        value = self._memory.ask("exchange", self._name(key), None)
        return default if value is None else value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._memory.ask("exchange", self._name(key), value)

    def __delitem__(self, key: Any) -> None:
        if self.pop(key) is None:
            raise KeyError(key)

    def values(self) -> list[Any]:
        return [self._memory.find(value) for value in self._memory.script.ask("values", (self._kind,))]


class SimSet:
    """A dictionary that threads share, of claims as keys, and no values."""

    def __init__(self, memory: Memory, kind: str) -> None:
        self._queue = SimQueue(memory, kind)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue)

    def __contains__(self, claim: object) -> bool:
        return any(its is claim for its in self._queue)

    def __setitem__(self, claim: object, _: None) -> None:
        self._queue.append(claim)

    def pop(self, claim: object, _: None) -> None:
        if claim in self:
            self._queue.remove(claim)


class SimQueue:
    """A deque that threads share."""

    def __init__(self, memory: Memory, *name: Any) -> None:
        self._memory = memory
        self._name = name

    def append(self, value: Any) -> None:
        self._memory.ask("append", self._name, value)

    def remove(self, value: Any) -> None:
        self._memory.ask("remove", self._name, value)

    def popleft(self) -> Any:
        return self._memory.ask("pop", self._name, 0)

    def __getitem__(self, at: int) -> Any:
        return self._memory.ask("item", self._name, at)

    def __iter__(self) -> Iterator[Any]:
        """A copy in one step, as `tuple(deque)` makes it."""
        if self._memory.script.dead:  # whoever tidies up until it succeeds shall find nothing to do
            return iter(())
        return iter([self._memory.find(value) for value in self._memory.script.ask("items", self._name)])

    def __len__(self) -> int:
        if self._memory.script.dead:
            return 0
        length: int = self._memory.ask("length", self._name)
        return length


class SimQueues:
    """The memory engine's dictionary of queues; an absent queue is an empty one."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getitem__(self, key: str) -> SimQueue:
        return SimQueue(self._memory, "waiting", key)

    def get(self, key: str) -> SimQueue:
        return self[key]

    def setdefault(self, key: str, default: deque[Any]) -> SimQueue:
        assert not default
        return self[key]


def _shared(name: str, default: object) -> Any:
    """A field of a line that all threads of its process see."""

    def get(line: SimLine) -> object:
        value = line.memory.ask("load", (name, line.name))
        return default if value is None else value

    def set_(line: SimLine, value: object) -> None:
        if hasattr(line, "memory"):  # not while it is made
            line.memory.ask("exchange", (name, line.name), value)

    return property(get, set_)


class SimLine(Line):
    """The line of the one resource, with its shared fields in the world."""

    __slots__ = ("memory", "name", "script")

    def __init__(self, engine: Engine, memory: Memory, lane: str = "") -> None:
        super().__init__(engine, PATH, PATH)
        self.name = PATH + lane
        self.queue = SimQueue(memory, "queue", self.name)  # type: ignore[assignment]
        self.script = memory.script
        self.memory = memory

    courtesy = _shared("courtesy", 0.0)


class SharedClaim(MemoryClaim):
    """A memory engine's claim, whose parker other threads look at."""

    @property
    def _name(self) -> tuple[Memory, tuple[Any, ...]]:
        line = self.line
        assert isinstance(line, SimLine)
        return line.memory, ("parker", line.memory.token(self))

    @property
    def parker(self) -> Parker | None:
        memory, name = self._name
        parker: Parker | None = memory.ask("load", name)
        return parker

    @parker.setter
    def parker(self, value: Parker | None) -> None:
        memory, name = self._name
        memory.ask("exchange", name, value)


class Bare:
    """A claim without an arbiter: the stake of the acquire loop is the engine itself."""

    def __init__(self, engine: Engine, claim: Claim) -> None:
        self._engine = engine
        self._claim = claim

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        return await self._engine.try_acquire(io, self._claim, deadline)

    async def wait(self, io: IO, until: float) -> None:
        await self._engine.wait(io, self._claim, until)

    async def withdraw(self, io: IO) -> None:
        await self._engine.withdraw(io, self._claim)


class BareLock:
    """The verbs of a read-write lock or a semaphore, of an engine without an arbiter."""

    def __init__(self, io: SimIO, timeout: float | None) -> None:
        self._io = io
        self._within = float("inf") if timeout is None else timeout
        self._lines: dict[Any, SimLine] = {}
        self._permits = 0
        self._line: Any = None

    async def _acquire(self, line: Line) -> BareHold:
        claim = line.engine.claim(line, self._io.script, False)
        if self._permits:
            claim.permits = self._permits
        return BareHold(self._io, claim, self._within).acquired(
            await acquire(self._io, Bare(line.engine, claim), self._io.now() + self._within)
        )

    async def acquire(self) -> BareHold:
        return await self._acquire(self._line)

    def __getattr__(self, mode: str) -> Any:
        return partial(self._acquire, self._lines[mode])


class BareHold:
    """The verbs of a hold of these."""

    def __init__(self, io: SimIO, claim: Claim, within: float) -> None:
        self._io = io
        self._claim = claim
        self._within = within

    def acquired(self, done: bool) -> BareHold:
        if not done:
            raise TimeoutError
        return self

    @property
    def slot(self) -> int | None:
        return self._claim.slot

    async def upgrade(self, timeout: float | None) -> None:
        began = self._io.now()
        self.acquired(await acquire(self._io, _rwhold._Upgrade(self._claim, began), began + self._within))

    def _downgrade(self, mode: str) -> None:
        engine: Any = self._claim.line.engine
        engine.downgrade(self._claim, mode)

    def _let_go(self) -> None:
        engine: Any = self._claim.line.engine
        engine.drop(self._claim)


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Replace attributes; the newest replacement wins."""
    before: list[Patch] = []
    try:
        for target, name, value in patches:
            before.append((target, name, vars(target)[name]))
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in reversed(before):
            setattr(target, name, value)


def _surroundings(memory: Memory, io: SimIO) -> Iterator[Patch]:
    turns = SimMap(memory, "turn")
    granted = SimSet(memory, "granted")
    values = {
        "turns": turns,
        "take_turn": turns.setdefault,
        "turn_of": turns.get,
        "granted": granted,
        "monotonic": io.now,
        "_jitter": lambda: 0.5,
        "running": lambda: io,
    }
    for module in (*_PATCHED, *(module for name, module in sys.modules.items() if name in _LATE)):
        for name, value in values.items():
            if name in vars(module):
                yield module, name, value
    yield blocking, "io", io
    yield memory_module, "MemoryClaim", SharedClaim
    yield MemoryEngine, "claim_type", SharedClaim


def turns(
    engine: Callable[[Memory], Any],
    *,
    kind: type[lock.Lock] | type[lock.AsyncLock] | None = lock.Lock,
    timeout: float | None = None,
    fair: bool = False,
    patches: Iterable[Patch] = (),
    inside: Callable[[Script, Any], None] | None = None,
) -> Callable[[Script], None]:
    """A program: acquire, be inside, release. `kind` None: the engine without an arbiter.

    `engine` makes the process's engine; `patches` are faults to plant and constants to scale; `inside` does
    something, with the claim, while the lock is held.
    """
    patches = tuple(patches)

    def within(script: Script, claim: Any) -> None:
        script.tell("enter", claim.token)
        if inside is not None:
            inside(script, claim)
        script.tell("leave")

    def program(script: Script) -> None:
        memory = Memory(script)
        io = SimIO(script)
        with patched([*_surroundings(memory, io), *patches]):
            its = engine(memory)
            its.blame = _nobody_knows
            line = SimLine(its, memory)
            script.tell("begin")
            if kind is None:
                run(_bare(script, io, line, fair, timeout, within))
            elif issubclass(kind, lock.Lock):
                with _make(kind, line, fair, timeout) as hold:
                    within(script, hold._claim)
            else:
                run(_task(script, _make(kind, line, fair, timeout), within))

    return program


def _nobody_knows(_: Line) -> tuple[None, str]:
    """Instead of reading /proc of the real machine."""
    return None, ""


def _make(kind: type[Any], line: Line, fair: bool, timeout: float | None) -> Any:
    made = kind("memory://#sim", timeout=timeout, fair=fair)
    made._line = line
    return made


def modes(
    lanes: Callable[[Memory, Any], Any],
    *verbs: str,
    kind: type[rwlock.RWLock] | type[rwlock.AsyncRWLock] | None = rwlock.RWLock,
    timeout: float | None = None,
    patches: Iterable[Patch] = (),
) -> Callable[[Script], None]:
    """A program of a read-write lock: acquire in the first mode of `verbs`, then do what the others say (`upgrade`, or
    the mode to downgrade to; `meet`: hold until nobody waits any more), release. `lanes` makes the process's engine of
    a mode. `kind` None: the engine without an arbiter."""
    patches = tuple(patches)
    first, *then = verbs

    async def live(script: Script, its: Any) -> None:
        acquiring = getattr(its, first)
        hold = acquiring() if kind is not None and issubclass(kind, rwlock.RWLock) else await acquiring()
        try:
            script.tell("enter", None, first)
            for verb in then:
                if verb == "upgrade":
                    script.tell("begin")
                    done = hold.upgrade(timeout)
                    if done is not None:
                        await done
                    script.tell("become", "write")
                elif verb == "meet":
                    parker = Token("parker", MINE, script.first + ROUND - 1)  # nobody else knows this number
                    script.tell("meet", parker)
                    script.ask("park", parker, False, float("inf"), True)
                else:
                    script.tell("become", verb)
                    hold._downgrade(verb)
        finally:
            script.tell("leave")
            hold._let_go()

    def program(script: Script) -> None:
        memory = Memory(script)
        io = SimIO(script)
        with patched([*_surroundings(memory, io), *patches]):
            its: Any = BareLock(io, timeout) if kind is None else kind.__new__(kind)
            its._timeout = _deadline.seconds(timeout)
            its._lines = {mode: SimLine(lanes(memory, mode), memory, mode) for mode in _rwhold.MODES}
            its._reading = its._lines["read"]
            its._resource = its._key = PATH
            for line in its._lines.values():
                line.engine.blame = _nobody_knows
            script.tell("begin")
            run(live(script, its))

    return program


def permits(
    engine: Callable[[Memory], Any],
    number: int,
    *,
    kind: type[semaphore.Semaphore] | type[semaphore.AsyncSemaphore] | None = semaphore.Semaphore,
    timeout: float | None = None,
    fair: bool = False,
    patches: Iterable[Patch] = (),
) -> Callable[[Script], None]:
    """A program: acquire a permit of so many, be inside, release. `kind` None: the engine without an arbiter."""
    patches = tuple(patches)

    async def live(script: Script, its: Any) -> None:
        acquiring = its.acquire()
        hold = acquiring if kind is not None and issubclass(kind, semaphore.Semaphore) else await acquiring
        script.tell("enter", None, hold.slot)
        script.tell("leave")
        hold._let_go()

    def program(script: Script) -> None:
        memory = Memory(script)
        io = SimIO(script)
        with patched([*_surroundings(memory, io), *patches]):
            its: Any = BareLock(io, timeout) if kind is None else kind.__new__(kind)
            its._timeout, its._fair, its._permits = _deadline.seconds(timeout), fair, number
            its._blocks = []
            its._resource = PATH
            its._line = SimLine(engine(memory), memory)
            its._line.engine.blame = _nobody_knows
            script.tell("begin")
            run(live(script, its))

    return program


async def _task(script: Script, its: lock.AsyncLock, within: Callable[[Script, Any], None]) -> None:
    async with its as hold:
        within(script, hold._claim)


async def _bare(
    script: Script,
    io: SimIO,
    line: Line,
    fair: bool,
    timeout: float | None,
    within: Callable[[Script, Any], None],
) -> None:
    engine = line.engine
    claim = engine.claim(line, script, fair)
    deadline = float("inf") if timeout is None else io.now() + timeout
    if not await acquire(io, Bare(engine, claim), deadline):
        raise TimeoutError
    within(script, claim)
    await engine.release(io, claim)


def memory_engine(cls: type[MemoryEngine] = MemoryEngine) -> Callable[[Memory], MemoryEngine]:
    """Makes memory engines whose dictionaries are the simulated process's."""

    def make(memory: Memory) -> MemoryEngine:
        engine = cls()
        shared: dict[str, Any] = {
            "_grants": SimMap(memory, "grants"),
            "_queues": SimQueues(memory),
            "_tokens": SimMap(memory, "tokens"),
        }
        for name, value in shared.items():
            setattr(engine, name, value)
        return engine

    return make
