"""One contender in a guest: takes one of the locks at random, again and again, and says when it is in."""

from __future__ import annotations

import os
import random
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import interlock
from interlock import Timeout, UnsupportedError

from ..soak.referee import WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ..soak.referee import Cells

    Held = Callable[[], AbstractContextManager[object]]

PATIENCE = 5.0
TTL = 3.0


def lock_of(kind: str, path: str) -> tuple[Held, Callable[[], str]]:
    """How to hold it for a block, and what says what was chosen."""
    if kind == "none":  # the negative control
        from contextlib import nullcontext

        return nullcontext, lambda: "nothing"
    if kind == "filelock":
        import filelock

        theirs = filelock.FileLock(path)
        return (lambda: theirs.acquire(timeout=PATIENCE)), lambda: "filelock"
    options: dict[str, Any] = {"primitive": kind}
    if kind == "marker":
        options["ttl"] = TTL
    ours = interlock.Lock(path, **options)

    @contextmanager
    def held() -> Iterator[interlock.Hold]:
        hold = ours.acquire(PATIENCE)
        try:
            yield hold
        finally:
            hold.release()

    return held, lambda: ours.inspect().facts.get("primitive", "marker")


def warm_up(kind: str) -> None:
    """Before the forks: what they need is imported."""
    if kind == "filelock":
        import filelock  # noqa: F401
    elif kind != "none":
        with interlock.Lock("/run/warm.lock", primitive="dual"):
            pass


def work(cells: Cells, me: int, kind: str, paths: Sequence[str], seed: int) -> dict[str, Any]:
    """Until the referee stops it; returns its report."""
    dice = random.Random(seed)
    report: dict[str, Any] = {"timeouts": 0, "waited": 0, "waited_of": 0}
    try:
        locks = [lock_of(kind, path) for path in paths]
        report["chosen"] = locks[0][1]() if me == 0 else ""
        while not cells.stopped:
            number = dice.randrange(len(locks))
            try:
                with locks[number][0]() as hold:
                    cells.enter(me, WRITE, number)
                    time.sleep(dice.random() / 500)
                    cells.leave(me)
            except (Timeout, TimeoutError):
                report["timeouts"] += 1
            else:
                if isinstance(hold, interlock.Hold):
                    report["waited_of"] += 1
                    report["waited"] += hold.waited > 0
            time.sleep(dice.random() / 1000)
    except UnsupportedError as error:
        report["refused"] = str(error)
    except Exception as error:  # noqa: BLE001 - it is what the cell shows
        place = traceback.extract_tb(error.__traceback__)[-1]
        report["error"] = f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}, {place.line})"
    return report
