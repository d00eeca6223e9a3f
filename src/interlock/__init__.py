"""interlock: locks between processes that wake at once and say who holds them.

    from interlock import Lock

    with Lock("cache.lock", timeout=60):
        ...

Importing this package loads nothing else; each name brings what it needs when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._errors import (
        DeadlockError,
        EngineError,
        LockError,
        LostError,
        NotHeldError,
        ProtocolError,
        Timeout,
        UnsafePathError,
        UnsupportedError,
    )
    from ._hold import AsyncHold, Hold, Loss
    from ._inspect import inspect
    from ._namespace import AsyncNamespace, Namespace, connect
    from ._observe import Event, Observation, observe
    from ._order import LockOrderWarning, check_order
    from ._probe import Probe, probe
    from ._report import Party, Report
    from ._rwhold import AsyncRWHold, RWHold
    from ._statistics import Histogram, LockStatistics, Statistics, statistics
    from .atomic import BuildError, Fence, StaleTokenError, once, publish, transform
    from .lock import AsyncLock, AsyncRLock, Lock, RLock
    from .rwlock import AsyncRWLock, RWLock
    from .semaphore import AsyncSemaphore, AsyncSemaphoreHold, Semaphore, SemaphoreHold
    from .together import AsyncHolds, Holds, acquire_all, acquire_all_async

__version__ = "0.1.0"

__all__ = [
    "AsyncHold",
    "AsyncHolds",
    "AsyncLock",
    "AsyncNamespace",
    "AsyncRLock",
    "AsyncRWHold",
    "AsyncRWLock",
    "AsyncSemaphore",
    "AsyncSemaphoreHold",
    "BuildError",
    "DeadlockError",
    "EngineError",
    "Event",
    "Fence",
    "Histogram",
    "Hold",
    "Holds",
    "Lock",
    "LockError",
    "LockOrderWarning",
    "LockStatistics",
    "Loss",
    "LostError",
    "Namespace",
    "NotHeldError",
    "Observation",
    "Party",
    "Probe",
    "ProtocolError",
    "RLock",
    "RWHold",
    "RWLock",
    "Report",
    "Semaphore",
    "SemaphoreHold",
    "StaleTokenError",
    "Statistics",
    "Timeout",
    "UnsafePathError",
    "UnsupportedError",
    "__version__",
    "acquire_all",
    "acquire_all_async",
    "check_order",
    "connect",
    "inspect",
    "observe",
    "once",
    "probe",
    "publish",
    "statistics",
    "transform",
]

_HOMES = {
    "_errors": (
        "DeadlockError", "EngineError", "LockError", "LostError", "NotHeldError", "ProtocolError", "Timeout",
        "UnsafePathError", "UnsupportedError",
    ),
    "_hold": ("AsyncHold", "Hold", "Loss"),
    "_inspect": ("inspect",),
    "_namespace": ("AsyncNamespace", "Namespace", "connect"),
    "_probe": ("Probe", "probe"),
    "_observe": ("Event", "Observation", "observe"),
    "_order": ("LockOrderWarning", "check_order"),
    "_report": ("Party", "Report"),
    "_rwhold": ("AsyncRWHold", "RWHold"),
    "_statistics": ("Histogram", "LockStatistics", "Statistics", "statistics"),
    "atomic": ("BuildError", "Fence", "StaleTokenError", "once", "publish", "transform"),
    "lock": ("AsyncLock", "AsyncRLock", "Lock", "RLock"),
    "rwlock": ("AsyncRWLock", "RWLock"),
    "semaphore": ("AsyncSemaphore", "AsyncSemaphoreHold", "Semaphore", "SemaphoreHold"),
    "together": ("AsyncHolds", "Holds", "acquire_all", "acquire_all_async"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # else every misspelt name would be an Any to the type checker

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module 'interlock' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module("." + home, __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
