"""Protocol bugs, planted one at a time into the shipped code. The explorer must find every one of them.

Each is a mistake that somebody could make tomorrow, or made: the three at the end were in this project, and the
explorer found them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import lock
from interlock._core.arbiter import Place
from interlock.engines.kernel import KernelClaim, KernelEngine, tickets
from interlock.engines.memory import MemoryClaim, MemoryEngine
from interlock.testing import simprocess
from interlock.testing.simposix import SimEvents, SimOps, kernel_engine

from .scenarios import EVENTS, EVENTS_ONLY, FRONT_OF_ONE, NOBODY_STOPPED, explore, kernel_world, memory, memory_world

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock._core.acquire import Stake
    from interlock._core.arbiter import Line
    from interlock._model import IO, Claim
    from interlock.testing.sim import Explorer


class Plant(NamedTuple):
    """A bug, the exploration that must break, and how; `sound` is the same exploration without the bug."""

    name: str
    scenario: str
    expected: str  # a regular expression
    broken: Callable[[], Explorer]
    sound: Callable[[], Explorer]


PLANTS: list[Plant] = []


def plant(
    expected: str, bug: dict[str, Any], /, *args: Any, world: Callable[[], Any] = kernel_world, **kwargs: Any
) -> Any:
    """Register `bug` (more arguments for `explore`) in the scenario that the other arguments describe."""

    def register(target: Any) -> Any:
        def broken() -> Explorer:
            return explore(*args, world=world(), **{**kwargs, **_made(bug, target, kwargs, world)})

        def sound() -> Explorer:
            plain = {"engine": memory()} if world is memory_world else {}
            return explore(*args, world=world(), **{**plain, **kwargs})

        scenario = f"{args} {kwargs} {world().cells}"
        PLANTS.append(Plant(target.__name__.strip("_"), scenario, expected, broken, sound))
        return target

    return register


def inside(where: object, name: str) -> dict[str, Any]:
    return {"patch": [(where, name)]}


def everywhere(name: str) -> dict[str, Any]:
    """All modules of interlock that have imported this function."""
    modules = [module for called, module in sorted(sys.modules.items()) if called.startswith("interlock")]
    return {"patch": [(module, name) for module in modules if name in vars(module)]}


def _made(bug: dict[str, Any], target: Any, kwargs: dict[str, Any], world: Any) -> dict[str, Any]:
    """Where the target goes: `engine`, `ops` or `memory` classes, or `patch` with the places that name it."""
    if "patch" in bug:
        plain = {"engine": memory()} if world is memory_world else {}
        planted = ((where, name, target) for where, name in bug["patch"])
        return {**plain, "patches": (*kwargs.get("patches", ()), *planted)}
    if "ops" in bug:
        return {"engine": kernel_engine(ops=target)}
    return {"engine": memory(target) if "memory" in bug else kernel_engine(target)}


ENGINE: dict[str, Any] = {"engine": True}
OPS: dict[str, Any] = {"ops": True}
MEMORY: dict[str, Any] = {"memory": True}


# ---- exclusion


@plant("two holders", MEMORY, (0, 0), world=memory_world, kind=None)
class CheckThenSet(MemoryEngine):
    """Looks whether the lock is free, then takes it."""

    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        key = claim.line.key
        if self._grants.get(key) is not None:
            return False
        self._grants[key] = claim
        self._granted(key, claim)
        return True

    def drop(self, claim: MemoryClaim) -> None:
        self._grants.pop(claim.line.key, None)
        super().drop(claim)


@plant("two holders", MEMORY, (0, 0, 0), world=memory_world, kind=None, cancels=1)
class ReleasesAnybodys(MemoryEngine):
    """Whoever gives up frees the lock, also if it is somebody else's."""

    def drop(self, claim: MemoryClaim) -> None:
        self._grants.pop(claim.line.key, None)
        super().drop(claim)


@plant("fencing token", MEMORY, (0, 0), world=memory_world, kind=None)
class TokenBeforeGrant(MemoryEngine):
    """Draws its fencing token when it begins to contend."""

    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        if claim.token is None:
            claim.token = self._tokens[claim.line.key] = self._tokens.get(claim.line.key, 0) + 1
        return await super().try_acquire(io, claim, deadline)


@plant("two holders", OPS, (0, 1), world=lambda: kernel_world(cleanings=1), patches=EVENTS)
class NoInodeCheck(SimOps):
    """Believes that what it locked is still the file at the path."""

    def current(self, fd: int, path: str) -> bool:
        return True


@plant("two holders", OPS, (0, 1, 2), patches=EVENTS)
class DeletesWhenFree(SimOps):
    """Tidies the lock file away after unlocking it: by then it is another one's."""

    def close(self, fd: int) -> None:
        try:
            self.unlink("")
        except FileNotFoundError:
            pass
        super().close(fd)


@plant("overtaken", ENGINE, (0, 1, 2), world=lambda: kernel_world(fifo=True), patches=EVENTS, fair=True)
class NotFair(KernelEngine):
    """fair=True, and yet everybody in front tries."""

    def _may_try(self, claim: KernelClaim, fd: int) -> bool:
        return super()._may_try(claim, fd) or claim.front


@plant(
    "overtaken",
    ENGINE,
    (0, 1, 2),
    world=lambda: kernel_world(fifo=True),
    patches=(*EVENTS, *NOBODY_STOPPED),
    fair=True,
    rounds=(2, 1, 1),
    crashes=1,
    preemptions=1,
)
class FollowsItsPredecessor(KernelEngine):
    """Remembers who stood before it, and takes its turn when that one is gone: which may have died in the queue."""

    def _may_try(self, claim: Any, fd: int) -> bool:
        mine = super()._may_try(claim, fd)
        if claim.instance is None:
            return mine
        if not hasattr(claim, "before"):
            claim.before, older = None, tickets.BASE
            while (found := tickets.first_since(self.ops, fd, older, claim.ticket)) is not None:
                claim.before, older = found, found + 1
        before = claim.before
        return mine or (before is not None and not tickets.anybody_since(self.ops, fd, before, before + 1))


# ---- wake-ups


@plant("waits for ever", ENGINE, (0, 1), patches=EVENTS_ONLY)
class SleepsAfterSubscribing(KernelEngine):
    """Does not try again between subscribing and the first sleep."""

    async def wait(self, io: IO, claim: KernelClaim, until: float) -> None:
        if claim.parker is None:
            self._subscribe(io, claim, until)
            self._may_try(claim, claim.fd or 0)
        await super().wait(io, claim, until)


@plant("waits for ever", ENGINE, (0, 1), patches=EVENTS_ONLY)
class ClosesLocked(KernelEngine):
    """Closes without unlocking first: the event comes before the lock is free."""

    def drop(self, claim: KernelClaim) -> None:
        fd, claim.fd = claim.fd, None
        if fd is not None:
            self.ops.close(fd)
            if claim.instance is not None:
                claim.instance.unwatch(claim.wd, claim)


PLANTS.append(
    Plant(
        "NoEchoes",  # one look after a wake-up: but a dying holder's event comes before its lock is free
        "crash without echoes",
        "waits for ever",
        lambda: explore((0, 1), patches=EVENTS_ONLY, crashes=1),
        lambda: explore((0, 1), patches=EVENTS, crashes=1),
    )
)


@plant("waits for ever", ENGINE, (0, 1, 2), patches=(*EVENTS, *FRONT_OF_ONE))
class KeepsItsTicket(KernelEngine):
    """The winner stays in the queue, and those behind it stay at the back."""

    def _won(self, claim: KernelClaim) -> None:
        claim.parker = None


def _leave_quietly(ops: Any, fd: int) -> None:
    """Takes its ticket away and calls nobody to the front."""
    ops.fcntl(fd, tickets._SETLK, tickets._MINE)


plant("waits for ever", inside(tickets, "leave"), (0, 1, 2), patches=(*EVENTS, *FRONT_OF_ONE))(_leave_quietly)


def _wakes_nobody(line: Line) -> None:
    """Who gives back the turn leaves the queue of its process asleep."""


plant("waits for ever", everywhere("wake_first"), (0, 0), patches=EVENTS_ONLY)(_wakes_nobody)


def _leaves_the_wrong_way(self: Place) -> None:
    """Takes the first place out of the queue, whosever it is."""
    if self.queued:
        self.queued = False
        try:
            self.claim.line.queue.popleft()
        except IndexError:
            pass


plant(
    "waits for ever",
    inside(Place, "leave_queue"),
    (0, 0, 0),
    world=memory_world,
    kind=lock.AsyncLock,
    patches=EVENTS_ONLY,
    cancels=1,
    tasks=True,
)(_leaves_the_wrong_way)


async def _acquire_without_withdraw(io: IO, stake: Stake, deadline: float) -> bool:
    """The acquire loop without its `finally`."""
    while True:
        last = io.now() >= deadline
        if await stake.try_acquire(io, deadline):
            return True
        if last:
            return False
        await stake.wait(io, deadline)


plant(
    "is left: .*waiting|waits for ever",
    inside(simprocess, "acquire"),
    (0, 0),
    world=memory_world,
    kind=None,
    cancels=1,
)(_acquire_without_withdraw)


@plant("waits for ever", MEMORY, (0, 0, 0), world=memory_world, kind=None, cancels=1)
class LeavesWithTheWakeUp(MemoryEngine):
    """Who gives up wakes nobody, though it may have been the one that was woken."""

    async def withdraw(self, io: IO, claim: MemoryClaim) -> None:
        self._leave(claim)
        if self._grants.get(claim.line.key) is claim:
            del self._grants[claim.line.key]


# ---- what is left


def _unwatches_nothing(self: SimEvents, handle: int, key: object) -> None:
    """Never ends an inotify watch."""


plant(r"is left: .*watch", inside(SimEvents, "unwatch"), (0, 1), patches=EVENTS)(_unwatches_nothing)


@plant("is left: .*file", ENGINE, (0, 1), world=lambda: kernel_world(cleanings=1), patches=EVENTS)
class LosesItsDescriptor(KernelEngine):
    """Starts over with a new file, and forgets that the old one is open."""

    async def try_acquire(self, io: IO, claim: KernelClaim, deadline: float) -> bool:
        fd = claim.fd
        if fd is not None and not self.ops.current(fd, claim.line.key):
            claim.fd = claim.parker = None
            if claim.instance is not None:
                claim.instance.unwatch(claim.wd, claim)
                claim.instance = None
        return await super().try_acquire(io, claim, deadline)


def _abandons_nothing(claim: Claim) -> None:
    """Ctrl-C on the uncontended path undoes nothing."""


plant("is left: ", everywhere("abandon"), (0, 1), patches=EVENTS, interrupts=1)(_abandons_nothing)


# ---- bugs that were shipped, until the explorer found them


@plant("waits for ever", ENGINE, (0, 1, 2), patches=EVENTS_ONLY, rounds=(2, 2, 1), preemptions=3)
class RanksBeforeWatching(KernelEngine):
    """Finds somebody older in the queue, who acquires and releases before the watch for that begins."""

    def _may_try(self, claim: KernelClaim, fd: int) -> bool:
        if claim.instance is None or claim.front or claim.parker is None:
            return super()._may_try(claim, fd)
        older = tickets.rank(self.ops, fd, claim.ticket, tickets.FRONT)
        if older == tickets.FRONT:
            return False
        claim.front = claim.first = True
        tickets.step_forward(self.ops, fd, claim.ticket)
        claim.instance.watch(fd, claim.instance.CLOSED, claim, claim.parker.unpark)
        return older == 0


def _leaves_too_early(self: Place) -> None:
    """Believes itself out of the queue before it is: an interrupt in between leaves the place for ever."""
    if self.queued:
        self.queued = False
        try:
            self.claim.line.queue.remove(self)
        except ValueError:
            pass


plant("is left: .*queue|waits for ever", inside(Place, "leave_queue"), (0, 0), patches=EVENTS, interrupts=1)(
    _leaves_too_early
)


@plant("IndexError", MEMORY, (0, 0), world=memory_world, kind=None)
class LooksTwice(MemoryEngine):
    """Sees that the queue is not empty, then looks at its first."""

    def drop(self, claim: MemoryClaim) -> None:
        key = claim.line.key
        self._leave(claim)
        if self._grants.get(key) is claim:
            del self._grants[key]
        queue = self._queues.get(key)
        if queue:
            first = queue[0].parker
            if first is not None:
                first.unpark()
