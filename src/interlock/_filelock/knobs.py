"""The options of a lock object: its constructor, its properties, and what makes two singletons the same."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from . import options, state
from .meta import FileLockMeta, canonical

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
    from weakref import WeakValueDictionary

    from .._core.arbiter import Line
    from .state import FileLockContext


class Settings:
    """The options that never change."""

    __slots__ = (
        "close_error_policy", "context_error_policy", "fallback_to_soft", "is_singleton", "on_acquired",
        "preserve_lock_file", "thread_local",
    )  # fmt: skip

    def __init__(
        self,
        thread_local: bool,
        is_singleton: bool,
        context_error_policy: options.ContextErrorPolicy,
        close_error_policy: options.CloseErrorPolicy,
        fallback_to_soft: bool,
        preserve_lock_file: bool,
        on_acquired: Callable[[int], None] | None,
    ) -> None:
        self.thread_local = thread_local
        self.is_singleton = is_singleton
        self.context_error_policy: options.ContextErrorPolicy = context_error_policy
        self.close_error_policy: options.CloseErrorPolicy = close_error_policy
        self.fallback_to_soft = fallback_to_soft
        self.preserve_lock_file = preserve_lock_file
        self.on_acquired = on_acquired


class Knobs(metaclass=FileLockMeta):
    """Everything of a lock object that neither acquires nor releases."""

    _instances: WeakValueDictionary[str, Any]
    _lifetime_supported = False
    _lifetime_replacements: tuple[str, str] | None = None
    """(strict, lease): the classes to recommend to those who give a `lifetime`."""
    _lifetime_unsupported_reason = "a native OS lock cannot be broken safely by file age"
    _lifetime_warning_level = 2
    _preserve_lock_file_supported = True
    _on_acquired_supported = True
    _holder_words = "FileLock instance in this thread"

    _process: object = None
    _dying = False
    _express: Line | None = None
    """A line for which `with` may go straight to the engine: nothing about this lock needs a closer look."""
    _by_engine = False
    """Does an engine do the waiting and the holding? Else the hooks do, and they may block."""
    _lean = False
    """May an acquire begin with `_grab`, the path without a coroutine?"""

    _gated = False
    """Do several callers of one thread share its context? (Tasks do.)"""

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = options.UNSET_MODE,
        thread_local: bool = True,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: options.ContextErrorPolicy = "chain",
        close_error_policy: options.CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], None] | None = None,
    ) -> None:
        """Name a lock file; nothing is opened yet.

        `timeout` (seconds; negative or inf: for ever; 0: one attempt) and `blocking` are the defaults of `acquire`.
        `mode`: permissions of a lock file that is created (left out: the umask decides). `thread_local`: does each
        thread have its own hold and settings? `is_singleton`: one object per path and class. `poll_interval`: the
        longest nap where no event can tell that the lock was let go. `lifetime`: only for soft locks.
        `context_error_policy`: with "group", an error of the body and one of the release are raised together.
        `on_acquired(fd)` runs once per physical acquisition.
        """
        self._settings = Settings(
            thread_local, is_singleton, context_error_policy, close_error_policy, fallback_to_soft,
            preserve_lock_file, on_acquired,
        )  # fmt: skip
        given = (os.fspath(lock_file), timeout, mode, blocking, poll_interval, lifetime)
        self._contexts: dict[FileLockContext, None] = {}
        self._holder: state.PerThread | state.Shared = (
            state.PerThread(given, self._contexts, self._gated)
            if thread_local
            else state.Shared(given, self._contexts)
        )
        self._process = state.process
        self._settle()

    def _settle(self) -> None:
        """At the end of `__init__`: what a kind derives from its options."""

    def _extra_differences(self, given: dict[str, Any]) -> list[tuple[str, object, object]]:
        """Of a singleton's own options: (name, passed, existing) where they differ."""
        return []

    @property
    def _context(self) -> FileLockContext:
        return self._holder.context

    @property
    def _lock_path(self) -> str:
        """The canonical path while an acquire or a hold lasts; before that, the path as given."""
        context = self._holder.context
        return context.path or context.lock_file

    @property
    def is_locked(self) -> bool:
        """Is it held by this object (for thread-local locks: by this thread)?"""
        return self._holder.context.lock_file_fd is not None and self._process is state.process

    @property
    def lock_counter(self) -> int:
        """How many levels are held."""
        return self._holder.context.lock_counter if self._process is state.process else 0

    @property
    def lock_file(self) -> str:
        """The path, as it was given."""
        return self._holder.context.lock_file

    @property
    def timeout(self) -> float:
        """Default of `acquire`, in seconds."""
        return self._holder.context.timeout

    @timeout.setter
    def timeout(self, value: float | str) -> None:
        if isinstance(value, (str, bytes, bytearray)):
            warnings.warn(
                "setting timeout from a string is deprecated and will be removed; pass a number",
                DeprecationWarning,
                stacklevel=2,
            )
            value = float(value)
        self._holder.context.timeout = options.seconds("timeout", value)

    @property
    def blocking(self) -> bool:
        """Default of `acquire`: wait, or attempt once?"""
        return self._holder.context.blocking

    @blocking.setter
    def blocking(self, value: bool) -> None:
        options.check_blocking(value)
        self._holder.context.blocking = value

    @property
    def poll_interval(self) -> float:
        """Default of `acquire`: the longest nap, in seconds, where no event wakes a waiter."""
        return self._holder.context.poll_interval

    @poll_interval.setter
    def poll_interval(self, value: float) -> None:
        self._holder.context.poll_interval = options.interval(value)

    @property
    def lifetime(self) -> float | None:
        """The age in seconds at which a soft marker may be broken, or None."""
        return self._holder.context.lifetime

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        self._holder.context.lifetime = options.read_lifetime(value, type(self), 2)

    @property
    def mode(self) -> int:
        """The permissions asked for; 0o644 where none were, although then the umask decides."""
        mode = self._holder.context.mode
        return 0o644 if mode == options.UNSET_MODE else mode

    @property
    def has_explicit_mode(self) -> bool:
        """Was a `mode` given?"""
        return self._holder.context.mode != options.UNSET_MODE

    @property
    def is_singleton(self) -> bool:
        """Is this the one object for its path?"""
        return self._settings.is_singleton

    @property
    def context_error_policy(self) -> options.ContextErrorPolicy:
        """What a `with` block raises when its body and the release both fail."""
        return self._settings.context_error_policy

    @property
    def close_error_policy(self) -> options.CloseErrorPolicy:
        """What becomes of an error of close(2) after the lock was let go."""
        return self._settings.close_error_policy

    @property
    def fallback_to_soft(self) -> bool:
        """May a filesystem without flock be locked by a marker?"""
        return self._settings.fallback_to_soft

    @property
    def preserve_lock_file(self) -> bool:
        """Must the lock file stay after the release?"""
        return self._settings.preserve_lock_file

    @property
    def on_acquired(self) -> Callable[[int], None] | None:
        """What is called with the descriptor after each physical acquisition."""
        return self._settings.on_acquired

    def is_thread_local(self) -> bool:
        """Does each thread have its own hold and settings?"""
        return self._settings.thread_local

    # ---- singletons

    def _gone(self, key: str) -> bool:
        """Is this singleton no longer the one for the path `key`: inherited, dying, or meant for another directory?"""
        return self._dying or self._process is not state.process or canonical(self._lock_path) != key

    def _differing(self, given: dict[str, Any]) -> list[tuple[str, object, object]]:
        context = self._holder.context
        existing: dict[str, object] = {
            "thread_local": self._settings.thread_local,
            "mode": context.mode,
            "blocking": context.blocking,
            "poll_interval": context.poll_interval,
            "lifetime": context.lifetime,
            "context_error_policy": self._settings.context_error_policy,
            "close_error_policy": self._settings.close_error_policy,
            "fallback_to_soft": self._settings.fallback_to_soft,
            "preserve_lock_file": self._settings.preserve_lock_file,
        }
        found = [(name, given[name], has) for name, has in existing.items() if given[name] != has]
        if not options.same_wait(given["timeout"], context.timeout):
            found.append(("timeout", given["timeout"], context.timeout))
        if given["on_acquired"] is not self._settings.on_acquired:  # equal functions may close over different things
            found.append(("on_acquired", given["on_acquired"], self._settings.on_acquired))
        return found + self._extra_differences(given)
