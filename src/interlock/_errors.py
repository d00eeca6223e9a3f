"""Everything that interlock raises. Contention is never an exception; only giving up on it (`Timeout`) is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._report import Party

__all__ = [
    "DeadlockError",
    "EngineError",
    "LockError",
    "LostError",
    "NotHeldError",
    "ProtocolError",
    "Timeout",
    "UnsafePathError",
    "UnsupportedError",
]


def printable(text: str) -> str:
    """One line with nothing that a terminal obeys: messages have file names, strangers' records and servers' words."""
    return "".join(char if char.isprintable() else "?" for char in text)


def named(error: OSError, path: str) -> None:
    """Errors of calls on a descriptor do not say which file it was."""
    if error.errno is not None and error.filename is None:
        error.filename = path


class LockError(Exception):
    """Base of all errors of this package."""

    def __str__(self) -> str:
        return printable(super().__str__())


class Timeout(LockError, TimeoutError):
    """The lock was not acquired before the deadline.

    `resource` is what was to be locked, `waited` the seconds spent waiting, `holder` who held it when the
    deadline passed (`None` when nobody can be named), `hint` what the user can do about it.
    """

    def __init__(self, resource: str, waited: float, holder: Party | None = None, hint: str = "") -> None:
        super().__init__(resource)  # OSError would read two and more arguments as errno, strerror, filename
        self.resource = resource
        self.waited = waited
        self.holder = holder
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.resource, self.waited, self.holder, self.hint), self.__dict__

    def __str__(self) -> str:
        held = f": held by {self.holder}" if self.holder is not None else ""
        hint = f" ({self.hint})" if self.hint else ""
        when = f"within {self.waited:.3g} s" if self.waited >= 0.001 else "at once"
        return printable(f"{self.resource} was not acquired {when}{held}{hint}")


class NotHeldError(LockError):
    """A hold was used that is not (or no longer) held: released before, or inherited by a forked child."""


class LostError(LockError):
    """The world took the hold away: the lock file was unlinked or replaced, a lease ran out, a session ended."""


class DeadlockError(LockError):
    """The caller would have waited for itself for ever."""


class EngineError(LockError):
    """The engine cannot do what was asked, or answered nonsense."""


class UnsupportedError(EngineError):
    """The place or the platform has no primitive that keeps exclusion; nothing was locked."""


class UnsafePathError(EngineError):
    """What stands at the lock's path is not a lock file (a symbolic link, a FIFO, a device, somebody's hard link)."""


class ProtocolError(EngineError):
    """The state found on the other side does not follow the protocol; nothing was locked."""


class SettingError(ValueError):
    """What users wrote about places (`INTERLOCK_PRIMITIVE`, `interlock.conf`) makes no sense; nothing was locked."""


class UnprovenError(ProtocolError):
    """A hold was to be broken, and nothing proves that its owner is gone; nothing was changed."""
