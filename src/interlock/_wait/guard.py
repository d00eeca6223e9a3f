"""Notices that lock files are unlinked or replaced under their holders: one thread per process, while anybody asks.

Theory of operation
-------------------
The inode of a watched hold is watched for what changes its names (unlink, rename, rename over it: the link count is
an attribute) and for closes. A close is how a release becomes known without any work in the release itself: our own
descriptor's close is an event too. An event only makes a ward *suspect*; then the engine is asked, by path and
descriptor, as `Hold.lost` does.

The events come from the process's one instance. Whoever reads it, a waiter or this thread, tells all, and a
suspicion wakes this thread. What raises no event (a directory renamed above the file, another host's changes) is
found by the look that follows each nap: every `NAP` seconds, or every `BLIND_NAP` where events cannot be trusted.

A ward ends when its claim does (`depth` is 0 from the release on, and in a forked child); the thread ends with the
last ward. It is a daemon: it keeps no process alive, and a forked child has none.
"""

from __future__ import annotations

from _thread import RLock
from time import monotonic

from .._core import fork, lost
from .._core.acquire import run
from .._errors import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread
    from typing import Any, Protocol

    from .._model import Claim, Parker, Source

    class Instance(Source, Protocol):
        CLOSED: int
        REPLACED: int

        def watch(self, fd: int, what: int, key: object, tell: Callable[[], object]) -> int: ...
        def unwatch(self, handle: int, key: object) -> None: ...


NAP = 5.0
BLIND_NAP = 1.0


class _Ward:
    """A claim under guard."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.instance: Instance | None = None
        self.handle = 0

    def suspect(self) -> None:
        _guard.suspects.append(self)
        parker = _guard.parker
        if parker is not None:
            parker.unpark()

    def end(self) -> None:
        if self.instance is not None:
            self.instance.unwatch(self.handle, self)


class _Guard:
    def __init__(self) -> None:
        self.lock = RLock()
        self.wards: dict[Claim, _Ward] = {}
        self.suspects: list[_Ward] = []
        self.parker: Parker | None = None
        self.thread: Thread | None = None


_guard = _Guard()
_registered = False


def begin(claim: Any, instance: Instance | None) -> None:
    """Have `lost.tell` called should the hold of this claim (which has an `fd`) be lost. `None`: no events here.

    Raises `RuntimeError` where no thread can be started.
    """
    global _registered
    guard = _guard
    with guard.lock:
        if not _registered:
            _registered = True
            fork.in_child(_forget)
        if claim in guard.wards:
            return
        ward = guard.wards[claim] = _Ward(claim)
        try:
            _watch(ward, claim.fd, instance)
            if guard.thread is None or not guard.thread.is_alive():
                import threading

                guard.thread = threading.Thread(target=_run, args=(guard,), name="interlock-guard", daemon=True)
                guard.thread.start()
        except BaseException:
            del guard.wards[claim]
            ward.end()
            raise
    ward.suspect()  # it may have been lost, or released, while this began


def _watch(ward: _Ward, fd: int | None, instance: Instance | None) -> None:
    if instance is None or fd is None:
        return
    ward.instance = instance
    try:
        ward.handle = instance.watch(fd, instance.REPLACED | instance.CLOSED, ward, ward.suspect)
    except OSError:  # no watches left: nap
        instance.unwatch(0, ward)
        ward.instance = None


def _run(guard: _Guard) -> None:
    from .._io.blocking import io

    source: Instance | None = None
    guard.parker = io.parker()
    while guard is _guard:
        wards = list(guard.wards.values())
        known = next((ward.instance for ward in wards if ward.instance is not None), None)
        if known is not source:
            source = known
            guard.parker = io.parker(source)
        if guard.suspects:
            while guard.suspects:
                _look(guard, guard.suspects.pop())
        else:
            blind = any(ward.instance is None for ward in wards)
            woken = run(io.park(guard.parker, monotonic() + (BLIND_NAP if blind else NAP)))
            if source is not None:
                source.drain()
            if not woken:
                guard.suspects.extend(guard.wards.values())
        with guard.lock:
            if not guard.wards and not guard.suspects:
                guard.thread = guard.parker = None
                return


def _look(guard: _Guard, ward: _Ward) -> None:
    claim = ward.claim
    if guard.wards.get(claim) is not ward:
        return
    reason = ""
    try:
        reason = claim.line.engine.lost(claim)
    except LockError as error:  # something else stands there now
        reason = str(error)
    except OSError:  # nothing is known (EIO), or the descriptor was closed just now
        pass
    if claim.depth and not reason:
        return
    guard.wards.pop(claim, None)
    ward.end()
    if claim.depth:
        lost.tell(claim, reason)
    else:
        lost.settle(claim)


def _forget() -> None:
    """In a forked child: the parent's thread is not here, and its lock may be held by nobody."""
    global _guard
    _guard = _Guard()
