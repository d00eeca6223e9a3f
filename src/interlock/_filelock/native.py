"""`FileLock`: the kernel engine behind filelock's names, and locks on descriptors that the caller owns."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import warnings
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

from .._core.acquire import acquire, run
from .._core.arbiter import Place, give_back, line_for, turns, wake_first
from .._errors import LockError, UnsupportedError
from .._identity import me
from .._io.blocking import io as blocking_io
from .._target import is_plain
from .._wait.mounts import is_local
from ..engines import kernel
from . import options
from .api import BaseFileLock
from .errors import translated
from .meta import lock_path
from .stakes import DEBUG, LOGGER

if TYPE_CHECKING:
    from typing import Any

    from .._core.acquire import Stake
    from .._core.arbiter import Line
    from .._model import IO, Claim
    from .state import FileLockContext

__all__ = ["UnixFileLock", "WindowsFileLock", "has_fcntl", "lock_descriptor", "unlock_descriptor"]

if sys.platform == "win32":
    from ..engines.kernel.windows import EXCLUSIVE, UNLOCK

    has_fcntl = False

    def engine() -> kernel.KernelEngine:
        return kernel.engine()
else:
    import fcntl

    from ..engines.kernel.ops import EXCLUSIVE, UNLOCK, Ops

    has_fcntl = hasattr(fcntl, "flock")
    _flock = fcntl.flock

    class _LateOps(Ops):
        """Tests of dependents replace `fcntl.flock` to make it fail; the engine bound it when it was imported."""

        @staticmethod
        def flock(fd: int, how: int) -> None:
            fcntl.flock(fd, how)

    def engine() -> kernel.KernelEngine:
        return kernel.engine() if fcntl.flock is _flock else kernel.KernelEngine(_LateOps(), None)


def engine_at(path: str) -> kernel.KernelEngine:
    """The engine for a lock file. Settings and facts count here as they do for `Lock`, with one exception: where the
    facts alone would refuse, filelock locks, and so does this, and says in a warning what it is worth."""
    plain = engine()
    directory = os.path.dirname(path)
    if is_plain(directory) or plain is not kernel.engine():
        return plain
    from .. import _choice

    choice = _choice.choice_for(directory)
    if choice.refusal and not choice.said:
        _choice.warn(choice)
        return plain
    from ..engines.kernel import chosen

    return chosen.engine_for(choice)


def _is_marked(path: str) -> bool:
    """Does a setting say that there are to be markers instead of kernel locks?"""
    directory = os.path.dirname(path)
    if is_plain(directory):
        return False
    from .. import _choice

    return _choice.choice_for(directory).primitive == "marker"


class EngineLock(BaseFileLock):
    """A lock that the kernel engine holds. Where a subclass overrides `_acquire` or `_release`, those decide."""

    _line: Line | None = None
    """The engine's line of a path that no chdir and no symbolic link can turn into another one."""
    _twin: BaseFileLock | None = None
    """The soft lock that holds for us on a filesystem without flock."""
    _made: tuple[int, int] | None = None
    """(device, inode) of a lock file that this object created."""

    def _settle(self) -> None:
        kind = type(self)
        self._by_engine = kind._acquire is EngineLock._acquire and kind._release is EngineLock._release
        settings = self._settings
        self._plain_close = settings.close_error_policy != "raise" and sys.platform != "win32"
        # Who overrides acquire or release wants `with` to call them.
        self._straight = kind.acquire is BaseFileLock.acquire and kind.release is BaseFileLock.release
        self._lean = self._by_engine and settings.thread_local and not settings.on_acquired and self._plain_close

    # ---- the uncontended path

    def _begin(self, context: FileLockContext) -> Claim | None:
        line = self._line
        if sys.platform != "win32" and fcntl.flock is not _flock:
            return None
        if line is None:
            if self._twin is not None or _is_marked(lock_path(self.lock_file, looks_first=False)):
                return None
            line = self._find_line()
        claim: Claim = line.engine.claim(line, me.token, False)
        return claim

    def _grab(self, context: FileLockContext, claim: Claim) -> bool:
        line = claim.line
        if not line.queue and turns.setdefault(line, claim) is claim and line.engine.try_now(claim, True):
            self._adopt(context, claim)
            context.lock_counter = 1
            return True
        return False

    def _adopt(self, context: FileLockContext, claim: Any) -> None:
        context.claim = claim
        context.path = claim.line.key
        context.lock_file_fd = claim.fd

    def _find_line(self) -> Line:
        given = self.lock_file
        path = lock_path(given, looks_first=False)
        line = line_for(engine_at(path), path, given)
        if path == given and line.engine is kernel.engine():
            self._line = line
            if self._lean and self._straight:
                self._express = line
        return line

    # ---- the other one

    def _stake(self, io: IO, context: FileLockContext, poll_interval: float, claim: Claim | None) -> Stake:
        if self._twin is not None:
            return self._twin._stake(io, context, poll_interval, None)
        if not self._by_engine:
            return super()._stake(io, context, poll_interval, None)
        if _is_marked(lock_path(context.lock_file, looks_first=False)):
            return self._become_soft()._stake(io, context, poll_interval, None)
        return self._engine_stake(io, context, poll_interval, claim)

    def _engine_stake(
        self, io: IO, context: FileLockContext, poll_interval: float, claim: Claim | None
    ) -> _EngineStake:
        if claim is None:
            line = self._find_line()
            claim = line.engine.claim(line, io.owner(), False)
        self._prepare(claim.line.key)
        return _EngineStake(io, self, context, claim, poll_interval)

    def _prepare(self, path: str) -> None:
        """What filelock demands of a lock file, and the engine does not: that it may be written, and its mode."""
        if os.access(path, os.W_OK):
            return
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            if self.has_explicit_mode or not _has_flock(path):
                self._create(path)
            return
        # Asked again: the file may have been created since the first answer.
        if stat.S_ISREG(status.st_mode) and not os.access(path, os.W_OK) and not _is_read_only(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.lock_file)

    def _create(self, path: str) -> None:
        """Only who creates the file sets its mode, and removes it again if it turns out to be no lock file."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode = self._context.mode
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666 if mode == options.UNSET_MODE else mode)
        except FileExistsError:
            return
        try:
            if sys.platform != "win32" and mode != options.UNSET_MODE:
                try:
                    os.fchmod(fd, mode)
                except PermissionError:  # a filesystem without permissions
                    pass
            status = os.fstat(fd)
            self._made = status.st_dev, status.st_ino
        finally:
            os.close(fd)

    def _fall_back(self, path: str) -> BaseFileLock | None:
        """The soft lock to use where flock(2) does not exist, as filelock does. None: it must not be used.

        Where the type of filesystem is known to have flock, ENOSYS says something about this process only (a
        sandbox, a test): others do lock there, and a marker would not exclude them.
        """
        settings = self._settings
        if not settings.fallback_to_soft or settings.preserve_lock_file or settings.on_acquired or _has_flock(path):
            return None
        twin = self._become_soft()
        if self._made is not None:
            try:
                status = os.stat(path, follow_symlinks=False)
                if (status.st_dev, status.st_ino) == self._made and not status.st_size:
                    os.unlink(path)
            except FileNotFoundError:
                pass
        warnings.warn("flock not supported on this filesystem, falling back to SoftFileLock", stacklevel=2)
        return twin

    def _become_soft(self) -> BaseFileLock:
        from .soft import SoftFileLock

        context = self._context
        self._lean, self._express = False, None
        self._twin = twin = SoftFileLock(
            self.lock_file,
            mode=context.mode,
            thread_local=self._settings.thread_local,
            poll_interval=context.poll_interval,
        )
        twin._holder, twin._contexts = self._holder, self._contexts
        return twin

    def _holds_by_another(self, owner: object, path: str) -> bool:
        holding = turns.get(line_for(engine_at(path), path, path))
        if holding is not None and holding.owner == owner and holding.since:
            return True
        return super()._holds_by_another(owner, path)

    # ---- release

    def _drop(self, context: FileLockContext) -> None:
        claim = context.claim
        if self._twin is not None:
            self._twin._drop(context)
            return
        if claim is None or not self._by_engine:
            super()._drop(context)
            return
        debug = LOGGER.isEnabledFor(DEBUG)
        if debug:
            LOGGER.debug("Attempting to release lock %s on %s", id(self), context.lock_file)
        line = claim.line
        try:
            context.lock_counter = 0
            context.lock_file_fd = None
            if self._plain_close:
                line.engine.drop(claim)
            else:
                self._drop_loudly(claim)
        except BaseException:  # a signal handler raised: drop is idempotent
            line.engine.drop(claim)
            raise
        finally:
            context.claim = None
            context.path = None
            try:
                del turns[line]
            except KeyError:
                pass
            if line.queue:
                wake_first(line)
        if debug:
            LOGGER.debug("Lock %s released on %s", id(self), context.lock_file)

    def _drop_loudly(self, claim: Any) -> None:
        """Release where an error of close(2) is to be raised, or the file goes (Windows).

        The engine ignores what close says, since the lock is free by then; so what close says is asked of a second
        descriptor.
        """
        path = claim.line.key
        copy = os.dup(claim.fd) if self._settings.close_error_policy == "raise" else None
        claim.line.engine.drop(claim)
        if copy is not None:
            os.close(copy)
        if sys.platform == "win32" and not self._settings.preserve_lock_file:
            try:
                os.unlink(path)
            except OSError:  # somebody else has it open
                pass

    # ---- the hooks, for subclasses that override one and call the other

    def _acquire(self) -> None:
        context = self._context
        try:
            stake = self._engine_stake(blocking_io, context, context.poll_interval, None)
            run(acquire(blocking_io, stake, 0.0))
        except LockError as error:
            raise translated(error, context.lock_file) from error

    def _release(self) -> None:
        context = self._context
        claim = context.claim
        if claim is None:
            return
        try:
            context.lock_file_fd = None
            self._drop_loudly(claim)
        finally:
            context.claim = None
            give_back(claim)


class _EngineStake(Place):
    """The engine's stake, which hands its hold to the context."""

    __slots__ = ("_context", "_instead", "_lock", "_poll_interval")

    def __init__(
        self, io: IO, lock: EngineLock, context: FileLockContext, claim: Claim, poll_interval: float
    ) -> None:
        super().__init__(io, claim)
        self._lock = lock
        self._context = context
        self._poll_interval = poll_interval
        self._instead: Stake | None = None

    async def try_acquire(self, io: IO, deadline: float) -> bool:
        if self._instead is None:
            try:
                if await super().try_acquire(io, deadline):
                    self._lock._adopt(self._context, self.claim)
                    return True
                return False
            except UnsupportedError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno != errno.ENOSYS:
                    raise
                if self._lock._by_engine:
                    await super().withdraw(io)
                twin = self._lock._fall_back(self.claim.line.key) if self._lock._by_engine else None
                if twin is None:
                    raise
                self._instead = twin._stake(io, self._context, self._poll_interval, None)
        return await self._instead.try_acquire(io, deadline)

    async def wait(self, io: IO, until: float) -> None:
        if self._instead is not None:
            await self._instead.wait(io, until)
        else:
            await super().wait(io, until)

    async def withdraw(self, io: IO) -> None:
        if self._instead is not None:
            await self._instead.withdraw(io)
            return
        await super().withdraw(io)
        if self._context.claim is self.claim:
            self._lock._clear(self._context)


def _elsewhere(self: object) -> None:
    raise NotImplementedError("this kind of lock belongs to another platform")


if sys.platform == "win32":

    class UnixFileLock(BaseFileLock):
        """flock(2), which this platform does not have."""

        _acquire = _elsewhere
        _release = _elsewhere

    class WindowsFileLock(EngineLock):
        """`LockFileEx` on the first byte of a file, which is deleted after the release unless it is to be preserved."""

else:

    class UnixFileLock(EngineLock):
        """flock(2) on a file, which stays after the release."""

    class WindowsFileLock(BaseFileLock):
        """`LockFileEx`, which this platform does not have."""

        _acquire = _elsewhere
        _release = _elsewhere


def _has_flock(path: str) -> bool:
    """Is the filesystem of a type that always has flock(2)?"""
    return sys.platform != "linux" or is_local(os.path.dirname(path))


def _is_read_only(path: str) -> bool:
    return sys.platform != "win32" and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


# ---- descriptors of the caller


def lock_descriptor(fd: int, *, blocking: bool = True, poll_interval: float = 0.05) -> bool:
    """Lock the file that `fd` is on, against every `FileLock` on it. The descriptor stays the caller's.

    `blocking=False`: one attempt; False when somebody else holds it. Where the kernel's own queue cannot be trusted
    (a network filesystem), it is tried again every `poll_interval` seconds. Raises `OSError` for anything else.
    """
    ops = engine().ops
    if not blocking:
        return _try_descriptor(ops, fd)
    number = options.seconds("poll_interval", poll_interval)
    if not 0 < number <= TIMEOUT_MAX:
        raise ValueError(f"poll_interval must be greater than 0 and at most {TIMEOUT_MAX}, got {number}")
    while not _try_descriptor(ops, fd):
        if sys.platform == "linux" and _is_local(fd):
            ops.flock(fd, fcntl.LOCK_EX)
            return True
        time.sleep(poll_interval)
    return True


def unlock_descriptor(fd: int) -> None:
    """Let go of what `lock_descriptor` locked. Raises `OSError` where the kernel refuses."""
    engine().ops.flock(fd, UNLOCK)


def _try_descriptor(ops: Any, fd: int) -> bool:
    try:
        ops.flock(fd, EXCLUSIVE)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK):
            return False
        raise
    return True


def _is_local(fd: int) -> bool:
    """Is the kernel's queue of waiters the whole queue? Then blocking in it is the best wait there is."""
    try:
        return is_local(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
    except OSError:
        return False
