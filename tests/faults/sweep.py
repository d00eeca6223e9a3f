"""KeyboardInterrupt wherever it can strike in the library, one run per point. A program: `python sweep.py SCENARIO...`.

CPython runs signal handlers when a function is entered or resumed, after a call, and when a loop jumps back (RESUME,
CALL*, JUMP_BACKWARD: `handle_eval_breaker` and CHECK_PERIODIC in its ceval.c, 3.11 to 3.13). So the n-th run raises
at the n-th such point that is executed in library code, for all n; with `--all`, at every opcode. After each
interrupted run the references are dropped and the world is compared with what it was before: locks and tickets in
the kernel, descriptors, inotify watches, the queues of the process; then the lock is acquired and released again.
Prints one JSON object per scenario.
"""

from __future__ import annotations

import asyncio
import dis
import fcntl
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import interlock
from interlock import AsyncLock, Hold, Lock, RLock, RWHold, RWLock, Timeout
from interlock._core import arbiter
from interlock._io import blocking
from interlock._wait import inotify
from interlock.engines import kernel
from interlock.engines.kernel import tickets

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

LIBRARY = os.path.dirname(os.path.abspath(interlock.__file__)) + os.sep

TABLES = os.path.join("engines", "kernel", "proc.py")
"""Reads tables with a line for each lock of the machine. Only the first two times at each opcode count there: else
the n-th point is another one in the next run, and what comes after the tables is missed as others come and go."""


def _checks_signals(op: str) -> bool:
    return op == "RESUME" or op.startswith("CALL") or ("JUMP_BACKWARD" in op and "NO_INTERRUPT" not in op)


class Bomb:
    """Raises KeyboardInterrupt at the n-th point, and lets the world act when a wait begins."""

    everywhere = False

    def __init__(self, at: int, on_sleep: Callable[[int], None] | None = None) -> None:
        self.at = at
        self.count = 0
        self.point = ""
        self.in_finalizer = False
        self.sleeps = 0
        self.on_sleep = on_sleep
        self._thread = threading.get_ident()
        self._checked: dict[int, bool] = {}  # by frame: did its last opcode look for signals?
        self._read: Counter[tuple[CodeType, int]] = Counter()

    def enters(self, frame: FrameType) -> None:
        self._checked[id(frame)] = True
        if frame.f_code.co_name == "sleep":
            self.sleeps += 1
            if self.on_sleep is not None:
                self.on_sleep(self.sleeps)

    def raises(self, frame: FrameType) -> None:
        self._checked[id(frame)] = False  # a call that raises does not look

    def steps(self, frame: FrameType) -> None:
        code = frame.f_code
        checked = self._checked.get(id(frame), False) or self.everywhere
        self._checked[id(frame)] = _checks_signals(dis.opname[code.co_code[frame.f_lasti]])
        if code.co_filename.endswith(TABLES):
            self._read[code, frame.f_lasti] += 1
            checked = checked and self._read[code, frame.f_lasti] <= 2
        self.count += checked
        if checked and self.count == self.at:
            where = code.co_filename.removeprefix(LIBRARY)
            self.point = f"{where}:{frame.f_lineno} {code.co_qualname} at {frame.f_lasti}"
            self.in_finalizer = _under_finalizer(frame)
            raise KeyboardInterrupt

    def run(self, action: Callable[[], object]) -> bool:
        """True: the action was interrupted."""
        stop = _monitor(self) if sys.version_info >= (3, 12) else _trace(self)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            stop()
        return False


def _trace(bomb: Bomb) -> Callable[[], None]:
    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "call":
            bomb.enters(frame)
        elif event == "exception":
            bomb.raises(frame)
        elif event == "opcode":
            bomb.steps(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    return lambda: sys.settrace(before)


def _monitor(bomb: Bomb) -> Callable[[], None]:
    """By sys.monitoring: tracing misses opcodes from 3.12 on, when code ran untraced in between."""
    monitoring = sys.monitoring  # type: ignore[attr-defined]
    tool, events = 4, monitoring.events

    def reporting(note: Callable[[FrameType], None]) -> Callable[..., object]:
        def callback(code: CodeType, *_: object) -> object:
            if not code.co_filename.startswith(LIBRARY):
                return monitoring.DISABLE if note == bomb.steps else None
            if not bomb.point and threading.get_ident() == bomb._thread:
                note(sys._getframe(1))
            return None

        return callback

    watched = {
        events.PY_START: bomb.enters,
        events.PY_RESUME: bomb.enters,
        events.PY_THROW: bomb.enters,
        events.INSTRUCTION: bomb.steps,
        events.RAISE: bomb.raises,
    }
    monitoring.use_tool_id(tool, "sweep")
    for event, note in watched.items():
        monitoring.register_callback(tool, event, reporting(note))
    monitoring.set_events(tool, sum(watched))

    def stop() -> None:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)

    return stop


def _under_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class Foreign:
    """Somebody who holds the lock file by flock(2) and knows nothing of interlock."""

    def __init__(self, path: str) -> None:
        self.fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def let_go(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


class Scenario:
    """One action to interrupt. `prepare` sets the stage, `act` is traced, `clear` drops what it may have left."""

    bomb: Bomb

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "x.lock")

    def prepare(self) -> None: ...
    def act(self) -> object:
        raise NotImplementedError

    def on_sleep(self, count: int) -> None: ...
    def clear(self) -> None: ...

    def keeper(self) -> Any:
        """Another lock object for the same, with which one can tell that it is free."""
        return Lock(self.path)

    def left(self) -> list[str]:
        """What only this scenario knows to look for."""
        return []


class Acquire(Scenario):
    """Nobody else wants it."""

    kind: type[Lock] = Lock

    def prepare(self) -> None:
        self.lock: Lock | None = self.kind(self.path)
        self.hold: Hold | None = None

    def act(self) -> object:
        assert self.lock is not None
        self.hold = self.lock.acquire()
        return self.hold

    def clear(self) -> None:
        if self.hold is not None:
            self.hold.release()
        self.hold = self.lock = None


class AcquireTimed(Acquire):
    def act(self) -> object:
        assert self.lock is not None
        self.hold = self.lock.acquire(5)
        return self.hold


class AcquireNew(AcquireTimed):
    """The file and its directory do not exist yet."""

    def prepare(self) -> None:
        self.path = os.path.join(self.directory, "new", "x.lock")
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            os.rmdir(os.path.dirname(self.path))
        super().prepare()


class TryAcquire(Acquire):
    def act(self) -> object:
        assert self.lock is not None
        self.hold = self.lock.try_acquire()
        return self.hold


class TryContended(TryAcquire):
    def prepare(self) -> None:
        super().prepare()
        self.foreign = Foreign(self.path)

    def clear(self) -> None:
        self.foreign.let_go()
        super().clear()


class Contended(AcquireTimed):
    """A foreign process holds it, and lets go when we begin to sleep for the `round`-th time."""

    round = 1

    def prepare(self) -> None:
        super().prepare()
        self.foreign = Foreign(self.path)

    def on_sleep(self, count: int) -> None:
        if count == self.round:
            self.foreign.let_go()

    def clear(self) -> None:
        self.foreign.let_go()
        super().clear()


class ContendedLonger(Contended):
    round = 3


class ContendedFair(Contended):
    def prepare(self) -> None:
        super().prepare()
        self.lock = Lock(self.path, fair=True)


class ContendedBlind(Contended):
    """Where events cannot be trusted: naps."""

    round = 2

    def prepare(self) -> None:
        super().prepare()
        vars(kernel.engine())["_hears"] = lambda path: False

    def clear(self) -> None:
        super().clear()
        del vars(kernel.engine())["_hears"]


class ContendedReplaced(Contended):
    """While we wait the lock file is replaced, and then let go."""

    def on_sleep(self, count: int) -> None:
        if count == 1:
            fd = os.open(self.path + ".new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.close(fd)
            os.rename(self.path + ".new", self.path)
        super().on_sleep(count)


class ContendedHere(AcquireTimed):
    """Another hold of this process has it, and is released when we sleep."""

    def prepare(self) -> None:
        super().prepare()
        self.other: Hold | None = Lock(self.path).acquire()
        claim = self.other._claim
        assert claim is not None
        claim.owner = object()  # as if another thread had acquired it

    def on_sleep(self, count: int) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.release()

    def clear(self) -> None:
        self.on_sleep(0)
        super().clear()


class TimesOut(Contended):
    round = -1

    def act(self) -> object:
        assert self.lock is not None
        try:
            self.lock.acquire(0.0005)
        except Timeout:
            return None
        raise AssertionError("granted although somebody holds it")


class _Behind:
    """A thread of this process that queues behind us, and whose turn must come whatever happens to us."""

    def __init__(self, path: str) -> None:
        line = Lock(path)._line
        self._thread = threading.Thread(target=lambda: Lock(path).acquire(20).release())
        self._thread.start()
        while not line.queue and self._thread.is_alive():
            time.sleep(0.0001)

    def served(self) -> None:
        self._thread.join(60)
        if self._thread.is_alive():
            raise AssertionError("the thread behind us was not woken")


class ContendedBefore(Contended):
    """A thread queues behind us while we wait."""

    behind: _Behind | None = None

    def on_sleep(self, count: int) -> None:
        if count == 1:
            self.behind = _Behind(self.path)
        super().on_sleep(count)

    def clear(self) -> None:
        super().clear()
        behind, self.behind = self.behind, None
        if behind is not None:
            behind.served()


class TimesOutBefore(ContendedBefore):
    round = -1

    def act(self) -> object:
        return TimesOut.act(self)  # type: ignore[arg-type]


class TimesOutHere(AcquireTimed):
    """Behind another hold of this process, in the process's own queue."""

    def prepare(self) -> None:
        super().prepare()
        self.other: Hold | None = Lock(self.path).acquire()

    def act(self) -> object:
        return TimesOut.act(self)  # type: ignore[arg-type]

    def clear(self) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.release()
        super().clear()


class Release(Acquire):
    def prepare(self) -> None:
        super().prepare()
        super().act()

    def act(self) -> object:
        assert self.hold is not None
        self.hold.release()
        return None

    def clear(self) -> None:
        if self.hold is not None and self.hold.held:
            self.hold.release()
        self.hold = self.lock = None


class ReleaseWaited(Release):
    """A hold that had to be waited for still has its watch."""

    def prepare(self) -> None:
        Acquire.prepare(self)
        foreign = Foreign(self.path)
        assert self.lock is not None
        bomb = Bomb(-1, lambda count: foreign.let_go())
        assert not bomb.run(lambda: Acquire.act(self))


class ReleaseDropped(Release):
    """Interrupted, and then the hold is only dropped, not released again."""

    def clear(self) -> None:
        self.hold = self.lock = None


class ReleaseBefore(ReleaseDropped):
    """A thread waits for us."""

    def prepare(self) -> None:
        super().prepare()
        self.behind = _Behind(self.path)

    def clear(self) -> None:
        super().clear()
        self.behind.served()


class ExitBefore(ReleaseBefore):
    """The end of a `with` block, with a thread behind."""

    def prepare(self) -> None:
        self.lock = Lock(self.path)
        self.lock.__enter__()
        self.hold = None
        self.behind = _Behind(self.path)

    def act(self) -> object:
        assert self.lock is not None
        self.lock.__exit__(None, None, None)
        return None


class Drain(Scenario):
    """News read by one waiter concern others, who will not hear them twice."""

    def prepare(self) -> None:
        instance = inotify.shared()
        assert instance is not None
        self.instance = instance
        self.told: list[bool] = []
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.handle = instance.watch(self.fd, instance.CLOSED, self, lambda: self.told.append(True))
        os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))

    def act(self) -> object:
        self.instance.drain()
        return None

    def clear(self) -> None:
        self.instance.drain()
        self.instance.unwatch(self.handle, self)
        os.close(self.fd)
        if not self.told:
            raise AssertionError("the news were lost")


class ExitHold(ReleaseDropped):
    def act(self) -> object:
        assert self.hold is not None
        self.hold.__exit__(None, None, None)
        return None


class With(Scenario):
    """The whole statement: nothing is held after it, whatever happened."""

    kind: type[Lock] = Lock

    def prepare(self) -> None:
        self.lock: Lock | None = self.kind(self.path, timeout=5)

    def act(self) -> object:
        lock = self.lock
        assert lock is not None
        with lock:
            pass
        return None

    def clear(self) -> None:
        self.lock = None


class WithHold(With):
    def act(self) -> object:
        assert self.lock is not None
        with self.lock.acquire():
            pass
        return None


class ReadAcquire(Scenario):
    """A reader, where nobody writes."""

    def prepare(self) -> None:
        self.rwlock: RWLock | None = RWLock(self.path, timeout=5)
        self.hold: RWHold | None = None

    def act(self) -> object:
        assert self.rwlock is not None
        self.hold = self.rwlock.read()
        return self.hold

    def clear(self) -> None:
        if self.hold is not None:
            self.hold.release()
        self.hold = self.rwlock = None


class ReadWith(ReadAcquire):
    """The whole statement: nothing is held after it, whatever happened."""

    def act(self) -> object:
        assert self.rwlock is not None
        with self.rwlock.read():
            pass
        return None


class WithNested(With):
    kind = RLock

    def act(self) -> object:
        lock = self.lock
        assert lock is not None
        with lock:
            with lock:
                pass
        return None


class Reenter(Scenario):
    """Whatever happens to the inner hold, the outer one stays, and its release frees the lock."""

    def prepare(self) -> None:
        self.lock: RLock | None = RLock(self.path)
        self.outer: Hold | None = self.lock.acquire()
        self.inner: Hold | None = None

    def act(self) -> object:
        assert self.lock is not None
        self.inner = self.lock.acquire(1)
        return self.inner

    def clear(self) -> None:
        if self.inner is not None:
            self.inner.release()
        assert self.outer is not None
        if not self.outer.held or not locked(self.path):
            raise AssertionError("the outer hold was lost")
        self.outer.release()
        if locked(self.path):
            raise AssertionError("still locked after the outer hold was released")
        self.outer = self.inner = self.lock = None


class ReleaseInner(Reenter):
    def prepare(self) -> None:
        super().prepare()
        assert self.lock is not None
        self.inner = self.lock.acquire()

    def act(self) -> object:
        assert self.inner is not None
        self.inner.release()
        return None

    def clear(self) -> None:
        if self.inner is not None and not self.inner.held:
            self.inner = None
        super().clear()


class AsyncAcquire(Scenario):
    """In a task; the loop and its descriptors are closed afterwards."""

    foreign: Foreign | None = None

    def prepare(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self.lock: AsyncLock | None = AsyncLock(self.path)
        self.held = False

    async def main(self) -> None:
        assert self.lock is not None
        hold = await self.lock.acquire(5)
        self.held = True
        await hold.release()

    def act(self) -> object:
        assert self.loop is not None
        self.loop.run_until_complete(self.main())
        return None

    def clear(self) -> None:
        loop = self.loop
        assert loop is not None
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError, KeyboardInterrupt):
                loop.run_until_complete(task)
        loop.close()
        self.loop = self.lock = None


class AsyncWith(AsyncAcquire):
    async def main(self) -> None:
        assert self.lock is not None
        async with self.lock:
            pass


class AsyncContended(AsyncAcquire):
    def prepare(self) -> None:
        super().prepare()
        self.foreign = Foreign(self.path)

    def on_sleep(self, count: int) -> None:
        if count == 1 and self.foreign is not None:
            self.foreign.let_go()

    def clear(self) -> None:
        self.on_sleep(1)
        super().clear()


class AcquireAll(Scenario):
    """Several at once: all of them, or none."""

    def prepare(self) -> None:
        self.locks = [Lock(self.path), Lock(os.path.join(self.directory, "b.lock")), Lock("memory://#sweep")]
        self.holds: interlock.Holds | None = None

    def act(self) -> object:
        self.holds = interlock.acquire_all(self.locks, 5)
        return self.holds

    def clear(self) -> None:
        if self.holds is not None:
            self.holds.release()
        self.holds = None
        self.locks = []


class AcquireAllBusy(AcquireAll):
    """The second is not to be had, so the first is given back; and that is interrupted, too."""

    def prepare(self) -> None:
        super().prepare()
        last = os.path.join(self.directory, "z.lock")
        self.foreign = Foreign(last)
        self.locks.append(Lock(last))

    def act(self) -> object:
        with suppress(Timeout):
            self.holds = interlock.acquire_all(self.locks, 0)
        return None

    def clear(self) -> None:
        self.foreign.let_go()
        super().clear()


class ReleaseAll(AcquireAll):
    def prepare(self) -> None:
        super().prepare()
        self.holds = interlock.acquire_all(self.locks, 5)

    def act(self) -> object:
        with self.holds or self.fail():
            pass
        return None

    def fail(self) -> interlock.Holds:
        raise AssertionError("not prepared")

    def clear(self) -> None:
        if self.holds is not None and not self.holds.held:
            self.holds = None
        super().clear()


def _kinds(base: type[Scenario]) -> list[type[Scenario]]:
    found = []
    for kind in base.__subclasses__():
        found += [kind, *_kinds(kind)]
    return found


SCENARIOS = {kind.__name__: kind for kind in _kinds(Scenario)}


# ---- what the kernel and the process know


def locked(path: str) -> bool:
    """Would flock(2) be refused?"""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def kernel_locks(directory: str, only: str = "") -> int:
    """Entries of /proc/locks, flock and byte-range, on any file under `directory`; `only`: READ or WRITE.

    The kernel gives the table page by page, and finds the next page by counting entries: when locks of others come or
    go in between, one is left out or shown twice. So what does not fit in a page is read until three readings agree.
    """
    inodes = {os.stat(os.path.join(where, name)).st_ino for where, _, names in os.walk(directory) for name in names}
    before: list[list[str]] = []
    while True:
        pages = _lock_pages()
        ours = sorted(
            line.partition(": ")[2]
            for line in "".join(pages).splitlines()
            if int(line.split()[-3].split(":")[2]) in inodes and only in line
        )
        if len(pages) < 2 or before[-2:] == [ours, ours]:
            return len(ours)
        before.append(ours)


def _lock_pages() -> list[str]:
    fd = os.open("/proc/locks", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [page.decode("ascii") for page in iter(lambda: os.read(fd, 1 << 20), b"")]
    finally:
        os.close(fd)


def lines() -> list[arbiter.Line]:
    return [line for reference in list(arbiter._lines.values()) if (line := reference()) is not None]


def stray_watches() -> int:
    """What the kernel watches for us and we have forgotten."""
    if inotify._instance is None:
        return 0
    with open(f"/proc/self/fdinfo/{inotify._instance.fileno()}", encoding="ascii") as info:
        return sum(line.startswith("inotify") for line in info) - len(inotify._instance._idle)


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def pooled() -> set[str]:
    return {str(fd) for wake in blocking._wake_pool for fd in wake.fds}


def leftovers(scenario: Scenario, before: dict[str, str]) -> list[str]:
    """What an interrupted run left behind."""
    wrong = []
    if kernel_locks(scenario.directory):
        wrong.append(f"{kernel_locks(scenario.directory)} locks in the kernel")
    if locked(scenario.path):
        wrong.append("locked")
    if arbiter.turns:
        wrong.append("a claim keeps the turn")
    if any(line.queue for line in lines()):
        wrong.append("a place keeps queueing")
    if stray_watches() > 0:
        wrong.append("a watch stays")
    if inotify._instance is not None and inotify._instance._watchers:
        wrong.append("a watcher stays")
    extra = {fd: what for fd, what in descriptors().items() if fd not in before and fd not in pooled()}
    if extra:
        wrong.append(f"descriptors leak: {extra}")
    return wrong


def repair(scenario: Scenario, before: dict[str, str]) -> None:
    """After a failure was noted: make the next runs independent of it."""
    arbiter.turns.clear()
    for line in lines():
        line.queue.clear()
    for fd in descriptors():
        if fd not in before and fd not in pooled():
            with suppress(OSError):
                os.close(int(fd))
    if inotify._instance is not None:
        for wd in list(inotify._instance._watchers):
            inotify._instance._rm(inotify._instance.fileno(), wd)
        inotify._instance._watchers.clear()
        inotify._instance._idle.clear()
    with suppress(FileNotFoundError):
        os.unlink(scenario.path)


def once(scenario: Scenario, at: int) -> Bomb:
    scenario.prepare()
    bomb = scenario.bomb = Bomb(at, scenario.on_sleep)
    bomb.run(scenario.act)
    return bomb


def sweep(kind: type[Scenario], step: int = 1) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    swallowed: list[str] = []  # interrupts inside finalizers: the interpreter reports and drops them
    sys.unraisablehook = lambda hook: swallowed.append(str(hook.exc_type))
    with tempfile.TemporaryDirectory() as made:
        directory = os.path.realpath(made)
        scenario = kind(directory)
        for _ in range(3):  # warm up: imports, the inotify instance, pooled eventfds
            once(scenario, -1)
            scenario.clear()
        keep = scenario.keeper()  # and with it the line, so that its state is that of a long-lived program
        gc.collect()
        gc.freeze()
        before = {fd: what for fd, what in descriptors().items() if fd not in pooled()}
        at = points = clean = 0
        while clean < 3:
            at += step
            bomb = once(scenario, at)
            if not bomb.point:
                clean += 1
            else:
                clean = 0
                points += 1
            problems = []
            try:
                scenario.clear()
            except BaseException as error:  # noqa: BLE001 - told to the test
                problems.append(f"clearing up: {type(error).__name__}: {error}")
            gc.collect()
            problems += leftovers(scenario, before) + scenario.left()
            if not problems:
                try:
                    with keep.acquire(1):
                        pass
                except BaseException as error:  # noqa: BLE001 - told to the test
                    problems.append(f"the next acquire: {type(error).__name__}: {error}")
            if problems:
                failures.append({"at": at, "point": bomb.point, "finalizer": bomb.in_finalizer, "problems": problems})
                scenario = kind(directory)
                gc.collect()
                repair(scenario, before)
    return {"scenario": kind.__name__, "points": points, "failures": failures, "swallowed": len(swallowed)}


def main(names: list[str]) -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)  # dropping a hold is what this program does
    warnings.simplefilter("ignore", RuntimeWarning)  # interrupted between making a coroutine and awaiting it
    assert tickets.FRONT  # the module is loaded before the descriptors are counted
    if "--all" in names:
        names.remove("--all")
        Bomb.everywhere = True
    for name in names or SCENARIOS:
        print(json.dumps(sweep(SCENARIOS[name])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
