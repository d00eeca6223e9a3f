"""Bugs planted into the memory engine's read-write locks and semaphores. See `planted`."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from interlock.engines._memory_entries import Entry, Modes, Permits
from interlock.testing.simentries import SimEntries, memory_modes, memory_permits

from .planted import PLANTS, Plant
from .scenarios import EVENTS_ONLY, count, share

if TYPE_CHECKING:
    from interlock._model import Mode

UP = "update upgrade"


def entries(explore: Any, *contenders: Any, **options: Any) -> Any:
    """Contenders of one process, without an arbiter unless `kind` says so."""
    made: dict[str, Any] = {"lanes": memory_modes()} if explore is share else {"engine": memory_permits()}
    options = {"kind": None, "patches": EVENTS_ONLY, **made, **options}
    return explore(*contenders, world=SimEntries(), processes=(0,) * len(contenders), **options)


def plant_entries(expected: str, *contenders: Any, **options: Any) -> Any:
    """Modes are planted in all three lanes. Without the bug only the last two contend: `test_memory` has all three."""

    def register(engine: type[Any]) -> type[Any]:
        explore: Any = share if issubclass(engine, Modes) else count
        if issubclass(engine, Modes):
            made: dict[str, Any] = {"lanes": memory_modes(dict.fromkeys(("read", "update", "write"), engine))}
        else:
            made = {"engine": memory_permits(engine)}
        PLANTS.append(
            Plant(
                engine.__name__,
                f"entries {contenders[-2:]} {options}",
                expected,
                lambda: entries(explore, *contenders, **options, **made),
                lambda: entries(explore, *contenders[-2:], **options),
            )
        )
        return engine

    return register


@plant_entries("two holders|overtaken", UP, "read")
class UpgradesUnannounced(Modes):
    """Looks for readers, and tells nobody that it does."""

    def _upgrade(self, claim: Entry) -> bool:
        others = tuple(self._list(claim))
        if any(other.taken for other in others if other is not claim):
            return False
        claim.mode = "write"
        return True


@plant_entries("two holders|overtaken", UP, "read")
class LooksOnceOnly(Modes):
    """Takes what it saw to be free: an upgrade may have begun since."""

    def _try(self, claim: Entry) -> bool:
        mine = tuple(self._list(claim))
        if not claim.queued:
            claim.queued = True
            self._list(claim).append(claim)
            mine = tuple(self._list(claim))
        if not self._may(claim, mine):
            return False
        claim.taken = True
        claim.parker = None
        claim.since = monotonic()
        return True


@plant_entries("overtaken", "read", "read", "write")
class PassesThoseThatWait(Modes):
    """Minds those that hold, and not those that stand before it."""

    def _may(self, claim: Entry, entries: tuple[Entry, ...]) -> bool:
        waiting = tuple(other for other in entries if other.taken or other is claim)
        return super()._may(claim, waiting)


@plant_entries("waits for ever", "write read meet", "read")
class DowngradesUnheard(Modes):
    """Lets readers in, and does not wake them."""

    def downgrade(self, claim: Entry, mode: Mode) -> None:
        claim.mode = mode


@plant_entries("two holders", 2, 2, 2)
class NumbersByPlace(Permits):
    """Takes its place in the list for its slot: it moves up, and the next has the same."""

    def _won(self, claim: Entry) -> None:
        claim.slot = tuple(self._list(claim)).index(claim)


@plant_entries("two holders|overtaken", 1, 1)
class CountsHoldersOnly(Permits):
    """Looks how many hold, then holds."""

    def _may(self, claim: Entry, entries: tuple[Entry, ...]) -> bool:
        return sum(other.taken for other in entries if other is not claim) < claim.permits
