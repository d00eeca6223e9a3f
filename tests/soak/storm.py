"""Processes that take and release one lock as fast as they can, are killed at any moment, and are watched.

Theory of operation
-------------------
The referee is a page of memory that all of them share. Whoever has acquired writes its mode into a cell of its own,
and then looks at the cells of the others; before it releases it clears its cell. So of two that are inside together
the one that wrote later sees the other, whatever any clock says. A cell is written before the cells of others are
read, by an interpreter that takes a hundred times as long for it as a store buffer does.

The process that kills writes "doomed" beside the victim's cell before it sends SIGKILL, and clears both cells when
wait(2) has said that the victim is dead: what stands in a doomed cell accuses nobody, since a dying process loses its
locks before it is seen to be dead. So an overlap with a doomed one is missed, in the microseconds before the signal
arrives, and none is invented. What was counted are lower bounds of overlaps, and exact numbers of holds.

Tokens, where there are some, are compared with the highest one seen inside before.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .locks import LOCKS, OF_FILES, Dead, free, name
from .referee import (
    DOOMED,
    FAILURES,
    HOLDS,
    INSIDE,
    OVERLAPS,
    READ,
    REGRESSIONS,
    WRITE,
    Cells,
    Takeovers,
    at_share,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

assert sys.platform != "win32"

WORKERS = 4
_CLONE_NEWPID = 0x20000000


@dataclass
class Outcome:
    """What a storm has shown."""

    kind: str
    seed: int
    seconds: float
    holds: int
    kills: int
    killed_inside: int
    overlaps: int
    regressions: int
    """Tokens that were not above all before."""
    failures: int
    """Workers that ended by an error of their own."""
    locks: int = 1
    takeovers: int = 0
    """Killed holders after whom the next one was awaited."""
    takeover_p50: float = 0.0
    takeover_p99: float = 0.0
    takeover_most: float = 0.0
    """Seconds from the kill to the next hold; whether somebody wanted the lock just then or not."""

    @property
    def right(self) -> bool:
        return not (self.overlaps or self.regressions or self.failures)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ---- a worker


def _work(cells: Cells, me: int, kind: str, paths: Sequence[str], seed: int) -> None:
    dice = random.Random(seed)
    if kind == "asyncio":
        asyncio.run(_work_async(cells, me, paths[0]))
    elif kind == "rwlock":
        _work_modes(cells, me, paths[0], dice)
    else:
        if kind == "mixed":
            kind = "lock" if me % 2 else "flock"
        verbs = [LOCKS["lock" if kind == "tokens" else kind](path) for path in paths]
        while not cells.stopped:
            lock = dice.randrange(len(verbs))
            acquire, release = verbs[lock]
            hold = acquire()
            cells.enter(me, WRITE, lock)
            if kind == "tokens":
                cells.look_at(me, hold.token, lock)
            cells.leave(me)
            release(hold)


async def _work_async(cells: Cells, me: int, path: str) -> None:
    from interlock import AsyncLock

    lock = AsyncLock(path)
    while not cells.stopped:
        async with lock:
            cells.enter(me, WRITE)
            cells.leave(me)


def _work_modes(cells: Cells, me: int, path: str, dice: random.Random) -> None:
    from interlock import RWLock

    lock = RWLock(path)
    while not cells.stopped:
        writes = dice.random() < 0.3
        with lock.write() if writes else lock.read():
            cells.enter(me, WRITE if writes else READ)
            cells.leave(me)


# ---- the storm


def storm(
    kind: str,
    directory: str | Sequence[str],
    seed: int,
    *,
    seconds: float = 0.0,
    holds: int = 0,
    kills: int = 0,
    every: float = 0.01,
    limit: float = 3600.0,
    locks: int = 1,
    apart: bool = False,
) -> Outcome:
    """Until so many seconds, holds and kills have gone by, at most `limit` seconds; `every`: between two kills.

    Of several directories, which are the same one at several places, each worker has one. `apart`: each has a pid
    namespace of its own too, so that nobody can prove another one dead, as on hosts of their own."""
    return _Storm(kind, [directory] if isinstance(directory, str) else directory, seed, locks, apart).run(
        seconds, holds, kills, every, limit
    )


class _Storm:
    def __init__(self, kind: str, directories: Sequence[str], seed: int, locks: int, apart: bool) -> None:
        self.kind, self.seed, self.apart = kind, seed, apart
        self.dice = random.Random(seed)
        self.cells = Cells(WORKERS, kind, locks, often=apart)
        self.takeovers = Takeovers(self.cells)
        self.paths = [
            [os.path.join(place, f"storm{lock or ''}.lock") for lock in range(locks)] for place in directories
        ]
        self.running: dict[int, tuple[int, Dead]] = {}
        self.killed = self.killed_inside = 0
        LOCKS.get(kind, LOCKS["lock"])(self.paths[0][0])  # what workers need is imported once, before they are forked

    def run(self, seconds: float, holds: int, kills: int, every: float, limit: float) -> Outcome:
        cells, began, before = self.cells, time.monotonic(), 0
        try:
            for worker in range(WORKERS):
                self._start(worker)
            while True:
                time.sleep(self.dice.random() * 2 * every)
                _until(lambda: cells.sum(HOLDS) != before)  # noqa: B023 - called at once
                lasted = time.monotonic() - began
                done = lasted >= seconds and cells.sum(HOLDS) >= holds and self.killed >= kills
                if done or lasted >= limit or cells.sum(FAILURES):
                    break
                before = cells.sum(HOLDS)
                self._kill(_whom(cells, self.dice, 0.005 if self.kind not in OF_FILES else 0.03))
            lasted = time.monotonic() - began
            _until(lambda: not self.takeovers.open())
            times = self.takeovers.sorted()
            cells.stop()
            self._join()
        finally:
            for pid, _ in self.running.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        counted = (cells.sum(OVERLAPS), cells.sum(REGRESSIONS), cells.sum(FAILURES), cells.locks, len(times))
        shares = [round(at_share(times, share), 4) for share in (0.5, 0.99, 1.0)]
        kills_seen = (self.killed, self.killed_inside)
        return Outcome(self.kind, self.seed, round(lasted, 1), cells.sum(HOLDS), *kills_seen, *counted, *shares)

    def _kill(self, victim: int) -> None:
        self.cells.put(victim, DOOMED, 1)
        hold = self.takeovers.before(victim)
        pid, dead = self.running[victim]
        os.kill(pid, signal.SIGKILL)
        self.killed += 1
        self._bury(victim, hold)
        for path in self.paths[0]:
            free(self.kind, path, dead, [pid for pid, _ in self.running.values()], self.apart)
        self._start(victim)

    def _bury(self, worker: int, hold: tuple[int, int] = (0, 0)) -> None:
        cells = self.cells
        pid, _ = self.running.pop(worker)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.killed_inside += bool(cells.at(worker, INSIDE))
            self.takeovers.after(worker, hold)
        elif status:
            cells.count(worker, FAILURES)
        cells.put(worker, INSIDE, 0)
        cells.put(worker, DOOMED, 0)

    def _start(self, worker: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        seed = self.dice.randrange(1 << 30)
        pid = _fork_apart() if self.apart else os.fork()
        if pid:
            self.running[worker] = pid, name(pid, self.apart)
            return
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            faulthandler.register(signal.SIGUSR1, 2)
            _work(self.cells, worker, self.kind, self.paths[worker % len(self.paths)], seed)
            status = 0
        except BaseException:  # noqa: BLE001 - it is counted as a failure
            traceback.print_exc()
        finally:
            os._exit(status)

    def _join(self, patience: float = 200.0) -> None:
        """All end by themselves; who does not has been forgotten by the lock: an error. It says where it is."""
        limit = time.monotonic() + patience
        for worker, (pid, _) in list(self.running.items()):
            while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if time.monotonic() >= limit:
                    os.kill(pid, signal.SIGUSR1)
                    time.sleep(1.0)
                    raise TimeoutError(f"worker {worker} still waits {patience:g} s after the others went")
                time.sleep(0.005)
            self._bury(worker)


def _fork_apart() -> int:
    """A child that is the first process of a new pid namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/pid") as ours:
        if library.unshare(_CLONE_NEWPID):
            raise OSError(ctypes.get_errno(), "unshare(2), for which one has to be root")
        pid = os.fork()
        if pid and library.setns(ours.fileno(), _CLONE_NEWPID):
            raise OSError(ctypes.get_errno(), "setns(2)")
    return pid


def _until(condition: Callable[[], bool]) -> None:
    """Or for some seconds: a record that a dead one left unfinished has to be watched for two by one that lives."""
    limit = time.monotonic() + 5.0
    while not condition() and time.monotonic() < limit:
        time.sleep(0.002)


def _whom(cells: Cells, dice: random.Random, patience: float) -> int:
    """Half of the time somebody who is inside, if there is one soon."""
    limit = time.monotonic() + (patience if dice.random() < 0.5 else 0.0)
    while time.monotonic() < limit:
        inside = [worker for worker in range(WORKERS) if cells.at(worker, INSIDE)]
        if inside:
            return dice.choice(inside)
        if patience > 0.01:
            time.sleep(0.0003)
    return dice.randrange(WORKERS)
