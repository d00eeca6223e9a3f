"""To be told that a hold is lost: by a callback, by a wait, by a scope of tasks that is cancelled. Loaded on use."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from time import monotonic

from ._core import lost
from ._core.acquire import run
from ._deadline import seconds
from ._errors import LostError
from ._hold import Loss
from ._io import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ._model import Claim

NAP = 1.0
"""Longest sleep of `wait` before it looks for itself, should an engine not tell."""


def wait(claim: Claim, timeout: float | None) -> bool:
    """`Loss.wait`."""
    from ._io.blocking import io

    loss = Loss(claim)
    until = monotonic() + seconds(timeout)
    parker = io.parker()

    def wake(_reason: str) -> None:
        parker.unpark()

    tell_of(claim, wake)
    try:
        while not loss and claim.depth and monotonic() < until:
            run(io.park(parker, min(until, monotonic() + NAP)))
        return bool(loss)
    finally:
        lost.unwatch(claim, wake)


def tell_of(claim: Claim, watcher: Callable[[str], object]) -> None:
    """Have `watcher` called with the reason when the claim is lost, perhaps with "" when it ends."""
    lost.watch(claim, watcher)
    try:
        # An engine with a keeper tells by itself; one that must first begin to look has this method.
        begin = getattr(claim.line.engine, "watch_loss", None)
        if begin is not None and claim.depth:
            begin(claim)
    except BaseException:
        lost.unwatch(claim, watcher)
        raise


def call_back(claim: Claim, callback: Callable[[str], object]) -> None:
    """`Hold.on_lost`."""

    def told(reason: str) -> None:
        if not reason:
            return
        try:
            callback(reason)
        except Exception:
            logging.getLogger("interlock").exception("on_lost of %s: the callback failed", claim.line.resource)

    tell_of(claim, told)


@asynccontextmanager
async def scope(claim: Claim) -> AsyncIterator[None]:
    """`AsyncHold.scope`, of a claim that is held."""
    with running().scope() as block:

        def told(reason: str) -> None:
            if reason:
                block.cancel()

        tell_of(claim, told)
        try:
            yield
        finally:
            lost.unwatch(claim, told)
    if Loss(claim):
        raise LostError(f"{claim.line.resource} is lost: {claim.told}")
