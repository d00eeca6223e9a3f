"""Processes that lock when a test tells them to: as threads do it, as tasks of asyncio or of trio.

    with Crew() as crew:
        one, two = crew.hire("blocking"), crew.hire("trio")
        one.do(acquire, target)
        waiting = two.begin(acquire, target, 5.0)
        one.kill()
        grant = waiting.result()

What a member does is a coroutine function on the module level of some module, called with the member's `Desk` and
arguments that can be pickled. `acquire`, `try_acquire`, `release` and `look` are such functions; tests add their own.
Members are forked from a small server process that has imported the library and nothing else: one costs some
milliseconds, and inherits nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from importlib.util import find_spec
from multiprocessing.connection import wait as _first_ready
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ... import AsyncRWLock, AsyncSemaphore, LockError, RWLock, Semaphore
from .worlds import PATIENCE, AnyHold, Asyncio, Threads, Trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from multiprocessing.connection import Connection
    from typing import Self

    from .worlds import Job, World

    Act = Callable[..., Coroutine[Any, Any, Any]]

__all__ = ["Crew", "Desk", "Grant", "MemberError", "Pending", "acquire", "look", "release", "try_acquire"]

_CLIENTS = ("redis", "psycopg", "kazoo.client")
WORLDS = ("blocking", "asyncio", "trio")
_KINDS: dict[str, Callable[[], World]] = {"blocking": Threads, "asyncio": Asyncio, "trio": Trio}


def _clients() -> list[str]:
    """Client libraries that are here: to import one takes longer than to hire a member."""
    return [name for name in _CLIENTS if find_spec(name.partition(".")[0])]


class MemberError(Exception):
    """What a member did ended with an exception: `kind` is its class's name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Grant(NamedTuple):
    """What a member got, and when, on the clock that all processes of a machine share (`time.monotonic`)."""

    token: int | None
    waited: float
    asked: float
    got: float


class Look(NamedTuple):
    held: bool
    lost: str


# ---- in the test's process


class Pending:
    """Something that a member has begun."""

    def __init__(self, member: Member, number: int) -> None:
        self._member = member
        self._number = number

    def done(self) -> bool:
        self._member.hear(0.0)
        return self._number in self._member.answers

    def result(self, patience: float = PATIENCE) -> Any:
        """What it returned. Raises `MemberError`; `AssertionError` if there is nothing within `patience` seconds."""
        limit = time.monotonic() + patience
        while self._number not in self._member.answers:
            left = limit - time.monotonic()
            assert left > 0, f"nothing from {self._member} within {patience} s"
            self._member.hear(left)
        error, value = self._member.answers.pop(self._number)
        if error:
            raise MemberError(error, value)
        return value

    def cancel(self) -> None:
        """Cancel the task; in the world of threads, interrupt it as Ctrl-C does."""
        if self._member.world == "blocking":
            os.kill(self._member.pid, signal.SIGINT)
        else:
            self._member.send(("cancel", self._number))


class Member:
    """One process."""

    def __init__(self, world: str) -> None:
        self.world = world
        self.answers: dict[int, tuple[str, Any]] = {}
        self._number = 0
        context: Any = multiprocessing.get_context("forkserver")  # of other types on Windows, where there is none
        # heard when the first one is hired
        context.set_forkserver_preload([__name__, "asyncio", "trio", *_clients()])
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, world), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid: int | None = self.process.pid
        assert pid is not None
        return pid

    def send(self, words: tuple[Any, ...]) -> None:
        try:
            self._connection.send(words)
        except OSError:
            raise MemberError("EOFError", f"{self} is gone") from None

    def begin(self, act: Act, *args: Any) -> Pending:
        self._number += 1
        self.send(("do", self._number, act, args))
        return Pending(self, self._number)

    def do(self, act: Act, *args: Any, patience: float = PATIENCE) -> Any:
        return self.begin(act, *args).result(patience)

    def hear(self, patience: float) -> None:
        """Take what it has to say, waiting at most so long for the first word."""
        try:
            while self._connection.poll(patience):
                number, error, value = self._connection.recv()
                self.answers[number] = (error, value)
                patience = 0.0
        except (EOFError, OSError):
            raise MemberError("EOFError", f"{self} is gone") from None

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self._connection.close()
        self.process.close()

    def __repr__(self) -> str:
        return f"<{self.world} member, pid {self.process.pid}>"


class Crew:
    """The members of a test; those that are left at its end are killed."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    def hire(self, world: str = "blocking") -> Member:
        member = Member(world)
        self.members.append(member)
        return member

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.close()


def first_of(pending: list[Pending], patience: float = PATIENCE) -> Pending:
    """The first that is done."""
    limit = time.monotonic() + patience
    while True:
        for each in pending:
            if each.done():
                return each
        left = limit - time.monotonic()
        assert left > 0, f"none of {len(pending)} is done within {patience} s"
        connections: list[Any] = [each._member._connection for each in pending]
        _first_ready(connections, left)


# ---- in the member


class Desk:
    """What a member has: its world, and the holds it was told to acquire, by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.holds: dict[str, Any] = {}
        self.locks: dict[Any, Any] = {}
        self.memory: dict[str, Any] = {}
        """For acts that want to find something again."""

    def lock(self, target: str, **options: Any) -> Any:
        return self.world.lock(target, **options)

    async def call(self, thing: Any, verb: str, *args: Any) -> Any:
        """`thing.verb(*args)`, awaited where this world awaits."""
        answer = getattr(thing, verb)(*args)
        return answer if isinstance(self.world, Threads) else await answer

    def rwlock(self, target: str, **options: Any) -> Any:
        return (RWLock if isinstance(self.world, Threads) else AsyncRWLock)(target, **options)

    def semaphore(self, target: str, permits: int, **options: Any) -> Any:
        return (Semaphore if isinstance(self.world, Threads) else AsyncSemaphore)(target, permits, **options)


async def acquire(
    desk: Desk, target: str, timeout: float | None = None, name: str = "", options: dict[str, Any] | None = None
) -> Grant:
    """Acquire, and keep the hold under `name` (where left out: the target)."""
    lock = desk.lock(target, **(options or {}))
    asked = time.monotonic()
    hold = await desk.world.acquire(lock, timeout)
    return _keep(desk, name or target, hold, asked)


async def try_acquire(desk: Desk, target: str, name: str = "", options: dict[str, Any] | None = None) -> Grant | None:
    lock = desk.lock(target, **(options or {}))
    asked = time.monotonic()
    hold = await desk.world.try_acquire(lock)
    return None if hold is None else _keep(desk, name or target, hold, asked)


async def release(desk: Desk, name: str) -> float:
    """Release what is kept under `name`; returns when it was called."""
    hold = cast("AnyHold", desk.holds.pop(name))
    at = time.monotonic()
    await desk.world.release(hold)
    return at


async def look(desk: Desk, name: str) -> Look:
    """Does the member believe that it holds?"""
    hold = desk.holds[name]
    return Look(hold.held, hold.lost.reason)


def _keep(desk: Desk, name: str, hold: Any, asked: float) -> Grant:
    got = time.monotonic()
    desk.holds[name] = hold
    return Grant(hold.token, hold.waited, asked, got)


def _serve(connection: Connection, kind: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    world = _KINDS[kind]()
    desk = Desk(world)
    words: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    mutex = threading.Lock()

    def say(number: int, error: str, value: Any) -> None:
        with mutex:
            connection.send((number, error, value))

    if kind == "blocking":
        threading.Thread(target=_listen, args=(connection, words.put), daemon=True).start()
        _serve_blocking(desk, words, say)
    else:
        world.run(_serve_tasks, desk, connection, say)
    os._exit(0)  # nobody is there any more; what is still held is the server's business


def _listen(connection: Connection, put: Callable[[tuple[Any, ...] | None], None]) -> None:
    try:
        while True:
            put(connection.recv())
    except (EOFError, OSError):
        put(None)


def _serve_blocking(
    desk: Desk, words: queue.SimpleQueue[tuple[Any, ...] | None], say: Callable[[int, str, Any], None]
) -> None:
    """One after the other, in the main thread: where interrupts arrive."""
    while True:
        try:
            word = words.get()
        except KeyboardInterrupt:  # came too late for the act it was meant for
            continue
        if word is None:
            return
        _, number, act, args = word
        desk.world.run(_answer, desk, number, act, args, say)


async def _serve_tasks(desk: Desk, connection: Connection, say: Callable[[int, str, Any], None]) -> None:
    jobs: dict[int, Job] = {}
    async with desk.world.group() as group:
        while True:
            word = await _in_thread(desk.world, connection)
            if word is None:
                os._exit(0)
            if word[0] == "cancel":
                if word[1] in jobs:
                    jobs[word[1]].cancel()
                continue
            _, number, act, args = word
            jobs[number] = group.start(_answer, desk, number, act, args, say)


async def _in_thread(world: World, connection: Connection) -> tuple[Any, ...] | None:
    def receive() -> tuple[Any, ...] | None:
        try:
            return cast("tuple[Any, ...]", connection.recv())
        except (EOFError, OSError):
            return None

    if isinstance(world, Asyncio):
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, receive)
    import trio

    return await trio.to_thread.run_sync(receive)


async def _answer(
    desk: Desk, number: int, act: Act, args: tuple[Any, ...], say: Callable[[int, str, Any], None]
) -> None:
    try:
        value = await act(desk, *args)
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - told to the test
        say(number, type(error).__name__, _text(error))
    except BaseException as error:
        say(number, "Cancelled", type(error).__name__)
        raise
    else:
        say(number, "", value)


def _text(error: BaseException) -> str:
    if isinstance(error, (LockError, OSError, KeyboardInterrupt)):
        return str(error)
    import traceback

    return "".join(traceback.format_exception(error))
