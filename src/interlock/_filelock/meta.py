"""The class of the lock classes: reads the options, narrows them to what a subclass takes, and keeps the singletons."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from abc import ABCMeta
from threading import RLock
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from .._core import fork
from .._errors import UnsafePathError
from ..paths import real
from . import options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .api import BaseFileLock

T = TypeVar("T", bound="BaseFileLock")

_taken: WeakKeyDictionary[type, tuple[frozenset[str], bool]] = WeakKeyDictionary()
_guard = RLock()


def _fresh_guard() -> None:
    global _guard
    _guard = RLock()


fork.in_child(_fresh_guard)


def canonical(path: str) -> str:
    """One spelling per lock file: links in the directories are followed, the file itself is never a link."""
    directory, name = os.path.split(path)
    directory = directory or os.curdir
    # Windows: realpath opens what it resolves in a way that stops others from deleting it.
    if sys.platform == "win32":
        return os.path.join(os.path.abspath(directory), name)
    try:
        return os.path.join(real(directory), name)
    except UnsafePathError as error:
        raise PermissionError(errno.EACCES, str(error), path) from error  # what the kernel says to filelock


def lock_path(path: str, looks_first: bool = True) -> str:
    """`canonical`, of a path that names a file; for others, what the kernel would say, or Python: that names the call
    which meets a NUL, the look at what stands there or the opening."""
    if "\0" in path:
        if looks_first:
            os.lstat(path)
        os.open(path, os.O_RDONLY)
    resolved = canonical(path)
    if resolved.endswith(os.sep):
        number = errno.EISDIR if path else errno.ENOENT
        raise OSError(number, os.strerror(number), path)
    return resolved


class FileLockMeta(ABCMeta):
    """Calling a lock class ends here."""

    def __call__(  # type: ignore[misc] # the class of classes: cls is a lock class
        cls: type[T],
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
        **extra: Any,
    ) -> T:
        lifetime = options.read_lifetime(lifetime, cls, cls._lifetime_warning_level)
        options.check_blocking(blocking)
        options.check_mode(mode, cls.__name__)
        options.check_policies(context_error_policy, close_error_policy)
        options.check_abilities(cls, preserve_lock_file, on_acquired)
        given = {
            "timeout": options.seconds("timeout", timeout),
            "mode": mode,
            "thread_local": thread_local,
            "blocking": blocking,
            "is_singleton": is_singleton,
            "poll_interval": options.interval(poll_interval),
            "lifetime": lifetime,
            "context_error_policy": context_error_policy,
            "close_error_policy": close_error_policy,
            "fallback_to_soft": fallback_to_soft,
            "preserve_lock_file": preserve_lock_file,
            "on_acquired": on_acquired,
            **extra,
        }
        passed = _narrowed(cls, given)
        if not is_singleton:
            made: T = type.__call__(cls, lock_file, **passed)
            return made
        key = canonical(os.fspath(lock_file))
        with _guard:
            instances = cls._instances
            instance = instances.get(key)
            if instance is None or instance._gone(key):
                made = instances[key] = type.__call__(cls, lock_file, **passed)
                return made
        _require_same(instance, given)
        return cast("T", instance)


def new_registry() -> WeakValueDictionary[str, BaseFileLock]:
    return WeakValueDictionary()


def _narrowed(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that the class's own `__init__` takes. Leaving out a default is fine, losing a wish is an error."""
    model = _taken.get(cls)
    if model is None:
        parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        model = _taken[cls] = (
            frozenset(parameter.name for parameter in parameters if parameter.kind in named),
            any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters),
        )
    names, everything = model
    if everything or names.issuperset(given):
        return given
    lost = [name for name, value in given.items() if name not in names and not _is_default(cls, name, value)]
    if lost:
        raise TypeError(f"{cls.__name__} does not support non-default lock options: {', '.join(sorted(lost))}")
    return {name: value for name, value in given.items() if name in names}


def _is_default(cls: type, name: str, value: object) -> bool:
    parameter = inspect.signature(type(cls).__call__).parameters.get(name)
    return parameter is not None and parameter.default is not inspect.Parameter.empty and value == parameter.default


def _require_same(instance: BaseFileLock, given: dict[str, Any]) -> None:
    differing = instance._differing(given)
    if differing:
        lines = "".join(
            f"\n\t{name} (existing lock has {has} but {passed} was passed)" for name, passed, has in differing
        )
        raise ValueError(
            "Singleton lock instances cannot be initialized with differing arguments\nNon-matching arguments: " + lines
        )

