"""What the suite for servers must know of one, and what its parts share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ... import EngineError, inspect
from ..._target import resolve
from ..proxy import Proxy
from .crew import WORLDS, Crew, Member, acquire, try_acquire
from .worlds import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ..._model import Traits
    from .crew import Pending

GRACE = 4.0
"""Seconds beyond what an engine promises, for a busy machine."""


class Served(ABC):
    """A server that the suite has for itself: it stops it, kills it, and looks at all that is there."""

    ttl: float | None = None
    """The shortest ttl that makes sense, for engines that have one: tests wait for it."""

    long_ttl: float | None = None
    """One that outlasts a restart of the server."""

    host: str = "127.0.0.1"
    port: int = 0
    """Where it listens, for tests that put a network in between; 0: it is no server."""

    most_connections: int = 0
    """How many connections a process may have open that holds 1,000 locks."""

    notices: float = 0.0
    """Of engines without a ttl: seconds within which a holder notices that it was cut off."""

    increments: int = 200
    """How often each of eight processes counts."""

    shows_waiters: bool = True
    """Does `inspect` name those who wait?"""

    @abstractmethod
    def target(self, name: str, port: int = 0, credentials: str = "") -> str:
        """The URL of one lock; on another port than its own, or with `user:password`, where given."""

    def clients(self, name: str) -> list[str]:
        """Spellings of one lock that lead to clients of their own in one process. Where there is but one, a ttl of
        its own makes the other."""
        return [self.target(name)]

    def residue(self) -> set[str]:
        """All that contenders and holders have there now: entries, keys, nodes, locks. Not: what is kept for good, so
        that tokens rise."""
        return set()

    def restart(self) -> None:
        """Kill the server and start it again, on its port and data."""
        raise NotImplementedError

    def suspend(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def elsewhere(self, name: str) -> str | None:
        """The lock of the same name in another namespace of the same server; `None`: there are none."""
        return None


class ServedSuite(ABC):
    """The tests' common ground. Subclasses name the engine in `engine`, and start its server in `serve`."""

    engine: ClassVar[str] = ""
    suite: ClassVar[str] = "server"
    io: ClassVar[str] = "all"

    @classmethod
    @abstractmethod
    def serve(cls, directory: str) -> AbstractContextManager[Served]:
        """A server for all tests of the class, with an empty directory for its files."""

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        with cls.serve(str(tmp_path_factory.mktemp("served"))) as served:
            yield served

    @pytest.fixture
    def crew(self) -> Iterator[Crew]:
        with Crew() as crew:
            yield crew

    @pytest.fixture
    def name(self, request: pytest.FixtureRequest) -> str:
        """A lock that no other test uses."""
        return f"{request.node.name}-{time.monotonic_ns()}"

    # ---- what is promised

    def options(self, served: Served) -> dict[str, Any]:
        return {} if served.ttl is None else {"ttl": served.ttl}

    def patient(self, served: Served) -> dict[str, Any]:
        """The options where nothing shall run out, and hardly be renewed."""
        return {} if served.long_ttl is None else {"ttl": served.long_ttl}

    def traits(self, served: Served) -> Traits:
        return resolve(served.target("traits"), ttl=served.ttl).engine.traits

    def need(self, true: object, flag: str) -> None:
        """A test may be skipped for what an engine declares, and for nothing else."""
        if not true:
            pytest.skip(f"{self.engine} declares: {flag}")

    def need_server(self, served: Served) -> None:
        self.need(served.port, "there is no server")

    def within(self, served: Served) -> float:
        """Seconds after which the lock of one that died is free."""
        return (served.ttl or 0.0) + GRACE

    # ---- what happens

    def everywhere(self, served: Served, name: str) -> Iterator[tuple[str, str, str]]:
        """(world of one contender, world of the other, a target of their own)"""
        for number, world in enumerate(WORLDS):
            yield world, WORLDS[(number + 1) % len(WORLDS)], served.target(f"{name} {world}")

    def until(self, true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        limit = time.monotonic() + patience
        while not true():
            assert time.monotonic() < limit, f"{what} did not happen within {patience} s"
            time.sleep(0.005)

    def queued(self, served: Served, target: str, number: int) -> None:
        """Until so many are seen to wait for it; where they cannot be seen, for a moment."""
        if not served.shows_waiters:
            time.sleep(0.1)
            return
        self.until(lambda: len(self.report(served, target).waiters) >= number, f"a queue of {number} for {target}")

    def report(self, served: Served, target: str) -> Any:
        try:
            return inspect(target)
        except EngineError:  # this process, too, had a connection to a server that was restarted
            return inspect(target)

    def free(self, served: Served, member: Member, target: str, within: float | None = None) -> None:
        """Somebody gets it, in time, and lets go of it."""
        from .crew import release

        limit = self.within(served) if within is None else within
        grant = member.do(acquire, target, limit + PATIENCE, "", self.options(served))
        assert grant.got - grant.asked <= limit, f"{target} was free only after {grant.got - grant.asked:.2f} s"
        member.do(release, target)

    def taken(self, served: Served, member: Member, target: str) -> None:
        assert member.do(try_acquire, target, "", self.options(served)) is None, f"{target} was given to two"

    def waiting(self, served: Served, member: Member, target: str, options: dict[str, Any] | None = None) -> Pending:
        return member.begin(acquire, target, None, "", self.options(served) if options is None else options)

    def same_residue(self, served: Served, before: set[str]) -> None:
        """Nothing more than before is left there; what was told to a server a moment ago may still be under way."""
        left: list[set[str]] = [set()]

        def gone() -> bool:
            left[0] = served.residue() - before
            return not left[0]

        limit = time.monotonic() + GRACE
        while not gone():
            assert time.monotonic() < limit, f"left behind: {sorted(left[0])}"
            time.sleep(0.01)

    def network(self, served: Served) -> Proxy:
        return Proxy(served.host, served.port)
