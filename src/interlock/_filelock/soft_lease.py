"""`SoftFileLease`: a marker that others may take over once it is no longer refreshed."""

from __future__ import annotations

import os
import secrets
import sys
import weakref
from dataclasses import dataclass
from math import isfinite
from threading import TIMEOUT_MAX, Event, Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Literal

from ..engines import marker
from ..engines.marker import LeaseMismatch, MarkerClaim, Terms, identity, records
from ..engines.marker.records import OwnerMode, OwnerRecord
from . import options
from .errors import LeaseSettingsMismatch
from .soft import MarkerSoftFileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .state import FileLockContext

__all__ = ["CompromiseReason", "LeaseCompromise", "SoftFileLease"]

CompromiseReason = Literal["marker-missing", "owner-changed", "refresh-failed", "evicted"]


@dataclass(frozen=True)
class LeaseCompromise:
    """How a hold was lost that nobody released. `error`: what the last refresh failed with, if it did."""

    lock_file: str
    token: str
    reason: CompromiseReason
    error: Exception | None = None


class _Lease:
    """The lease that a context holds, or held last."""

    token: str | None = None
    compromise: LeaseCompromise | None = None
    heart: _Heart | None = None


class SoftFileLease(MarkerSoftFileLock):
    """A marker with a term: whoever has watched it stand still for `lease_duration` seconds may take it over.

    A thread refreshes it each `heartbeat_interval` seconds. A holder that was stopped for longer goes on without
    noticing, so this says who *should* work, it does not keep a second one out: let the protected resource check a
    fencing number where that matters. All contenders must agree on `lease_duration`. `on_compromise` is called, in the
    refreshing thread, when the lease was lost.
    """

    _owner_mode: OwnerMode = "lease"
    _lifetime_supported = False
    _lifetime_unsupported_reason = "lease_duration sets when a lease expires"

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        *,
        lease_duration: float = 30.0,
        heartbeat_interval: float | None = None,
        on_compromise: Callable[[LeaseCompromise], None] | None = None,
        **options_of_locks: Any,
    ) -> None:
        duration = options.seconds("lease_duration", lease_duration)
        if not isfinite(duration) or duration <= 0:
            raise ValueError(f"lease_duration must be positive and finite, got {lease_duration!r}")
        interval = _interval(heartbeat_interval, duration)
        if not 0 < interval < duration:
            raise ValueError(f"heartbeat_interval must be positive and below lease_duration, got {interval!r}")
        if interval > TIMEOUT_MAX:
            raise ValueError(
                f"heartbeat_interval must not exceed threading.TIMEOUT_MAX ({TIMEOUT_MAX}), got {interval!r}"
            )
        super().__init__(lock_file, **options_of_locks)
        self._lease_duration = duration
        self._heartbeat_interval = interval
        self._on_compromise = on_compromise
        self._leases: weakref.WeakKeyDictionary[FileLockContext, _Lease] = weakref.WeakKeyDictionary()

    @property
    def lease_duration(self) -> float:
        """For how many seconds a contender must see no refresh before it may take over."""
        return self._lease_duration

    @property
    def token(self) -> str | None:
        """The name of the lease while it is held."""
        return self._lease.token

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the last lease was lost; None while it stands, or stood until its release."""
        return self._lease.compromise

    @property
    def _lease(self) -> _Lease:
        return self._leases.setdefault(self._context, _Lease())

    def _extra_differences(self, given: dict[str, Any]) -> list[tuple[str, object, object]]:
        found = super()._extra_differences(given)
        duration = options.seconds("lease_duration", given.get("lease_duration", 30.0))
        if duration != self._lease_duration:
            found.append(("lease_duration", duration, self._lease_duration))
        passed = given.get("heartbeat_interval")
        if _interval(passed, self._lease_duration) != self._heartbeat_interval:
            found.append(("heartbeat_interval", passed, self._heartbeat_interval))
        if given.get("on_compromise") is not self._on_compromise:
            found.append(("on_compromise", given.get("on_compromise"), self._on_compromise))
        return found

    def _terms(self, context: FileLockContext) -> Terms:
        pid, host, start = identity.me()
        token = secrets.token_hex(16)
        record = OwnerRecord(pid, host, "lease", token, self._lease_duration, start)
        explicit = context.mode != options.UNSET_MODE
        terms = Terms(
            records.encode(record), context.mode if explicit else 0o666, explicit, duration=self._lease_duration
        )
        return terms

    def _acquire(self) -> None:
        lease = self._lease
        _stop(lease, self._heartbeat_interval)
        lease.compromise = None
        try:
            super()._acquire()
        except LeaseMismatch as error:
            raise LeaseSettingsMismatch(str(error)) from None
        claim = self._context.claim
        if self._context.lock_file_fd is None or not isinstance(claim, MarkerClaim):
            return
        published = records.parse_record(claim.terms.record)
        assert published is not None
        lease.token = published.token
        lease.heart = heart = _Heart(self, lease, claim)
        heart.thread.start()

    def _release(self) -> None:
        lease = self._lease
        _stop(lease, self._heartbeat_interval)
        lease.token = None
        super()._release()

    def _lost(self, lease: _Lease, token: str, reason: CompromiseReason, error: Exception | None) -> None:
        lease.compromise = LeaseCompromise(self.lock_file, token, reason, error)
        if self._on_compromise is not None:
            self._on_compromise(lease.compromise)


def _interval(given: object, duration: float) -> float:
    return duration / 3 if given is None else options.seconds("heartbeat_interval", given)


def _stop(lease: _Lease, patience: float) -> None:
    heart, lease.heart = lease.heart, None
    if heart is None or heart.thread is current_thread():
        return
    heart.stop.set()
    if heart.thread.ident is not None and not sys.is_finalizing():
        heart.thread.join(timeout=patience)


class _Heart:
    """The thread that refreshes one lease. Keeps no reference to the lock, so that a forgotten one is released."""

    def __init__(self, lock: SoftFileLease, lease: _Lease, claim: MarkerClaim) -> None:
        assert lease.token is not None
        self.stop = Event()
        self._lease = lease
        self._token = lease.token
        self._claim = claim
        self._interval = lock._heartbeat_interval
        self._duration = lock._lease_duration
        self._lock = weakref.ref(lock)
        self.thread = Thread(target=self._run, name=f"interlock-lease-{os.getpid()}", daemon=True)

    def _run(self) -> None:
        last, doubts = monotonic(), 0
        while not self.stop.wait(self._interval) and self._lease.token == self._token and self._lock() is not None:
            reason, error = self._refresh()
            if reason is None:
                last, doubts = monotonic(), 0
                continue
            if reason == "refresh-failed":
                # Not lost before somebody else could take it: errors of network filesystems pass.
                if monotonic() - last < self._duration - self._interval:
                    continue
            elif not doubts:  # a breaker has every marker off its path for an instant
                doubts = 1
                continue
            lock = self._lock()
            if lock is not None and not self.stop.is_set():
                lock._lost(self._lease, self._token, reason, error)
            return

    def _refresh(self) -> tuple[CompromiseReason | None, Exception | None]:
        claim, ops = self._claim, marker.engine().ops
        fd = claim.fd
        if fd is None:
            return None, None
        try:
            mine = ops.fstat(fd)
            try:
                there = ops.lstat(claim.line.key)
            except FileNotFoundError as error:
                if not mine.st_nlink:
                    return "marker-missing", error
            else:
                if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                    return "owner-changed", None
            os.utime(fd if os.utime in os.supports_fd else claim.line.key)
        except OSError as error:
            return "refresh-failed", error
        return None, None
