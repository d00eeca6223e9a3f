"""Explorations of the lease engine, as the tests write them; and bugs to plant into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.engines.marker import lease_log
from interlock.engines.marker.lease_log import Log
from interlock.testing.sim import Explorer
from interlock.testing.simlease import SimDisk, SimLeaseEngine, SimLeaseOps, contenders

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.engines.marker.lease import LeaseClaim
    from interlock.engines.marker.lease_log import Newest
    from interlock.testing.simprocess import Patch

SWEEPS: tuple[Patch, ...] = ((lease_log, "KEEP", 0),)
"""Nothing is kept behind the newest generation: numbers are free again as soon as they may ever be."""

_WORLD = ("exists", "links", "one_kernel", "stale", "lost_replies")
_PROGRAM = ("engine", "ops", "trusted", "renewals", "patches")


def explore(number: int, rounds: Any = 1, **options: Any) -> Explorer:
    """So many contenders in a world, with the trouble that the options name."""
    world = {name: options.pop(name) for name in _WORLD if name in options}
    program = {name: options.pop(name) for name in _PROGRAM if name in options}
    return Explorer(SimDisk(**world), contenders(number, rounds, **program), **options)


class Bug:
    """What is planted: `patches`, or an engine's or a table's class, and the exploration that must break by it."""

    def __init__(self, expected: str, number: int, rounds: Any = 1, **options: Any) -> None:
        self.expected = expected
        self.scenario = (number, rounds, options)

    def sound(self) -> Explorer:
        number, rounds, options = self.scenario
        return explore(number, rounds, **options)

    def broken(self, planted: Any) -> Explorer:
        number, rounds, options = self.scenario
        if isinstance(planted, type):
            kind = "ops" if issubclass(planted, SimLeaseOps) else "engine"
            return explore(number, rounds, **{**options, kind: planted})
        return explore(number, rounds, **{**options, "patches": (*options.get("patches", ()), planted)})


PLANTS: dict[str, tuple[Bug, Any]] = {}


def plant(bug: Bug, where: Any = None, name: str = "") -> Callable[[Any], Any]:
    """Register a bug: a class of an engine or a table, or a function to be put in place of another."""

    def register(target: Any) -> Any:
        PLANTS[target.__name__.strip("_")] = bug, target if where is None else (where, name, target)
        return target

    return register


# ---- who may make the next generation


@plant(Bug("two holders", 2, jumps=1, trusted=True), Log, "free")
def _compares_clocks(self: Log, now: Newest, asked: float) -> tuple[str, float]:
    """Believes the time that the record tells, by the clock of its owner, which is half a minute behind."""
    if now.record is None or now.released:
        return ("released" if now.released else ""), float("inf")
    written = self.ops.clock() - 30.0
    old = self.ops.clock() - written >= now.record.ttl
    return ("old" if old else ""), float("inf")


@plant(Bug("two holders", 2, jumps=1, ticks=(5.0,), renewals=1, trusted=True), Log, "_stands_still")
def _compares_owners_only(self: Log, now: Newest, asked: float) -> tuple[float, float]:
    """Watches who owns it, and not whether the record changes: each renewal is overlooked."""
    assert now.record is not None
    seen = self._seen
    if seen is None or seen[0] != now.number:
        self._seen = seen = (now.number, b"", self.ops.clock())
        return 0.0, seen[2]
    return asked - seen[2], seen[2]


@plant(Bug("two holders|fencing", 3, jumps=1, ticks=(5.0,), trusted=True), Log, "_stands_still")
def _a_b_a(self: Log, now: Newest, asked: float) -> tuple[float, float]:
    """Watches how often it was renewed, and not by whom: another owner's record has the same number of renewals."""
    seen = self._seen
    version = now.data[-21:]
    if seen is None or seen[1] != version:
        self._seen = seen = (0, version, self.ops.clock())
        return 0.0, seen[2]
    return asked - seen[2], seen[2]


@plant(Bug("two holders", 2, jumps=1, renewals=1, trusted=True), Log, "_stands_still")
def _counts_its_own_pause(self: Log, now: Newest, asked: float) -> tuple[float, float]:
    """Takes the time after the last look for the time until which nothing changed, and before the first one."""
    seen = self._seen
    if seen is None or seen[:2] != (now.number, now.data):
        self._seen = seen = (now.number, now.data, self.ops.clock() - 2 * lease_log.WATCHED)
        return 0.0, seen[2]
    return self.ops.clock() - seen[2], seen[2]


@plant(Bug("two holders", 2, crashes=1, jumps=1, one_kernel=True, trusted=True))
class EverybodyIsDead(SimLeaseOps):
    """Takes a pid that it does not know for one of a dead process: but it is another host's."""

    def dead(self, party: Any) -> bool:
        return bool(party.boot) and party.pid != self.who


# ---- making it


@plant(Bug("two holders|fencing", 2, trusted=True))
class ChecksThenRenames(SimLeaseOps):
    """Looks whether the name is free, then renames onto it."""

    def link(self, source: str, target: str) -> bool:
        if self.exists(target):
            return False
        self.unlink(target)
        return super().link(source, target)


@plant(Bug("two holders|fencing", 2, (1, 2), patches=SWEEPS, trusted=True), Log, "follows")
def _follows_anything(self: Log, claim: LeaseClaim, before: Newest) -> bool:
    """Believes to have won since it made the file: but the number had been there, and was swept."""
    return True


@plant(Bug("two holders|fencing", 2, (1, 2), patches=SWEEPS, stale=1), Log, "follows")
def _looks_where_caches_answer(self: Log, claim: LeaseClaim, before: Newest) -> bool:
    """Asks for the predecessor in a way that a cache can answer."""
    assert before.record is not None
    return self._is_ours(self.file(before.number), before.record.nonce)


@plant(Bug("two holders|fencing", 3, stale=1, jumps=1, patches=SWEEPS, preemptions=2), Log, "follows")
def _builds_on_strays(self: Log, claim: LeaseClaim, before: Newest) -> bool:
    """Takes any generation that is there for one that follows: but it may be a stray of the contender's own. This was
    in the first version, and the explorer found it."""
    assert before.record is not None
    claim.follows = self._ask(claim, before.number, before.record.nonce) is not None
    return claim.follows


@plant(Bug("two holders|fencing", 2, (1, 2), jumps=1, trusted=True))
class ChecksThenUnlinks(SimLeaseEngine):
    """Releases by removing its generation, if that is still the newest: when it gets to it, it may be no more."""

    def drop(self, claim: LeaseClaim) -> None:
        file = self.log(claim.line.key).file(claim.number)
        if claim.fd is not None and self.ops.current(claim, file):
            self.ops.unlink(file)
        super().drop(claim)


@plant(Bug("contender . ended with|nobody gets|two holders", 2, exists=False))
class BeginsAnyway(SimLeaseEngine):
    """Begins a log of its own wherever it does not see one."""

    def _attempt(self, claim: LeaseClaim) -> bool | None:
        log = self.log(claim.line.key)
        if log.newest() is None:
            self.ops.unlink(log.file(1))
            self.ops.begin(log.directory, f"{1:020d}", b"", "0" * 32)
            return None
        return super()._attempt(claim)


# ---- holding


@plant(Bug("two holders", 2, jumps=1, renewals=2, trusted=True))
class RenewsTooLate(SimLeaseEngine):
    """Takes a renewal for good whenever it is done, and looks for no successor."""

    def renew(self, claim: LeaseClaim) -> str:
        before, claim.deadline = claim.deadline, float("inf")
        log: Any = self.log(claim.line.key)
        log.taken = lambda _: ""
        reason = super().renew(claim)
        del log.taken
        if reason:
            claim.deadline = before
        return reason


PLANTS["waits_for_less"] = Bug("two holders", 2, jumps=1, trusted=True), (lease_log, "WATCHED", 0.5)
"""A contender that waits for less than the owner counts on."""


@plant(Bug("nap follows|waits for ever", 2, crashes=1, trusted=True), Log, "free")
def _waits_for_the_dead(self: Log, now: Newest, asked: float) -> tuple[str, float]:
    """Never takes over."""
    return ("released" if now.released else ""), asked + 10.0
