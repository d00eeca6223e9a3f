"""`AcquireReturnProxy`: what the `acquire` of all sync locks returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

LockT = TypeVar("LockT")


class AcquireReturnProxy(Generic[LockT]):
    """As a context manager it releases one level, without acquiring another."""

    def __init__(self, lock: LockT) -> None:
        self.lock: LockT = lock

    def __enter__(self) -> LockT:
        return self.lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock: Any = self.lock
        release_after = getattr(lock, "_release_after", None)
        if release_after is None:  # read-write locks have no context_error_policy
            lock.release()
        else:
            release_after(error)
