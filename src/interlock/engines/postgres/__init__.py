"""Locks on PostgreSQL: advisory locks, kept by the server as long as the session that took them lives.

`engine` has how it works, `modes` and `permits` the same of read-write locks and semaphores, `pool` which connections
there are, `session` how long a hold may be believed, `own` locks on a connection of the caller's.
"""

from __future__ import annotations

import sys

from ..._errors import UnsupportedError
from .settings import OPTIONS, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._address import Address
    from .engine import LockEngine
    from .own import on, on_async

__all__ = ["OPTIONS", "on", "on_async", "open_engine"]


def __getattr__(name: str) -> object:
    """`on` and `on_async` need psycopg, which is loaded when they are."""
    if name in ("on", "on_async"):
        from . import own

        return getattr(own, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_engine(address: Address, ttl: float | None) -> LockEngine:
    """The engine of a URL. Makes no request. Raises `ValueError` for what makes no sense there, and `UnsupportedError`
    where psycopg is missing."""
    settings = read(address, ttl)
    if sys.platform == "win32":
        raise UnsupportedError(f"{address.public}: locks on PostgreSQL need poll(2), which Windows does not have")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        needs = "needs the package psycopg: pip install 'interlock[postgres]'"
        raise UnsupportedError(f"{address.public} {needs}") from None
    from .engine import LockEngine
    from .pool import Pool

    return LockEngine(Pool(settings))
