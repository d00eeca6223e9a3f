"""One small application, which knows of its locks no more than a target: a path, or the URL of any engine.

It has a counter, a file that readers and a writer share, a pool of four things, and a file that is written with
fencing. Everything that it checks by itself is counted in `faults`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import Fence, LockError, StaleTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.testing.conformance.crew import Desk

POOL = 4
_open = open  # in tasks too: these are files of a few bytes
Options = dict[str, Any]


class Work(NamedTuple):
    """How a worker is told what to do. `target`: makes from a part's name its target, by replacing "NAME"."""

    target: str
    directory: str
    times: int
    options: Options

    def of(self, part: str) -> str:
        return self.target.replace("NAME", part)

    def path(self, part: str) -> str:
        return os.path.join(self.directory, part)


class Done(NamedTuple):
    faults: list[str]
    counted: int
    written: list[int]
    read: int
    slots: list[int]


def plan(target: Callable[[str], str], directory: str, times: int, options: Options) -> Work:
    return Work(target("NAME"), directory, times, options)


async def work(desk: Desk, plan: Work) -> Done:
    """What each worker of the application does; any number of them, in any number of processes, threads and tasks."""
    faults: list[str] = []
    await _count(desk, plan)
    read = await _readers_and_writer(desk, plan, faults)
    slots = await _pool(desk, plan, faults)
    written = await _fenced(desk, plan, faults)
    return Done(faults, plan.times, written, read, slots)


async def _count(desk: Desk, plan: Work) -> None:
    """Read, add one, write: an increment is lost where two do it at once."""
    path = plan.path("counter")
    for _ in range(plan.times):
        async with desk.world.block(desk.lock(plan.of("counter"), **plan.options)):
            value = _number(path)
            await desk.world.pause()
            with _open(path, "w") as file:
                file.write(str(value + 1))


async def _readers_and_writer(desk: Desk, plan: Work, faults: list[str]) -> int:
    """A file of two halves that must be equal, written one after the other."""
    path, lock, read = plan.path("halves"), desk.rwlock(plan.of("halves"), **plan.options), 0
    for turn in range(plan.times):
        if turn % 4 == 0:
            hold = await desk.call(lock, "write")
            for half in "ab":
                with _open(path + half, "w") as file:
                    file.write(f"{os.getpid()} {time.monotonic_ns()}")
                await desk.world.pause()
            with _open(path + "a") as one, _open(path + "b", "w") as two:
                two.write(one.read())
        else:
            hold = await desk.call(lock, "read")
            with contextlib.suppress(FileNotFoundError):
                halves = [_open(path + half).read() for half in "ab"]
                read += 1
                if halves[0] != halves[1]:
                    faults.append(f"a reader saw halves of two writers: {halves}")
        await desk.world.release(hold)
    return read


async def _pool(desk: Desk, plan: Work, faults: list[str]) -> list[int]:
    """Four things; who has one has it alone."""
    semaphore, used = desk.semaphore(plan.of("pool"), POOL, **plan.options), []
    for _ in range(plan.times):
        hold = await desk.call(semaphore, "acquire")
        used.append(hold.slot)
        mark = plan.path(f"thing{hold.slot}")
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            faults.append(f"thing {hold.slot} is used by two")
        await desk.world.pause()
        os.unlink(mark)
        await desk.world.release(hold)
    return used


async def _fenced(desk: Desk, plan: Work, faults: list[str]) -> list[int]:
    """Writes that carry the token of the hold. A token that was seen once is refused ever after."""
    fence, written = Fence(plan.path("fenced")), []
    for _ in range(plan.times):
        async with desk.world.block(desk.lock(plan.of("fenced"), **plan.options)) as hold:
            token = hold.token
            if token is None:
                faults.append("a hold without a token")
                continue
            fence.write(hold, json.dumps({"by": os.getpid(), "token": token}))
            written.append(token)
            try:
                fence.write(token - 1, "an old holder's")
            except StaleTokenError:
                pass
            else:
                faults.append(f"a write with an older token than {token} was admitted")
            try:
                hold.assert_held()
            except LockError as error:
                faults.append(f"lost while nothing happened: {error}")
    return written


def _number(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0
