"""`SoftReadWriteLock`: the log of generations behind filelock's names."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from contextlib import contextmanager
from math import isfinite
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .._core.acquire import acquire, run
from .._errors import LockError
from .._io.blocking import io as thread_io
from ..engines.marker.claims import ClaimsError
from ..engines.marker.generations import Log, Tree
from ..engines.marker.members import Participant, Watcher
from . import options, state
from .api import AcquireReturnProxy
from .errors import SoftFileLockProtocolError, Timeout, translated
from .meta import canonical
from .readwrite import Hold, Mode, SharedRules, SingletonMeta, limit
from .soft_lease import CompromiseReason, LeaseCompromise

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, NoReturn, Self
    from weakref import WeakValueDictionary

    from .._model import IO

__all__ = ["SoftReadWriteLock"]

_all: weakref.WeakSet[SoftReadWriteLock] = weakref.WeakSet()


class Home(Protocol):
    """Whom a membership reports to."""

    lock_file: str
    heartbeat_interval: float
    stale_threshold: float

    def _was_lost(self, membership: Membership) -> None: ...


class Membership:
    """A hold on the log, and the thread that keeps its record fresh."""

    def __init__(self, lock: Home, participant: Participant) -> None:
        self.participant = participant
        self.lost: LeaseCompromise | None = None
        self.stop = threading.Event()
        self._lock = weakref.ref(lock)
        self._interval = lock.heartbeat_interval
        self._patience = lock.stale_threshold - lock.heartbeat_interval
        self.thread = threading.Thread(target=self._run, name=f"interlock-heartbeat-{os.getpid()}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        last = monotonic()
        while not self.stop.wait(self._interval):
            if self._lock() is None:  # forgotten by everybody: a hold that nobody can release
                self.participant.leave()
                return
            try:
                outcome, error = self.participant.heartbeat()
            except Exception as failure:  # noqa: BLE001 - told to the holder, who would else believe that it holds
                self._report("refresh-failed", failure)
                return
            if outcome == "ok":
                last = monotonic()
            elif outcome == "lost":
                self._report("evicted", None)
                return
            elif monotonic() - last >= self._patience:  # others may put us out before we come through again
                self._report("refresh-failed", error)
                return

    def _report(self, reason: CompromiseReason, error: Exception | None) -> None:
        lock = self._lock()
        if lock is not None and not self.stop.is_set():
            self.lost = LeaseCompromise(lock.lock_file, self.participant.token, reason, error)
            lock._was_lost(self)

    def end(self) -> None:
        self.stop.set()
        try:
            if self.thread is not threading.current_thread() and not sys.is_finalizing():
                self.thread.join(timeout=min(self._interval + 1.0, threading.TIMEOUT_MAX))
        finally:
            self.participant.leave()


class LogStake:
    """What the acquire loop drives. `aside` runs file operations: inline for threads, elsewhere for tasks."""

    def __init__(self, participant: Participant, poll_interval: float) -> None:
        self.participant = participant
        self._poll_interval = poll_interval
        self._begun = False

    async def aside(self, function: Callable[[], Any]) -> Any:
        return function()

    def _advance(self) -> bool:
        if not self._begun:
            self._begun = True
            self.participant.publish()
        return self.participant.advance()

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        return bool(await self.aside(self._advance))

    async def wait(self, io: IO, until: float) -> None:
        await io.park(io.parker(), min(until, io.now() + self._poll_interval))

    async def withdraw(self, io: IO) -> None:
        if self._begun:
            try:
                await self.aside(self.participant.leave)
            except (OSError, LockError):  # ages out
                pass


class _SoftSingletonMeta(SingletonMeta):
    """Shows the options that the soft kind has besides."""

    def __call__(
        cls,  # noqa: N805
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        heartbeat_interval: float = 30.0,
        stale_threshold: float | None = None,
        poll_interval: float = 0.25,
        on_compromise: Callable[[LeaseCompromise], None] | None = None,
        **others: Any,
    ) -> Any:
        defaults = {"heartbeat_interval": 30.0, "stale_threshold": None, "poll_interval": 0.25, "on_compromise": None}
        asked = (heartbeat_interval, stale_threshold, poll_interval, on_compromise)
        given = {
            name: value
            for (name, default), value in zip(defaults.items(), asked, strict=True)
            if value != default or isinstance(value, bool)
        }
        return super().__call__(
            lock_file, timeout, blocking=blocking, is_singleton=is_singleton, **given, **others
        )


class SoftReadWriteLock(SharedRules, metaclass=_SoftSingletonMeta):
    """Many readers or one writer, between hosts, on any filesystem with atomic hard links.

    The state is a directory `<lock_file>.rw`. A thread refreshes the holder's record each `heartbeat_interval`
    seconds; a member whose record stands still for `stale_threshold` seconds (default: three intervals) is put out by
    contenders, which look each `poll_interval`. `on_compromise` is called, in the refreshing thread, when
    that happened to us. `generation` is a fencing token. Re-entrant in the same mode; a change of mode raises
    `RuntimeError`.
    """

    _instances: WeakValueDictionary[str, SoftReadWriteLock] = weakref.WeakValueDictionary()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._instances = weakref.WeakValueDictionary()

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        heartbeat_interval: float = 30.0,
        stale_threshold: float | None = None,
        poll_interval: float = 0.25,
        on_compromise: Callable[[LeaseCompromise], None] | None = None,
    ) -> None:
        intervals = _intervals(heartbeat_interval, stale_threshold, poll_interval)
        self.heartbeat_interval, self.stale_threshold, self.poll_interval = intervals
        self.lock_file = os.fspath(lock_file)
        self.timeout = timeout
        self.blocking = blocking
        self._on_compromise = on_compromise
        self._log = Log(Tree(canonical(self.lock_file) + ".rw"))
        self._watcher = Watcher()
        self._entry = threading.Lock()
        self._inner = threading.RLock()
        self._membership: Membership | None = None
        self._last_loss: LeaseCompromise | None = None
        self._process = state.process
        _all.add(self)

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """The singleton for `lock_file`; `ValueError` if it exists with another timeout or blocking."""
        lock: Self = cls(lock_file, timeout, blocking=blocking)
        return lock

    def _check_again(self, given: dict[str, Any]) -> None:
        """A singleton keeps its intervals; but a callback that would never be called is refused."""
        callback = given.pop("on_compromise", None)
        _intervals(
            given.pop("heartbeat_interval", 30.0), given.pop("stale_threshold", None), given.pop("poll_interval", 0.25)
        )
        if given:
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(given))}")
        if callback is not None and callback != self._on_compromise:
            raise ValueError(f"Singleton lock created with a different on_compromise callback for {self.lock_file}")

    @property
    def generation(self) -> int | None:
        """The generation of the hold, which rises with every change of the lock anywhere; None: nothing is held."""
        membership = self._membership
        return None if membership is None else membership.participant.generation

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the last hold was lost, or None."""
        return self._last_loss

    def _was_lost(self, membership: Membership) -> None:
        with self._inner:
            if self._membership is not membership:
                return
            self._last_loss = loss = membership.lost
        if self._on_compromise is not None and loss is not None:
            self._on_compromise(loss)

    def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Wait until no writer is in or waits; see `FileLock.acquire` (the one negative timeout is -1)."""
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
        self._refuse_unusable()
        wait = limit(self.timeout if timeout is None else timeout, self.blocking if blocking is None else blocking)
        owner = thread_io.owner()
        if self._joined(mode, owner):
            return AcquireReturnProxy(self)
        began = monotonic()
        if not self._entry.acquire(timeout=min(wait, threading.TIMEOUT_MAX)):
            raise Timeout(self.lock_file)
        try:
            self._refuse_unusable()
            if self._joined(mode, owner):
                return AcquireReturnProxy(self)
            participant = self._participant(mode)
            try:
                granted = run(acquire(thread_io, LogStake(participant, self.poll_interval), began + wait))
                if not granted:
                    raise Timeout(self.lock_file)
                self._hold_by(participant, mode, owner)
            except LockError as error:
                refuse(error, self.lock_file)
        finally:
            self._entry.release()
        return AcquireReturnProxy(self)

    def _participant(self, mode: Mode) -> Participant:
        return Participant(self._log, self._watcher, mode, self.stale_threshold)

    def _hold_by(self, participant: Participant, mode: Mode, owner: object) -> None:
        try:
            with self._inner:
                if self._closed:
                    raise self._closed_error()
                self._last_loss = None
                self._membership = Membership(self, participant)
                self._hold = Hold(mode, owner)
        except BaseException:
            self._membership = None
            participant.leave()
            raise

    def _joined(self, mode: Mode, owner: object) -> bool:
        with self._inner:
            if self._hold is None:
                return False
            loss = self._last_loss
            if loss is not None:
                raise RuntimeError(
                    f"Cannot acquire {mode} lock on {self.lock_file}: the current hold was lost ({loss.reason}), "
                    "release it before acquiring again"
                )
            self._join(self._hold, mode, owner)
            return True

    def _refuse_unusable(self) -> None:
        self._refuse_inherited()
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> RuntimeError:
        return RuntimeError(f"{type(self).__name__} on {self.lock_file} has been closed")

    def release(self, *, force: bool = False) -> None:
        """Give one level back; with `force`, every thread's. `RuntimeError` for what this thread does not hold."""
        if self._process is not state.process:
            return
        owner = thread_io.owner()
        with self._inner:
            hold, membership = self._hold, self._membership
            if force:
                if hold is None:
                    return
            else:
                if hold is not None and membership is not None and threading.current_thread() is membership.thread:
                    owner = next(iter(hold.depths))  # on_compromise may release for the holder
                if not self._check_release(hold, owner).leave(owner):
                    return
            self._hold = self._membership = None
        if membership is not None:
            membership.end()

    def close(self) -> None:
        """Release whatever is held, whoever holds it, and refuse from now on."""
        if self._process is not state.process:
            return
        with self._inner:
            self._closed = True
        self.release(force=True)


def refuse(error: LockError, lock_file: str) -> NoReturn:
    if isinstance(error, ClaimsError):
        raise SoftFileLockProtocolError(lock_file, error.claim, error.reason) from error
    raise translated(error, lock_file) from error


def _intervals(heartbeat: object, threshold: object, poll: object) -> tuple[float, float, float]:
    beat = options.seconds("heartbeat_interval", heartbeat)
    if not isfinite(beat) or beat <= 0:
        raise ValueError(f"heartbeat_interval must be positive and finite, got {beat}")
    stale = beat * 3 if threshold is None else options.seconds("stale_threshold", threshold)
    if not isfinite(stale) or stale <= beat:
        raise ValueError(f"stale_threshold must exceed heartbeat_interval ({beat}) and be finite, got {stale}")
    nap = options.seconds("poll_interval", poll)
    if not isfinite(nap) or nap <= 0:
        raise ValueError(f"poll_interval must be positive and finite, got {nap}")
    if nap >= stale:
        raise ValueError(f"poll_interval must be below stale_threshold ({stale}), got {nap}")
    for name, value in (("heartbeat_interval", beat), ("poll_interval", nap)):
        if value > threading.TIMEOUT_MAX:
            raise ValueError(f"{name} must not exceed threading.TIMEOUT_MAX ({threading.TIMEOUT_MAX}), got {value!r}")
    return beat, stale, nap


def _at_exit() -> None:
    for lock in list(_all):
        try:
            lock.release(force=True)
        except Exception:  # noqa: BLE001, S110 - nobody is there to hear it
            pass


atexit.register(_at_exit)
