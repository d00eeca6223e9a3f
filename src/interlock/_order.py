"""`check_order`: finds two orders in which locks are taken, before two threads or processes meet in them.

Theory of operation
-------------------
Who waits for B while holding A, makes an edge from A to B. A cycle of edges means that there is a timing in which
everybody waits for ever, also if it has never happened: the usual test runs the two orders one after the other. Each
edge keeps the stack of its first time. An edge is made before the wait, so a timeout or a deadlock does not hide it;
an attempt that does not wait makes none.

What is held is read from the process's own table of grants. While it is off, nothing is in the way: switching it on
replaces the verbs of the locks' classes, switching it off puts them back.
"""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from dataclasses import dataclass
from importlib import import_module
from os.path import dirname

from ._core.arbiter import granted, turns
from ._identity import me
from ._io import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["LockOrderWarning", "check_order"]

_VERBS = (
    ("lock", "Lock", "acquire"),
    ("lock", "Lock", "__enter__"),
    ("lock", "AsyncLock", "acquire"),
    ("rwlock", "RWLock", "read"),
    ("rwlock", "RWLock", "_acquire"),
    ("rwlock", "AsyncRWLock", "_acquire"),
    ("semaphore", "Semaphore", "acquire"),
    ("semaphore", "AsyncSemaphore", "acquire"),
)
"""Whatever may wait. Re-entrant locks, `with` on async ones, and all modes of read-write locks come by these."""

_LIMIT = 10_000
"""Edges that are remembered; a program that makes up names of locks would remember them all."""

_FRAMES = 12
_HERE = dirname(__file__)


class LockOrderWarning(UserWarning):
    """Locks were taken in two orders that can deadlock; the text has the stacks of both."""


@dataclass(frozen=True)
class _Edge:
    """`second` was asked for while `first` was held."""

    first: str
    second: str
    thread: str
    stack: traceback.StackSummary

    def __str__(self) -> str:
        frames = "".join(self.stack.format())
        return f"{self.second} while holding {self.first}, in thread {self.thread}:\n{frames}"


_edges: dict[str, dict[str, _Edge]] = {}
_count = 0
_replaced: dict[tuple[str, str, str], tuple[Any, Any]] = {}


def check_order(enabled: bool = True) -> None:
    """Warn (`LockOrderWarning`, with both stacks, once for each pair) when locks are taken in two orders that can
    deadlock, in whichever threads and tasks of this process; `False` ends it, and forgets.

    It sees the locks of this package that are waited for while another one is held: an attempt with `timeout=0` and
    `try_acquire` cannot deadlock. Only this process's orders are compared, but an inversion found here is one for all
    processes that run the same code. With warnings as errors the acquire raises it, and nothing is taken. For a whole
    program: set the environment variable `INTERLOCK_CHECK_ORDER=1`. While on, each acquire costs some microseconds.
    """
    global _count
    if enabled:
        for place in _VERBS:
            if place not in _replaced:
                _replace(*place)
        return
    for (home, kind, verb), (own, ours) in list(_replaced.items()):
        owner = getattr(import_module("." + home, __package__), kind)
        if owner.__dict__[verb] is ours:
            setattr(owner, verb, own)
        del _replaced[home, kind, verb]
    _edges.clear()
    _count = 0


def _replace(home: str, kind: str, verb: str) -> None:
    owner = getattr(import_module("." + home, __package__), kind)
    own: Callable[..., Any] = owner.__dict__[verb]
    place = home, kind, verb

    skip = verb == "_acquire"  # its first argument is the mode

    def enter(lock: Any) -> Any:
        if place in _replaced:  # else somebody has wrapped this one, and it could not be put back
            _asks(lock, me.token, lock._timeout)
        return own(lock)

    def acquire(lock: Any, *args: Any, **options: Any) -> Any:
        if place in _replaced:
            _asks(lock, me.token, *args[skip:], **options)
        return own(lock, *args, **options)

    async def acquire_async(lock: Any, *args: Any, **options: Any) -> Any:
        if place in _replaced:
            _asks(lock, running().owner(), *args[skip:], **options)
        return await own(lock, *args, **options)

    ours: Any = enter if verb == "__enter__" else acquire_async if kind.startswith("Async") else acquire
    ours.__name__, ours.__qualname__, ours.__doc__ = own.__name__, own.__qualname__, own.__doc__
    _replaced[place] = own, ours
    setattr(owner, verb, ours)


def _asks(lock: Any, owner: object, timeout: Any = None) -> None:
    """This thread or task is going to wait for `lock`."""
    global _count
    if timeout == 0:
        return
    held = [claim.line for claim in (*list(turns.values()), *list(granted)) if claim.owner is owner and claim.since]
    if not held:
        return
    mine: str = (lock._line if hasattr(lock, "_line") else lock._reading).key
    if any(other.key == mine for other in held):  # who re-enters does not wait; of others the lock itself complains
        return
    for other in held:
        known = _edges.setdefault(other.key, {})
        if mine in known or _count >= _LIMIT:
            continue
        thread = threading.current_thread().name
        edge = known[mine] = _Edge(other.resource, lock.resource, thread, _stack())
        _count += 1
        back = _path(mine, other.key)
        if back:
            _warn(edge, back)


def _path(start: str, end: str) -> list[_Edge]:
    """The edges that lead from one lock to another; breadth first, so that it is the shortest way."""
    ways: dict[str, list[_Edge]] = {start: []}
    queue = [start]
    for here in queue:
        for there, edge in list(_edges.get(here, {}).items()):
            if there not in ways:
                ways[there] = [*ways[here], edge]
                queue.append(there)
            if there == end:
                return ways[there]
    return []


def _warn(edge: _Edge, back: list[_Edge]) -> None:
    text = (
        f"{edge.second} is taken while {edge.first} is held, and elsewhere the other way round: two that do both at "
        f"once wait for each other for ever. Take them in one order, or with acquire_all.\n\nNow {edge}"
    )
    text += "".join(f"\nBefore, {earlier}" for earlier in back)
    frame = _caller()
    where = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("<unknown>", 0)
    warnings.warn_explicit(text, LockOrderWarning, *where)


def _caller() -> FrameType | None:
    """The innermost frame that is not this package's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and dirname(frame.f_code.co_filename).startswith(_HERE):
        frame = frame.f_back
    return frame


def _stack() -> traceback.StackSummary:
    frames = list(traceback.walk_stack(_caller()))[:_FRAMES]
    return traceback.StackSummary.extract(iter(reversed(frames)), lookup_lines=False)
