"""Bugs planted into read-write locks and semaphores: one for each rule of their protocols. See `planted`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.engines.kernel import readwrite, slots
from interlock.engines.kernel.ranges import pack
from interlock.engines.kernel.readwrite import Lane, Readers, SharedClaim, Updaters, Writers
from interlock.engines.kernel.slots import PermitClaim, Slots
from interlock.testing.simposix import kernel_engine, kernel_lanes, kernel_slots
from interlock.testing.simprocess import turns

from .planted import PLANTS, Plant
from .scenarios import EVENTS, EVENTS_ONLY, count, kernel_world, share

if TYPE_CHECKING:
    from interlock._model import Mode
    from interlock.engines.kernel import KernelClaim

UP = "update upgrade"
LOCK = turns(kernel_engine(), patches=EVENTS_ONLY)


def plant_lane(expected: str, *lives: str, world: dict[str, Any] | None = None, **options: Any) -> Any:
    """The class takes the place of the lane of its mode; of all, if it has none."""

    def register(lane: type[Lane]) -> type[Lane]:
        options.setdefault("patches", EVENTS_ONLY)
        made = {getattr(lane, "mode", ""): lane}

        def broken() -> Any:
            return share(*lives, lanes=kernel_lanes(made), world=kernel_world(**(world or {})), **options)

        def sound() -> Any:
            return share(*lives, world=kernel_world(**(world or {})), **options)

        PLANTS.append(Plant(lane.__name__, f"share {lives} {options} {world}", expected, broken, sound))
        return lane

    return register


def plant_slots(expected: str, *numbers: int, world: dict[str, Any] | None = None, **options: Any) -> Any:
    def register(engine: type[Slots]) -> type[Slots]:
        options.setdefault("patches", EVENTS_ONLY)

        def broken() -> Any:
            return count(*numbers, engine=kernel_slots(engine), world=kernel_world(**(world or {})), **options)

        def sound() -> Any:
            return count(*numbers, world=kernel_world(**(world or {})), **options)

        PLANTS.append(Plant(engine.__name__, f"count {numbers} {options} {world}", expected, broken, sound))
        return engine

    return register


# ---- exclusion


@plant_lane("two holders", "read", "write")
class OnlyTheFlockAndShared(Writers):
    """Takes the flock shared, as readers do, and forgets the ranges."""

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        return self.ops.try_lock(fd, path, 5)


@plant_lane("two holders", "update", "update")
class ManyUpdaters(Updaters):
    """Forgets the byte that makes it the only one."""

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        return self._ranges(claim, path, readwrite._READ_DATA) and self.ops.try_lock(fd, path, 5)


@plant_lane("two holders", UP, "read")
class UpgradesBesideReaders(Updaters):
    """Believes that the updater's byte is enough to write."""

    def _upgrade(self, claim: SharedClaim) -> bool:
        claim.mode = "write"
        return True


@plant_lane("two holders", UP, "write")
class LetsGoToUpgrade(Updaters):
    """Gives everything back and takes it anew, as a writer, in the same breath."""

    def _upgrade(self, claim: SharedClaim) -> bool:
        self.ops.flock(claim.fd, 8)
        self.ops.fcntl(claim.fd, 37, pack(2, readwrite.UPDATER, 2))
        claim.upgrading = True
        if not self._range(claim.fd, readwrite._WRITE_BOTH, claim.line.key):
            return False
        return super()._upgrade(claim)


@plant_slots("two holders", 2, 2)
class SharesSlots(Slots):
    """Takes read locks on slots."""

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        assert isinstance(claim, PermitClaim)
        claim.slot = 0
        return self._range(fd, pack(0, slots.SLOTS, 1), path)


@plant_slots("two holders", 1, 2)
class CountsOnItsOwn(Slots):
    """Each believes its own number, and numbers the slots from the other end."""

    def _lock(self, claim: KernelClaim, fd: int, path: str) -> bool:
        assert isinstance(claim, PermitClaim)
        claim.slot = 0
        wish = pack(1, slots.SLOTS + claim.permits, 1)
        return self._range(fd, wish, path)


# ---- wake-ups and stuck queues


@plant_slots("waits for ever", 1, 1)
class SleepsOnItsSlot(Slots):
    """Releases by closing alone: the event comes before the slot is free."""

    def drop(self, claim: KernelClaim) -> None:
        fd, claim.fd = claim.fd, None
        if fd is not None:
            self.ops.close(fd)
        self._unwatch(claim)


class NotFairSlots(Slots):
    """fair=True, and yet everybody in front tries."""

    def _may_try(self, claim: KernelClaim, fd: int) -> bool:
        return super()._may_try(claim, fd) or claim.front


PLANTS.append(
    Plant(
        "NotFairSlots",
        "three for one, fair",
        "overtaken",
        lambda: count(
            1, 1, 1, engine=kernel_slots(NotFairSlots), patches=EVENTS_ONLY, fair=True, world=kernel_world(fifo=True)
        ),
        # All three without the bug are a slow test of their own, in `test_shared`.
        lambda: count(1, 1, patches=EVENTS_ONLY, fair=True, world=kernel_world(fifo=True)),
    )
)


@plant_lane("waits for ever", "read", "write")
class ClosesItsRead(Readers):
    """Releases by closing alone."""

    def drop(self, claim: KernelClaim) -> None:
        fd, claim.fd = claim.fd, None
        if fd is not None:
            self.ops.close(fd)
        self._unwatch(claim)


@plant_lane("waits for ever", UP, "read", others=[LOCK])
class MindsItsPlace(Readers):
    """Has its ranges, and lets an older upgrade go first: which waits for just these."""

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        assert isinstance(claim, SharedClaim)
        claim.got = False
        return super()._admitted(claim, fd, last)


@plant_lane("waits for ever", "write read meet", "read")
class DowngradesInSilence(Writers):
    """Lets readers in, and does not tell those that sleep."""

    def downgrade(self, claim: SharedClaim, mode: Mode) -> None:
        ops: Any = self.ops
        ops.tell = lambda fd: None
        super().downgrade(claim, mode)
        del ops.tell


@plant_lane("waits for ever", "update read meet", "update")
class KeepsTheUpdatersByte(Updaters):
    """Reads on, and does not let another one update."""

    def downgrade(self, claim: SharedClaim, mode: Mode) -> None:
        claim.mode = mode
        self.ops.tell(claim.fd)


# ---- order


@plant_lane("overtaken", "read", "read", "write", world={"heeded": True})
class PassesWriters(Readers):
    """Comes to read and does not mind the writers that wait: readers without end would starve them."""

    def try_now(self, claim: Any, timeout: float) -> bool:
        return False

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        return claim.parker is None or super()._admitted(claim, fd, last)


@plant_lane("overtaken", "read", "update", "write", world={"heeded": True})
class UpdatesBeforeWriters(Updaters):
    """The same of one that comes to update."""

    def _admitted(self, claim: KernelClaim, fd: int, last: bool) -> bool:
        return claim.parker is None or super()._admitted(claim, fd, last)


PLANTS.append(
    Plant(
        "NoEchoesForWriters",
        "sharing, a crash without echoes",
        "waits for ever",
        lambda: share("read", "write", patches=EVENTS_ONLY, crashes=1),
        lambda: share("read", "write", patches=EVENTS, crashes=1),
    )
)
