"""`BaseFileLock`: filelock's lock object, with its counter, contexts, hooks, policies and log lines.

The kinds differ in their *stake*, which the core's one acquire loop drives: `native` stands in the kernel engine's
line; whoever only defines the hooks `_acquire` (one attempt, sets `self._context.lock_file_fd`) and `_release`
(clears it) is tried again after each `poll_interval`, or after each `_nap` of its own.

Callers that share a context (`thread_local=False`, and all tasks of a thread) go through its gate one by one; whoever
finds the lock held behind it re-enters.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import TYPE_CHECKING

from .._core.acquire import acquire, run
from .._core.arbiter import Place, give_back, turns, wake_first
from .._errors import LockError
from .._identity import me
from .._io.blocking import io as blocking_io
from . import options, state
from .errors import Timeout, translated
from .kind import Kind
from .meta import FileLockMeta, lock_path, new_registry
from .proxy import AcquireReturnProxy
from .stakes import DEBUG, LOGGER, HookStake, Watched, on_this_stack
from .state import FileLockContext, ThreadLocalFileContext, Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn, Self

    from .._core.acquire import Stake
    from .._core.arbiter import Line
    from .._model import IO, Claim

__all__ = [
    "AcquireReturnProxy",
    "BaseFileLock",
    "FileLockContext",
    "FileLockMeta",
    "HookStake",
    "ThreadLocalFileContext",
]


class BaseFileLock(Kind, contextlib.ContextDecorator, metaclass=FileLockMeta):
    """A lock on a path; abstract. Re-entrant: acquired as often as released, per thread unless `thread_local=False`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._instances = new_registry()

    # ---- acquire

    def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        poll_intervall: float | None = None,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        """Wait for the lock, at most `timeout` seconds; left out, the lock's own settings hold.

        Returns a proxy: `with lock.acquire(...):` releases one level at its end. `blocking=False`: one attempt.
        `cancel_check` is asked at least every `poll_interval` while waiting; when it returns True the wait ends.

        Raises `Timeout`; `RuntimeError` in a forked child of the process that made the lock, and where the thread
        would wait for itself for ever; `OSError` where the path cannot be locked.
        """
        if poll_intervall is not None:
            warnings.warn("use poll_interval instead of poll_intervall", DeprecationWarning, stacklevel=2)
            poll_interval = poll_intervall
        if self._process is not state.process:
            self._refuse_inherited()
        context = self._holder.context
        limits = None
        if timeout is not None or blocking is not None or poll_interval is not None:
            limits = self._limits(context, timeout, blocking, poll_interval)
        proxy = AcquireReturnProxy(self)
        line = self._express
        if line is not None and context.claim is None and not LOGGER.isEnabledFor(DEBUG):
            self._rush(line, context, limits, cancel_check)
            return proxy
        claim = None
        try:
            if context.gate is None:
                if context.lock_file_fd is not None:
                    context.lock_counter += 1
                    return proxy
                if self._lean and not LOGGER.isEnabledFor(DEBUG):
                    claim = self._begin(context)
                    if claim is not None and self._grab(context, claim):
                        return proxy
            wait, nap = limits or self._limits(context, None, None, None)
            # Not called from here: after a call a signal may interrupt, with one level counted that nobody knows of.
            for _ in map(run, (self._engage(blocking_io, context, wait, nap, cancel_check, claim),)):
                return proxy
        except BaseException:
            self._undo(context, claim)
            raise
        return proxy

    def _rush(
        self,
        line: Line,
        context: FileLockContext,
        limits: tuple[float, float] | None,
        cancel_check: Callable[[], bool] | None,
    ) -> None:
        """An acquire that finds the lock free in most cases: the way that everybody takes, and `_rush_out` back."""
        engine = line.engine
        claim = engine.claim(line, me.token, False)
        try:
            if not line.queue and turns.setdefault(line, claim) is claim and engine.try_now(claim, True):
                context.claim = claim
                context.lock_file_fd = claim.fd
                context.lock_counter = 1
            else:
                wait, nap = limits or self._limits(context, None, None, None)
                run(self._engage(blocking_io, context, wait, nap, cancel_check, claim))
        except BaseException:
            self._undo(context, claim)
            raise

    def _rush_out(self, line: Line, context: FileLockContext, claim: Claim) -> None:
        try:
            context.lock_file_fd = None
            line.engine.drop(claim)
        except BaseException:  # a signal handler raised: drop is idempotent
            line.engine.drop(claim)
            raise
        finally:
            context.claim = None
            context.path = None
            context.lock_counter = 0
            try:
                del turns[line]  # without a call before it, after which a signal handler might run
            except KeyError:
                pass
            if line.queue:
                wake_first(line)

    def _limits(
        self, context: FileLockContext, timeout: float | None, blocking: bool | None, poll_interval: float | None
    ) -> tuple[float, float]:
        """How long to wait, and to nap between tries."""
        wait = options.limit(
            context.timeout if timeout is None else timeout, context.blocking if blocking is None else blocking
        )
        return wait, context.poll_interval if poll_interval is None else options.interval(poll_interval)

    async def _engage(
        self,
        io: IO,
        context: FileLockContext,
        wait: float,
        poll_interval: float,
        cancel_check: Callable[[], bool] | None,
        claim: Claim | None = None,
    ) -> None:
        """The whole of an acquire, for threads and tasks. Raises, or has counted one level."""
        deadline = io.now() + wait
        gate = context.gate
        if gate is None:
            await self._contend(io, context, deadline, wait, poll_interval, cancel_check, claim)
            return
        turn = Turn(gate, io.owner())
        mine = turns.get(gate)
        counted = False
        if mine is not None and mine.owner == turn.owner:
            if context.lock_file_fd is None:
                raise self._waits_for_itself()
            context.lock_counter += 1  # from within on_acquired
            return
        try:
            stake: Stake = Place(io, turn)
            if cancel_check is not None:
                stake = Watched(stake, self, poll_interval, cancel_check)
            if not await acquire(io, stake, deadline):
                raise Timeout(self.lock_file)
            await self._contend(io, context, deadline, wait, poll_interval, cancel_check, None)
            counted = True
        finally:
            try:  # `give_back` without calls: a signal handler might run before it
                if turns[gate] is turn:
                    del turns[gate]
            except KeyError:
                pass
            if gate.queue:
                try:
                    wake_first(gate)
                except BaseException:
                    if counted:
                        self._count_down(context)
                    raise

    async def _contend(
        self,
        io: IO,
        context: FileLockContext,
        deadline: float,
        wait: float,
        poll_interval: float,
        cancel_check: Callable[[], bool] | None,
        claim: Claim | None,
    ) -> None:
        if context.lock_file_fd is not None:
            context.lock_counter += 1
            return
        if on_this_stack(context.acquiring):
            raise self._waits_for_itself()
        owner = io.owner()
        path = lock_path(context.lock_file)
        if wait == options.FOREVER:
            self._refuse_self_deadlock(owner, path)
        name = (id(self), context.lock_file)
        context.acquiring = sys._getframe()
        try:
            context.path = path
            LOGGER.debug("Attempting to acquire lock %s on %s", *name)
            stake = self._stake(io, context, poll_interval, claim)
            if not await acquire(io, Watched(stake, self, poll_interval, cancel_check, wait), deadline):
                words = "Timeout on acquiring" if wait else "Failed to immediately acquire"
                LOGGER.debug("%s lock %s on %s", words, *name)
                raise Timeout(context.lock_file, await self._aside(io, self._unprobeable_holder))
            self._commit(context, owner, path)
            LOGGER.debug("Lock %s acquired on %s", *name)
            if self._settings.on_acquired is not None:
                await self._tell_acquired(io, context)
        except LockError as error:
            raise translated(error, context.lock_file) from error
        except Exception:
            raise
        except BaseException:  # KeyboardInterrupt or a cancellation, maybe just after the lock was won
            if context.lock_file_fd is not None:
                await io.shield(self._let_go(io, context))
            raise
        finally:
            context.acquiring = None
            if context.lock_file_fd is None:
                context.path = None

    def _commit(self, context: FileLockContext, owner: object, path: str) -> None:
        context.lock_counter = 1
        if context.claim is None:
            state.hold_by_hook(self, context, owner, path)

    async def _tell_acquired(self, io: IO, context: FileLockContext) -> None:
        callback = self._settings.on_acquired
        assert callback is not None
        assert context.lock_file_fd is not None
        try:
            callback(context.lock_file_fd)
        except BaseException as error:
            before = error.__context__
            try:
                await io.shield(self._let_go(io, context))
            except BaseException as second:  # noqa: BLE001 - both are raised
                raise BaseExceptionGroup("lock body and release both failed", [error, second]) from None
            error.__context__ = before
            raise

    def _undo(self, context: FileLockContext, claim: Claim | None) -> None:
        """After an acquire that raised: what `_grab` has begun is over; what the loop began it has withdrawn."""
        if claim is None:
            return
        try:
            if turns.get(claim.line) is claim:
                claim.line.engine.drop(claim)
        finally:
            give_back(claim)
            if context.claim is claim:
                self._clear(context)

    def _refuse_inherited(self) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__} on {self._holder.context.lock_file} was inherited across fork; "
            "construct a new instance"
        )

    def _refuse_self_deadlock(self, owner: object, path: str) -> None:
        if self._holds_by_another(owner, path):
            raise RuntimeError(
                f"Deadlock: lock '{self.lock_file}' is already held by a different {self._holder_words}. "
                "Use is_singleton=True to enable reentrant locking across instances."
            )

    def _holds_by_another(self, owner: object, path: str) -> bool:
        # Registered alone is not enough: a release that was interrupted at its end may not have come to `forget`.
        context = state.holders.get((owner, path))
        return context is not None and context.lock_file_fd is not None

    def _waits_for_itself(self) -> RuntimeError:
        return RuntimeError(
            f"Deadlock: lock '{self.lock_file}' is acquired again while this thread's acquire of it waits"
        )

    # ---- outside effects that tasks run elsewhere

    async def _aside(self, io: IO, function: Callable[[], Any]) -> Any:
        """Call something of a hook's kind that may block."""
        return function()

    async def _attempt(self, io: IO) -> None:
        self._try_break_expired_lock()
        self._acquire()

    async def _let_go(self, io: IO, context: FileLockContext) -> None:
        self._drop(context)

    # ---- release

    def release(self, force: bool = False) -> None:
        """Count one level down; at the last one, or with `force`, let go. Does nothing when not held.

        `force` on a thread-local lock also ends the holds of threads that ended without releasing.
        """
        if self._process is not state.process:
            return
        context = self._holder.context
        if context.lock_file_fd is not None:
            line = self._express
            if line is not None and context.lock_counter == 1 and not LOGGER.isEnabledFor(DEBUG):
                assert context.claim is not None
                self._rush_out(line, context, context.claim)
            elif context.gate is not None:
                run(self._disengage(blocking_io, context, force))
            elif force:
                self._drop(context)
            else:
                self._count_down(context)
        if force:
            for other in list(self._contexts):
                if other.lock_file_fd is not None and other.thread is not None and not other.thread.is_alive():
                    self._drop_elsewhere(other)

    def _count_down(self, context: FileLockContext) -> None:
        if context.lock_counter > 1:
            context.lock_counter -= 1
        else:
            self._drop(context)

    async def _disengage(self, io: IO, context: FileLockContext, force: bool) -> None:
        gate = context.gate
        assert gate is not None
        turn: Claim = Turn(gate, io.owner())
        mine = turns.get(gate)
        if mine is not None and mine.owner == turn.owner:
            turn = mine  # a signal handler, or on_acquired
        try:
            if turn is not mine:
                await acquire(io, Place(io, turn), options.FOREVER)
            if context.lock_file_fd is None:
                return
            if context.lock_counter > 1 and not force:
                context.lock_counter -= 1
            else:
                await io.shield(self._let_go(io, context))
        finally:
            if turn is not mine:
                try:
                    if turns[gate] is turn:
                        del turns[gate]
                except KeyError:
                    pass
                if gate.queue:
                    wake_first(gate)

    def _drop(self, context: FileLockContext) -> None:
        """Let go of this thread's context, by its hook."""
        name = (id(self), context.lock_file)
        LOGGER.debug("Attempting to release lock %s on %s", *name)
        try:
            self._release()
        finally:
            if context.lock_file_fd is None:  # else the lock is still held, and a later release may succeed
                self._clear(context)
        LOGGER.debug("Lock %s released on %s", *name)

    def _clear(self, context: FileLockContext) -> None:
        context.lock_counter = 0
        context.lock_file_fd = None
        context.claim = None
        context.path = None
        if context.registered is not None:
            state.forget(context)

    def _drop_elsewhere(self, context: FileLockContext) -> None:
        """Let go of another thread's context: hooks look at the current one, so it is lent to them."""
        holder = self._holder
        mine, holder.context = holder.context, context
        try:
            self._drop(context)
        finally:
            holder.context = mine

    def _abandon(self, context: FileLockContext) -> None:
        """Release without raising: for finalizers and the end of the interpreter."""
        try:
            self._drop_elsewhere(context)
        except Exception:  # noqa: BLE001, S110 - nobody is there to hear it
            pass

    # ---- context manager, decorator, finalizer

    def __enter__(self) -> Self:
        line = self._express
        context = self._holder.context
        if (
            line is not None
            and context.claim is None
            and self._process is state.process
            and not LOGGER.isEnabledFor(DEBUG)
        ):
            self._rush(line, context, None, None)
        else:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._holder.context
        levels = context.lock_counter
        try:
            if error is None or self._express is not None:  # the engine's release raises nothing
                self.release()
            else:
                self._release_after(error)
        except Exception:
            raise
        except BaseException:
            # KeyboardInterrupt, before the release had an effect: nobody would ever call it again.
            if context.lock_file_fd is not None and context.lock_counter == levels:
                self.release()
            raise

    def _release_after(self, error: BaseException | None) -> None:
        try:
            self.release()
        except BaseException as second:
            if error is None or self._settings.context_error_policy == "chain":
                raise
            raise BaseExceptionGroup("lock body and release both failed", [error, second]) from None

    def __del__(self) -> None:
        self._dying = True  # until the weak references are cleared, the singletons still know us
        try:
            mine = self._process is state.process
            held = [context for context in list(self._contexts) if context.lock_file_fd is not None]
        except AttributeError:  # `__init__` never came so far, or the interpreter is being torn down
            return
        if mine:
            for context in held:
                self._abandon(context)
