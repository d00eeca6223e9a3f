"""Every interleaving of a few contenders, tried out: the shipped code against a world that is nothing but data.

Theory of operation
-------------------
A contender (a thread or a task that wants a lock) is a deterministic function of what the world answered to it. So
it needs no thread and no stack that is kept. A *script* of answers is played to its code from the beginning; at the
first question beyond the script the run is abandoned, and that question is what the contender does next. Nothing of
the abandoned run had an effect, because every effect is a question: a system call of the simulated kernel, a look
into memory that threads share, a sleep. This is also what SIGKILL means: no `finally` of the victim touches the world.

The world is one flat dictionary of *cells*, so that copying it and comparing it is one step each. The explorer
searches depth-first through all states (the world, and how far each contender's script has got), with a choice for
each contender that can go on, each process that may be killed or stopped, each task that may be cancelled, each
moment at which time may pass. A state seen before is not entered again: what follows from it is the same, as a
contender's future is a function of its script and of nothing else. A contender that, played again, does not ask the
same questions is an error (`Unrepeatable`).

Economies, all exact. (1) A step that nobody else can see or influence (memory of a process with one thread, and what
a world's `local` names) is taken at once, without a choice. (2) Scripts that lead to the same place are one: see
`simshape`. (3) Equal contenders in processes of their own may change places. (4) States are remembered by sums of
random 128-bit numbers, one per cell and value: a million states collide with a probability below 1e-26. `tests/sim`
checks (2) and (3) by counting: with and without them, exactly the same number of schedules.

Time stands still until somebody sleeps towards it: when nobody can do anything else, it passes to the earliest
deadline; `jumps` and `ticks` allow that many early passages at any moment. So an interleaving is explored under the
assumption that not more naps than `jumps` end while another contender is between two steps.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .simscript import FOREVER, MINE, START, Given, Node, Raised, Request, Script, SimIO, Token, Unrepeatable
from .simshape import place
from .simworld import AGAIN, ROUNDS, Broken, Choice, Contender, Setup, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "AGAIN",
    "FOREVER",
    "START",
    "Broken",
    "Contender",
    "Explorer",
    "Raised",
    "Result",
    "Script",
    "SimIO",
    "Token",
    "Unrepeatable",
    "World",
]

_FLOCK = struct.Struct("hhqqi4x")


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, pressed by the explorer."""


class Result(NamedTuple):
    """What an exploration found, and how much it saw."""

    broken: str
    """Empty, or the property that does not hold."""
    trace: list[str]
    """The schedule that breaks it, step by step."""
    states: int
    steps: int
    schedules: int
    """How many different complete interleavings the states stand for."""
    plays: int
    """How often a contender's code was run."""

    def __str__(self) -> str:
        seen = f"{self.states:,} states, {self.steps:,} steps, {self.schedules:.3g} schedules, {self.plays:,} plays"
        if not self.broken:
            return f"holds in all: {seen}"
        return "\n".join([f"BROKEN: {self.broken} (after {seen})", *self.trace])


class Explorer:
    """Searches all interleavings of `contenders` over `world` (which it takes over).

    Of each kind of trouble it tries at most so many per interleaving, at every moment: `crashes` (SIGKILL of a
    process), `stops` (SIGSTOP without end), `cancels` (of a task in a sleep), `interrupts` (KeyboardInterrupt
    between two effects of an acquire), `jumps` (time passes early to some sleeper's deadline), `ticks` (time passes
    to these seconds after START). `naps`: more naps than that with nothing else going on are a failure.

    `preemptions`: only interleavings in which at most so often one contender goes on although the one before could.
    Without it the search is exhaustive. `eager` and `merge` False do without the economies 1, and 2 and 3.
    """

    def __init__(
        self,
        world: World,
        contenders: Sequence[Contender],
        *,
        crashes: int = 0,
        stops: int = 0,
        cancels: int = 0,
        interrupts: int = 0,
        jumps: int = 0,
        ticks: Sequence[float] = (),
        naps: int = 30,
        outcomes: Sequence[str] = ("done",),
        tasks: bool = False,
        preemptions: int | None = None,
        eager: bool = True,
        merge: bool = True,
        limit: int = 3_000_000,
    ) -> None:
        ends = {"done", *outcomes}
        if cancels:
            ends.add("CancelledError")
        if interrupts:
            ends.add("Interrupt")
        self.setup = Setup(contenders, frozenset(ends), tasks, merge)
        world.begin(self.setup)
        self._limit = limit
        self._bounded = preemptions is not None
        self._eager = eager
        self._merge = merge
        self.plays = 0
        self._places: dict[Any, Node] = {}
        self._log: list[str] | None = None
        self._nodes: list[Node] = []
        self._roots: dict[tuple[object, int, float], Node] = {}
        budgets = {
            "crashes": crashes,
            "stops": stops,
            "cancels": cancels,
            "interrupts": interrupts,
            "jumps": jumps,
            "naps": naps,
        }
        for what, number in budgets.items():
            world.put(("left", what), number or None)
        if preemptions is not None:
            world.put(("left", "preemptions"), preemptions or None)
        world.put(("left", "ticks"), tuple(START + tick for tick in sorted(ticks)) or None)
        world.put(("now",), START)
        for who, contender in enumerate(contenders):
            world.put(("left", f"{ROUNDS}{who}"), contender.rounds - 1 or None)
        self._start = world

    # ---- contenders

    def _new(self, program: Callable[[Script], None], parent: Node | None, given: Given) -> Node:
        """What the contender asks when it got this answer after its parent's question."""
        asked: list[Request] = []
        answers: list[Given] = []
        node = new = Node(len(self._nodes), parent, given)
        while node.parent is not None:
            asked.append(node.parent.request)
            answers.append(node.given)
            node = node.parent
        script = Script(node.given[0], asked[::-1], answers[::-1], node.given[1])
        if self._merge:
            script.describe = place
        self.plays += 1
        new.request = self._play(program, script, self.setup.outcomes)
        if script.place is not None:
            new = self._places.setdefault((program, new.request, script.first, script.now, script.place), new)
        if new.number == len(self._nodes):
            self._nodes.append(new)
        return new

    @staticmethod
    def _play(program: Callable[[Script], None], script: Script, outcomes: frozenset[str]) -> Request:
        how = "done"
        try:
            program(script)
        except Unrepeatable:
            raise
        except BaseException as error:
            if type(error) is KeyboardInterrupt:  # a real one
                raise
            how = type(error).__name__
            if script.request is None and how not in outcomes:
                how = f"{how}: {error}"
        return ("end", how) if script.request is None else script.request

    def _begin(self, world: World, who: int) -> None:
        """Bring a contender to its first question of this round that is a matter of schedule."""
        program = self.setup.contenders[who].program
        key = program, world.first(who), world.cells[("now",)]
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = self._new(program, None, key[1:])
        self._arrive(world, who, root)

    def _give(self, world: World, who: int, answer: Any) -> None:
        """Let a contender go on with an answer, to its next question that is a matter of schedule."""
        node = self._nodes[world.cells["at", who]]
        if self._log is not None:
            self._log.append(f"{'; ' + node.request[0] if self._log else ''} -> {_short(answer)}")
        given = (answer, world.cells[("now",)])
        after = node.children.get(given)
        if after is None:
            after = node.children[given] = self._new(self.setup.contenders[who].program, node, given)
        self._arrive(world, who, after)

    def _arrive(self, world: World, who: int, node: Node) -> None:
        world.put(("at", who), node.number)
        if node.request[0] == "end":
            if not world.finish(who, node.request[1]):
                self._begin(world, who)
        elif self._at_once(world, who, node.request):
            self._give(world, who, world.step(who, node.request))

    def _at_once(self, world: World, who: int, request: Request) -> bool:
        if ("left", "interrupts") in world.cells and ("acquiring", who) in world.cells:
            return bool(request[0] == "enter")  # nobody else can see the rest, but Ctrl-C can come before it
        return (self._eager or request[0] == "enter") and world.local(who, request)

    def start(self) -> World:
        """The first state: each contender before its first question that others could notice."""
        world = self._start.copy()
        for who in range(len(self.setup.contenders)):
            self._begin(world, who)
        return world

    # ---- choices

    def choices(self, world: World) -> list[Choice]:
        """Everything that may happen next. Raises `Broken` if that is nothing although somebody waits."""
        cells = world.cells
        setup = self.setup
        found: list[Choice] = []
        sleepers: set[float] = set()
        trouble: list[Choice] = []
        waiting = False
        for who, contender in enumerate(setup.contenders):
            if ("gone", who) in cells or ("stopped", contender.process) in cells:
                continue
            request = self._nodes[cells["at", who]].request
            if request[0] != "park":
                found.append(("step", who))
            else:
                waiting = True
                if world.awake(who, request) is not None:
                    found.append(("step", who))
                elif request[3] < FOREVER:
                    sleepers.add(request[3])
                if contender.cancellable and not request[4] and ("left", "cancels") in cells:
                    trouble.append(("cancel", who))
            if ("left", "interrupts") in cells and ("acquiring", who) in cells:
                trouble += self._interrupts(who, request[0])
        if self._bounded:
            found = self._within_bounds(world, found)
        found += world.background()
        if not found and waiting and not self._waits_rightly(world):
            found.append(self._nap(world, sleepers))
        elif ("left", "jumps") in cells:
            trouble += [("jump", until) for until in sorted(sleepers)]
        trouble += world.troubles()
        if ("left", "ticks") in cells:
            trouble.append(("tick",))
        for process, threads in setup.threads.items():
            if ("stopped", process) in cells or all(("gone", who) in cells for who in threads):
                continue
            trouble += [(what, process) for what in ("kill", "stop") if ("left", _BUDGET[what]) in cells]
        if not found and not waiting:
            world.settled()
        return found + trouble

    def _interrupts(self, who: int, verb: str) -> list[Choice]:
        """Where a signal handler may raise: before a call, or after it when its effect is there and its result lost.

        But CPython runs no handler between an opened descriptor and its place, nor between there and its close, as
        the engine writes them (see "Descriptors" there).
        """
        found: list[Choice] = []
        if verb != "close":
            found.append(("interrupt", who))
        if verb not in ("open", "dup", "park", "close"):
            found.append(("interrupted", who))
        return found

    def _within_bounds(self, world: World, steps: list[Choice]) -> list[Choice]:
        last = ("step", world.get("last"))
        if last not in steps:
            return steps
        others = [(*step, "preempting") for step in steps if step != last]
        return [last, *others] if ("left", "preemptions") in world.cells else [last]

    def _waits_rightly(self, world: World) -> bool:
        return any(("stopped", holder) in world.cells for holder in world.holders())

    def _nap(self, world: World, sleepers: set[float]) -> Choice:
        if not sleepers:
            raise Broken("everybody who is left waits for ever, though nobody is in the way")
        if ("left", "naps") not in world.cells:
            raise Broken("nap follows upon nap, and nobody gets the lock")
        return ("nap", min(sleepers))

    def apply(self, world: World, choice: Choice) -> World:
        """The state after a choice."""
        new = world.copy()
        what = choice[0]
        if what in _BUDGET:
            new.spend(_BUDGET[what])
        if what == "step":
            who = choice[1]
            if self._bounded:
                new.put(("last",), who)
                if len(choice) > 2:
                    new.spend("preemptions")
            answer = new.step(who, self._nodes[world.cells["at", who]].request)
            if answer is not AGAIN:
                self._give(new, who, answer)
        elif what == "kill":
            new.kill(choice[1])
        elif what == "stop":
            new.put(("stopped", choice[1]), True)
        elif what == "cancel":
            from asyncio import CancelledError

            self._give(new, choice[1], Raised(CancelledError))
        elif what in ("interrupt", "interrupted"):
            who = choice[1]
            if what == "interrupted":
                new.step(who, self._nodes[world.cells["at", who]].request)
            self._give(new, who, Raised(Interrupt))
        elif what in ("jump", "nap"):
            new.put(("now",), choice[1])
        elif what == "tick":
            first, *rest = new.get("left", "ticks")
            new.put(("now",), max(first, new.get("now")))
            new.put(("left", "ticks"), tuple(rest) or None)
        else:
            new.nobody(choice)
        return new

    # ---- the search

    def run(self) -> Result:
        """Depth-first over all states, until a property breaks or there are no more."""
        seen: dict[tuple[int, ...], int] = {}
        steps = 0
        broken = ""
        path: list[Choice] = []
        try:
            world = self.start()
            stack: list[list[Any]] = [[world, iter(self.choices(world)), 0]]
            while stack:
                frame = stack[-1]
                for choice in frame[1]:
                    path.append(choice)
                    world = self.apply(frame[0], choice)
                    steps += 1
                    key = world.key()
                    known = seen.get(key)
                    if known is None:
                        seen[key] = 0
                        if len(seen) > self._limit:
                            raise RuntimeError(f"more than {self._limit:,} states: this is no exhaustive search")
                        stack.append([world, iter(self.choices(world)), 0])
                        break
                    frame[2] += known
                    path.pop()
                else:
                    stack.pop()
                    ways = frame[2] or 1
                    seen[frame[0].key()] = ways
                    if stack:
                        stack[-1][2] += ways
                        path.pop()
        except Broken as error:
            broken = str(error)
            ways = 0
        return Result(broken, self.explain(path) if broken else [], len(seen), steps, ways, self.plays)

    def explain(self, path: Sequence[Choice]) -> list[str]:
        """A schedule in words."""
        lines: list[str] = []
        try:
            world = self.start()
            for choice in path:
                self._log = []
                if choice[0] == "step":
                    verb, *arguments = self._nodes[world.cells["at", choice[1]]].request
                    lines.append(f"contender {choice[1]}: {verb}({', '.join(map(_short, arguments))})")
                else:
                    lines.append(f"  -- {' '.join(map(str, choice))}")
                world = self.apply(world, choice)
                lines[-1] += "".join(self._log)
        except Broken as error:
            lines.append(f"-> {error}")
        return lines


_BUDGET = {
    "kill": "crashes",
    "stop": "stops",
    "cancel": "cancels",
    "interrupt": "interrupts",
    "interrupted": "interrupts",
    "jump": "jumps",
    "nap": "naps",
}


def _short(value: Any) -> str:
    if type(value) is Raised:
        return f"{value.kind.__name__}{value.arguments}"
    if type(value) is Token:
        return f"{value.kind} {value.number}" + (f" of {value.who}" if value.who != MINE else "")
    if isinstance(value, bytes) and len(value) == 32:
        kind, _, start, length, _ = _FLOCK.unpack(value)
        return f"<{'RWN'[kind]} {start:#x} {length:#x}>"
    return str(value)
