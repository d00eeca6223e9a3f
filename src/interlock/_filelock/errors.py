"""What the facade raises and warns with: filelock's names, bases and texts."""

from __future__ import annotations

import errno

from .._errors import DeadlockError, EngineError, LockError, UnsafePathError

__all__ = [
    "Cancelled",
    "FlockMissing",
    "LeaseSettingsMismatch",
    "SoftFileLockLifetimeWarning",
    "SoftFileLockProtocolError",
    "Timeout",
    "UnsafeLockFile",
]


class Timeout(TimeoutError):
    """The lock was not acquired in time. `holder` describes a recorded holder that this host cannot probe."""

    def __init__(self, lock_file: str, holder: str | None = None) -> None:
        super().__init__()
        self._lock_file = lock_file
        self._holder = holder

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""
        return self._lock_file

    def __str__(self) -> str:
        text = f"The file lock '{self._lock_file}' could not be acquired."
        if self._holder is not None:
            text += f" It is held by {self._holder}, which this host cannot probe."
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lock_file!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # The holder travels in the state: subclasses in the wild take the path alone.
        return type(self), (self._lock_file,), self.__dict__


class Cancelled(Timeout):
    """`cancel_check` ended an acquire. A `Timeout` for those who expect one; filelock cannot tell the two apart."""

    def __str__(self) -> str:
        return f"{super().__str__()} Its cancel_check asked to give up."


class FlockMissing(OSError, NotImplementedError):
    """flock(2) answered ENOSYS. Old filelock raised NotImplementedError here, new filelock an OSError: it is both."""


class UnsafeLockFile(OSError):
    """What stands at the lock's path is not a lock file: a symbolic link, a FIFO, a device, somebody's hard link."""


class SoftFileLockLifetimeWarning(FutureWarning):
    """The `lifetime` given lets a second holder in while the first still works."""


class LeaseSettingsMismatch(ValueError):
    """Two contenders of one lease disagree on how long it lasts."""


class SoftFileLockProtocolError(OSError):
    """The state of a soft lock cannot be read without a risk that two hold it. `claim_name` is None where the
    lock as a whole is meant."""

    def __init__(self, lock_file: str, claim_name: str | None, reason: str) -> None:
        self._lock_file = lock_file
        self._claim_name = claim_name
        self._reason = reason
        super().__init__(str(self))

    @property
    def lock_file(self) -> str:
        """The path of the lock, as it was given."""
        return self._lock_file

    @property
    def claim_name(self) -> str | None:
        """The claim whose record is unreadable, if it is one."""
        return self._claim_name

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        return self._reason

    def __str__(self) -> str:
        where = self._lock_file if self._claim_name is None else f"{self._lock_file}: claim {self._claim_name!r}"
        return f"Invalid strict soft-lock state at {where}: {self._reason}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._lock_file, self._claim_name, self._reason), self.__dict__


def translated(error: LockError, lock_file: str) -> Exception:
    """An engine's refusal in filelock's words."""
    cause = error.__cause__
    if isinstance(error, DeadlockError):
        return RuntimeError(f"Deadlock: {error}")
    if isinstance(error, UnsafePathError):
        return UnsafeLockFile(errno.ELOOP, str(error), lock_file)
    if isinstance(cause, OSError) and cause.errno == errno.ENOSYS:
        return FlockMissing(
            errno.ENOSYS,
            "FileSystem does not appear to support flock; use SoftFileLock instead, or move the lock file",
            lock_file,
        )
    if isinstance(error, EngineError):
        number = cause.errno if isinstance(cause, OSError) else errno.ENOLCK
        return OSError(number, str(error), lock_file)
    return error
