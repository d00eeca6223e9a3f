"""What every suite stands on: a fresh target per test, the way scenarios are run, and the referee."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

import pytest

from ..._core.arbiter import turns
from ..._target import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from ..._core.arbiter import Line
    from ..._model import Traits
    from .worlds import World

P = ParamSpec("P")
S = TypeVar("S", bound="Suite")


class Suite(ABC):
    """One kind of promise, checked for one engine in one world. Subclass a concrete suite, name the engine in
    `engine`, and say in `make_target` how to get a lock that nobody uses."""

    engine: ClassVar[str] = ""
    """The name in the engine's traits."""

    suite: ClassVar[str] = ""
    io: ClassVar[str] = ""

    world: World

    @abstractmethod
    def make_target(self, directory: Path) -> str:
        """A target that no other test has: a path in `directory`, or an URL."""

    def residue(self, target: str) -> list[str]:
        """What this process still has of `target` outside of Python's memory: descriptors, sessions, keys.
        Asked when nobody holds or waits."""
        return []

    def nothing_left(self, target: str) -> None:
        assert idle(target), "somebody of this process still holds or waits"
        assert self.residue(target) == []

    @pytest.fixture
    def target(self, tmp_path: Path) -> str:
        return self.make_target(tmp_path)

    def line(self, target: str) -> Line:
        """The line of a target. To be overwritten for engines that no target of `Lock` leads to."""
        return resolve(target)

    def traits(self, target: str) -> Traits:
        return self.line(target).engine.traits


def scenario(body: Callable[Concatenate[S, P], Coroutine[Any, Any, None]]) -> Callable[Concatenate[S, P], None]:
    """Run a coroutine of a suite in the suite's world."""

    def test(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.world.run(functools.partial(body, self, *args, **kwargs))

    functools.update_wrapper(test, body)  # pytest reads the signature through it
    return test


def queued(target: str) -> int:
    """How many threads and tasks of this process wait for their turn."""
    return len(resolve(target).queue)


def idle(target: str) -> bool:
    """Does nobody in this process hold or wait?"""
    line = resolve(target)
    return line not in turns and not line.queue


class Referee:
    """Counts who is inside, between the return of acquire and the call of release. Two that are inside together
    meet here, whatever clocks say."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._inside = 0
        self.entered = 0
        self.overlaps = 0
        self.order: list[object] = []

    def enter(self, who: object = None) -> None:
        with self._mutex:
            self.overlaps += self._inside > 0
            self._inside += 1
            self.entered += 1
            self.order.append(who)

    def leave(self) -> None:
        with self._mutex:
            self._inside -= 1
