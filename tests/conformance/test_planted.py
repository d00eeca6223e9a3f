"""The suite finds what it is there to find: engines with one bug each, of which every one must fail some test.

An engine that is right passes; each bug is caught by the tests named with it, and by these within seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import interlock.engines.memory as memory
from interlock.engines.memory import MemoryEngine
from interlock.testing.conformance import worlds
from interlock.testing.conformance.locks import LockSuite
from interlock.testing.conformance.tasks import TaskLockSuite
from interlock.testing.conformance.verbs import EngineSuite

from .test_memory import Memory

if TYPE_CHECKING:
    from pathlib import Path

    from interlock._model import IO, Claim
    from interlock.engines.memory import MemoryClaim
    from interlock.testing.conformance import Suite


class GrantsToAll(MemoryEngine):
    def try_now(self, claim: MemoryClaim, timeout: float) -> bool:
        self._granted(claim.line.key, claim)
        return True

    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        return self.try_now(claim, deadline)


class GrantsToAllTheShortWay(MemoryEngine):
    try_now = GrantsToAll.try_now


class NeverWakes(MemoryEngine):
    """What a waiter hears is its deadline."""

    def drop(self, claim: MemoryClaim) -> None:
        self._grants = {key: grant for key, grant in self._grants.items() if grant is not claim}
        self._leave(claim)


class ReleasesForOthers(MemoryEngine):
    def drop(self, claim: MemoryClaim) -> None:
        self._grants.pop(claim.line.key, None)
        super().drop(claim)


class DoesNotWithdraw(MemoryEngine):
    async def withdraw(self, io: IO, claim: MemoryClaim) -> None:
        pass


class Oversleeps(MemoryEngine):
    async def wait(self, io: IO, claim: MemoryClaim, until: float) -> None:
        await super().wait(io, claim, until + 1.5)


class ServesTheLastFirst(MemoryEngine):
    def _first(self, key: str) -> MemoryClaim | None:
        queue = self._queues.get(key)
        return queue[-1] if queue else None


class RepeatsTokens(MemoryEngine):
    def _granted(self, key: str, claim: MemoryClaim) -> None:
        self._tokens[key] = 41
        super()._granted(key, claim)


class RaisesWhenContended(MemoryEngine):
    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        if not await super().try_acquire(io, claim, deadline):
            raise BlockingIOError(11, "contended")
        return True


class LosesWhatItHolds(MemoryEngine):
    def lost(self, claim: MemoryClaim) -> str:
        return "it is gone"


class NamesNobody(MemoryEngine):
    def blame(self, line: Any) -> Any:
        return None, ""


class NamesAnotherEngine(MemoryEngine):
    def __init__(self) -> None:
        super().__init__()
        self.traits.name = "mammary"


class StaysUnsettled(MemoryEngine):
    """Forgets to say when it granted, by which `Lock` knows a hold."""

    def _granted(self, key: str, claim: Claim) -> None:
        pass


BUGS = {
    GrantsToAll: "test_free_is_granted_and_taken_is_contended",
    GrantsToAllTheShortWay: "test_the_short_way_agrees_with_the_loop",
    NeverWakes: "test_a_waiter_is_woken_by_the_release",
    ReleasesForOthers: "test_release_removes_only_its_own",
    DoesNotWithdraw: "test_withdrawing_a_winner_undoes_the_win",
    Oversleeps: "test_wait_never_oversleeps",
    ServesTheLastFirst: "test_fair_claims_are_granted_in_order",
    RepeatsTokens: "test_tokens_rise_if_it_fences",
    RaisesWhenContended: "test_free_is_granted_and_taken_is_contended",
    LosesWhatItHolds: "test_release_removes_only_its_own",
    NamesNobody: "test_timeout_says_what_how_long_and_who or test_inspect",
    NamesAnotherEngine: "test_traits_are_of_the_known_kinds",
    StaysUnsettled: "test_free_is_granted_and_taken_is_contended",
}


def suites(patience: float) -> list[type[Suite]]:
    made: list[type[Suite]] = []
    for world in (worlds.Threads, worlds.Asyncio):
        for suite in (EngineSuite, LockSuite if world is worlds.Threads else TaskLockSuite):
            ready = world()
            ready.patience = patience
            made.append(type(f"{world.name}{suite.suite}", (Memory, suite), {"world": ready, "io": world.name}))
    return made


def failures(tests: set[str], directory: Path, patience: float = 0.3) -> set[str]:
    """The names of those tests that fail against the engine of memory:// targets. What must happen has little time:
    with a bug most of it never will."""
    failed = set()
    for suite in suites(patience):
        for name in sorted(tests & set(dir(suite))):
            case = suite()
            try:
                getattr(case, name)(case.make_target(directory))
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 - any failure is what is looked for
                failed.add(name)
    return failed


class TestPlanted:
    quick: ClassVar[set[str]] = {name for names in BUGS.values() for name in names.split(" or ")}

    def test_a_right_engine_passes(self, tmp_path: Path) -> None:
        assert failures(self.quick, tmp_path, worlds.PATIENCE) == set()

    @pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
    def test_a_bug_is_found(
        self, bug: type[MemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "engine", bug())
        expected = set(BUGS[bug].split(" or "))
        assert failures(expected, tmp_path) >= expected
