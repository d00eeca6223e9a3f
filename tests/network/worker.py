"""One contender in a guest: takes a lock again and again, and tells the referee; a line of JSON at the end."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import interlock
from interlock import Timeout, UnsupportedError

from .inside import REFEREE, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Held = Callable[[], AbstractContextManager[object]]

PATIENCE = 5.0
TTL = 3.0


def lock_of(kind: str, path: str) -> tuple[Held, str]:
    """How to hold it for a block, and what was chosen."""
    if kind == "none":  # the negative control
        from contextlib import nullcontext

        return nullcontext, "nothing"
    if kind == "filelock":
        import filelock

        theirs = filelock.FileLock(path)
        return (lambda: theirs.acquire(timeout=PATIENCE)), "filelock"
    options: dict[str, Any] = {"primitive": kind}
    if kind == "marker":
        options["ttl"] = TTL
    ours = interlock.Lock(path, **options)

    @contextmanager
    def held() -> Iterator[None]:
        hold = ours.acquire(PATIENCE)
        try:
            yield
        finally:
            hold.release()

    return held, ours.inspect().engine


def main() -> None:
    kind, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"holds": 0, "timeouts": 0}
    referee = Wire.to(REFEREE)
    try:
        held, report["chosen"] = lock_of(kind, path)
        while time.monotonic() < deadline:
            try:
                with held():
                    referee.ask("in")
                    time.sleep(random.random() / 500)
                    referee.ask("out")
                    referee.ask("heard")
                    report["holds"] += 1
            except (Timeout, TimeoutError):
                report["timeouts"] += 1
            time.sleep(random.random() / 1000)
    except UnsupportedError as error:
        report["refused"] = str(error)
    except Exception as error:  # noqa: BLE001 - it is what the cell shows
        place = traceback.extract_tb(error.__traceback__)[-1]
        report["error"] = f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}, {place.line})"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
