"""Reading the options of filelock's constructors and methods: the one place that says what is allowed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable  # noqa: TC003 - LockOptions' hints are read at run time
from decimal import Decimal
from numbers import Real
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Literal, TypedDict

from .errors import SoftFileLockLifetimeWarning

if TYPE_CHECKING:
    from typing import Any

__all__ = ["CloseErrorPolicy", "ContextErrorPolicy", "LockOptions"]

ContextErrorPolicy = Literal["chain", "group"]
CloseErrorPolicy = Literal["default", "raise", "suppress"]

UNSET_MODE = -1
"""No `mode` was given: the umask and the directory's default ACL decide, and nothing is changed afterwards."""

FOREVER = math.inf


class LockOptions(TypedDict, total=False):
    """The keywords that every lock takes, for subclasses that pass them on."""

    timeout: float
    mode: int
    thread_local: bool
    blocking: bool
    is_singleton: bool
    poll_interval: float
    lifetime: float | None
    context_error_policy: ContextErrorPolicy
    close_error_policy: CloseErrorPolicy
    fallback_to_soft: bool
    preserve_lock_file: bool
    on_acquired: Callable[[int], None] | None


def seconds(name: str, value: object) -> float:
    """A number of seconds as a float. Decimal and Fraction are numbers; a bool or a string is a mistake."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if isinstance(value, Decimal) and value.is_snan():
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large to be a number of seconds: {value!r}") from None
    if number == 0 and value < 0:  # a tiny negative number keeps its sign: it means "for ever"
        return -math.ulp(0.0)
    return number


def limit(timeout: object, blocking: object) -> float:
    """How long an acquire may wait: 0.0 is one attempt, inf for ever."""
    check_blocking(blocking)
    number = seconds("timeout", timeout)
    if not blocking:
        return 0.0
    if number != number:
        raise ValueError("timeout must be a number of seconds, not nan")
    return FOREVER if number < 0 else number


def check_blocking(blocking: object) -> None:
    if not isinstance(blocking, bool):
        raise TypeError(f"blocking must be a bool, not {type(blocking).__name__}")


def interval(poll_interval: object) -> float:
    number = seconds("poll_interval", poll_interval)
    if number < 0 or not math.isfinite(number):
        raise ValueError(f"poll_interval must be finite and non-negative, not {number!r}")
    if number > TIMEOUT_MAX:
        raise ValueError(f"poll_interval must not exceed threading.TIMEOUT_MAX ({TIMEOUT_MAX}), got {number!r}")
    return number


def check_mode(mode: object, kind: str) -> None:
    if type(mode) is int and mode == UNSET_MODE:
        return
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode must be an int, not {type(mode).__name__}")
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode={mode:#o} must be within 0o000-0o777 for {kind}")
    if mode & 0o600 != 0o600:
        raise ValueError(f"mode={mode:#o} must grant the owner read and write for {kind}")


def check_policies(context_error_policy: object, close_error_policy: object) -> None:
    if context_error_policy not in ("chain", "group"):
        raise ValueError(f"context_error_policy must be 'chain' or 'group', got {context_error_policy!r}")
    if close_error_policy not in ("default", "raise", "suppress"):
        raise ValueError(
            f"close_error_policy must be 'default', 'raise', or 'suppress', got {close_error_policy!r}"
        )


def check_abilities(cls: Any, preserve_lock_file: object, on_acquired: object) -> None:
    """What a kind of lock cannot do is refused when it is asked for, not when it would be needed."""
    if preserve_lock_file and not cls._preserve_lock_file_supported:
        raise ValueError(
            f"preserve_lock_file=True is not supported by {cls.__name__}: unlinking its marker is how it releases"
        )
    if on_acquired is not None and not cls._on_acquired_supported:
        raise ValueError(
            f"on_acquired is not supported by {cls.__name__}: only native locks expose the lock descriptor"
        )


def read_lifetime(lifetime: object, cls: Any, stacklevel: int) -> float | None:
    """The age at which others may break the lock; dropped with a warning where a lock cannot be broken by age."""
    if lifetime is None:
        return None
    # An int stays what it is: not every int is a float.
    exact = isinstance(lifetime, int) and not isinstance(lifetime, bool)
    number: float = lifetime if exact else seconds("lifetime", lifetime)  # type: ignore[assignment]
    if number < 0 or (isinstance(number, float) and not math.isfinite(number)):
        raise ValueError(f"lifetime must be finite and non-negative, not {number!r}")
    if not cls._lifetime_supported:
        warnings.warn(
            f"lifetime is ignored for {cls.__name__}: {cls._lifetime_unsupported_reason}; "
            "only SoftFileLock supports lifetime-based expiry",
            stacklevel=stacklevel + 1,
        )
        return None
    if cls._lifetime_replacements is not None:
        strict, lease = cls._lifetime_replacements
        warnings.warn(
            f"{cls.__name__}(lifetime=...) uses age-based expiry and can overlap a live holder; "
            f"use {lease} for expiry or {strict} for fail-closed locking",
            SoftFileLockLifetimeWarning,
            stacklevel=stacklevel + 1,
        )
    return number


def same_wait(one: float, other: float) -> bool:
    """Do two timeouts mean the same? NaN equals NaN, and every way to say "for ever" is one."""
    if one != one or other != other:
        return one != one and other != other
    return one == other or (_endless(one) and _endless(other))


def _endless(timeout: float) -> bool:
    return timeout < 0 or timeout == FOREVER
