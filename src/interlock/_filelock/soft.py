"""`SoftFileLock` and `MarkerSoftFileLock`: the marker engine behind filelock's names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._core.arbiter import line_for
from .._errors import LockError, named
from .._io.blocking import io as thread_io
from ..engines import marker
from ..engines.marker import MarkerClaim, Terms, identity, records
from ..engines.marker.records import OwnerMode, OwnerRecord
from . import options, state
from .api import BaseFileLock, HookStake
from .errors import translated
from .meta import lock_path

if TYPE_CHECKING:
    from .._core.acquire import Stake
    from .._core.arbiter import Line
    from .._model import IO, Claim
    from .state import FileLockContext

__all__ = ["MarkerSoftFileLock", "OwnerMode", "OwnerRecord", "SoftFileLock"]


class SoftFileLock(BaseFileLock):
    """A lock that is held while a file exists, for filesystems whose own locks do not exclude.

    The file says who holds it. A contender removes it only when it has proof that the holder, a process of the
    same host, is dead; what a crash on another host leaves behind stays until `break_lock`. With a `lifetime`, age
    counts as proof, and then two may hold at once.
    """

    _lifetime_supported = True
    _lifetime_replacements: tuple[str, str] | None = ("StrictSoftFileLock", "SoftFileLease")
    _preserve_lock_file_supported = False
    _on_acquired_supported = False

    _line: Line | None = None
    _cached: tuple[object, Terms] = (None, Terms(b""))

    def _settle(self) -> None:
        kind = type(self)
        own = kind._acquire is SoftFileLock._acquire and kind._release is SoftFileLock._release
        self._lean = own and self._settings.thread_local and self._settings.close_error_policy != "raise"

    # ---- what is written, and on which terms others' markers are broken

    def _record(self, me: identity.Identity) -> bytes:
        return records.plain(me)

    def _terms(self, context: FileLockContext) -> Terms:
        me = identity.me()
        key = (me, context.mode, context.lifetime)
        known, terms = self._cached
        if known != key:
            explicit = context.mode != options.UNSET_MODE
            terms = Terms(self._record(me), context.mode if explicit else 0o666, explicit, context.lifetime)
            self._cached = (key, terms)
        return terms

    def _claim(self, context: FileLockContext, path: str) -> MarkerClaim:
        line = line_for(marker.engine(), path, context.lock_file)
        return MarkerClaim(line, thread_io.owner(), self._terms(context))

    # ---- the uncontended path

    def _begin(self, context: FileLockContext) -> Claim | None:
        line = self._line
        if line is None:
            path = lock_path(context.lock_file)
            line = line_for(marker.engine(), path, context.lock_file)
            if path == context.lock_file:  # no chdir and no link can make it another one
                self._line = line
        return MarkerClaim(line, thread_io.owner(), self._terms(context))

    def _grab(self, context: FileLockContext, claim: Claim) -> bool:
        assert isinstance(claim, MarkerClaim)
        try:
            if not marker.engine().attempt(claim):
                return False
        except LockError as error:
            raise translated(error, context.lock_file) from error
        context.path = path = claim.line.key
        context.claim = claim
        context.lock_file_fd = claim.fd
        context.lock_counter = 1
        state.hold_by_hook(self, context, claim.owner, path)
        return True

    def _undo(self, context: FileLockContext, claim: Claim | None) -> None:
        if claim is None:
            return
        assert isinstance(claim, MarkerClaim)
        marker.engine().drop(claim)
        if context.claim is claim:
            self._clear(context)

    # ---- the other one

    def _stake(self, io: IO, context: FileLockContext, poll_interval: float, claim: Claim | None) -> Stake:
        context.claim = claim
        return SoftStake(self, context, poll_interval)

    def _acquire(self) -> None:
        context = self._context
        claim = context.claim
        if claim is None:
            claim = context.claim = self._claim(context, self._lock_path)
        assert isinstance(claim, MarkerClaim)
        if marker.engine().attempt(claim):
            context.lock_file_fd = claim.fd

    async def _nap(self, io: IO, until: float, poll_interval: float) -> None:
        claim = self._context.claim
        if not isinstance(claim, MarkerClaim):  # a subclass attempts in a way of its own
            await super()._nap(io, until, poll_interval)
            return
        if claim.looks and claim.instance is None:
            until = min(until, io.now() + poll_interval)
        try:
            await marker.engine().wait(io, claim, until)
        except OSError as error:
            named(error, self._lock_path)
            raise

    def _stop_waiting(self, context: FileLockContext) -> None:
        claim = context.claim
        if isinstance(claim, MarkerClaim):
            marker.engine().stop_waiting(claim)
            if context.lock_file_fd is None:
                context.claim = None
                marker.engine().drop(claim)

    def _commit(self, context: FileLockContext, owner: object, path: str) -> None:
        super()._commit(context, owner, path)
        state.hold_by_hook(self, context, owner, path)

    def _release(self) -> None:
        context = self._context
        claim = context.claim
        error = None
        try:
            if isinstance(claim, MarkerClaim):
                error = marker.engine().let_go(claim)
            elif context.lock_file_fd is not None:
                os.close(context.lock_file_fd)
        finally:
            if not isinstance(claim, MarkerClaim) or claim.fd is None:
                context.lock_file_fd = None
                context.claim = None
        if error is not None and self._settings.close_error_policy != "suppress":
            named(error, self._lock_path)
            raise error

    # ---- what the marker says

    def _content(self) -> bytes | None:
        return marker.engine().read(self._lock_path)

    def _owner(self) -> OwnerRecord | None:
        return records.parse(self._content() or b"")[1]

    def _unprobeable_holder(self) -> str | None:
        content = self._content()
        if content is None:
            return None
        what, owner = records.parse(content)
        if what == "empty":
            return "an owner that recorded no PID (filelock before 3.22, or one that has yet to write its record)"
        if owner is not None and owner.hostname != identity.host():
            return f"pid {owner.pid} on {owner.hostname}"
        return None

    @property
    def pid(self) -> int | None:
        """The process that the marker names; None without a marker, or where it names nobody."""
        owner = self._owner()
        return None if owner is None else owner.pid

    @property
    def is_lock_held_by_us(self) -> bool:
        """Does the marker name this process?"""
        owner = self._owner()
        return owner is not None and identity.is_me(owner.pid, owner.hostname, owner.start)

    def break_lock(self) -> None:
        """Remove the marker, whoever holds it: another may enter while the holder still works."""
        try:
            os.unlink(self._lock_path)
        except OSError:
            pass


class SoftStake(HookStake):
    """A marker's stake: tried by the hooks, awoken by the engine."""

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        if not await super().try_acquire(io, deadline):
            return False
        self._soft._stop_waiting(self._context)
        return True

    async def withdraw(self, io: IO) -> None:
        try:
            await super().withdraw(io)
        finally:
            self._soft._stop_waiting(self._context)

    @property
    def _soft(self) -> SoftFileLock:
        assert isinstance(self._lock, SoftFileLock)
        return self._lock


class MarkerSoftFileLock(SoftFileLock):
    """`SoftFileLock` whose marker tells more about its owner. All contenders of a path must know this form:
    a `SoftFileLock` of filelock takes it for a damaged marker."""

    _owner_mode: OwnerMode = "exclusive"

    def _record(self, me: identity.Identity) -> bytes:
        return records.encode(OwnerRecord(me[0], me[1], self._owner_mode, start=me[2]))

    def _owner(self) -> OwnerRecord | None:
        return records.parse_record(self._content() or b"")

    @property
    def owner(self) -> OwnerRecord | None:
        """Whom the marker names; None without a marker in this form."""
        return self._owner()

    def force_break(self) -> None:
        """Remove the marker, whoever holds it: for an operator who knows that the holder is gone."""
        self.break_lock()
