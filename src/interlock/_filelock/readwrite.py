"""`ReadWriteLock`: many readers or one writer, on the byte ranges that filelock's SQLite transactions lock."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from .._core import fork
from .._core.acquire import acquire, run
from .._core.arbiter import line_for
from .._errors import LockError
from .._io.blocking import io as thread_io
from ..engines import sqlite_ranges
from ..engines.sqlite_ranges import NotADatabase, RangeClaim, WalDatabase
from . import options, state
from .api import AcquireReturnProxy
from .errors import Timeout, translated
from .meta import canonical

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, NoReturn, Self

__all__ = ["ReadWriteLock"]

Mode = Literal["read", "write"]

_guard = threading.RLock()


def _fresh_guard() -> None:
    global _guard
    _guard = threading.RLock()


fork.in_child(_fresh_guard)


class SingletonMeta(type):
    """One object per path and class, unless `is_singleton=False`."""

    _instances: WeakValueDictionary[str, Any]

    def __call__(
        cls,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        **others: Any,
    ) -> Any:
        options.check_blocking(blocking)
        timeout = options.seconds("timeout", timeout)
        # What is left out is not passed on: a subclass need not know it.
        given = {name: value for name, value in others.items() if name != "on_compromise" or value is not None}
        made = {"blocking": blocking, "is_singleton": is_singleton, **given}
        if not is_singleton:
            return super().__call__(lock_file, timeout, **made)
        key = canonical(os.fspath(lock_file))
        with _guard:
            found = cls._instances.get(key)
            if found is None or found._process is not state.process:
                found = cls._instances[key] = super().__call__(lock_file, timeout, **made)
                return found
        if not _same_wait(found.timeout, timeout) or found.blocking != blocking:
            raise ValueError(
                f"Singleton lock created with timeout={found.timeout}, blocking={found.blocking}, "
                f"cannot be changed to timeout={timeout}, blocking={blocking}"
            )
        found._check_again(others)
        return found


def _same_wait(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)


def limit(timeout: object, blocking: object) -> float:
    """How long to wait. Read-write locks know one negative number, -1: for ever."""
    options.check_blocking(blocking)
    number = options.seconds("timeout", timeout)
    if not blocking:
        return 0.0
    if number != number or (number < 0 and number != -1):
        raise ValueError("timeout must be a non-negative number or -1")
    return options.FOREVER if number == -1 else number


class Hold:
    """What an object holds: the mode, and how often each thread (or task) has acquired it."""

    def __init__(self, mode: Mode, owner: object) -> None:
        self.mode: Mode = mode
        self.depths: dict[object, int] = {owner: 1}

    @property
    def level(self) -> int:
        return sum(self.depths.values())

    def enter(self, owner: object) -> None:
        self.depths[owner] = self.depths.get(owner, 0) + 1

    def leave(self, owner: object) -> bool:
        """One level less. True: it was the last."""
        self.depths[owner] -= 1
        if not self.depths[owner]:
            del self.depths[owner]
        return not self.depths


class Grant:
    """Owns a claim, and lets go of it when the lock that owns this is collected. Not the lock's own `__del__`: that
    would run while the table of singletons still hands the lock out."""

    claim: RangeClaim | None = None

    def drop(self) -> None:
        claim = self.claim
        if claim is not None:
            sqlite_ranges.engine().drop(claim)
            self.claim = None

    def __del__(self) -> None:
        try:
            self.drop()
        except Exception:  # noqa: BLE001, S110
            pass


class SharedRules(state.NotPickled):
    """What both kinds of read-write lock share: who may join a hold, who may end it, and what they say if not."""

    lock_file: str
    _hold: Hold | None = None
    _process: object = None
    _closed = False

    def _join(self, hold: Hold, mode: Mode, owner: object) -> None:
        """One more level on what this object holds, or the reason why not."""
        what = f"Cannot acquire {mode} lock on {self.lock_file} (lock id: {id(self)})"
        if hold.mode != mode:
            if owner in hold.depths:
                way = "downgrade" if mode == "read" else "upgrade"
                raise RuntimeError(f"{what}: already holding a {hold.mode} lock ({way} not allowed)")
            raise RuntimeError(
                f"{what}: another thread holds a {hold.mode} lock on this instance; threads that are to wait for "
                "each other need instances of their own (is_singleton=False)"
            )
        if mode == "write" and owner not in hold.depths:
            raise RuntimeError(f"{what} from thread {threading.get_ident()} while it is held by another thread")
        hold.enter(owner)

    def _check_release(self, hold: Hold | None, owner: object) -> Hold:
        if hold is None:
            raise RuntimeError(f"Cannot release a lock on {self.lock_file} (lock id: {id(self)}) that is not held")
        if owner not in hold.depths:
            why = "while it is held by another thread" if hold.mode == "write" else "which does not hold it"
            raise RuntimeError(
                f"Cannot release {hold.mode} lock on {self.lock_file} (lock id: {id(self)}) "
                f"from thread {threading.get_ident()}, {why}"
            )
        return hold

    def _refuse_inherited(self) -> None:
        if self._process is not state.process:
            raise RuntimeError(
                f"{type(self).__name__} on {self.lock_file} was invalidated by fork(); construct a new instance"
            )


class ReadWriteLock(SharedRules, metaclass=SingletonMeta):
    """Many readers or one writer, between processes; excludes filelock's `ReadWriteLock` on the same file.

    Re-entrant in the same mode; a change of mode raises `RuntimeError`. An instance stands for its process: threads
    that are to exclude each other need one each (`is_singleton=False`). The file stays empty; it must not be used
    for anything else.
    """

    _instances: WeakValueDictionary[str, ReadWriteLock] = WeakValueDictionary()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._instances = WeakValueDictionary()

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
    ) -> None:
        self.lock_file = os.fspath(lock_file)
        self.timeout = timeout
        self.blocking = blocking
        self._line = line_for(sqlite_ranges.engine(), canonical(self.lock_file), self.lock_file)
        self._entry = threading.Lock()  # one thread at a time meets the kernel
        self._inner = threading.Lock()  # guards _hold
        self._grant = Grant()
        self._process = state.process
        make(self._line.key, self.lock_file)

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """The singleton for `lock_file`; `ValueError` if it exists with another timeout or blocking."""
        lock: Self = cls(lock_file, timeout, blocking=blocking)
        return lock

    def _check_again(self, given: dict[str, Any]) -> None:
        if given:
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(given))}")

    def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Wait until no writer is in; see `FileLock.acquire` for the arguments (the one negative timeout is -1)."""
        return self._acquire("read", timeout, blocking)

    def acquire_write(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Wait until nobody else is in. While a writer waits, new readers wait behind it."""
        return self._acquire("write", timeout, blocking)

    @contextmanager
    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Generator[None]:
        """`acquire_read` and `release` as a context."""
        self._acquire("read", timeout, blocking)
        try:
            yield
        finally:
            self.release()

    @contextmanager
    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Generator[None]:
        """`acquire_write` and `release` as a context."""
        self._acquire("write", timeout, blocking)
        try:
            yield
        finally:
            self.release()

    def _acquire(self, mode: Mode, timeout: float | None, blocking: bool | None) -> AcquireReturnProxy[Self]:
        wait = limit(self.timeout if timeout is None else timeout, self.blocking if blocking is None else blocking)
        self._refuse_unusable()
        owner = thread_io.owner()
        if self._joined(mode, owner):
            return AcquireReturnProxy(self)
        began = monotonic()
        if not self._entry.acquire(timeout=min(wait, threading.TIMEOUT_MAX)):
            raise Timeout(self.lock_file)
        claim = None
        try:
            self._refuse_unusable()
            if self._joined(mode, owner):  # another thread was faster
                return AcquireReturnProxy(self)
            claim = self._grant.claim = RangeClaim(self._line, owner, mode == "write")
            self._wait_for(claim, began + wait)
            with self._inner:
                self._hold = Hold(mode, owner)
        except BaseException:
            if claim is not None:
                self._hold = None
                self._grant.drop()
            raise
        finally:
            self._entry.release()
        return AcquireReturnProxy(self)

    def _joined(self, mode: Mode, owner: object) -> bool:
        with self._inner:
            if self._hold is None:
                return False
            self._join(self._hold, mode, owner)
            return True

    def _wait_for(self, claim: RangeClaim, deadline: float) -> None:
        try:
            granted = sqlite_ranges.engine().attempt(claim) or run(acquire(thread_io, claim, deadline))
        except LockError as error:
            refuse(error, self.lock_file)
        if not granted:
            raise Timeout(self.lock_file)

    def _refuse_unusable(self) -> None:
        self._refuse_inherited()
        if self._closed:
            refuse_closed()

    def release(self, *, force: bool = False) -> None:
        """Give one level back; with `force`, every thread's. `RuntimeError` for what this thread does not hold."""
        if self._process is not state.process:
            return
        owner = thread_io.owner()
        with self._inner:
            hold = self._hold
            if force:
                if hold is None:
                    return
            elif not self._check_release(hold, owner).leave(owner):
                return
            try:
                self._grant.drop()
            finally:
                self._hold = None

    def close(self) -> None:
        """Release whatever is held, whoever holds it, and refuse from now on."""
        if self._process is not state.process:
            return
        with self._entry:
            self.release(force=True)
            self._closed = True


def make(path: str, given: str) -> None:
    """Create the file where there is none, and refuse one that cannot be locked, when the lock is made."""
    probe = RangeClaim(line_for(sqlite_ranges.engine(), path, given), None, False)
    try:
        sqlite_ranges.engine().look(probe)
    except LockError as error:
        refuse(error, given)


def refuse(error: LockError, lock_file: str) -> NoReturn:
    """In filelock's words, which are partly sqlite3's."""
    if isinstance(error, WalDatabase):
        raise ValueError(str(error)) from error
    if isinstance(error, NotADatabase):
        raise _sqlite_error("DatabaseError", str(error)) from error
    raise translated(error, lock_file) from error


def refuse_closed() -> NoReturn:
    raise _sqlite_error("ProgrammingError", "Cannot operate on a closed database.")


def _sqlite_error(name: str, text: str) -> Exception:
    try:
        import sqlite3
    except ImportError:
        return RuntimeError(text)
    error: Exception = getattr(sqlite3, name)(text)
    return error
