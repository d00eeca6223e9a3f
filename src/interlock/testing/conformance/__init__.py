"""The promises of an engine as tests that anybody's engine can be put to.

For each kind of promise and each world there is an abstract pytest class. Subclass them in a test module, name the
engine, and say how to get a lock that nobody uses:

    from interlock.testing import conformance

    class Mine:
        engine = "mine"

        def make_target(self, directory):
            return f"mine://server#{uuid4()}"

    class TestBlockingEngine(Mine, conformance.BlockingEngineSuite): ...
    class TestAsyncioEngine(Mine, conformance.AsyncioEngineSuite): ...

An engine on a server has one class more, of `ServerSuite`: processes of all worlds that are killed, stopped and cut
off, and a server that hangs and restarts. Say in a `Served` how it is started:

    class TestServer(conformance.ServerSuite):
        engine = "mine"

        @classmethod
        def serve(cls, directory):
            return MyServer(directory)      # a context manager that yields a `Served`

`required` computes from an engine's traits which classes there must be, and `missing` which of them are not there:
let one test assert that nothing is missing, so that no combination is forgotten. Needs pytest, and trio for its
world; both come with the extra `test`.
"""

from __future__ import annotations

import inspect as _inspect
from typing import TYPE_CHECKING

from .base import Referee, Suite, idle, queued, scenario
from .locks import LockSuite
from .mixed import MixedSuite
from .processes import (
    AsyncioProcessSuite,
    BlockingProcessSuite,
    Peer,
    ProcessSuite,
    TrioProcessSuite,
)
from .served import Served, ServedSuite
from .server import ServerSuite
from .sharing import (
    AsyncioRWLockSuite,
    AsyncioSemaphoreSuite,
    BlockingRWLockSuite,
    BlockingSemaphoreSuite,
    RWLockSuite,
    SemaphoreSuite,
    TrioRWLockSuite,
    TrioSemaphoreSuite,
)
from .sharing_far import (
    AsyncioRWLockProcessSuite,
    AsyncioSemaphoreProcessSuite,
    BlockingRWLockProcessSuite,
    BlockingSemaphoreProcessSuite,
    RWLockMixedSuite,
    RWLockProcessSuite,
    SemaphoreMixedSuite,
    SemaphoreProcessSuite,
    TrioRWLockProcessSuite,
    TrioSemaphoreProcessSuite,
)
from .tasks import AsyncioLockSuite, BlockingLockSuite, TaskLockSuite, TrioLockSuite
from .verbs import AsyncioEngineSuite, BlockingEngineSuite, EngineSuite, TrioEngineSuite

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ..._model import Traits

__all__ = [
    "IOS",
    "AsyncioEngineSuite",
    "AsyncioLockSuite",
    "AsyncioProcessSuite",
    "AsyncioRWLockProcessSuite",
    "AsyncioRWLockSuite",
    "AsyncioSemaphoreProcessSuite",
    "AsyncioSemaphoreSuite",
    "BlockingEngineSuite",
    "BlockingLockSuite",
    "BlockingProcessSuite",
    "BlockingRWLockProcessSuite",
    "BlockingRWLockSuite",
    "BlockingSemaphoreProcessSuite",
    "BlockingSemaphoreSuite",
    "EngineSuite",
    "LockSuite",
    "MixedSuite",
    "Peer",
    "ProcessSuite",
    "RWLockMixedSuite",
    "RWLockProcessSuite",
    "RWLockSuite",
    "Referee",
    "SemaphoreMixedSuite",
    "SemaphoreProcessSuite",
    "SemaphoreSuite",
    "Served",
    "ServerSuite",
    "Suite",
    "TaskLockSuite",
    "TrioEngineSuite",
    "TrioLockSuite",
    "TrioProcessSuite",
    "TrioRWLockProcessSuite",
    "TrioRWLockSuite",
    "TrioSemaphoreProcessSuite",
    "TrioSemaphoreSuite",
    "idle",
    "missing",
    "queued",
    "required",
    "scenario",
]

IOS = ("blocking", "asyncio", "trio")


def required(traits: Traits, *, reachable: bool = True) -> set[tuple[str, str, str]]:
    """(engine, suite, io) of every class that an engine of these traits must pass; only the suites of its verbs if
    no target of `Lock` reaches it."""
    suites = ["engine"]
    if reachable:
        suites.append("lock")
        if traits.excludes != "threads":
            suites.append("process")
        suites += traits.abilities
        if traits.excludes == "processes":  # servers, which hosts share, have a suite of their own
            suites += [f"{ability} process" for ability in traits.abilities]
    kinds = ["mixed"] if reachable else []
    if reachable and traits.excludes != "hosts":
        kinds += [f"{ability} mixed" for ability in traits.abilities]
    mixed = {(traits.name, kind, "mixed") for kind in kinds}
    served = {(traits.name, "server", "all")} if reachable and traits.restart else set()
    return {(traits.name, suite, io) for suite in suites for io in IOS} | mixed | served


def missing(
    engines: Iterable[Traits], classes: Iterable[type[Suite | ServedSuite]], *, unreachable: Container[str] = ()
) -> list[str]:
    """The combinations that no runnable class covers, as readable lines. A class with a test taken out of it does
    not count. `unreachable`: names of engines that no target of `Lock` reaches."""
    there = {
        (each.engine, each.suite, each.io)
        for each in classes
        if not _inspect.isabstract(each) and each.__name__.startswith("Test") and not _disarmed(each)
    }
    needed = set().union(*(required(each, reachable=each.name not in unreachable) for each in engines))
    return [f"{engine}: no class runs the {suite} suite over {io}" for engine, suite, io in sorted(needed - there)]


def _disarmed(suite: type[Suite | ServedSuite]) -> list[str]:
    """Inherited tests that the class has overwritten with something that is no function."""
    names = {name for base in suite.__mro__ for name in vars(base) if name.startswith("test_")}
    return [name for name in names if not callable(getattr(suite, name))]
