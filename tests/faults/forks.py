"""Fork at every opcode of another thread's acquire and release, filelock too: python -m tests.faults.forks

A thread takes and gives back a lock, and stops before each opcode of library code; there the main thread forks. While
the thread stands still, the child looks at what it has: it must not believe that it holds (`believes`), its releases
must leave the parent's lock alone (`releases`), it must be refused within a bounded time what the parent has
(`granted`) and get what nobody has (`stuck`, also if it has to be ended), and it must have no descriptor of the lock
(`descriptors`). The parent's hold must be whole afterwards (`parent`), and nothing locked after its release. Each 16th
child stays until then, and must get the lock. The oracle of what is held is /proc/locks, or the record of a lease.

Linux, CPython 3.11 to 3.13. Names of kinds as arguments measure only these; --json.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import filelock

import interlock.filelock
from interlock import Lock, RLock, RWLock, Semaphore

from . import sweep
from .words import parser, positive

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

FAULTS = ("believes", "releases", "granted", "stuck", "descriptors", "parent")
PATIENCE = 60


class Subject:
    """A lock that one thread takes; `path` is where its descriptors and markers are."""

    library = sweep.LIBRARY

    def __init__(self, path: str, make: Callable[[str], Any]) -> None:
        self.path = path
        self._make = make
        self.lock = make(path)
        self.hold: Any = None

    def acquire(self) -> None:
        self.hold = self._take(self.lock, PATIENCE)

    def release(self) -> None:
        self.hold.release()

    def _take(self, lock: Any, patience: float) -> Any:
        return lock.acquire(patience)

    def believes(self) -> bool:
        return bool(self.lock.held or (self.hold is not None and self.hold.held))

    def drop(self) -> None:
        """What a child may do by mistake."""
        if self.hold is not None:
            with suppress(interlock.NotHeldError):
                self.hold.release()
        self.hold = None

    def attempt(self, path: str, patience: float) -> bool:
        """Acquire and release a lock of this kind that is new to the process."""
        try:
            hold = self._take(self._make(path), patience)
        except TimeoutError:
            return False
        hold.release()
        return True

    def taken(self) -> int:
        """What nobody but the stopped thread can have; not 0 if the lock is taken."""
        return sweep.kernel_locks(os.path.dirname(self.path))


class Written(Subject):
    def _take(self, lock: Any, patience: float) -> Any:
        return lock.write(patience)

    def believes(self) -> bool:
        return self.hold is not None and self.hold.held


class Leased(Subject):
    """Its record says who holds, whatever the process that looks believes."""

    def taken(self) -> int:
        return sum(1 if holder.pid is None else holder.pid for holder in interlock.inspect(self.path).holders)


class Facade(Subject):
    """The interface of filelock."""

    def release(self) -> None:
        self.lock.release()

    def believes(self) -> bool:
        return bool(self.lock.is_locked)

    def drop(self) -> None:
        self.lock.release(force=True)

    def attempt(self, path: str, patience: float) -> bool:
        lock = self._make(path)
        try:
            lock.acquire(patience)
        except TimeoutError:
            return False
        lock.release()
        return True


class Filelock(Facade):
    library = os.path.dirname(filelock.__file__) + os.sep


class Permit(Subject):
    """Its permit is a write lock; that it is about to take one, and of how many, is a read lock that others share."""

    def taken(self) -> int:
        return sweep.kernel_locks(os.path.dirname(self.path), only="WRITE")

    def believes(self) -> bool:
        return self.hold is not None and self.hold.held


class Unguarded(Subject):
    """The negative control: a file whose descriptor the child knows and unlocks."""

    library = __file__

    def acquire(self) -> None:
        self.hold = sweep.Foreign(self.path)

    def release(self) -> None:
        self.hold.let_go()

    def believes(self) -> bool:
        return self.hold is not None

    def drop(self) -> None:
        if self.hold is not None and self.hold.fd is not None:
            fcntl.flock(self.hold.fd, fcntl.LOCK_UN)


SUBJECTS: dict[str, tuple[type[Subject], Callable[[str], Any]]] = {
    "lock": (Subject, Lock),
    "fair": (Subject, lambda path: Lock(path, fair=True)),
    "rlock": (Subject, RLock),
    "rwlock": (Written, RWLock),
    "semaphore": (Permit, lambda path: Semaphore(path, 1)),
    "marker": (Leased, lambda path: Lock(path, primitive="marker", ttl=600)),
    "facade": (Facade, lambda path: interlock.filelock.FileLock(path, thread_local=False)),
    "filelock": (Filelock, lambda path: filelock.FileLock(path, thread_local=False)),
    "unguarded": (Unguarded, Lock),
}


class Stepper:
    """Runs an action in a thread of its own, which stops at each opcode until `go` is called."""

    def __init__(self, library: str, action: Callable[[], object]) -> None:
        self._library = library
        self._action = action
        self._stopped, self._gone = threading.Semaphore(0), threading.Semaphore(0)
        self.place: str | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stepper:
        self._thread.start()
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)

    def go(self) -> None:
        self._gone.release()
        self._wait()

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE):
            raise AssertionError(f"the thread does not come on from {self.place}")

    def _run(self) -> None:
        unwatch = self._monitor() if sys.version_info >= (3, 12) else self._settrace()
        try:
            self._action()
        except BaseException as error:  # noqa: BLE001 - told to the sweep
            self.error = error
        finally:
            unwatch()
            self.place = None
            self._stopped.release()

    def _stop_at(self, frame: FrameType) -> None:
        name = frame.f_code.co_filename.removeprefix(self._library)
        self.place = f"{name}:{frame.f_lineno} {frame.f_code.co_qualname} at {frame.f_lasti}"
        self._stopped.release()
        self._gone.acquire()

    def _settrace(self) -> Callable[[], None]:
        sys.settrace(self._trace)
        return lambda: sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(self._library):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self._stop_at(frame)
        return self._trace

    def _monitor(self) -> Callable[[], None]:
        """Tracing misses opcodes from 3.12 on, see `sweep`; but this hears of all threads, and goes on in a child."""
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        tool, event, me = 4, monitoring.events.INSTRUCTION, threading.get_ident()

        def at(code: CodeType, _: int) -> object:
            if not code.co_filename.startswith(self._library) or code.co_qualname.startswith("Stepper."):
                return monitoring.DISABLE
            if threading.get_ident() == me:
                self._stop_at(sys._getframe(1))
            return None

        monitoring.use_tool_id(tool, "forks")
        monitoring.register_callback(tool, event, at)
        monitoring.set_events(tool, event)

        def unwatch() -> None:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)

        return unwatch


def judge(subject: Subject) -> list[str]:
    """In the child, while the parent's thread stands still."""
    faults = []
    directory = os.path.dirname(subject.path)
    if any(what.startswith(directory) for what in sweep.descriptors().values()):
        faults.append("descriptors")
    before = subject.taken()
    if subject.believes():
        faults.append("believes")
    subject.drop()
    if subject.taken() != before:
        return [*faults, "releases"]
    if before:
        if subject.attempt(subject.path, 0.001):
            faults.append("granted")
        if subject.taken() != before:
            faults.append("releases")
    if not subject.attempt(os.path.join(directory, "child", "other.lock"), PATIENCE / 2):
        faults.append("stuck")
    return faults


def child(subject: Subject, stay: int | None, judged: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE)
    mask = 1 << len(FAULTS)
    try:
        faults = judge(subject)
        if stay is not None:
            os.close(judged)
            signal.alarm(0)  # it stays for as long as the sweep takes
            os.read(stay, 1)
            signal.alarm(PATIENCE)
            if not subject.attempt(subject.path, PATIENCE / 2):
                faults.append("stuck")
        mask = sum({1 << FAULTS.index(fault) for fault in faults})
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(mask)


def faults_of(pid: int) -> list[str]:
    _, status = os.waitpid(pid, 0)
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status) >= 1 << len(FAULTS):
        return ["stuck"]
    return [fault for at, fault in enumerate(FAULTS) if os.WEXITSTATUS(status) >> at & 1]


def measure(kind: str, step: int = 1) -> dict[str, Any]:
    base, make = SUBJECTS[kind]
    counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    places: dict[str, list[str]] = {}
    points = forks = 0
    with tempfile.TemporaryDirectory() as made:
        directory = os.path.realpath(made)
        os.mkdir(os.path.join(directory, "child"))
        warm = base(os.path.join(directory, "child", "warm.lock"), make)
        for _ in range(3):
            warm.acquire()
            warm.release()
        subject = base(os.path.join(directory, "x.lock"), make)
        waiting, ending = os.pipe()
        staying: list[tuple[int, str]] = []

        def blame(fault: str, place: str) -> None:
            counts[fault] += 1
            places.setdefault(fault, []).append(place)

        def fork_here(place: str, stays: bool) -> None:
            hearing, judged = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(ending)
                child(subject, waiting if stays else None, judged)
            os.close(judged)
            os.read(hearing, 1)  # what it tries while it looks would puzzle the next one
            os.close(hearing)
            if stays:
                staying.append((pid, place))
                return
            for fault in faults_of(pid):
                blame(fault, place)

        for act in subject.acquire, subject.release:
            with Stepper(base.library, act) as stepper:
                while stepper.place is not None:
                    points += 1
                    if points % step == 0:
                        forks += 1
                        # They all want the lock when the sweep is over, and each has PATIENCE for it: not too many.
                        fork_here(stepper.place, forks % 16 == 0 and len(staying) < 40)
                    stepper.go()
            if stepper.error is not None:
                blame("parent", f"{act.__name__}: {stepper.error!r}")
            if bool(subject.taken()) != (act == subject.acquire):
                blame("parent", f"after {act.__name__}")
        os.close(ending)
        for pid, place in staying:
            for fault in faults_of(pid):
                blame(fault, place)
        os.close(waiting)
    return {"kind": kind, "points": points, "forks": forks, **counts, "places": places}


def main() -> None:
    warnings.simplefilter("ignore")
    words = parser(__doc__, "KIND", SUBJECTS, [kind for kind in SUBJECTS if kind != "unguarded"])
    words.add_argument("--step", type=positive, default=1, help="fork at every STEP-th opcode only (1)")
    words.add_argument("--json", action="store_true", help="print JSON")
    words.add_argument("--where", action="store_true", help="print the places of what was wrong")
    options = words.parse_args()
    results = [measure(kind, options.step) for kind in options.names]
    if options.json:
        print(json.dumps(results))
        return
    columns = ("kind", "points", "forks", *FAULTS)
    print("| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))
    for result in results:
        print("| " + " | ".join(str(result[name]) for name in columns) + " |")
    if options.where:
        for result in results:
            for fault, where in result["places"].items():
                print(result["kind"], fault, *sorted(set(where)), sep="\n  ")


if __name__ == "__main__":
    main()
