"""What the facade promises beyond doing as filelock does: no polling, no threads, its fast path, its alias."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import importlib
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock
from interlock._filelock import native
from interlock.engines import kernel
from interlock.filelock import (
    AsyncFileLock,
    BaseAsyncFileLock,
    BaseFileLock,
    Cancelled,
    FileLock,
    SoftFileLock,
    Timeout,
    UnixFileLock,
    lock_descriptor,
    unlock_descriptor,
)

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    pytest.skip("these tests speak flock(2) and fork; test_differential runs here", allow_module_level=True)

@pytest.fixture
def path(tmp_path: Path) -> str:
    return os.path.join(os.path.realpath(tmp_path), "a.lock")


def hold_elsewhere(path: str) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin is closed."""
    script = (
        "import fcntl, os, sys\n"
        f"fd = os.open({path!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    with child:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)


# ---- waiting


def count_attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every flock(2) that the engine tries from now on."""
    engine = kernel.engine()
    real = engine.ops.try_lock
    tries: list[int] = []

    def counted(fd: int, path: str) -> bool:
        tries.append(fd)
        return real(fd, path)

    monkeypatch.setattr(engine.ops, "try_lock", counted, raising=False)
    return tries


def test_threads_wait_without_polling(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = count_attempts(monkeypatch)
    child = hold_elsewhere(path)
    shared = FileLock(path, thread_local=False, poll_interval=0.001)
    with ThreadPoolExecutor(20) as pool:
        waiters = [pool.submit(shared.acquire, 30) for _ in range(20)]
        time.sleep(0.5)  # 500 intervals, 20 waiters
        assert not any(waiter.done() for waiter in waiters)
        assert len(tries) < 100
        end(child)
        for waiter in waiters:
            waiter.result(20)
    assert shared.lock_counter == 20
    assert len(tries) < 200
    shared.release(force=True)


def test_tasks_wait_without_polling_and_without_threads(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = count_attempts(monkeypatch)

    async def main(shared: bool) -> None:
        child = hold_elsewhere(path)
        one = AsyncFileLock(path)
        locks = [one if shared else AsyncFileLock(path, poll_interval=0.001) for _ in range(20)]
        before = threading.active_count()
        tries.clear()
        waiters = [asyncio.create_task(lock.acquire(30)) for lock in locks]
        await asyncio.sleep(0.5)
        assert not any(waiter.done() for waiter in waiters)
        assert len(tries) < 100
        assert threading.active_count() < before + 10  # others' may come and go
        end(child)
        if shared:
            await asyncio.gather(*waiters)
            assert one.lock_counter == 20
            await one.release(force=True)
            return
        entered = 0
        while waiters:
            done, rest = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            assert len(done) == 1
            entered += 1
            await done.pop().result().lock.release()
            waiters = list(rest)
        assert entered == 20

    for shared in (True, False):
        asyncio.run(main(shared))


def test_cancelled_is_a_timeout_that_can_be_told_apart(path: str) -> None:
    with FileLock(path), pytest.raises(Timeout) as caught:
        FileLock(path).acquire(5, cancel_check=lambda: True)
    assert type(caught.value) is Cancelled
    assert type(pickle.loads(pickle.dumps(caught.value))) is Cancelled
    with FileLock(path), pytest.raises(Timeout) as caught:
        FileLock(path).acquire(0.01)
    assert type(caught.value) is Timeout


def test_cancel_check_is_asked_while_waiting(path: str) -> None:
    asked: list[float] = []

    def check() -> bool:
        asked.append(time.monotonic())
        return len(asked) == 5

    with FileLock(path), pytest.raises(Cancelled):
        FileLock(path).acquire(20, 0.01, cancel_check=check)
    assert asked[-1] - asked[0] < 60


# ---- the two libraries' locks are one


def test_excludes_interlock_and_names_the_deadlock(path: str) -> None:
    with Lock(path):
        with pytest.raises(Timeout):
            FileLock(path).acquire(0)
        with pytest.raises(RuntimeError, match=r"^Deadlock: "):
            FileLock(path).acquire()
    with FileLock(path):
        assert Lock(path).try_acquire() is None


def test_two_names_of_one_file_are_a_deadlock(path: str) -> None:
    other = path + ".other"
    with FileLock(path):
        os.link(path, other)
        with pytest.raises(RuntimeError, match=r"^Deadlock: "):
            FileLock(other).acquire()


# ---- the path of everybody


def test_with_goes_straight_to_the_engine_only_when_nothing_forbids_it(path: str) -> None:
    class Counting(UnixFileLock):
        calls = 0

        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().acquire(*args, **kwargs)

    counting, plain = Counting(path), FileLock(path)
    for _ in range(3):
        with counting:
            pass
        with plain:
            pass
    assert counting.calls == 3
    assert plain._express is not None
    assert counting._express is None
    relative = FileLock(os.path.relpath(path))
    hooked = FileLock(path, on_acquired=lambda fd: None)
    for lock in (relative, hooked):
        with lock:
            pass
        assert lock._express is None


def test_a_relative_path_follows_the_directory_but_not_under_a_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    lock = FileLock("a.lock")
    monkeypatch.chdir(tmp_path / "one")
    with lock:
        monkeypatch.chdir(tmp_path / "two")
        with pytest.raises(Timeout):
            FileLock(tmp_path / "one" / "a.lock").acquire(0)
        FileLock("a.lock").acquire(0)
    with lock:
        assert sorted(str(entry.relative_to(tmp_path)) for entry in tmp_path.glob("*/*")) == [
            "one/a.lock", "two/a.lock",
        ]  # fmt: skip


@pytest.mark.slow
def test_costs_little_more_than_lock(path: str) -> None:
    lock, facade = Lock(path), FileLock(path + "2")

    def cost(one: Any) -> float:
        began = time.perf_counter()
        for _ in range(1000):
            with one:
                pass
        return time.perf_counter() - began

    costs = [(cost(facade), cost(lock)) for _ in range(41)]
    least = [min(each) for each in zip(*costs, strict=True)]  # noise only adds
    assert least[0] / least[1] < 1.15, costs


# ---- interruptions


def test_a_signal_handler_that_acquires_again_is_told(path: str) -> None:
    script = (
        "import signal, sys\n"
        "from interlock.filelock import FileLock\n"
        "lock = FileLock(sys.argv[1])\n"
        "def handler(*_):\n"
        "    try:\n"
        "        lock.acquire()\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "        raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try:\n"
        "    lock.acquire()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', lock.is_locked, lock.lock_counter)\n"
    )
    child = hold_elsewhere(path)
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60)
    end(child)
    assert "is acquired again while this thread's acquire of it waits" in done.stdout, done.stderr
    assert "interrupted False 0" in done.stdout
    FileLock(path).acquire(0)


def test_what_is_dropped_is_released(path: str) -> None:
    lock = FileLock(path)
    lock.acquire()
    thread = threading.Thread(target=lambda lock=lock: FileLock(path + "2").acquire())
    thread.start()
    thread.join()
    del lock, thread
    gc.collect()
    with FileLock(path).acquire(0):
        pass
    FileLock(path + "2").acquire(0)


def test_an_unreleased_soft_lock_leaves_no_marker_at_exit(path: str) -> None:
    script = "import sys; from interlock.filelock import SoftFileLock as S; lock = S(sys.argv[1]); lock.acquire()"
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=60)
    assert not os.path.exists(path)


def test_a_forked_child_is_not_ended_and_may_lock_on_its_own(path: str) -> None:
    lock = FileLock(path)
    with lock:
        pid = os.fork()
        if not pid:
            try:
                lock.release(force=True)
                own = FileLock(path)
                ok = not lock.is_locked
                try:
                    own.acquire(0)
                except Timeout:
                    pass
                else:
                    ok = False
                os._exit(0 if ok else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert lock.is_locked
        with pytest.raises(Timeout):
            FileLock(path).acquire(0)


def test_a_cancelled_task_leaves_nothing(path: str) -> None:
    class Slow(BaseAsyncFileLock):
        """Cancelled while its hook runs in the executor."""

        began = threading.Event()
        released = 0

        def _acquire(self) -> None:
            self.began.set()
            time.sleep(0.1)
            self._context.lock_file_fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT)

        def _release(self) -> None:
            assert self._context.lock_file_fd is not None
            os.close(self._context.lock_file_fd)
            self._context.lock_file_fd = None
            self.released += 1

    async def main() -> None:
        lock = Slow(path)
        task = asyncio.create_task(lock.acquire())
        await asyncio.to_thread(lock.began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not lock.is_locked
        assert lock.lock_counter == 0
        assert lock.released == 1

    asyncio.run(main())


# ---- filesystems without flock


def no_flock(fd: int, how: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_enosys_is_an_error_where_others_have_flock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    for kind in (NotImplementedError, OSError):
        with pytest.raises(kind, match="use SoftFileLock instead"):
            FileLock(path).acquire()
    with pytest.raises(OSError, match="flock") as caught:
        FileLock(path, fallback_to_soft=False).acquire()
    assert caught.value.errno == errno.ENOSYS


def test_falls_back_where_nobody_has_flock_and_keeps_its_class(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr(native, "is_local", lambda _: False)
    lock = FileLock(path)
    with pytest.warns(UserWarning, match="falling back to SoftFileLock"):
        lock.acquire()
    assert type(lock) is UnixFileLock
    with open(path) as marker:
        assert marker.readline().strip() == str(os.getpid())
    with pytest.raises(Timeout):
        SoftFileLock(path).acquire(0)
    lock.release()
    assert not os.path.exists(path)
    with lock:
        assert os.path.exists(path)
    assert not os.path.exists(path)
    for keywords in ({"fallback_to_soft": False}, {"preserve_lock_file": True}, {"on_acquired": print}):
        with pytest.raises(OSError, match="flock"):
            FileLock(path, **keywords).acquire()


def test_an_error_of_close_is_raised_where_it_is_asked_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(path, close_error_policy="raise")
    lock.acquire()
    real = os.close

    def broken(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "close", broken)
    with pytest.raises(OSError, match="broken"):
        lock.release()
    monkeypatch.undo()
    assert not lock.is_locked
    FileLock(path).acquire(0)


# ---- what others do with it


def test_torch_and_datasets_and_virtualenv(path: str) -> None:
    entered: list[str] = []

    class Torch(FileLock):
        def __enter__(self) -> Any:
            entered.append("enter")
            return super().__enter__()

        def __exit__(self, *error: Any) -> None:
            entered.append("exit")
            super().__exit__(*error)

    with Torch(path):
        assert FileLock(path + "2", timeout=0).timeout == 0
    assert entered == ["enter", "exit"]

    class Datasets(FileLock):
        def __init__(self, lock_file: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(lock_file + ".hashed", *args, **kwargs)

    lock = Datasets(path, timeout=3)
    assert issubclass(Datasets, UnixFileLock)
    assert (lock.lock_file, lock.timeout) == (path + ".hashed", 3)

    class Virtualenv(FileLock):
        def __init__(self, lock_file: str) -> None:
            super().__init__(lock_file)
            self.count = 0

    with Virtualenv(path) as held:
        assert held.count == 0
    other = FileLock(path)
    child = hold_elsewhere(path)
    with pytest.raises(Timeout):
        other.acquire(0.0001)
    end(child)
    other.acquire()
    other.release()


def test_huggingface_hub_loops_over_timeouts(path: str) -> None:
    child = hold_elsewhere(path)
    lock = FileLock(path, timeout=0.05)
    for _ in range(3):
        with pytest.raises(Timeout):
            lock.acquire()
    end(child)
    lock.acquire()
    lock.release()


def test_descriptors_wait_for_other_processes(path: str) -> None:
    child = hold_elsewhere(path)
    fd = os.open(path, os.O_RDWR)
    assert lock_descriptor(fd, blocking=False) is False
    threading.Timer(0.05, end, [child]).start()
    assert lock_descriptor(fd) is True
    with pytest.raises(Timeout):
        FileLock(path).acquire(0)
    unlock_descriptor(fd)
    FileLock(path).acquire(0)
    os.close(fd)


# ---- the alias

ALIAS = """
import sys
import interlock.filelock as ours
ours.install()
ours.install()
import filelock
assert filelock is ours
import filelock._api, filelock._error, filelock._soft, filelock._unix, filelock._windows, filelock._util
import filelock._read_write, filelock._soft_rw._sync, filelock.version, filelock.asyncio
from filelock._error import Timeout
from filelock.version import version
assert Timeout is filelock.Timeout and filelock.version == version == filelock.__version__
assert filelock._soft.SoftFileLock is filelock.SoftFileLock
assert filelock.asyncio.AsyncUnixFileLock is filelock.AsyncUnixFileLock
assert not hasattr(filelock._api, "nonsense")
filelock._util.ensure_directory_exists("x")
try:
    import filelock._nonsense
except ModuleNotFoundError:
    print("as it should be")
"""


def test_install(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALIAS], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout == "as it should be\n", done.stderr


def test_install_comes_first() -> None:
    pytest.importorskip("filelock")
    script = "import filelock, interlock.filelock as f\ntry: f.install()\nexcept RuntimeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "call install() first" in done.stdout, done.stderr


def test_every_public_name_is_there_and_lazy() -> None:
    script = (
        "import sys, interlock.filelock as f\n"
        "assert 'asyncio' not in sys.modules and 'sqlite3' not in sys.modules\n"
        "for name in f.__all__: assert getattr(f, name) is not None, name\n"
        "from interlock.filelock import *\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_private_modules_of_the_shim_are_the_alias_s() -> None:
    from interlock._filelock.alias import PRIVATE

    from .environments import SHIM

    package = SHIM / "src" / "filelock"
    files = {
        ".".join(file.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        for file in package.rglob("*.py")
    }
    assert files - {"__init__", "asyncio", "version"} == set(PRIVATE)
    for homes in PRIVATE.values():
        for home in homes:
            importlib.import_module("interlock._filelock." + home)


def test_abstract() -> None:
    base: Any = BaseFileLock
    with pytest.raises(TypeError, match="abstract"):
        base("a.lock")


STORM = """
import os, random, signal, sys, time
from interlock._core.arbiter import turns
from interlock.filelock import FileLock

class Stop(BaseException):
    pass

armed = False

def handler(*_):
    if armed:
        raise Stop

signal.signal(signal.SIGALRM, handler)
lock = FileLock(sys.argv[1], thread_local=sys.argv[2] == "own")
with lock:
    pass
open_before = len(os.listdir("/proc/self/fd"))
interrupted = 0
end = time.monotonic() + 20
while interrupted < 2000 and time.monotonic() < end:
    signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() * 1e-4)
    where = ""
    try:
        armed = True
        with lock:
            pass
    except Stop as error:
        interrupted += 1
        trace = error.__traceback__.tb_next
        where = trace.tb_frame.f_code.co_name if trace.tb_next is not None and trace.tb_next.tb_next is None else ""
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    if lock.is_locked:
        if where != "__exit__":
            print("held after an interrupt in", where)
        lock.release(force=True)
    if turns:
        print("a turn is left:", turns)
        break
left = len(os.listdir("/proc/self/fd")) - open_before
print(interrupted > 200, left)
"""


@pytest.mark.parametrize("kind", ["own", "shared"])
@pytest.mark.slow
def test_interrupts_leave_nothing_behind(kind: str, path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STORM, path, kind], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True 0\n", done.stdout + done.stderr[-500:]
