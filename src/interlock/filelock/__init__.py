"""filelock's API on interlock: `from interlock.filelock import FileLock`, or `install()` and change no import at all.

The names, defaults and behaviour are those of filelock 4.2.11; where something differs, docs/filelock-differences.md
says so and why. Locks exclude processes that run filelock itself.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .._filelock import HOME
from .._filelock.alias import install as install
from .._filelock.api import AcquireReturnProxy, BaseFileLock
from .._filelock.errors import (
    Cancelled as Cancelled,
)
from .._filelock.errors import (
    LeaseSettingsMismatch,
    SoftFileLockLifetimeWarning,
    SoftFileLockProtocolError,
    Timeout,
)
from .._filelock.native import UnixFileLock, WindowsFileLock, has_fcntl, lock_descriptor, unlock_descriptor
from .._filelock.options import CloseErrorPolicy, ContextErrorPolicy, LockOptions

# After the submodule's import, so that the name is the string, as it is in filelock.
from .version import version

if TYPE_CHECKING:
    from typing import Any

    from .._filelock.async_ import (
        AsyncAcquireReturnProxy,
        AsyncUnixFileLock,
        AsyncWindowsFileLock,
        BaseAsyncFileLock,
    )
    from .._filelock.async_readwrite import (
        AsyncAcquireReadWriteReturnProxy,
        AsyncAcquireSoftReadWriteReturnProxy,
        AsyncReadWriteLock,
        AsyncSoftReadWriteLock,
    )
    from .._filelock.async_soft import AsyncSoftFileLease, AsyncSoftFileLock, AsyncStrictSoftFileLock
    from .._filelock.readwrite import ReadWriteLock
    from .._filelock.soft import MarkerSoftFileLock, OwnerMode, OwnerRecord, SoftFileLock
    from .._filelock.soft_lease import CompromiseReason, LeaseCompromise, SoftFileLease
    from .._filelock.soft_readwrite import SoftReadWriteLock
    from .._filelock.soft_strict import StrictSoftFileClaim, StrictSoftFileClaimState, StrictSoftFileLock
    from . import asyncio

    AsyncFileLock = AsyncWindowsFileLock if sys.platform == "win32" else AsyncUnixFileLock

__version__ = version

__all__ = [  # most of them lazy
    "AcquireReturnProxy",
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy",
    "AsyncFileLock",
    "AsyncReadWriteLock",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncSoftReadWriteLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
    "BaseFileLock",
    "CloseErrorPolicy",
    "CompromiseReason",
    "ContextErrorPolicy",
    "FileLock",
    "LeaseCompromise",
    "LeaseSettingsMismatch",
    "LockOptions",
    "MarkerSoftFileLock",
    "OwnerMode",
    "OwnerRecord",
    "ReadWriteLock",
    "SoftFileLease",
    "SoftFileLock",
    "SoftFileLockLifetimeWarning",
    "SoftFileLockProtocolError",
    "SoftReadWriteLock",
    "StrictSoftFileClaim",
    "StrictSoftFileClaimState",
    "StrictSoftFileLock",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "asyncio",
    "has_fcntl",
    "lock_descriptor",
    "unlock_descriptor",
]

if sys.platform == "win32":
    FileLock = WindowsFileLock
else:
    FileLock = UnixFileLock


def __getattr__(name: str) -> Any:
    home = HOME.get(name)
    if name == "asyncio":
        value: Any = import_module(".asyncio", __name__)
    elif name == "AsyncFileLock":
        value = getattr(import_module(".._filelock.async_", __name__), "Async" + FileLock.__name__)
    elif home is not None:
        try:
            value = getattr(import_module(".._filelock." + home, __name__), name)
        except ModuleNotFoundError as error:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
