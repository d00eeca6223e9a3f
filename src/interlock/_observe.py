"""`observe`: what the locks of this process do, told to callbacks."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from ._core import arbiter, fork
from ._core.observe import Listener, listen
from ._identity import task_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._core.observe import Story
    from ._model import Claim
    from ._report import Report

__all__ = ["Event", "Observation", "observe"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a lock in this process.

    `kind`: "waiting" (it is held by somebody else, and the caller begins to wait), "acquired", "released", "lost" (the
    world took it away from its holder; "released" still follows), "withdrawn" (the caller went without: a timeout, a
    cancellation, an error, or a single try that found it held), "upgraded" and "downgraded" (a hold of a read-write
    lock has another mode now).

    `mode` is "read", "update" or "write", of a semaphore "permit", with its `slot` once it is held. `was` is the mode
    before an upgrade or a downgrade. An upgrade that waits is told as "waiting", with `was`; if it is given up,
    "withdrawn", with `was`: the hold goes on as it was.

    `hold` is one number per acquire of this process: it joins the events of one hold. `at` is in seconds of the Unix
    epoch, `monotonic` of `time.monotonic()`, which on Linux all processes of a machine share; a grant and an upgrade
    are timed after they were won, a release and a downgrade before they are done. `waited`: seconds between asking and
    the grant, the upgrade, or giving up. `held`: seconds from the grant to the release, or to the loss; of "upgraded"
    and "downgraded" how long it was held in the mode `was`. `thread` is the thread in which it happened, `task` the
    name of the asyncio or trio task that asked, or "". `reason` says why it was lost.
    """

    kind: Literal["waiting", "acquired", "upgraded", "downgraded", "released", "lost", "withdrawn"]
    resource: str
    key: str
    engine: str
    mode: str
    pid: int
    thread: str
    thread_id: int
    task: str
    hold: int
    at: float
    monotonic: float
    waited: float
    held: float
    reason: str = ""
    was: str = ""
    slot: int | None = None
    _line: Any = field(default=None, repr=False, compare=False)

    def inspect(self) -> Report:
        """Who holds the lock and who waits for it now, with their places in the queue; see `interlock.inspect`."""
        report: Report = self._line.engine.inspect(self._line)
        return report


class Observation:
    """What `observe` returns: `stop()` ends it, as does the end of a `with` block."""

    def __init__(self, callback: Callable[[Event], object]) -> None:
        self._callback = callback
        self._failed = False

    def stop(self) -> None:
        """Tell no more. Idempotent; a callback that runs in another thread at this moment still ends."""
        global _observers
        with _change:
            if self in _observers:
                _observers = tuple(other for other in _observers if other is not self)
                if not _observers:
                    listen(None)

    def __enter__(self) -> Observation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tell(self, event: Event) -> None:
        try:
            self._callback(event)
        except Exception as error:  # noqa: BLE001 - whoever only looks on must not break what he looks at
            if not self._failed:
                self._failed = True
                from logging import getLogger

                getLogger("interlock").error(
                    "the callback %r of interlock.observe failed (said once)", self._callback, exc_info=error
                )


def observe(callback: Callable[[Event], object]) -> Observation:
    """Have `callback(event)` called for what all locks of this process do, until the returned `Observation` is stopped.

    It is called in the thread and at the place where it happens, "acquired" with the lock held: be brief, and do not
    block an event loop. An exception that it raises is logged, once, to the logger `interlock`, and ignored. Locks that
    the callback itself uses are not told of. A forked child goes on observing, with the parent's callbacks, what it
    acquires itself. A re-entrant acquire of what the caller already holds is no event. Locks cost nothing more while
    nobody observes; what they cost otherwise is the callback and a few microseconds per event.
    """
    global _observers
    if not callable(callback):
        raise TypeError(f"the callback of observe must be callable, not {type(callback).__name__}")
    observation = Observation(callback)
    with _change:
        _arrange()
        _observers = (*_observers, observation)
        if arbiter.listener is None:
            listen(Listener(_tell, time.monotonic, count(1).__next__))
    return observation


_observers: tuple[Observation, ...] = ()
_change = threading.RLock()  # a signal handler may observe, too


class _Inside(threading.local):
    now = False


_inside = _Inside()


def _tell(
    kind: Any, claim: Claim, story: Story, when: float, reason: str = "", was: str = "", asked: float = 0.0
) -> None:
    if _inside.now:
        return
    _inside.now = True
    try:
        event = _event(kind, claim, story, when, reason, was, asked)
        for observation in _observers:
            observation._tell(event)
    finally:
        _inside.now = False


def _event(kind: Any, claim: Claim, story: Story, when: float, reason: str, was: str, asked: float) -> Event:
    line = claim.line
    thread = threading.current_thread()
    waited, held = 0.0, 0.0
    if kind in ("acquired", "withdrawn", "upgraded"):
        waited = when - (asked or story.asked)
    if kind in ("released", "lost"):
        held = when - story.granted
    elif kind in ("upgraded", "downgraded"):
        held = when - (story.changed or story.granted)
    wanted = was and kind in ("waiting", "withdrawn")  # the only thing that a hold can wait for
    return Event(
        kind=kind,
        resource=line.resource,
        key=line.key,
        engine=line.engine.traits.name,
        mode="write" if wanted else claim.manner,
        pid=os.getpid(),
        thread=thread.name,
        thread_id=threading.get_native_id(),
        task=task_name(claim.owner),
        hold=story.number,
        at=time.time() - (time.monotonic() - when),
        monotonic=when,
        waited=max(waited, 0.0),
        held=max(held, 0.0),
        reason=reason,
        was=was,
        slot=claim.slot,
        _line=line,
    )


_arranged = False


def _arrange() -> None:
    global _arranged
    if not _arranged:
        _arranged = True
        fork.in_child(_in_child)
        if hasattr(os, "register_at_fork"):
            fork.watch(os.register_at_fork)


def _in_child() -> None:
    global _change
    _change = threading.RLock()  # another thread of the parent may have had it
    _inside.now = False
