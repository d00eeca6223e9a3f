"""The simulated kernel answers as Linux does: random sequences of calls on both, every answer and event compared.

The order of events within one close cannot be seen from outside the kernel; it is measured by the kill benchmark
and known from __fput.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from interlock.engines.kernel.tickets import BASE
from interlock.testing.sim import AGAIN, Contender, Explorer, Raised, Token
from interlock.testing.simkernel import CLOSED, REPLACED, SimKernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux")

PROCESSES = 3
FLOCK = struct.Struct("hhqqi4x")
SHARED, EXCLUSIVE, UNLOCK, GETLK, SETLK = 5, 6, 8, 36, 37


class Real:
    """The calls on a real file, with an inotify instance for each pretended process."""

    def __init__(self, path: Path) -> None:
        instance: Any = import_module("interlock._wait.inotify").Instance
        self.path = str(path)
        self.other = str(path) + ".new"
        self.instances = [instance() for _ in range(PROCESSES)]
        self.masks = {CLOSED: self.instances[0].CLOSED, REPLACED: self.instances[0].REPLACED}
        self.fds: dict[tuple[int, int], int] = {}
        self.handles: dict[int, int] = {}
        self.told: set[int] = set()
        self.inodes: dict[int, int] = {}
        self._kept: list[int] = []

    def inode(self, number: int) -> int:
        """Numbered in the order of their making, as the simulated ones."""
        return self.inodes.setdefault(number, len(self.inodes) + 1)

    def make(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._kept.append(fd)  # so that no inode number is used twice
        self.inode(os.fstat(fd).st_ino)

    def unlink(self) -> None:
        os.unlink(self.path)

    def replace(self) -> None:
        self.make(self.other)
        os.rename(self.other, self.path)

    def open(self, who: int) -> int:
        fd = os.open(self.path, os.O_RDWR)
        number = 3
        while (who, number) in self.fds:
            number += 1
        self.fds[who, number] = fd
        return number

    def dup(self, who: int, fd: int) -> int:
        number = 3
        while (who, number) in self.fds:
            number += 1
        self.fds[who, number] = os.dup(self.fds[who, fd])
        return number

    def close(self, who: int, fd: int) -> None:
        os.close(self.fds.pop((who, fd)))

    def fstat(self, who: int, fd: int) -> tuple[int, int]:
        status = os.fstat(self.fds[who, fd])
        return self.inode(status.st_ino), status.st_nlink

    def stat(self, who: int) -> tuple[int, int]:
        status = os.stat(self.path)
        return self.inode(status.st_ino), status.st_nlink

    def utime(self, who: int, fd: int) -> None:
        os.utime(self.fds[who, fd])

    def flock(self, who: int, fd: int, operation: int) -> None:
        fcntl: Any = import_module("fcntl")
        fcntl.flock(self.fds[who, fd], operation)

    def fcntl(self, who: int, fd: int, command: int, wish: bytes) -> Any:
        fcntl: Any = import_module("fcntl")
        answer = FLOCK.unpack(fcntl.fcntl(self.fds[who, fd], command, wish))
        return answer if command == GETLK else None

    def watch(self, who: int, fd: int, what: int) -> None:
        self.handles[who] = self.instances[who].watch(
            self.fds[who, fd], self.masks[what], who, lambda: self.told.add(who)
        )

    def unwatch(self, who: int) -> None:
        self.instances[who].unwatch(self.handles.pop(who), who)

    def drain(self, who: int) -> bool:
        self.told.clear()
        self.instances[who].drain()
        return who in self.told

    def end(self) -> None:
        for fd in [*self.fds.values(), *self._kept]:
            os.close(fd)
        for instance in self.instances:
            instance.close()


class Simulated:
    """The same calls on the simulated kernel."""

    def __init__(self) -> None:
        self.world = SimKernel(exists=False)
        Explorer(self.world, [Contender(lambda script: None, process) for process in range(PROCESSES)])

    def _answer(self, verb: str, *arguments: Any) -> Any:
        answer: Any = AGAIN
        while answer is AGAIN:
            answer = getattr(self.world, "on_" + verb)(*arguments)
        if isinstance(answer, Raised):
            raise answer.kind(*answer.arguments)
        return answer

    def make(self, path: str) -> None:
        self.world._new_file()

    def unlink(self) -> None:
        self.world._remove()

    def replace(self) -> None:
        self.world._remove()
        self.world._new_file()

    def open(self, who: int) -> Any:
        return self._answer("open", who, False)

    def dup(self, who: int, fd: int) -> Any:
        return self._answer("dup", who, fd, 3)

    def fcntl(self, who: int, fd: int, command: int, wish: bytes) -> Any:
        answer = FLOCK.unpack(self._answer("fcntl", who, fd, command, wish))
        return answer if command == GETLK else None

    def watch(self, who: int, fd: int, what: int) -> None:
        self.handle = self._answer("watch", who, fd, what, Token("parker", who, 1))

    def unwatch(self, who: int) -> None:
        self._answer("unwatch", who, 0)

    def drain(self, who: int) -> bool:
        return bool(self._answer("drain", who))

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return lambda *arguments: self._answer(verb, *arguments)


def _outcome(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return call(*arguments)
    except OSError as error:
        return type(error), error.errno


class Walk:
    """A random sequence of calls that the engine could make, in any order."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.fds: dict[tuple[int, int], int] = {}  # to the inode
        self.watched: dict[int, int] = {}
        self.there = 0
        self.made = 0

    def step(self) -> tuple[str, tuple[Any, ...]]:
        chance = self.chance
        if not self.there:
            return "make", ()
        who = chance.randrange(PROCESSES)
        mine = [fd for process, fd in self.fds if process == who]
        if not mine or (len(mine) < 3 and chance.random() < 0.1):
            return "open", (who,)
        fd = chance.choice(mine)
        verb = chance.choice(
            ["flock", "flock", "fcntl", "fcntl", "fcntl", "fcntl", "close", "close", "fstat", "stat", "utime", "dup"]
            + ["watch", "watch", "drain", "drain", "drain", "unwatch"]
            + ["unlink", "replace"] * (chance.random() < 0.2)
        )
        if verb == "flock":
            return verb, (who, fd, chance.choice([EXCLUSIVE, SHARED, SHARED, UNLOCK]))
        if verb == "fcntl":
            return verb, (who, fd, *self._ranges())
        if verb == "dup" and len(mine) < 4:
            return verb, (who, fd)
        if verb in ("unlink", "replace"):
            return verb, ()
        if verb in ("stat", "drain"):
            return verb, (who,)
        if verb == "watch" and self.watched.get(who, self.fds[who, fd]) == self.fds[who, fd]:
            return verb, (who, fd, chance.choice([CLOSED, REPLACED]))
        if verb == "unwatch" and who in self.watched:
            return verb, (who,)
        if verb == "close":
            return verb, (who, fd)
        return "fstat", (who, fd)

    def _ranges(self) -> tuple[int, bytes]:
        chance = self.chance
        start = BASE + chance.randrange(6)
        length = chance.choice([0, 1, 1, 1, 2, 3])
        if chance.random() < 0.5:
            return GETLK, FLOCK.pack(chance.randrange(2), 0, start, length, 0)
        return SETLK, FLOCK.pack(chance.randrange(3), 0, start, length, 0)

    def note(self, verb: str, arguments: tuple[Any, ...], outcome: Any) -> None:
        if verb in ("make", "replace"):
            self.made += 1
            self.there = self.made
        elif verb == "unlink":
            self.there = 0
        elif verb == "open":
            self.fds[arguments[0], outcome] = self.there
        elif verb == "dup":
            self.fds[arguments[0], outcome] = self.fds[arguments]
        elif verb == "close":
            del self.fds[arguments]
        elif verb == "watch":
            self.watched[arguments[0]] = self.fds[arguments[:2]]
        elif verb == "unwatch":
            del self.watched[arguments[0]]


@pytest.mark.parametrize("seed", range(60))
def test_every_answer_is_linuxs(seed: int, tmp_path: Path) -> None:
    walk = Walk(random.Random(seed))
    real, simulated = Real(tmp_path / "lock"), Simulated()
    seen: dict[str, int] = {}
    try:
        for step in range(400):
            verb, arguments = walk.step()
            if verb == "make":
                real.make(real.path)
                simulated.make("")
                outcome: Any = None
            else:
                outcome = _outcome(getattr(real, verb), arguments)
                other = _outcome(getattr(simulated, verb), arguments)
                assert other == outcome, f"step {step}: {verb}{arguments}: Linux {outcome}, simulated {other}"
            walk.note(verb, arguments, outcome)
            seen[f"{verb} {outcome}"] = seen.get(f"{verb} {outcome}", 0) + 1
    finally:
        real.end()
    assert seen.get("drain True")
    assert sum(count for what, count in seen.items() if what.startswith("fcntl")) > 30
