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
import faulthandler
import mmap
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

assert sys.platform != "win32"

WRITE, READ = 1, 2
WORKERS = 4
PERMITS = 2

_STOP, _TOKEN, _TOTAL, _CELLS = 0, 1, 2, 3
_INSIDE, _DOOMED, _HOLDS, _OVERLAPS, _REGRESSIONS, _FAILURES = range(6)
_WIDTH = 6

SLOW = ("lease", "soft")
"""Each hold of these is a record on the disk."""


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

    @property
    def right(self) -> bool:
        return not (self.overlaps or self.regressions or self.failures)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ---- the locks


def _flock(path: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    import fcntl

    def acquire() -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    return acquire, os.close


def _ours(path: str, **options: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    from interlock import Lock

    lock = Lock(path, **options)
    return lock.acquire, lambda hold: hold.release()


def _soft(path: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    from interlock.filelock import SoftFileLock

    lock = SoftFileLock(path + ".soft")
    return lock.acquire, lambda _: lock.release()


def _permit(path: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    from interlock import Semaphore

    semaphore = Semaphore(path, PERMITS)
    return semaphore.acquire, lambda hold: hold.release()


LOCKS: dict[str, Callable[[str], tuple[Callable[[], Any], Callable[[Any], object]]]] = {
    "none": lambda path: (lambda: None, lambda _: None),
    "lock": _ours,
    "fair": lambda path: _ours(path, fair=True),
    "dual": lambda path: _ours(path, primitive="dual"),
    "lease": lambda path: _ours(path, primitive="marker", ttl=2.0),
    "soft": _soft,
    "semaphore": _permit,
    "flock": _flock,
}
KINDS = (*LOCKS, "tokens", "asyncio", "rwlock", "mixed")
"""`tokens` asks each hold for its token; `mixed` is half ours, half flock(2)."""


# ---- a worker


class Cells:
    """The memory that all share."""

    def __init__(self, memory: mmap.mmap, workers: int, kind: str) -> None:
        self._at = memoryview(memory).cast("q")
        self._workers = workers
        self._stays = 4 if kind in SLOW else 50  # one hold of so many lasts longer, so that holders are killed too
        self._most = PERMITS if kind == "semaphore" else 1
        self.token_kind = kind == "tokens"

    def at(self, worker: int, what: int) -> int:
        return self._at[_CELLS + worker * _WIDTH + what]

    def put(self, worker: int, what: int, value: int) -> None:
        self._at[_CELLS + worker * _WIDTH + what] = value

    def count(self, worker: int, what: int) -> None:
        self._at[_CELLS + worker * _WIDTH + what] += 1

    def sum(self, what: int) -> int:
        return sum(self.at(worker, what) for worker in range(self._workers))

    @property
    def stopped(self) -> bool:
        return bool(self._at[_STOP])

    def stop(self) -> None:
        self._at[_STOP] = 1

    def enter(self, me: int, mode: int) -> None:
        self.count(me, _HOLDS)  # before the mode: so whoever has the same number of holds is in the same one
        self.put(me, _INSIDE, mode)
        first = self._others(me, mode)
        if len(first) >= self._most and len(first & self._others(me, mode)) >= self._most:
            self.count(me, _OVERLAPS)
        if self.at(me, _HOLDS) % self._stays == 0:
            time.sleep(0.001)

    def _others(self, me: int, mode: int) -> set[tuple[int, int]]:
        """Who else is inside, and in which of its holds. One look takes time: of two that it finds, the first may have
        left before the second came. Who is in two looks by the same hold was inside all the time between them."""
        found = set()
        for worker in range(self._workers):
            doomed = self.at(worker, _DOOMED)  # before its mode, which is cleared first
            which = self.at(worker, _HOLDS)
            its = self.at(worker, _INSIDE)
            if worker != me and its and not doomed and WRITE in (its, mode):
                found.add((worker, which))
        return found

    def look_at(self, me: int, token: int) -> None:
        if token <= self._at[_TOKEN]:
            self.count(me, _REGRESSIONS)
        self._at[_TOKEN] = token

    def leave(self, me: int) -> None:
        self.put(me, _INSIDE, 0)


def _work(cells: Cells, me: int, kind: str, path: str, seed: int) -> None:
    if kind == "asyncio":
        asyncio.run(_work_async(cells, me, path))
    elif kind == "rwlock":
        _work_modes(cells, me, path, random.Random(seed))
    else:
        if kind == "mixed":
            kind = "lock" if me % 2 else "flock"
        acquire, release = LOCKS["lock" if kind == "tokens" else kind](path)
        while not cells.stopped:
            hold = acquire()
            cells.enter(me, WRITE)
            if cells.token_kind:
                cells.look_at(me, hold.token)
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
    directory: str,
    seed: int,
    *,
    seconds: float = 0.0,
    holds: int = 0,
    kills: int = 0,
    every: float = 0.01,
    limit: float = 3600.0,
) -> Outcome:
    """Until so many seconds, holds and kills have gone by, at most `limit` seconds; `every`: between two kills."""
    dice = random.Random(seed)
    memory = mmap.mmap(-1, 8 * (_CELLS + WORKERS * _WIDTH))
    cells = Cells(memory, WORKERS, kind)
    path = os.path.join(directory, "storm.lock")
    LOCKS.get(kind, _ours)(path)  # what workers need is imported once, before they are forked
    running: dict[int, int] = {}
    killed = killed_inside = before = 0
    began = time.monotonic()

    def start(worker: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            running[worker] = pid
            return
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            faulthandler.register(signal.SIGUSR1, 2)
            _work(cells, worker, kind, path, dice.randrange(1 << 30))
            status = 0
        except BaseException:  # noqa: BLE001 - it is counted as a failure
            traceback.print_exc()
        finally:
            os._exit(status)

    def bury(worker: int) -> None:
        nonlocal killed_inside
        _, status = os.waitpid(running.pop(worker), 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed_inside += bool(cells.at(worker, _INSIDE))
        elif status:
            cells.count(worker, _FAILURES)
        cells.put(worker, _INSIDE, 0)
        cells.put(worker, _DOOMED, 0)

    try:
        for worker in range(WORKERS):
            start(worker)
        while True:
            time.sleep(dice.random() * 2 * every)
            _until_somebody_entered(cells, before)
            lasted = time.monotonic() - began
            done = lasted >= seconds and cells.sum(_HOLDS) >= holds and killed >= kills
            if done or lasted >= limit or cells.sum(_FAILURES):
                break
            before = cells.sum(_HOLDS)
            victim = _whom(cells, dice)
            cells.put(victim, _DOOMED, 1)
            os.kill(running[victim], signal.SIGKILL)
            killed += 1
            bury(victim)
            start(victim)
        lasted = time.monotonic() - began
        cells.stop()
        _join(running, bury)
    finally:
        for pid in running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    counted = (cells.sum(_OVERLAPS), cells.sum(_REGRESSIONS), cells.sum(_FAILURES))
    return Outcome(kind, seed, round(lasted, 1), cells.sum(_HOLDS), killed, killed_inside, *counted)


def _until_somebody_entered(cells: Cells, before: int) -> None:
    """Or for some seconds: a record that a dead one left unfinished has to be watched for two by one that lives."""
    limit = time.monotonic() + 5.0
    while cells.sum(_HOLDS) == before and time.monotonic() < limit:
        time.sleep(0.002)


def _whom(cells: Cells, dice: random.Random) -> int:
    """Half of the time somebody who is inside, if there is one soon."""
    limit = time.monotonic() + (0.005 if dice.random() < 0.5 else 0.0)
    while time.monotonic() < limit:
        inside = [worker for worker in range(WORKERS) if cells.at(worker, _INSIDE)]
        if inside:
            return dice.choice(inside)
    return dice.randrange(WORKERS)


def _join(running: dict[int, int], bury: Callable[[int], None], patience: float = 200.0) -> None:
    """All end by themselves; who does not has been forgotten by the lock, which is an error. It says where it is."""
    limit = time.monotonic() + patience
    for worker, pid in list(running.items()):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= limit:
                os.kill(pid, signal.SIGUSR1)
                time.sleep(1.0)
                raise TimeoutError(f"worker {worker} still waits {patience:g} s after the others went")
            time.sleep(0.005)
        bury(worker)
