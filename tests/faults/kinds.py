"""`sweep` for the other kinds of locks: `python -m tests.faults.kinds SCENARIO...`, `--all` for every opcode.

Each kind is acquired (`Take`), waited for behind another hold of the process (`Wait`), released (`Free`), dropped while
it is being released (`Drop`), and used in a `with` statement (`With`); and some have verbs of their own. An acquire
that was interrupted must have let go when it is over, while the lock object still lives. A lease must have taken back
its record, a marker its file. `--step=7` strikes at every seventh point only, for kinds with slow or growing work.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from contextlib import nullcontext
from typing import Any

import interlock
from interlock import AsyncLock, AsyncRWLock, AsyncSemaphore, Lock, RWHold, RWLock

from . import subjects, sweep
from .words import parser, positive

TTL = 600.0  # who is left behind is found, and does not run out


class Lease(subjects.Lease):
    def make(self, path: str) -> Any:
        return Lock(path, primitive="marker", ttl=TTL)


class Updater(subjects.Writer):
    def take(self, lock: Any, timeout: float) -> Any:
        return lock.update(timeout)


class Kind(sweep.Scenario):
    """`hold` is what a successful acquire has given."""

    subject: subjects.Subject

    def prepare(self) -> None:
        self.lock: Any = self.subject.make(self.path)
        self.hold: Any = None
        self.early: list[str] = []

    def clear(self) -> None:
        hold, self.hold = self.hold, None
        if hold is not None and self.subject.held(hold):
            self.subject.release(hold)
        self.lock = None

    def keeper(self) -> Any:
        return _Keeper(self.subject, self.path)

    def marks(self) -> list[str]:
        """What says that somebody holds."""
        if isinstance(self.subject, Lease):
            return [f"held by {holder}" for holder in interlock.inspect(self.path).holders]
        if isinstance(self.subject, subjects.Strict):
            claims = os.path.join(self.path + ".filelock", "claims")
            return [f"a claim: {name}" for name in os.listdir(claims)] if os.path.isdir(claims) else []
        if isinstance(self.subject, subjects.Marker) and not isinstance(self.subject, subjects.Facade):
            return ["a marker"] if os.path.exists(self.path) else []
        only = "WRITE" if isinstance(self.subject, subjects.Permit) else ""
        return ["locked"] if sweep.kernel_locks(self.directory, only) else []

    def left(self) -> list[str]:
        threads = {thread.name for thread in threading.enumerate()} - {"MainThread", "interlock keeper"}
        return self.early + self.marks() + [f"a thread: {name}" for name in threads]


class _Keeper:
    """Keeps the process's queues, as a long-lived program does."""

    def __init__(self, subject: subjects.Subject, path: str) -> None:
        self._subject, self._lock = subject, subject.make(path)
        hold = subject.take(self._lock, 5)
        self._lines = sweep.lines()
        subject.release(hold)

    def acquire(self, timeout: float) -> Any:
        self._subject.release(self._subject.take(self._lock, timeout))
        return nullcontext()


class Shared(subjects.Facade):
    """Its levels are counted for all threads, behind a turn of this process."""

    def make(self, path: str) -> Any:
        from interlock import filelock

        return filelock.FileLock(path, poll_interval=0.001, thread_local=False)


class Take(Kind):
    def act(self) -> object:
        self.hold = self.subject.take(self.lock, 5)
        return None

    def clear(self) -> None:
        if self.hold is None and not sweep.Bomb.everywhere:
            self.early = [f"after acquire: {mark}" for mark in self.marks()]
        super().clear()


class Wait(Take):
    """Behind another hold of this process, which is released when we sleep."""

    def prepare(self) -> None:
        super().prepare()
        self.other: Any = self.subject.take(self.subject.make(self.path), 5)

    def on_sleep(self, count: int) -> None:
        other, self.other = self.other, None
        if other is not None:
            self.subject.release(other)

    def act(self) -> object:
        try:
            self.hold = self.subject.take(self.lock, 1)
        except TimeoutError:
            # Where a finalizer swallows the interrupt, 3.11 traces no more, and we do not hear of the sleep.
            if not self.bomb.point:
                raise
        return None

    def clear(self) -> None:
        self.on_sleep(0)
        super().clear()


class Held(Kind):
    def prepare(self) -> None:
        super().prepare()
        self.hold = self.subject.take(self.lock, 5)


class Free(Held):
    def act(self) -> object:
        self.subject.release(self.hold)
        return None


class Drop(Free):
    """Interrupted, and then dropped, not released again."""

    def clear(self) -> None:
        self.hold = self.lock = None


class With(Kind):
    def act(self) -> object:
        with self.subject.take(self.lock, 5):
            pass
        return None


class Still(Held):
    """Whatever happens to the call, the lock stays held."""

    def clear(self) -> None:
        if not self.marks() or not self.subject.held(self.hold):
            self.early = ["the hold was lost"]
        else:
            self.subject.check(self.hold)
        super().clear()


class TokenAsked(Still):
    subject = subjects.Token()

    def act(self) -> object:
        return self.hold.token


class LeaseRenewed(Still):
    subject = Lease()

    def act(self) -> object:
        self.hold.renew()
        return None


class Upgraded(Still):
    """A reader is in the way, and goes when we sleep."""

    subject = Updater()

    def prepare(self) -> None:
        super().prepare()
        self.reader: RWHold | None = RWLock(self.path).read(5)
        self.reader._claim.owner = object()  # type: ignore[union-attr]  # as if another thread had acquired it

    def act(self) -> object:
        self.hold.upgrade(5)
        return None

    def on_sleep(self, count: int) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.release()

    def clear(self) -> None:
        self.on_sleep(0)
        super().clear()


class Downgraded(Still):
    subject = subjects.Writer()

    def act(self) -> object:
        self.hold.downgrade()
        return None


class Task(sweep.AsyncAcquire):
    """Of the async twins."""

    def keeper(self) -> Any:
        return _Keeper(self.subject, self.path)

    subject: subjects.Subject


class AsyncPermit(Task):
    subject = subjects.Permit()

    async def main(self) -> None:
        async with AsyncSemaphore(self.path, 1):
            pass


class AsyncWriter(Task):
    subject = subjects.Writer()

    async def main(self) -> None:
        hold = await AsyncRWLock(self.path).update(5)
        await hold.upgrade(5)
        await hold.downgrade()
        await hold.release()


class AsyncLease(Task):
    subject = Lease()

    async def main(self) -> None:
        hold = await AsyncLock(self.path, primitive="marker", ttl=TTL).acquire(5)
        await hold.renew()
        await hold.release()


KINDS: dict[str, subjects.Subject] = {
    "Dual": subjects.Dual(),
    "Writer": subjects.Writer(),
    "Updater": Updater(),
    "Permit": subjects.Permit(),
    "Lease": Lease(),
    "Facade": subjects.Facade(),
    "Marker": subjects.Marker(),
    "Strict": subjects.Strict(),
    "Shared": Shared(),
}
SCENARIOS: dict[str, type[sweep.Scenario]] = {
    f"{name}{verb.__name__}": type(f"{name}{verb.__name__}", (verb,), {"subject": subject})
    for name, subject in KINDS.items()
    for verb in (Take, Wait, Free, Drop, With)
} | {
    kind.__name__: kind
    for kind in (TokenAsked, LeaseRenewed, Upgraded, Downgraded, AsyncPermit, AsyncWriter, AsyncLease)
}


def main() -> None:
    words = parser(__doc__, "SCENARIO", SCENARIOS)
    words.add_argument("--all", action="store_true", help="strike at every opcode, also where no handler runs")
    words.add_argument("--step", type=positive, default=1, help="strike at every STEP-th point only (1)")
    options = words.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # dropping a hold is what this program does
    warnings.simplefilter("ignore", RuntimeWarning)  # interrupted between making a coroutine and awaiting it
    sweep.Bomb.everywhere = options.all
    for name in options.names:
        print(json.dumps(sweep.sweep(SCENARIOS[name], options.step)), flush=True)


if __name__ == "__main__":
    main()
