"""What a facade lock remembers: its context (per thread or shared), and the process's holds that need tidying up.

A lock of the kernel ends with its process and is disowned by the engine in a forked child. A hold made by the
`_acquire` hook of another kind (a marker file, a user's subclass) is known only here: `hold_by_hook` registers
it, a forked child closes its copy of the descriptor, and the exit of the interpreter releases it.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING

from .._core import fork
from .._core.arbiter import Line
from .._model import Claim

if TYPE_CHECKING:
    from typing import Any, Self

    from .._model import IO
    from .api import BaseFileLock

process = object()
"""Replaced in a forked child: what was made under another one belongs to the parent."""


def _not_pickled(path: str) -> TypeError:
    """As in filelock, where it is the accident that an `RLock` cannot be."""
    return TypeError(f"the lock object of {path} belongs to one process and cannot be pickled: make another one there")


class NotPickled:
    """A read-write lock. It can be copied, as filelock's: another name for the same hold."""

    def __reduce__(self) -> str:
        raise _not_pickled(self.lock_file)  # type: ignore[attr-defined]  # of one kind an attribute, else a property

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


class FileLockContext:
    """The changing part of a lock object: the defaults that its properties set, and its hold."""

    lock_file_fd: int | None = None
    """The descriptor, while the lock is held: what the hooks `_acquire` and `_release` set and clear."""
    lock_counter = 0
    claim: Claim | None = None
    """The engine's grant, where an engine holds the lock."""
    path: str | None = None
    """The canonical path, from the start of an acquire to the end of its hold: a chdir in between changes nothing."""
    acquiring: Any = None
    """The frame of an acquire that waits, to tell a signal handler that acquires again."""
    registered: tuple[object, str] | None = None
    """(owner, path) under which a hold made by a hook stands in `holders`."""
    gate: Line | None = None
    """Where callers that share this context queue to change it."""
    thread: threading.Thread | None = None

    def __init__(
        self,
        lock_file: str,
        timeout: float,
        mode: int,
        blocking: bool,
        poll_interval: float,
        lifetime: float | None = None,
    ) -> None:
        self.lock_file = lock_file
        self.timeout = timeout
        self.mode = mode
        self.blocking = blocking
        self.poll_interval = poll_interval
        self.lifetime = lifetime

    def __reduce__(self) -> str:
        raise _not_pickled(self.lock_file)


class ThreadLocalFileContext(FileLockContext):
    """The context of one thread."""

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        self.thread = threading.current_thread()


class Shared:
    """Holds one context for everybody."""

    __slots__ = ("context",)

    def __init__(self, options: tuple[Any, ...], known: dict[FileLockContext, None]) -> None:
        self.context: FileLockContext = FileLockContext(*options)
        self.context.gate = Line(GATE, "", options[0])
        known[self.context] = None

    def __reduce__(self) -> str:
        raise _not_pickled(self.context.lock_file)


class PerThread(threading.local):
    """Holds a context per thread, made when a thread first asks. `known` has them all, while they matter."""

    def __init__(self, options: tuple[Any, ...], known: dict[FileLockContext, None], gated: bool) -> None:
        self.context: FileLockContext = ThreadLocalFileContext(*options)
        if gated:
            self.context.gate = Line(GATE, "", options[0])
        for other in list(known):
            if other.lock_file_fd is None and other.thread is not None and not other.thread.is_alive():
                known.pop(other, None)
        known[self.context] = None

    def __reduce__(self) -> str:
        raise _not_pickled(self.context.lock_file)


class _Gate:
    """The engine of a line that has no outside: having the turn is all there is to it."""

    async def try_acquire(self, io: IO, claim: Claim, deadline: float) -> bool:
        return True

    async def withdraw(self, io: IO, claim: Claim) -> None:
        """Nothing to undo."""

    def disown(self, claim: Claim) -> None:
        """Nothing to forget."""


GATE: Any = _Gate()


class Turn(Claim):
    """A place in a gate's line."""

    def __init__(self, gate: Line, owner: object) -> None:
        self.line = gate
        self.owner = owner


holders: dict[tuple[object, str], FileLockContext] = {}
"""Who (thread or task) holds which path by a hook; holds of engines are in the arbiter's `turns`."""

_hooked: dict[FileLockContext, weakref.ref[BaseFileLock]] = {}


def hold_by_hook(lock: BaseFileLock, context: FileLockContext, owner: object, path: str) -> None:
    context.registered = owner, path
    holders[owner, path] = context
    _hooked[context] = weakref.ref(lock)


def forget(context: FileLockContext) -> None:
    key = context.registered
    if key is not None and holders.get(key) is context:
        del holders[key]
    _hooked.pop(context, None)
    context.registered = None


def _in_child() -> None:
    global process
    process = object()
    for context in list(_hooked):
        if context.lock_file_fd is not None and context.claim is None:
            try:
                os.close(context.lock_file_fd)
            except OSError:
                pass
    _hooked.clear()
    holders.clear()


def _at_exit() -> None:
    """Release what hooks hold: a marker would outlive the process. Not from under a daemon thread that still runs."""
    alone = threading.active_count() == 1
    for context, reference in list(_hooked.items()):
        lock = reference()
        thread = context.thread
        if lock is None or not (
            alone if thread is None else thread is threading.current_thread() or not thread.is_alive()
        ):
            continue
        lock._abandon(context)


if hasattr(os, "register_at_fork"):
    fork.watch(os.register_at_fork)
if "INTERLOCK_TRACE" in os.environ:
    from .. import _record

    _record.begin()
fork.in_child(_in_child)
atexit.register(_at_exit)
