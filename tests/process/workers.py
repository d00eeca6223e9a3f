"""Other processes for the tests. As a module: `Worker` and the oracles; as a program: the process that obeys one.

The oracles read the kernel's tables themselves; they ask nothing of the library that they judge.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import interlock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

assert sys.platform == "linux"

TICKET = 1 << 62  # where the library's tickets begin
SIGNED = TICKET + (1 << 61)  # and where those of fair locks are signed
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# ---- in the test's process


def _for_ever() -> None:
    """Sleep until killed, or until the test that started this process has ended. Not pause(2): a signal that comes just
    before it is slept through."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)


def until(condition: Callable[[], object], what: str = "", timeout: float = 60.0) -> None:
    """Wait for something that is going to be true; fail if it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain: {what or condition}")
        time.sleep(0.0005)


class Worker:
    """A process that has its orders from us line by line, and answers each with a JSON object.

    `tell` sends an order, `answer` waits for the next answer, `ask` does both.
    """

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *options, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout.fileno()
        self._unread = b""
        self._unclaimed: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, verb: str, *words: object) -> None:
        self._stdin.write(json.dumps([verb, *words]).encode() + b"\n")
        self._stdin.flush()

    def answer(self, event: str = "", timeout: float = 60.0) -> dict[str, Any]:
        """The next answer, or the next of this kind; others are kept for later."""
        for kept in self._unclaimed:
            if kept["event"] == event or not event:
                self._unclaimed.remove(kept)
                return kept
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read(deadline)
            if answer["event"] == event or not event:
                return answer
            self._unclaimed.append(answer)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._stdout], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise AssertionError(f"pid {self.pid} did not answer in time; unread: {self._unclaimed}")
            news = os.read(self._stdout, 65536)
            if not news:
                raise AssertionError(f"pid {self.pid} ended: {self._process.wait(60)}")
            self._unread += news
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, verb: str, *words: object, timeout: float = 60.0) -> dict[str, Any]:
        self.tell(verb, *words)
        return self.answer("", timeout)

    def silent(self, seconds: float) -> bool:
        """No answer came within this time. For what must not happen; it can only fail to notice."""
        return not self._unread and not select.select([self._stdout], [], [], seconds)[0]

    def waits(self, path: str, timeout: float = 60.0) -> None:
        """Return when this process has its ticket for `path` and sleeps."""
        until(lambda: queues(self.pid, path) and state(self.pid) == "S", f"pid {self.pid} queues", timeout)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGSTOP, and it has stopped."""
        self.signal(signal.SIGSTOP)
        until(lambda: state(self.pid) == "T", "stopped")

    def kill(self) -> float:
        """SIGKILL, and it is gone. Returns the monotonic second before the kill."""
        before = time.monotonic()
        self._process.kill()
        self._process.wait()
        return before

    def end(self) -> int:
        """Let it end by itself; its exit status."""
        self._stdin.close()
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(60)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()


def alarm(seconds: int) -> None:
    """End this process with tracebacks, if it has not ended by itself by then. A forked child needs its own."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(seconds)


def isolated(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test function, whose only argument is `path`, in a process of its own.

    Nothing waited there before. What is printed to standard error fails the test too: a warning, an exception
    in a finalizer.
    """
    return _elsewhere(test, ())


def in_namespaces(test: Callable[..., None]) -> Callable[..., None]:
    """The same, as root of a user namespace with mounts and limits of its own."""
    return _elsewhere(test, ("unshare", "-rm"))


def _elsewhere(test: Callable[..., None], prefix: tuple[str, ...]) -> Callable[..., None]:
    @functools.wraps(test)
    def alone(path: str) -> None:
        call = f"m.{test.__name__}.__wrapped__(sys.argv[1])"
        code = f"import sys, {__name__} as w, {test.__module__} as m; w.alarm(40); {call}"
        options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]  # 3.12: fork with threads
        command = [*prefix, sys.executable, *options, "-c", code, path]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr, done.stderr

    return alone


def in_child(action: Callable[[], object]) -> int:
    """Run this in a forked child of ours, whose exit status tells whether it raised. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        alarm(30)
        action()
        status = 0
    except BaseException:  # noqa: BLE001 - shown, and told by the exit status
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def succeeded(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def wait_once(path: str) -> None:
    """Have everything imported: a fork while another thread imports a module leaves that module dead in the child,
    and whoever imports it there waits for ever. No library can mend that."""
    stranger = Worker()
    stranger.ask("acquire", path)

    def help_out() -> None:
        until(lambda: queues(os.getpid(), path), "it waits")
        stranger.ask("release")

    helper = threading.Thread(target=help_out)
    helper.start()
    interlock.Lock(path).acquire(20).release()
    helper.join()
    stranger.close()


def state(pid: int) -> str:
    """R, S, T ... of a process; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descriptors() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # closed meanwhile
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def work_seconds(pid: int) -> float:
    """How long a process has run on a processor."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def switches(pid: int) -> int:
    """How often it has gone to sleep."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))


def _locks(path: str) -> list[list[str]]:
    """The fields of /proc/locks for this file; those of blocked ones begin with an arrow."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return []
    with open("/proc/locks", encoding="ascii") as table:
        lines = [line.split()[1:] for line in table]
    found = [fields for fields in lines if fields[-3].split(":")[2] == str(status.st_ino)]
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:"
    # Where stat(2) tells a device that this table does not know, as on btrfs, the inode must do.
    return [fields for fields in found if fields[-3].startswith(device)] or found


def lockers(path: str) -> list[int]:
    """Who holds flock(2) on this file, by the kernel's table."""
    for _ in range(5):
        found = [int(fields[3]) for fields in _locks(path) if fields[0] == "FLOCK"]
        if len(found) < 2:
            break
        # A table of more than a page is read in pieces: a lock that changes hands meanwhile may be in two of them.
    return found


def tickets(path: str) -> int:
    """How many waiters stand in the queue of this file."""
    return sum(fields[0] == "OFDLCK" and TICKET <= int(fields[-2]) < SIGNED for fields in _locks(path))


def queues(pid: int, path: str) -> bool:
    """Has this process a ticket for this file?"""
    try:
        there = os.stat(path)
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_is_ticket(f"/proc/{pid}", fd, there) for fd in fds)


def _is_ticket(process: str, fd: str, there: os.stat_result) -> bool:
    try:
        mine = os.stat(f"{process}/fd/{fd}")
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            return False
        with open(f"{process}/fdinfo/{fd}", encoding="ascii") as info:
            return "OFDLCK" in info.read()
    except OSError:  # closed meanwhile
        return False


def locked_by_others(path: str) -> bool:
    """Would flock(2) be refused to a stranger? Asks the kernel by trying."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ---- in the other process

_holds: list[interlock.Hold] = []
_children: list[int] = []


def _say(**answer: object) -> None:
    os.write(1, json.dumps({"pid": os.getpid(), "at": time.monotonic(), **answer}).encode() + b"\n")


def _acquired(hold: interlock.Hold) -> None:
    at = time.monotonic()
    _holds.append(hold)
    _say(event="acquired", at=at, waited=hold.waited)


def _error(error: BaseException) -> None:
    holder = getattr(error, "holder", None)
    names = [] if holder is None else holder.__dataclass_fields__
    _say(
        event="error",
        type=type(error).__name__,
        text=str(error),
        errno=getattr(error, "errno", None),
        filename=getattr(error, "filename", None),
        waited=getattr(error, "waited", None),
        holder={name: getattr(holder, name) for name in names} or None,
    )


class Verbs:
    """What a worker can be told. Each answers exactly once, `spawn` when its child acquires."""

    def ready(self) -> None:
        _say(event="ready")

    def acquire(self, path: str, timeout: float | None = None, options: dict[str, Any] | None = None) -> None:
        _acquired(interlock.Lock(path, **(options or {})).acquire(timeout))

    def attempt(self, path: str) -> None:
        hold = interlock.Lock(path).try_acquire()
        if hold is None:
            _say(event="contended")
        else:
            _acquired(hold)

    def release(self) -> None:
        hold = _holds.pop()
        hold.release()
        _say(event="released")

    def check(self) -> None:
        """The newest hold, as it sees itself."""
        hold = _holds[-1]
        try:
            hold.assert_held()
        except interlock.LockError as error:
            _say(event="checked", held=hold.held, lost=bool(hold.lost), error=type(error).__name__, text=str(error))
        else:
            _say(event="checked", held=hold.held, lost=bool(hold.lost), error=None)

    def spawn(self, path: str, options: dict[str, Any] | None = None) -> None:
        """A forked child acquires, says so, and holds until it is killed. Its own answer names its pid."""
        pid = os.fork()
        if pid:
            _children.append(pid)
            _say(event="spawned", child=pid)
            return
        try:
            os.close(0)
            _acquired(interlock.Lock(path, **(options or {})).acquire(60))
            _for_ever()
        finally:
            os._exit(9)

    def kill(self, pid: int) -> None:
        """SIGKILL a child; answers with the monotonic second before it."""
        before = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        _children.remove(pid)
        os.waitpid(pid, 0)
        _say(event="killed", child=pid, at=before)

    def fork_idle(self) -> None:
        """A forked child that does nothing until it is killed."""
        pid = os.fork()
        if not pid:
            while True:
                time.sleep(60)
        _children.append(pid)
        _say(event="forked", child=pid)

    def handler(self, number: int, how: str) -> None:
        """Answer this signal with an exception ("raise") or with nothing but a handler that ran ("note")."""

        def handle(number: int, frame: FrameType | None) -> None:
            if how == "raise":
                raise InterruptedError(f"signal {number}")

        signal.signal(number, handle)
        _say(event="ready")

    def child_with_descriptor(self, pass_fds: bool, close_fds: bool) -> None:
        """Run `sleep` beside us, with our lock's descriptor passed, or with whatever it inherits anyhow."""
        fds = [fd for fd, target in descriptors().items() if target.endswith(".lock")]
        sleeper = subprocess.Popen(
            ["sleep", "600"], stdin=subprocess.DEVNULL, pass_fds=fds if pass_fds else (), close_fds=close_fds
        )
        _children.append(sleeper.pid)
        _sleepers.append(sleeper)
        _say(event="started", child=sleeper.pid)


_sleepers: list[subprocess.Popen[bytes]] = []


def obey() -> None:
    verbs = Verbs()
    unread = b""
    while True:
        news = os.read(0, 65536)
        if not news:
            break
        *lines, unread = (unread + news).split(b"\n")
        for line in lines:
            verb, *words = json.loads(line)
            try:
                getattr(verbs, verb)(*words)
            except Exception as error:  # noqa: BLE001 - told to the test
                _error(error)
    for pid in _children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    obey()
