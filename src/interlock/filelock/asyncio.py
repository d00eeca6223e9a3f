"""`filelock.asyncio`: the async kinds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._filelock import HOME
from .._filelock.async_ import (
    AsyncAcquireReturnProxy,
    AsyncUnixFileLock,
    AsyncWindowsFileLock,
    BaseAsyncFileLock,
)

if TYPE_CHECKING:
    from typing import Any

__all__ = [  # noqa: F822 - some are lazy
    "AsyncAcquireReturnProxy",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"interlock._filelock.{HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
