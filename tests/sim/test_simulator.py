"""The simulator itself: its economies change nothing, it sees all that threads share, it tells what it found."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest

from interlock import lock
from interlock._core import arbiter
from interlock._core.arbiter import Line, Place
from interlock.engines.kernel import KernelEngine
from interlock.engines.memory import MemoryEngine
from interlock.testing.sim import Contender, Explorer, Script, Unrepeatable, World
from interlock.testing.simposix import Ops
from interlock.testing.simprocess import SimLine, patched

from .planted import PLANTS
from .scenarios import EVENTS, EVENTS_ONLY, explore, kernel, kernel_world, memory, memory_world, run

SAME: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "two": ((0, 1), {"patches": EVENTS_ONLY, "rounds": (2, 1)}),
    "new file": ((0, 1), {"patches": EVENTS_ONLY, "world": lambda: kernel_world(exists=False)}),
    "cleaner": ((0, 1), {"patches": EVENTS_ONLY, "world": lambda: kernel_world(cleanings=1)}),
    "killed": ((0, 1), {"patches": EVENTS, "crashes": 1, "jumps": 1}),
    "timeout": ((0, 1), {"patches": EVENTS, "timeout": 1.0, "ticks": (1.0,)}),
    "Ctrl-C": ((0, 1), {"patches": EVENTS, "interrupts": 1}),
    "cancelled": ((0, 0), {"patches": EVENTS, "kind": lock.AsyncLock, "cancels": 1, "tasks": True}),
    "three": ((0, 1, 2), {"patches": EVENTS_ONLY, "engine": kernel(queue=False)}),
    "memory": ((0, 0), {"rounds": (2, 1), "patches": EVENTS_ONLY, "world": memory_world, "engine": memory()}),
}


def _explore(name: str, **more: Any) -> Explorer:
    processes, options = SAME[name]
    return explore(processes, **{**options, "world": options.get("world", kernel_world)(), **more})


@pytest.mark.parametrize("name", SAME)
def test_merging_equal_states_loses_no_schedule(name: str) -> None:
    merged, plain = _explore(name).run(), _explore(name, merge=False).run()
    print(f"{name}: {merged} / without merging: {plain}")
    assert merged.schedules == plain.schedules
    assert merged.states < plain.states


@pytest.mark.parametrize("name", SAME)
def test_taking_private_steps_at_once_changes_no_verdict(name: str) -> None:
    _explore(name).run()  # the first exploration of a process merges less
    eager, plain = _explore(name).run(), _explore(name, eager=False).run()
    print(f"{name}: {eager} / with a choice at every step: {plain}")
    assert not eager.broken
    assert not plain.broken
    assert eager.states <= plain.states


def test_fewer_preemptions_are_fewer_schedules() -> None:
    seen = [_explore("two", preemptions=bound).run().schedules for bound in (0, 1, 2, 4)]
    assert seen == sorted(set(seen))
    assert seen[-1] < _explore("two").run().schedules


def test_it_says_when_it_cannot_be_exhaustive() -> None:
    with pytest.raises(RuntimeError, match="more than 50 states"):
        _explore("two", limit=50).run()


def test_the_trace_tells_the_schedule() -> None:
    plant = next(plant for plant in PLANTS if plant.name == "CheckThenSet")
    explorer = plant.broken()
    found = explorer.run()
    assert found.trace == run("again", plant.broken()).trace
    assert any(line.startswith("contender 1: load(('grants'") for line in found.trace)
    assert found.trace[-1].endswith("two holders: contender 1 got the lock while contender 0 has it")
    assert str(found).startswith("BROKEN: two holders")


def test_a_contender_that_depends_on_something_unseen_is_refused() -> None:
    flips = iter([True, False] * 100)

    def program(script: Script) -> None:
        script.ask("load", ("a" if next(flips) else "b",))
        script.ask("load", ("c",))

    with pytest.raises(Unrepeatable):
        Explorer(World(), [Contender(program), Contender(program)]).run()


def test_a_killed_contender_runs_no_handler() -> None:
    """SIGKILL: neither `except` nor `finally` nor a finalizer of the victim has an effect."""

    def program(script: Script) -> None:
        script.tell("exchange", ("turn", "x"), 1)
        try:
            script.tell("load", ("y",))
        finally:
            with contextlib.suppress(BaseException):
                script.tell("exchange", ("turn", "x"), None)

    class Watched(World):
        __slots__ = ()
        undone: ClassVar[set[bool]] = set()

        def kill(self, process: int) -> None:
            Watched.undone.add(("memory", process, "turn", "x") not in self.cells)
            super().kill(process)

    # Two threads, so that no step is taken at once.
    result = Explorer(Watched(), [Contender(program, 0), Contender(program, 0)], crashes=1).run()
    assert not result.broken, str(result)
    assert Watched.undone == {True, False}


def test_patches_are_taken_back() -> None:
    before = arbiter.turns, vars(lock)["turns"]
    run("two", _explore("two"))
    assert (arbiter.turns, vars(lock)["turns"]) == before
    with pytest.raises(KeyError), patched([(arbiter, "no_such_name", 1)]):
        pass


# What threads of one process share must be known to the simulator, or each simulated thread would have its own.
# A new name here must be put into `simprocess` (or be constant, or used by one thread only), and then into this list.

SHARED = {"courtesy", "queue"}
KERNEL = {"choice", "ops", "_events", "_tickets", "_trusted", "_siblings", "traits", "flock", "fstat", "close", "owned"}
CONSTANT = {"claim_type", "engine", "key", "let_go", "remote", "resource", "secret", "opens", "__weakref__"}


def test_all_fields_of_a_line_are_known() -> None:
    assert set(Line.__slots__) == SHARED | CONSTANT
    assert all(isinstance(vars(SimLine)[name], property) for name in ("courtesy",))


def test_all_fields_of_a_place_are_known() -> None:
    assert set(Place.__slots__) == {"claim", "overdue", "parker", "queued"}


def test_all_mutable_globals_of_the_arbiter_are_known() -> None:
    mutable = {name for name, value in vars(arbiter).items() if not name.startswith("__") and _is_container(value)}
    assert mutable == {"turns", "granted", "_lines"}


def _is_container(value: object) -> bool:
    return not isinstance(value, type) and (hasattr(value, "__setitem__") or hasattr(value, "append"))


def test_all_fields_of_engines_are_known() -> None:
    assert set(vars(KernelEngine(Ops(), None))) == KERNEL
    assert set(vars(MemoryEngine())) == {"_grants", "_queues", "_tokens", "_others", "traits"}
