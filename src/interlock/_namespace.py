"""`connect`: locks by name at one place, a server or a directory."""

from __future__ import annotations

from urllib.parse import quote

from ._address import Address
from ._target import _HERE, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from ._report import Report
    from .lock import AsyncLock, AsyncRLock, Lock, RLock
    from .rwlock import AsyncRWLock, RWLock
    from .semaphore import AsyncSemaphore, Semaphore

__all__ = ["AsyncNamespace", "Namespace", "connect"]


def connect(url: str, *, ttl: float | None = None) -> Namespace:
    """Locks by name at `url`, a server's (`redis://host/0`) or a directory's (`file:///var/lock/app`); without `#name`.

    `ttl` (seconds): how long a lease lasts without being renewed, where the engine has leases. Nothing is connected
    before the first lock is acquired. Raises `ValueError` for a URL that makes no sense or names a lock, and
    `UnsupportedError` where there is no engine for it.
    """
    return Namespace(url, ttl=ttl)


_open: dict[int, int] = {}
"""How many namespaces use an engine, by its id; the engines of a process are never collected."""


class _BaseNamespace:
    """A place and what is named there. Not a lock by itself."""

    def __init__(self, url: str, *, ttl: float | None = None) -> None:
        """See `connect`."""
        if not isinstance(url, str):
            raise TypeError(f"a namespace is at a URL, not {type(url).__name__}")
        scheme = url.partition("://")[0].lower()
        self._closed = False
        self._engine: Any = None
        self._options: dict[str, Any] = {} if ttl is None else {"ttl": ttl}
        self._name = shown(url.partition("#")[0])
        if "#" in url:
            raise ValueError(f"{self._name!r} names a lock: leave the '#' and what follows to lock(name)")
        if "://" in url and scheme in _HERE:
            self._base = url
        else:
            from ._remote import engine_for

            address = Address.parse(url)
            self._engine = engine_for(address, ttl)
            self._base = address.url()
            self._name = address.public
            _open[id(self._engine)] = _open.get(id(self._engine), 0) + 1

    def _target(self, name: str) -> str:
        if self._closed:
            raise ValueError(f"{self!r} is closed")
        if not isinstance(name, str):
            raise TypeError(f"a lock's name is a str, not {type(name).__name__}")
        if not name:
            raise ValueError("a lock's name is not empty")
        return f"{self._base}#{quote(name, safe='', errors='surrogateescape')}"

    def _lock_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**self._options, **options}

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._engine is not None:
                _open[id(self._engine)] -= 1
                if not _open[id(self._engine)] and hasattr(self._engine, "close"):
                    self._engine.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}{' closed' if self._closed else ''}>"

    def __reduce__(self) -> str:
        raise TypeError("a namespace belongs to one process and cannot be pickled")


class Namespace(_BaseNamespace):
    """Locks by name at one place. A name is any text that is not empty; all its characters mean themselves.

    with connect("redis://localhost/0") as locks, locks.lock("deploy"):
        ...
    """

    def lock(self, name: str, **options: Any) -> Lock:
        """The `Lock` of this name; `options` are its keywords."""
        from .lock import Lock

        return Lock(self._target(name), **self._lock_options(options))

    def rlock(self, name: str, **options: Any) -> RLock:
        """The `RLock` of this name."""
        from .lock import RLock

        return RLock(self._target(name), **self._lock_options(options))

    def rwlock(self, name: str, **options: Any) -> RWLock:
        """The `RWLock` of this name."""
        from .rwlock import RWLock

        return RWLock(self._target(name), **self._lock_options(options))

    def semaphore(self, name: str, permits: int, **options: Any) -> Semaphore:
        """The `Semaphore` of this name."""
        from .semaphore import Semaphore

        return Semaphore(self._target(name), permits, **self._lock_options(options))

    def inspect(self, name: str) -> Report:
        """Who holds and who waits; see `interlock.inspect`."""
        from ._inspect import inspect

        return inspect(self._target(name))

    def close(self) -> None:
        """Let go of the connections, unless another namespace uses them. What is held stays held, and makes new ones to
        be renewed. The namespace gives no more locks then."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


class AsyncNamespace(_BaseNamespace):
    """`Namespace` for tasks of asyncio and trio.

    async with AsyncNamespace("redis://localhost/0") as locks, locks.lock("deploy"):
        ...
    """

    def lock(self, name: str, **options: Any) -> AsyncLock:
        """The `AsyncLock` of this name; `options` are its keywords."""
        from .lock import AsyncLock

        return AsyncLock(self._target(name), **self._lock_options(options))

    def rlock(self, name: str, **options: Any) -> AsyncRLock:
        """The `AsyncRLock` of this name."""
        from .lock import AsyncRLock

        return AsyncRLock(self._target(name), **self._lock_options(options))

    def rwlock(self, name: str, **options: Any) -> AsyncRWLock:
        """The `AsyncRWLock` of this name."""
        from .rwlock import AsyncRWLock

        return AsyncRWLock(self._target(name), **self._lock_options(options))

    def semaphore(self, name: str, permits: int, **options: Any) -> AsyncSemaphore:
        """The `AsyncSemaphore` of this name."""
        from .semaphore import AsyncSemaphore

        return AsyncSemaphore(self._target(name), permits, **self._lock_options(options))

    async def inspect(self, name: str) -> Report:
        """Who holds and who waits; see `interlock.inspect`."""
        from ._inspect import inspect
        from ._io import running

        return await running().work(inspect, self._target(name))

    async def close(self) -> None:
        """See `Namespace.close`."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
