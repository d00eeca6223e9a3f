"""The world took a hold away: who is told, and exactly once.

`engine.lost(claim)` is the truth for whoever asks. `tell` is the push: the engine's keeper, or whoever asked and
found it out, calls it, in any thread, any number of times. The first reason stays (`claim.told`). Each watcher is
taken off the claim before it is called, in one step of the interpreter, so that it is called once, whoever races.
A watcher that is added late looks after it was added, so that one of the two always sees the other.

A hold that is lost gives its turn back, so that it keeps out nobody of its own process either. It lives on beside the
turns until it is released.
"""

from __future__ import annotations

from collections import deque

from . import arbiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .._model import Claim

    Watcher = Callable[[str], object]


def tell(claim: Claim, reason: str) -> None:
    """Mark a claim as lost and call its watchers with the reason. They must not raise."""
    if not reason:
        raise ValueError("a hold is lost for a reason")
    reason = vars(claim).setdefault("told", reason)
    listener = arbiter.listener
    if listener is not None:
        listener.lost(claim, reason)
    _let_others_in(claim)
    _call(claim, reason)


def _let_others_in(claim: Claim) -> None:
    line = claim.line
    turns, granted = arbiter.turns, arbiter.granted
    try:
        # Nothing is called from here to `del`, so no other thread comes in between. A release makes `depth` 0 before it
        # looks whose turn it is: so either it has not begun and finds the claim in `granted`, or nothing happens here.
        if claim.depth and turns[line] is claim:
            granted[claim] = None
            del turns[line]
    except KeyError:
        return
    if line.queue:
        arbiter.wake_first(line)


def settle(claim: Claim) -> None:
    """The claim has ended: its watchers are called a last time, with "" unless it was lost. An engine that can wake
    them at a release without a cost to those who have none does so; nobody relies on it."""
    _call(claim, claim.told)


def watch(claim: Claim, watcher: Watcher) -> None:
    """Have `watcher` called with the reason, once; at once if the claim is lost already."""
    vars(claim).setdefault("watchers", deque()).append(watcher)
    if claim.told:
        _call(claim, claim.told)


def unwatch(claim: Claim, watcher: Watcher) -> None:
    """Undo `watch`. A call that has begun goes on."""
    try:
        vars(claim).get("watchers", ()).remove(watcher)
    except (AttributeError, ValueError):  # none, or called already
        pass


def _call(claim: Claim, reason: str) -> None:
    watchers = vars(claim).get("watchers")
    while watchers:
        try:
            watcher = watchers.popleft()
        except IndexError:  # another thread calls the last one
            return
        watcher(reason)
