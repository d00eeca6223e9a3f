"""No engine without its suites, in any world: what is missing fails here."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import interlock._io
import interlock.engines
from interlock._address import Address
from interlock._remote import BUILT_IN
from interlock.testing import conformance
from interlock.testing.conformance import IOS

from . import __name__ as here
from . import __path__ as folder
from .test_memory import Memory, TestBlockingLock

if TYPE_CHECKING:
    from interlock._model import Traits


def modules(package: str, path: list[str]) -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_"))


UNREACHABLE = {
    "marker": "what filelock's soft locks are made of; they have their own tests, and Lock's markers are leases",
    "sqlite ranges": "what filelock's ReadWriteLock is made of; likewise",
}

NOT_HERE = {"interlock.engines.kernel.windows"} if sys.platform != "win32" else {"interlock.engines.kernel.ops"}
"""Modules that only another platform can import."""

ABILITIES = {
    f"interlock.engines.{name}" for name in ("_memory_entries", "kernel.ranges", "kernel.readwrite", "kernel.slots")
}
"""Modules of the engines that others have for an ability (`traits.abilities`): each has a suite of its own."""

VERBS = {"claim", "try_now", "try_acquire", "wait", "release", "withdraw", "drop", "disown", "lost", "inspect", "blame"}


def engines() -> list[Traits]:
    """The traits of every engine in the package `interlock.engines`, whether anybody thought of testing it or not:
    every module there that defines a class with the verbs. Its `engine` is the engine, or a function that makes it; a
    package that schemes lead to has `open_engine`."""
    found = []
    servers = set(BUILT_IN.values())
    for info in pkgutil.walk_packages(interlock.engines.__path__, "interlock.engines."):
        if info.name in servers:  # one for each package, whose other modules serve it
            scheme = next(scheme for scheme, package in BUILT_IN.items() if package == info.name)
            package = importlib.import_module(info.name)
            found.append(package.open_engine(Address.parse(f"{scheme}://localhost"), None).traits)
            continue
        if info.name in NOT_HERE | ABILITIES or ".".join(info.name.split(".")[:3]) in servers:
            continue
        module = importlib.import_module(info.name)
        its = [each for each in vars(module).values() if getattr(each, "__module__", "") == info.name]
        if any(isinstance(each, type) and set(dir(each)) >= VERBS for each in its):
            engine = module.engine
            found.append((engine() if callable(engine) else engine).traits)
    return found


def classes() -> list[type[conformance.Suite | conformance.ServerSuite]]:
    """Every class of this folder that pytest collects."""
    found = []
    for name in modules(here, list(folder)):
        if name.startswith("test_"):
            module = importlib.import_module(f"{here}.{name}")
            found += [
                each
                for each in vars(module).values()
                if isinstance(each, type)
                and issubclass(each, (conformance.Suite, conformance.ServerSuite))
                and each.__module__ == module.__name__
            ]
    return found


def test_every_engine_passes_every_suite_in_every_world() -> None:
    names = [traits.name for traits in engines()]
    assert {"kernel", "memory"} <= set(names)
    assert len(names) == len(set(names))
    assert conformance.missing(engines(), classes(), unreachable=UNREACHABLE) == []


def test_what_is_called_unreachable_exists_and_is() -> None:
    names = {traits.name for traits in engines()}
    assert set(UNREACHABLE) <= names - {"kernel", "memory", "marker lease"}


def test_the_worlds_are_all_there_are() -> None:
    assert sorted(IOS) == modules("interlock._io", list(interlock._io.__path__))


def of(*names: str) -> list[Traits]:
    return [traits for traits in engines() if traits.name in names]


def test_a_missing_class_is_told() -> None:
    left = [each for each in classes() if (each.engine, each.suite, each.io) != ("kernel", "lock", "trio")]
    both = of("kernel", "memory")
    assert conformance.missing(both, left) == ["kernel: no class runs the lock suite over trio"]
    # engine, lock, rwlock, semaphore; what the kernel has between processes; and what is mixed
    assert len(conformance.missing(both, [])) == len(IOS) * (2 * 4 + 3) + 2 * 3


def test_a_class_with_a_test_taken_out_does_not_count() -> None:
    class TestDisarmed(Memory, conformance.BlockingLockSuite):
        test_exclusion: ClassVar[None] = None  # type: ignore[assignment]

    others = [each for each in classes() if each is not TestBlockingLock]
    assert conformance.missing(of("memory"), [*others, TestDisarmed]) == [
        "memory: no class runs the lock suite over blocking"
    ]


def test_abstract_and_uncollected_classes_do_not_count() -> None:
    class NotCollected(Memory, conformance.BlockingLockSuite):
        pass

    others = [other for other in classes() if other is not TestBlockingLock]
    abstract: list[Any] = [NotCollected, conformance.BlockingLockSuite]
    for each in abstract:
        assert conformance.missing(of("memory"), [*others, each]) != []


def test_each_ability_has_its_suite() -> None:
    for traits in of("kernel", "memory"):
        assert set(traits.abilities) == {"rwlock", "semaphore"}
        assert {(traits.name, suite, io) for suite in traits.abilities for io in IOS} <= conformance.required(traits)
    assert conformance.missing(of("memory"), [each for each in classes() if each.suite != "rwlock"]) == [
        f"memory: no class runs the rwlock suite over {io}" for io in sorted(IOS)
    ]
