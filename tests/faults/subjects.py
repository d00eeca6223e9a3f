"""The engines of the errno matrix, each behind the same few verbs, and the referee: another process, where nothing
fails, that says whether it can get what we claim to have. The referee is a program: `python -m tests.faults.subjects`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TTL = 0.5
RENEWAL = 60.0
"""Seconds in which the keeper's thread must have got round to a renewal that is due."""
tried = threading.Event()
"""A renewal is over, well or not."""


def watch_renewals() -> None:
    from interlock._wait.keeping import Keeping

    renew = Keeping._renew

    def watched(self: Keeping, claim: Any) -> None:
        try:
            renew(self, claim)
        finally:
            tried.set()

    Keeping._renew = watched  # type: ignore[method-assign]


class Subject:
    """A lock of the public kind."""

    waits = True
    renews = False

    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path)

    def take(self, lock: Any, timeout: float) -> Any:
        return lock.acquire(timeout)

    def held(self, hold: Any) -> bool:
        return bool(hold.held)

    def check(self, hold: Any) -> None:
        hold.assert_held()

    def release(self, hold: Any) -> None:
        hold.release()

    def renew(self, hold: Any) -> bool:
        """Have the keeper's thread renew it now, and wait until it tried. Was that all well?"""
        raise NotImplementedError

    def again(self, hold: Any) -> bool:
        """Does a second release say that there is nothing to release?"""
        from interlock import NotHeldError

        try:
            hold.release()
        except NotHeldError:
            return True
        return False


class Fair(Subject):
    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path, fair=True)


class Dual(Subject):
    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path, primitive="dual")


class Token(Subject):
    """Each hold draws a fencing token."""

    def check(self, hold: Any) -> None:
        assert isinstance(hold.token, int)
        hold.assert_held()


class Writer(Subject):
    def make(self, path: str) -> Any:
        from interlock import RWLock

        return RWLock(path)

    def take(self, lock: Any, timeout: float) -> Any:
        return lock.write(timeout)


class Reader(Writer):
    def take(self, lock: Any, timeout: float) -> Any:
        return lock.read(timeout)


class Permit(Subject):
    def make(self, path: str) -> Any:
        from interlock import Semaphore

        return Semaphore(path, 1)


class Lease(Subject):
    renews = True

    def make(self, path: str) -> Any:
        from interlock import Lock

        return Lock(path, primitive="marker", ttl=TTL)

    def renew(self, hold: Any) -> bool:
        from interlock._wait.keeping import keeping

        claim, keeper = hold._claim, keeping()
        before = claim.deadline
        tried.clear()
        times = keeper.keeper._times.get(claim)
        if times is None:
            return False
        times[0] = 0.0  # due since ever
        keeper._wake.set()
        if not tried.wait(RENEWAL):
            raise RuntimeError(f"the keeper has not renewed for {RENEWAL:g} s")
        return bool(claim.deadline > before)


class Marker(Subject):
    """filelock's `SoftFileLock` as interlock has it."""

    kind = "SoftFileLock"

    def make(self, path: str) -> Any:
        from interlock import filelock

        return getattr(filelock, self.kind)(path, poll_interval=0.001)

    def take(self, lock: Any, timeout: float) -> Any:
        lock.acquire(timeout=timeout)
        return lock

    def held(self, hold: Any) -> bool:
        return bool(hold.is_locked)

    def check(self, hold: Any) -> None:
        pass

    def again(self, hold: Any) -> bool:
        hold.release()
        return True


class Strict(Marker):
    kind = "StrictSoftFileLock"


class Facade(Marker):
    kind = "FileLock"


SUBJECTS: dict[str, Subject] = {
    "flock": Subject(),
    "flock fair": Fair(),
    "dual": Dual(),
    "tokens": Token(),
    "rwlock write": Writer(),
    "rwlock read": Reader(),
    "semaphore": Permit(),
    "marker": Marker(),
    "marker strict": Strict(),
    "filelock": Facade(),
    "lease": Lease(),
}
RIVALS = {"rwlock read": "rwlock write"}
"""Whom one may not be beside, where that is not one's like."""


class Referee:
    """Asks the other process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.subjects"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, verb: str, kind: str, path: str, timeout: float = 0.0) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, RIVALS.get(kind, kind), path, timeout]) + "\n")
        self._process.stdin.flush()
        answer: str = json.loads(self._process.stdout.readline())
        return answer

    def could_take(self, kind: str, path: str, patience: float = 0.0) -> bool:
        """Does it get the lock? It gives it back at once."""
        answer = self.ask("try", kind, path, patience)
        if answer not in ("yes", "no"):
            raise RuntimeError(f"the referee: {answer}")
        return answer == "yes"

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _referee() -> None:
    warnings.simplefilter("ignore")
    held: dict[str, tuple[Any, Any]] = {}

    def attempt(kind: str, path: str, timeout: float) -> str:
        lock = SUBJECTS[kind].make(path)
        try:
            hold = SUBJECTS[kind].take(lock, timeout)
        except TimeoutError:
            return "no"
        SUBJECTS[kind].release(hold)
        return "yes"

    def grab(kind: str, path: str, timeout: float) -> str:
        lock = SUBJECTS[kind].make(path)
        held[path] = lock, SUBJECTS[kind].take(lock, timeout)
        return "yes"

    def free(kind: str, path: str, timeout: float) -> str:
        SUBJECTS[kind].release(held.pop(path)[1])
        return "yes"

    verbs: dict[str, Callable[[str, str, float], str]] = {"try": attempt, "grab": grab, "free": free}
    for line in sys.stdin:
        verb, kind, path, timeout = json.loads(line)
        try:
            answer = verbs[verb](kind, path, timeout)
        except Exception as error:  # noqa: BLE001 - told to who asked
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    assert os.path.sep == "/"
    _referee()
