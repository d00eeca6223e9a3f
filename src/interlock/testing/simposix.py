"""The simulated kernel as a process sees it: the table of system calls, the event instance, engines made of them.

Importing this needs a POSIX system, as the table that it stands in for does.
"""

from __future__ import annotations

import os
import stat
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..engines.kernel import KernelEngine
from .simkernel import CLOSED, DUP, REPLACED
from .simprocess import PATH, Memory
from .simscript import Script, SimParker

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._model import Parker

Ops: Any = import_module("...engines.kernel.ops", __name__).Ops  # which type checkers do not see for Windows


class SimOps(Ops):  # type: ignore[misc]
    """The table of system calls, with each of them a question to the simulated kernel."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def ours(self, fd: int, proof: float) -> bool:
        """Nobody closes what is not its own here."""
        return True

    def getpid(self) -> int:
        """None: tickets are not signed, which would be one more step for each waiter."""
        return 0

    def stopped(self, pid: int | None) -> bool:
        """Anybody may be: so whoever has napped may pass, which is the worst case for exclusion."""
        return True

    def open(self, path: str | bytes, flags: int, mode: int = 0o777) -> int:
        assert os.fsdecode(path) == PATH
        fd: int = self.script.ask("open", bool(flags & os.O_CREAT))
        return fd

    def close(self, fd: int) -> None:
        self.script.tell("close", fd)

    def fstat(self, fd: int) -> os.stat_result:
        return _status(*self.script.ask("fstat", fd))

    def stat(self, path: str | bytes, *, follow_symlinks: bool = True) -> os.stat_result:
        assert os.fsdecode(path) == PATH
        return _status(*self.script.ask("stat"))

    def flock(self, fd: int, operation: int) -> None:
        self.script.tell("flock", fd, operation)

    def fcntl(self, fd: int, command: int, wish: Any) -> Any:
        if command == DUP:
            return self.script.ask("dup", fd, wish)
        return self.script.ask("fcntl", fd, command, wish)

    def tell(self, fd: int) -> None:
        self.utime(fd)

    def unlink(self, path: str) -> None:
        """No system call of the shipped engine; for those that delete their lock files."""
        self.script.tell("unlink")

    def utime(self, fd: int) -> None:
        self.script.tell("utime", fd)

    def yield_core(self) -> None:
        """Whom the scheduler lets run is the explorer's choice."""

    def boottime_ns(self) -> int:
        now: int = self.script.ask("clock")
        return now


def _status(inode: int, links: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | 0o666, inode, 1, links, 0, 0, 0, 0, 0, 0))


class SimEvents:
    """Takes the place of the module `_wait.inotify`, and is its instance too. `trusted` False: nap, as on NFS."""

    CLOSED = CLOSED
    REPLACED = REPLACED

    def __init__(self, script: Script, trusted: bool = True, fd: int = 2) -> None:
        self._script = script
        self._trusted = trusted
        self._fd = fd

    def shared(self) -> SimEvents:
        return self

    def trusts(self, directory: str) -> bool:
        return self._trusted

    def fileno(self) -> int:
        return self._fd

    def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int:
        parker: Parker = tell.__self__  # type: ignore[attr-defined]
        assert isinstance(parker, SimParker)
        handle: int = self._script.ask("watch", fd, what, parker.token)
        return handle

    def unwatch(self, handle: int, key: object) -> None:
        self._script.tell("unwatch", handle)

    def drain(self) -> None:
        for token in self._script.ask("drain"):
            SimParker(self._script, token).unpark()


def kernel_engine(
    cls: type[KernelEngine] = KernelEngine,
    ops: type[SimOps] = SimOps,
    *,
    queue: bool = True,
    trusted: bool = True,
    events_fd: int = 2,
) -> Callable[[Memory], KernelEngine]:
    """Makes kernel engines on the simulated kernel, one per simulated thread.

    `queue` False: without tickets, as on macOS; `trusted` False: naps only, as on NFS; `events_fd`: which descriptor
    the process's inotify instance has (lock files get theirs from 3 on).
    """

    def make(memory: Memory) -> KernelEngine:
        return cls(ops(memory.script), SimEvents(memory.script, trusted, events_fd), queue)

    return make


def kernel_lanes(
    lanes: dict[str, type[Any]] | None = None, ops: type[SimOps] = SimOps, *, trusted: bool = True
) -> Callable[[Memory, str], KernelEngine]:
    """Makes the kernel engine's engines of read-write locks; `lanes` replaces some."""
    classes = {**import_module("...engines.kernel.readwrite", __name__).LANES, **(lanes or {})}

    def make(memory: Memory, mode: str) -> KernelEngine:
        engine: KernelEngine = classes[mode](ops(memory.script), SimEvents(memory.script, trusted))
        return engine

    return make


def kernel_slots(cls: type[Any] | None = None, ops: type[SimOps] = SimOps) -> Callable[[Memory], KernelEngine]:
    """Makes the kernel engine's engine of semaphores."""
    made = cls or import_module("...engines.kernel.slots", __name__).Slots

    def make(memory: Memory) -> KernelEngine:
        engine: KernelEngine = made(ops(memory.script), SimEvents(memory.script))
        return engine

    return make
