"""What the members of a crew do in the suite for servers, each in its own process; see `crew`."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import time
import warnings
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from ... import AsyncNamespace, LockError, LostError, Namespace, Timeout
from .worlds import Threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .crew import Desk
    from .worlds import Job

Options = dict[str, Any]


class Counted(NamedTuple):
    """What a process saw of the unprotected counter."""

    overlaps: int
    tokens: list[int | None]
    times: list[float]

    def holds(self) -> list[tuple[float, int | None]]:
        """When each hold began, and its token."""
        return list(zip(self.times, self.tokens, strict=True))


class Register:
    """An unprotected counter with an overlap detector, as a file that processes share.

    Read, then write what was read plus one: two that are inside at once lose a count, or see each other's mark.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inside = path + ".inside"

    def read(self) -> int:
        try:
            with open(self._path) as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[list[int]]:
        """One increment; yields the list that gets a 1 if somebody else was seen inside."""
        overlaps: list[int] = []
        try:
            os.close(os.open(self._inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            overlaps.append(1)
        value = self.read()
        yield overlaps
        with open(self._path, "w") as file:
            file.write(str(value + 1))
        try:
            os.unlink(self._inside)
        except FileNotFoundError:
            overlaps.append(1)


async def count(desk: Desk, target: str, path: str, times: int, options: Options | None = None) -> Counted:
    """So many increments, each under the lock."""
    return await _count(desk, desk.lock(target, **(options or {})), path, repeat(None, times))


async def count_until(desk: Desk, target: str, path: str, stop: str, options: Options | None = None) -> Counted:
    """As `count`, until there is a file `stop`."""
    until = iter(lambda: os.path.exists(stop), True)
    return await _count(desk, desk.lock(target, **(options or {})), path, until)


async def _count(desk: Desk, lock: Any, path: str, rounds: Iterable[object]) -> Counted:
    register, counted = Register(path), Counted(0, [], [])
    overlaps = 0
    for _ in rounds:
        async with desk.world.block(lock) as hold:
            with register.enter() as seen:
                counted.tokens.append(hold.token)
                counted.times.append(time.monotonic())
            overlaps += len(seen)
    return counted._replace(overlaps=overlaps)


async def clients_count(
    desk: Desk, targets: list[str], path: str, rounds: int, several: list[Options]
) -> list[Counted]:
    """Two clients of this process, each by a `connect()` of its own, count together."""
    parts: list[Counted] = []
    connect: Any = Namespace if isinstance(desk.world, Threads) else AsyncNamespace

    async def work(number: int) -> None:
        base, _, name = targets[number % len(targets)].partition("#")
        lock = connect(base, **several[number]).lock(unquote(name))
        parts.append(await _count(desk, lock, path, repeat(None, rounds)))

    async with desk.world.group() as group:
        for number in range(2):
            group.start(work, number)
    return parts


async def count_together(
    desk: Desk, targets: list[str], path: str, contenders: int, times: int, several: list[Options]
) -> Counted:
    """As `count`, by so many threads or tasks of this process. Neighbours use different spellings, or options, of the
    target: to the engine they are different clients."""
    parts: list[Counted] = []

    async def work(number: int) -> None:
        parts.append(await count(desk, targets[number % len(targets)], path, times, several[number % len(several)]))

    async with desk.world.group() as group:
        for number in range(contenders):
            group.start(work, number)
    tokens = [token for part in parts for token in part.tokens]
    return Counted(sum(part.overlaps for part in parts), tokens, [at for part in parts for at in part.times])


async def timed_out(desk: Desk, target: str, timeout: float, options: Options | None = None) -> float:
    """Seconds until an acquire with this timeout gave up."""
    lock = desk.lock(target, **(options or {}))
    began = time.monotonic()
    try:
        await desk.world.acquire(lock, timeout)
    except Timeout:
        return time.monotonic() - began
    raise AssertionError("acquired what another process holds")


async def tries(desk: Desk, target: str, number: int, options: Options | None = None) -> list[int]:
    """So many attempts on a held lock: the sockets that this process has open after each."""
    open_now = []
    for _ in range(number):
        assert await desk.world.try_acquire(desk.lock(target, **(options or {}))) is None
        open_now.append(sockets())
    return open_now


def sockets() -> int:
    """Connections of this process by TCP."""
    mine = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{fd}")
            if link.startswith("socket:["):
                mine.add(link[8:-1])
    found = 0
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as file:
            found += sum(line.split()[9] in mine for line in file.readlines()[1:])
    return found


async def guarded(desk: Desk, name: str) -> str:
    """The next guarded action of a holder: "" if it went through, else why it was refused."""
    try:
        desk.holds[name].assert_held()
    except LostError as error:
        return str(error)
    return ""


async def until_lost(desk: Desk, name: str, patience: float) -> float:
    """When the holder saw that its hold is lost; 0.0 if it did not."""
    hold = desk.holds[name]
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        if hold.lost:
            return time.monotonic()
        await desk.world.pause(0.002)
    return 0.0


async def told(desk: Desk, name: str) -> None:
    """Ask to be told of the loss; `when_told` says when that was."""
    desk.holds[name].on_lost(lambda _reason: desk.memory.setdefault(f"told {name}", time.monotonic()))


async def when_told(desk: Desk, name: str) -> float:
    return float(desk.memory.get(f"told {name}", 0.0))


async def try_release(desk: Desk, name: str) -> str:
    """Release what may be lost; the name of the error, if there was one."""
    hold = desk.holds.pop(name)
    try:
        await desk.world.release(hold)
    except LockError as error:
        return type(error).__name__
    return ""


async def drop(desk: Desk, name: str) -> int:
    """Forget a hold without releasing it: how many warnings that gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del desk.holds[name]
        gc.collect()
    return sum(issubclass(each.category, ResourceWarning) for each in caught)


async def interrupted(
    desk: Desk, target: str, moments: int, longest: float, seed: int, options: Options | None = None
) -> tuple[int, int]:
    """Acquire, and be cancelled (in threads: interrupted as by Ctrl-C) after a random while, so many times, and then
    until it was too late at least once, or half a minute more.

    How often it got the lock all the same, and how often not. What it got it releases.
    """
    dice = random.Random(seed)
    lock = desk.lock(target, **(options or {}))
    got = tried = 0
    limit = time.monotonic() + 30.0
    while tried < moments or (got == tried and time.monotonic() < limit):
        moment = dice.random() ** 2 * longest
        if isinstance(desk.world, Threads):
            got += await _interrupt(lock, moment)
        else:
            got += await _cancel(desk, lock, moment)
        tried += 1
    return got, tried - got


async def _interrupt(lock: Any, moment: float) -> bool:
    if sys.platform == "win32":
        raise NotImplementedError

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    hold = None
    try:
        signal.setitimer(signal.ITIMER_REAL, max(moment, 1e-6))
        hold = lock.acquire()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if hold is None:  # interrupted inside, or between the return and the assignment: then the hold was dropped
        return False
    hold.release()
    return True


async def _cancel(desk: Desk, lock: Any, moment: float) -> bool:
    got: list[bool] = []

    async def attempt() -> None:
        hold = await desk.world.acquire(lock)
        got.append(True)
        await desk.world.release(hold)

    async with desk.world.group() as group:
        job: Job = group.start(attempt)
        await desk.world.pause(moment)
        job.cancel()
    return bool(got)


async def cycles(desk: Desk, target: str, stop: str, options: Options | None = None) -> int:
    """Acquire, hold it for a while and release, until there is a file `stop`, with a breath in between."""
    lock, done = desk.lock(target, **(options or {})), 0
    while not os.path.exists(stop):
        async with desk.world.block(lock):
            done += 1
            await desk.world.pause(0.002)
        await desk.world.pause(0.001)
    return done


async def hold_many(desk: Desk, targets: list[str], options: Options | None = None) -> int:
    """Acquire them all, and keep them; the connections that this process has then."""
    for target in targets:
        desk.holds[target] = await desk.world.acquire(desk.lock(target, **(options or {})), 30.0)
    return sockets()


async def read(desk: Desk, target: str, mode: str, timeout: float | None, options: Options | None = None) -> float:
    """Acquire a read-write lock in a mode, under the name of the mode; when it was got."""
    hold = await desk.call(desk.rwlock(target, **(options or {})), mode, timeout)
    desk.holds[mode] = hold
    return time.monotonic()


async def take(desk: Desk, target: str, permits: int, timeout: float | None, options: Options | None = None) -> int:
    """Acquire one permit, under the name "permit"; which slot it is."""
    hold = await desk.call(desk.semaphore(target, permits, **(options or {})), "acquire", timeout)
    desk.holds["permit"] = hold
    return int(hold.slot)


async def pool(
    desk: Desk, target: str, permits: int, directory: str, times: int, options: Options | None = None
) -> tuple[int, int]:
    """Use slots of a pool: how often two were in one slot at once, and the most that were inside together."""
    semaphore = desk.semaphore(target, permits, **(options or {}))
    collisions = most = 0
    for _ in range(times):
        hold = await desk.call(semaphore, "acquire")
        mark = os.path.join(directory, f"slot{hold.slot}")
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            collisions += 1
        most = max(most, len([name for name in os.listdir(directory) if name.startswith("slot")]))
        await desk.world.pause(0.001)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(mark)
        await desk.world.release(hold)
    return collisions, most
