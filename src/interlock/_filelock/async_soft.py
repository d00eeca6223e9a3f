"""The soft locks for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engines import marker
from .async_ import BaseAsyncFileLock
from .soft import SoftFileLock
from .soft_lease import SoftFileLease
from .soft_strict import StrictSoftFileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._model import IO

__all__ = ["AsyncSoftFileLease", "AsyncSoftFileLock", "AsyncStrictSoftFileLock"]


class AsyncSoftFileLock(SoftFileLock, BaseAsyncFileLock):
    """`SoftFileLock` for tasks: waits for events, not in a thread."""

    _lifetime_replacements = ("AsyncStrictSoftFileLock", "AsyncSoftFileLease")

    async def _aside(self, io: IO, function: Callable[[], Any]) -> Any:
        """The few system calls on a marker are shorter than the way to another thread, where no network is involved."""
        if self._executor is None and marker.engine().trusts(self._lock_path):
            return function()
        return await super()._aside(io, function)


class AsyncStrictSoftFileLock(StrictSoftFileLock, BaseAsyncFileLock):
    """`StrictSoftFileLock` for tasks; its file operations run in the executor."""


class AsyncSoftFileLease(SoftFileLease, BaseAsyncFileLock):
    """`SoftFileLease` for tasks; its file operations run in the executor."""
