"""Explorations as the tests write them: who contends for what, and which trouble they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock import lock, rwlock, semaphore
from interlock._core import arbiter
from interlock.engines import kernel as kernel_module
from interlock.engines.kernel import tickets
from interlock.testing.sim import Contender, Explorer, Result, World
from interlock.testing.simkernel import SimKernel
from interlock.testing.simposix import SimOps, kernel_engine, kernel_lanes, kernel_slots
from interlock.testing.simprocess import memory_engine, modes, permits, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interlock.testing.sim import Script
    from interlock.testing.simprocess import Patch

__all__ = [
    "EVENTS",
    "EVENTS_ONLY",
    "FRONT_OF_ONE",
    "NOBODY_STOPPED",
    "count",
    "explore",
    "kernel",
    "kernel_world",
    "memory",
    "memory_world",
    "run",
    "share",
]

FOREVER = float("inf")
EVENTS: tuple[Patch, ...] = ((kernel_module, "NAP", FOREVER), (arbiter, "NAP", FOREVER))
"""No nap cap. Echo naps may still hide a wake-up that was lost: they are there for holders that die."""

EVENTS_ONLY: tuple[Patch, ...] = (*EVENTS, (kernel_module, "_ECHOES", ()), (kernel_module, "PATIENCE", FOREVER))
"""No nap at all: each wake-up must come from an event."""

NOBODY_STOPPED: tuple[Patch, ...] = ((SimOps, "stopped", lambda self, pid: False),)
"""What /proc says where nobody is. Without it whoever has napped may pass, which is the worst case for exclusion, and
no order."""

FRONT_OF_ONE: tuple[Patch, ...] = ((tickets, "FRONT", 1),)
"""So that with three contenders somebody stands at the back of the queue."""


def explore(
    processes: Sequence[int],
    *,
    world: World | None = None,
    engine: Any = None,
    kind: type[lock.Lock] | type[lock.AsyncLock] | None = lock.Lock,
    timeout: float | None = None,
    fair: bool = False,
    patches: Sequence[Patch] = (),
    inside: Callable[[Script, Any], None] | None = None,
    others: Sequence[Callable[[Script], None]] = (),
    rounds: int | Sequence[int] = 1,
    **trouble: Any,
) -> Explorer:
    """One contender for each number in `processes`, in the process of that number; kernel engine by default.

    `others` are programs of their own, each in a process of its own.
    """
    program = turns(engine or kernel_engine(), kind=kind, timeout=timeout, fair=fair, patches=patches, inside=inside)
    cancellable = kind is None or issubclass(kind, lock.AsyncLock)
    each = [rounds] * len(processes) if isinstance(rounds, int) else rounds
    contenders = [
        Contender(program, process, times, cancellable) for process, times in zip(processes, each, strict=True)
    ]
    contenders += [Contender(program, 100 + number) for number, program in enumerate(others)]
    if timeout is not None:
        trouble.setdefault("outcomes", ("Timeout", "TimeoutError"))
    return Explorer(world if world is not None else SimKernel(), contenders, **trouble)


def share(
    *programs: str,
    world: World | None = None,
    lanes: Any = None,
    kind: Any = rwlock.RWLock,
    timeout: float | None = None,
    patches: Sequence[Patch] = (),
    others: Sequence[Callable[[Script], None]] = (),
    processes: Sequence[int] = (),
    rounds: int = 1,
    **trouble: Any,
) -> Explorer:
    """Contenders for a read-write lock: each a process whose life is like "read", or "update upgrade read"."""
    lanes = lanes or kernel_lanes()
    lives = {
        verbs: modes(lanes, *verbs.split(), kind=kind, timeout=timeout, patches=patches) for verbs in set(programs)
    }
    cancellable = kind is None or issubclass(kind, rwlock.AsyncRWLock)
    where = processes or range(len(programs))
    contenders = [
        Contender(lives[verbs], process, rounds, cancellable) for process, verbs in zip(where, programs, strict=True)
    ]
    contenders += [Contender(program, 100 + number) for number, program in enumerate(others)]
    if timeout is not None:
        trouble.setdefault("outcomes", ("Timeout", "TimeoutError"))
    return Explorer(world if world is not None else SimKernel(), contenders, **trouble)


def count(
    *numbers: int,
    world: World | None = None,
    engine: Any = None,
    kind: Any = semaphore.Semaphore,
    timeout: float | None = None,
    fair: bool = False,
    patches: Sequence[Patch] = (),
    processes: Sequence[int] = (),
    rounds: int = 1,
    **trouble: Any,
) -> Explorer:
    """Contenders for a semaphore, each a process that believes in so many permits."""
    engine = engine or kernel_slots()
    lives = {
        number: permits(engine, number, kind=kind, timeout=timeout, fair=fair, patches=patches)
        for number in set(numbers)
    }
    cancellable = kind is None or issubclass(kind, semaphore.AsyncSemaphore)
    where = processes or range(len(numbers))
    contenders = [
        Contender(lives[number], process, rounds, cancellable) for process, number in zip(where, numbers, strict=True)
    ]
    outcomes = ("ProtocolError",) if len(lives) > 1 else ()
    if timeout is not None:
        outcomes = (*outcomes, "Timeout", "TimeoutError")
    return Explorer(world if world is not None else SimKernel(), contenders, outcomes=outcomes, **trouble)


def run(name: str, explorer: Explorer) -> Result:
    """Run it, and print what it saw: the evidence of the test."""
    result = explorer.run()
    print(f"{name}: {result}")
    return result


kernel_world = SimKernel
kernel = kernel_engine
memory_world = World
memory = memory_engine
