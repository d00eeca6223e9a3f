"""`acquire_all`: several locks as one, in canonical order, all or nothing.

Theory of operation
-------------------
Two callers that take the same locks in two orders can wait for each other for ever. So the locks are sorted by what
they lock (the canonical key), which is the same order in every process that calls the same places by the same
names, and taken one after the other until one deadline. Whatever ends that before the last (timeout, error,
KeyboardInterrupt, cancellation) gives back what was taken, last first.

An interrupt may strike between a call's return and the store of what it returned. `list.extend(map(...))` has no such
gap: the C loop appends each hold before any bytecode runs again.
"""

from __future__ import annotations

from itertools import pairwise, repeat
from time import monotonic

from ._deadline import seconds
from ._errors import NotHeldError, Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Protocol, Self

    from ._core.arbiter import Line
    from ._hold import AsyncHold, Hold

    class Acquire(Protocol):
        """A verb of a lock that is to be called here: `lock.acquire`, `rwlock.write`."""

        def __call__(self, timeout: float | None = ...) -> Hold: ...

    class Lockable(Protocol):
        """A lock with one way of taking it."""

        def acquire(self, timeout: float | None = ...) -> Hold: ...

    class AsyncAcquire(Protocol):
        def __call__(self, timeout: float | None = ...) -> Awaitable[AsyncHold]: ...

    class AsyncLockable(Protocol):
        def acquire(self, timeout: float | None = ...) -> Awaitable[AsyncHold]: ...


__all__ = ["AsyncHolds", "Holds", "acquire_all", "acquire_all_async"]


def acquire_all(locks: Iterable[Lockable | Acquire], timeout: float | None = None) -> Holds:
    """Acquire all of `locks`, or none: returns the `Holds`, a context manager that releases them all.

    Each item is a lock (`Lock`, `RLock`, ...) or, not yet called, one verb of a lock that has several
    (`rwlock.read`, `rwlock.write`). They are taken in an order of their own, the same in every process, so callers
    of `acquire_all` do not deadlock among each other in whatever order they name the locks. Whoever holds another lock
    meanwhile, or reaches one file by two names, is not protected by that.

    `timeout` in seconds is one deadline for all (`None`: for ever; 0: one attempt at each); the timeouts of
    the locks themselves are not used. Raises `Timeout`, whose `resource` is the lock that was not to be had, and
    everything that the locks' `acquire` raises; `ValueError` where two items are one resource (but the same `RLock`
    may be named twice); `TypeError` for what is not a lock. Whatever is raised, none of the locks is held then.
    """
    limit = seconds(timeout)
    requests = _requests(locks, tasks=False)
    holds = Holds(len(requests))
    began = monotonic()
    try:
        try:
            holds._taken.extend(map(_take, requests, repeat(began + limit)))
            holds._in_order_of(requests)
            return holds
        except BaseException as error:
            holds._undo()
            _account(error, began)
            raise
    except BaseException:
        holds._undo()  # if an interrupt came before the first had begun
        raise


async def acquire_all_async(locks: Iterable[AsyncLockable | AsyncAcquire], timeout: float | None = None) -> AsyncHolds:
    """`acquire_all` for tasks: takes `AsyncLock` and its likes, and is awaited. Cancelled, it leaves nothing held."""
    limit = seconds(timeout)
    requests = _requests(locks, tasks=True)
    holds = AsyncHolds(len(requests))
    began = monotonic()
    try:
        try:
            for request in requests:
                holds._taken.append(await _take(request, began + limit))
            holds._in_order_of(requests)
            return holds
        except BaseException as error:
            holds._undo()
            _account(error, began)
            raise
    except BaseException:
        holds._undo()  # if an interrupt came before the first had begun
        raise


class _Request:
    """One item: what to call, whose verb it is, and where the caller named it."""

    __slots__ = ("line", "lock", "place", "verb")

    def __init__(self, item: Any, place: int) -> None:
        self.verb: Any = getattr(item, "acquire", item)
        self.lock: Any = getattr(self.verb, "__self__", None)
        self.place = place
        line = getattr(self.lock, "_line", None) or getattr(self.lock, "_reading", None)  # of a read-write lock
        if line is None or not callable(self.verb):
            raise TypeError(
                f"acquire_all takes locks and their verbs (lock, rwlock.read, not rwlock.read()), not {item!r}"
            )
        self.line: Line = line


def _requests(locks: Iterable[Any], *, tasks: bool) -> list[_Request]:
    requests = [_Request(item, place) for place, item in enumerate(locks)]
    for request in requests:
        if _is_async(request.lock) != tasks:
            raise TypeError(f"{request.lock!r} is for {'acquire_all' if tasks else 'acquire_all_async'}")
    requests.sort(key=_rank)
    for one, other in pairwise(requests):
        if one.line.key == other.line.key and not (_reentrant(one) and _reentrant(other)):
            raise ValueError(
                f"{one.lock.resource} and {other.lock.resource} are the same resource: it would wait for itself"
            )
    return requests


def _rank(request: _Request) -> str:
    return request.line.key


def _is_async(lock: Any) -> bool:
    """Is it one of the async twins (or derived from one)?"""
    return any(kind.__name__.startswith("Async") for kind in type(lock).__mro__)


def _reentrant(request: _Request) -> bool:
    return bool(getattr(request.lock, "_reentrant", False))


def _take(request: _Request, deadline: float) -> Any:
    return request.verb(timeout=_left(deadline))


def _left(deadline: float) -> float | None:
    """Seconds until the deadline, as users write it. One that has passed still allows an attempt."""
    return None if deadline == float("inf") else max(deadline - monotonic(), 0.0)


def _account(error: BaseException, began: float) -> None:
    if isinstance(error, Timeout):
        error.waited = monotonic() - began


class _BaseHolds:
    """The holds of several locks, in the order in which the caller named these."""

    __slots__ = ("_in_order", "_taken")

    def __init__(self, count: int) -> None:
        self._taken: list[Any] = []
        self._in_order: list[Any] = [None] * count

    def _in_order_of(self, requests: list[_Request]) -> None:
        for request, hold in zip(requests, self._taken, strict=True):
            self._in_order[request.place] = hold

    def _undo(self) -> None:
        """Give back, the last one first, what is held. Interrupted, it begins again: nobody else will do it."""
        interrupt: BaseException | None = None
        while True:
            try:
                for hold in reversed(self._taken):
                    hold._let_go()  # does nothing the second time, whatever the first raised
            except BaseException as error:  # noqa: BLE001 - raised below
                interrupt = error
            else:
                break
        if interrupt is not None:
            raise interrupt

    @property
    def held(self) -> bool:
        """Are all of them unreleased, and of this process?"""
        return all(hold.held for hold in self._taken)

    @property
    def lost(self) -> bool:
        """Has the world taken one of the locks away? See `Hold.lost`."""
        return any(hold.lost for hold in self._taken)

    def assert_held(self) -> None:
        """Raise `NotHeldError` or `LostError` for the first that is not held any more; see `Hold.assert_held`."""
        for hold in self._taken:
            hold.assert_held()

    def __len__(self) -> int:
        return len(self._in_order)

    def __getitem__(self, index: int) -> Any:
        return self._in_order[index]

    def _let_all_go(self) -> None:
        held = any(hold.held for hold in self._taken)
        self._undo()
        if not held and self._taken:
            raise NotHeldError(f"{', '.join(hold.resource for hold in self._in_order)} are not held: released before")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._in_order!r}>"

    def __reduce__(self) -> str:
        raise TypeError("a hold belongs to one process and cannot be pickled")


class Holds(_BaseHolds):
    """What `acquire_all` returns. Iterates over the holds in the order in which the locks were named; as a context
    manager and by `release` it lets go of all that are still held, in the reverse order of taking them."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._in_order)

    def release(self) -> None:
        """Let go of all. Raises `NotHeldError` when none of them was held any more."""
        self._let_all_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo()


class AsyncHolds(_BaseHolds):
    """What `acquire_all_async` returns: `Holds` for tasks, `release` is awaited."""

    __slots__ = ()

    def __iter__(self) -> Iterator[AsyncHold]:
        return iter(self._in_order)

    async def release(self) -> None:
        """Let go of all. Raises `NotHeldError` when none of them was held any more."""
        if not await self._leave() and self._taken:
            self._let_all_go()  # raises

    async def _leave(self, why: type[BaseException] | None = None) -> bool:
        """Was any of them held?"""
        left = False
        try:
            for hold in reversed(self._taken):
                left = await hold._leave(why) or left
        finally:
            self._undo()
        return left

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(kind)
