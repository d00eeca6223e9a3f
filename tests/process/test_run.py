"""`interlock run` and `interlock who` with real commands, signals, terminals and deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from interlock import Lock

from ..support import need, need_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform == "win32":
    pytest.skip("signals, terminals and flock(1) are POSIX's", allow_module_level=True)

import fcntl
import termios
import tty

need_module("click")

TOOL = [sys.executable, "-m", "interlock"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="holders are known, and events come, on Linux only")

REPORTER = """
import os, signal, sys, time
def say(text):
    os.write(1, text.encode() + b"\\n")  # print() must not be interrupted by itself
for number in map(int, sys.argv[1:]):
    signal.signal(number, lambda number, frame: say(signal.Signals(number).name))
say("ready")
while True:
    time.sleep(0.05)  # signal.pause() loses a signal that comes between Python's last look and the system call
"""
"""A command that says which signals it gets, and ends by none of them."""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what is going to be true; fail if it does not come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.002)


class Process(subprocess.Popen[str]):
    """In a session of its own, which ends with the test."""

    def __init__(self, *words: object, cwd: str | None = None, prepare: Callable[[], object] | None = None) -> None:
        self._mark = f"TEST_OF_RUN={uuid4()}"
        super().__init__(
            [str(word) for word in words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
            cwd=cwd,
            preexec_fn=prepare,
            env={**os.environ, **dict([self._mark.split("=")])},
        )

    def line(self) -> str:
        assert self.stdout is not None
        return self.stdout.readline().rstrip("\n")

    def complaint(self) -> str:
        assert self.stderr is not None
        return self.stderr.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.stdin is not None
        self.stdin.write(text + "\n")
        self.stdin.flush()

    def end_of_session(self) -> None:
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        for pid in self._left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _left_behind(self) -> Iterator[int]:
        """What lives on without its leader, and in groups of its own."""
        for pid in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else ()):
            with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environment:
                if self._mark.encode() in environment.read().split(b"\0"):
                    yield int(pid)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*words: object, **options: Any) -> Process:
        processes.append(Process(*words, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.end_of_session()


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`interlock run` to its end."""
    return subprocess.run([*TOOL, "run", *map(str, words)], capture_output=True, text=True, timeout=100, **options)


def who(path: str) -> list[tuple[str, int, str]]:
    """(state, pid, command) of everybody, holders first."""
    done = subprocess.run([*TOOL, "who", path], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(maxsplit=10) for line in done.stdout.splitlines()[1:]]
    return [(row[0], int(row[3]), row[10]) for row in rows]


def who_json(path: str) -> dict[str, list[dict[str, object]]]:
    done = subprocess.run([*TOOL, "who", "--json", path], capture_output=True, text=True, timeout=100, check=True)
    report: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return report


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def free(path: str) -> bool:
    """Could a stranger lock it now?"""
    hold = Lock(path).try_acquire()
    if hold is not None:
        hold.release()
    return hold is not None


# ---- how it ends


@pytest.mark.parametrize("status", [0, 1, 2, 7, 125, 127, 255])
def test_the_exit_status_is_the_commands(status: int, path: str) -> None:
    done = run(path, "--", "sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert done.returncode == status
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGABRT, signal.SIGUSR2])
def test_it_dies_of_the_signal_that_killed_the_command(number: signal.Signals, path: str) -> None:
    assert run(path, "--", "sh", "-c", f"ulimit -c 0; kill -{number.value} $$").returncode == -number
    assert free(path)


def test_a_command_that_does_not_exist_is_127(path: str) -> None:
    done = run(path, "--", "no-such-command-here")
    assert done.returncode == 127
    assert done.stderr == "interlock: no-such-command-here: No such file or directory\n"
    assert free(path)


def test_a_command_that_is_not_executable_is_126(path: str) -> None:
    command = os.path.join(os.path.dirname(path), "data")
    with open(command, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 0\n")
    done = run(path, "--", command)
    assert done.returncode == 126
    assert done.stderr == f"interlock: {command}: Permission denied\n"
    assert free(path)


def test_a_script_without_its_interpreters_name_is_run_by_the_shell(path: str) -> None:
    command = os.path.join(os.path.dirname(path), "script")
    with open(command, "w", encoding="ascii") as file:
        file.write('echo "$# $2"; exit 5\n')
    os.chmod(command, 0o755)
    done = run(path, "--", command, "a", "b c")
    assert (done.returncode, done.stdout) == (5, "2 b c\n")


def test_the_command_gets_its_words_and_its_input_untouched(path: str) -> None:
    words = ["--quiet", "--", "*", "a b", "", "é\udcff"]
    code = "import sys; print(ascii(sys.argv[1:])); print(sys.stdin.read())"
    done = run(path, "--", sys.executable, "-c", code, *words, input="input")
    assert done.stdout == f"{words!a}\ninput\n"


@linux
@pytest.mark.parametrize("ignored", [(), (signal.SIGINT, signal.SIGHUP)])
def test_the_command_inherits_what_it_would_inherit_alone(ignored: tuple[signal.Signals, ...], path: str) -> None:
    """Blocked, ignored and caught signals, process group and session; and one descriptor more."""

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    show = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ps -o pgid=,sid= -p $PPID -p $$; ls /proc/self/fd"
    done = subprocess.run(["sh", "-c", show], capture_output=True, text=True, preexec_fn=ignore)
    alone = done.stdout.splitlines()
    locked = run(path, "--", "sh", "-c", show, preexec_fn=ignore).stdout.splitlines()
    for mine, other in zip(alone[:3], locked[:3], strict=True):
        # glibc's posix_spawn(3) leaves its own two real-time signals, 32 and 33, ignored.
        assert int(mine[8:], 16) == int(other[8:], 16) & ~(3 << 31)
    assert set(locked[3:]) - set(alone[3:]) == {"100"}
    assert len(locked) == len(alone) + 1


# ---- the lock


@linux
@pytest.mark.parametrize("target", ["marker://{}#x", "{}/x.lock"])
def test_a_lease_is_held_while_the_command_runs(
    start: Callable[..., Process], tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim has a descriptor too, but none that the command could inherit the lock by."""
    monkeypatch.setenv("INTERLOCK_PRIMITIVE", "marker")
    target = target.format(tmp_path)
    holder = start(*TOOL, "run", target, "--", "sh", "-c", "echo ready; read end; exit 7")
    assert holder.line() == "ready"
    lock = Lock(target, primitive="marker")  # this process has read its settings long ago
    assert lock.try_acquire() is None
    assert [party.pid for party in lock.inspect().holders] == [holder.pid]
    holder.say("")
    assert holder.wait(60) == 7
    with lock.acquire(timeout=0):
        done = run(target, "--no-wait", "--", "true")
    assert done.returncode == 1
    assert run(target, "--", "sh", "-c", "ulimit -c 0; kill -9 $$").returncode == -9
    with lock.acquire(timeout=0):
        pass


@linux
def test_the_lock_is_held_while_the_command_runs(start: Callable[..., Process], path: str) -> None:
    before = time.time()
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end")
    assert holder.line() == "ready"
    after = time.time()
    assert not free(path)
    rows = who(path)
    assert [(name, pid) for name, pid, _ in rows] == [
        ("holds", holder.pid),
        *(("inherits", pid) for pid in children(holder.pid)),
    ]
    assert len(rows) == 2
    assert {command for _, _, command in rows} == {"sh -c echo ready; read end"}
    for party in who_json(path)["holders"]:
        assert party["since_exact"]
        assert before <= float(str(party["since"])) <= after
    holder.say("")
    assert holder.wait(60) == 0
    assert free(path)
    assert who(path) == []


@linux
@pytest.mark.parametrize("option", [("--timeout", "0.4"), ("--timeout", "0"), ("--no-wait",)])
@pytest.mark.parametrize("code", [None, 0, 75])
def test_giving_up(start: Callable[..., Process], path: str, option: tuple[str, ...], code: int | None) -> None:
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end")
    holder.line()
    words = [*option, *(() if code is None else ("--conflict-exit-code", code)), path, "--", "echo", "ran"]
    began = time.monotonic()
    done = run(*words)
    took = time.monotonic() - began
    assert done.returncode == (1 if code is None else code)
    assert done.stdout == ""
    assert f"held by pid {holder.pid} (sh -c echo ready; read end) for " in done.stderr.splitlines()[-1]
    assert path in done.stderr
    if "0.4" in option:
        assert took >= 0.4
    quiet = run("--quiet", *words)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (done.returncode, "", "")


@linux
def test_a_killed_wrapper_does_not_free_the_lock_of_a_running_command(start: Callable[..., Process], path: str) -> None:
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end; echo done")
    holder.line()
    [command] = children(holder.pid)
    since = who_json(path)["holders"][0]["since"]
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait(60) == -signal.SIGKILL

    assert state(command) in "RS"
    assert who(path) == [("inherits", command, "sh -c echo ready; read end; echo done")]
    [party] = who_json(path)["holders"]
    assert party["since_exact"]
    assert abs(float(str(party["since"])) - float(str(since))) < 5
    done = run("--no-wait", path, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"pid {command} (sh -c echo ready; read end; echo done), which inherited the descriptor," in done.stderr

    waiter = start(*TOOL, "run", path, "--", "cat", "/proc/uptime")
    assert f"held by pid {command} " in waiter.complaint()
    holder.say("")
    assert holder.line() == "done"
    assert waiter.line()
    assert waiter.wait(60) == 0


@linux
def test_what_the_command_leaves_in_the_background_does_not_keep_the_lock(
    start: Callable[..., Process], path: str
) -> None:
    """And whoever waits gets it at once, although no last descriptor was closed."""
    uptime = "read now rest </proc/uptime; echo $now"
    holder = start(*TOOL, "run", path, "--", "sh", "-c", f"sleep 600 & echo $!; read end; {uptime}")
    daemon = int(holder.line())
    waiters = [start(*TOOL, "run", path, "--", "sh", "-c", uptime) for _ in range(2)]
    until(lambda: [row[0] for row in who(path)].count("waits") == 2, "two wait")
    assert ("inherits", daemon, "sleep 600") in who(path)

    holder.say("")
    ended = float(holder.line())
    assert holder.wait(60) == 0
    times = sorted(float(waiter.line()) for waiter in waiters)
    assert state(daemon) == "S"
    descriptors = [os.stat(f"/proc/{daemon}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon}/fd")]
    assert os.stat(path).st_ino in [status.st_ino for status in descriptors]
    assert times[0] - ended < 20
    assert times[1] - ended < 20
    for waiter in waiters:
        assert waiter.wait(60) == 0
    assert who(path) == []  # the daemon has the descriptor, but nothing is locked by it
    assert free(path)


# ---- waiting, and others who lock the file


@linux
def test_it_says_for_what_and_on_whom_it_waits(start: Callable[..., Process], path: str) -> None:
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end")
    holder.line()
    directory, name = os.path.split(path)
    began = time.monotonic()
    first = start(*TOOL, "run", name, "--", "echo", "ran", cwd=directory)
    text = first.complaint()
    assert text.startswith(f"interlock: waiting for {name}: held by pid {holder.pid} (sh -c echo ready; read end) for ")
    assert text.endswith("; --timeout would limit this")
    assert time.monotonic() - began < 30
    second = start(*TOOL, "run", "--timeout", "90", name, "--", "echo", "ran", cwd=directory)
    assert second.complaint().endswith("; 1 other waits; giving up after 1 min 30 s")
    again = first.complaint()  # about 2 s later
    assert "1 other waits" in again
    assert "--timeout" not in again
    holder.say("")
    for waiter in (first, second):
        assert waiter.line() == "ran"
        assert waiter.wait(60) == 0
        assert waiter.complaint() == ""


@linux
def test_quiet_says_nothing(start: Callable[..., Process], path: str) -> None:
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end")
    holder.line()
    waiter = start(*TOOL, "run", "--quiet", path, "--", "echo", "ran")
    until(lambda: ("waits", waiter.pid, "echo ran") in who(path), "it waits")
    time.sleep(0.5)  # twice as long as it takes to complain; it can only fail to notice
    holder.say("")
    assert waiter.line() == "ran"
    assert waiter.complaint() == ""


@linux
def test_it_waits_for_flock(start: Callable[..., Process], path: str) -> None:
    need("flock")
    directory, name = os.path.split(path)
    holder = start("flock", name, "sh", "-c", "echo ready; read end", cwd=directory)
    holder.line()
    assert run("--no-wait", path, "--", "true").returncode == 1
    waiter = start(*TOOL, "run", path, "--", "echo", "ran")
    assert f"held by pid {holder.pid} (flock {name} sh -c echo ready; read end) for at most " in waiter.complaint()
    [shell] = children(holder.pid)
    assert who(path) == [
        ("holds", holder.pid, f"flock {name} sh -c echo ready; read end"),
        ("inherits", shell, "sh -c echo ready; read end"),
        ("waits", waiter.pid, "echo ran"),
    ]
    holder.say("")
    assert waiter.line() == "ran"
    assert waiter.wait(60) == 0


@linux
def test_flock_waits_for_it(start: Callable[..., Process], path: str) -> None:
    need("flock")
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read end")
    holder.line()
    assert subprocess.run(["flock", "-n", path, "true"], timeout=100).returncode == 1
    waiter = start("flock", "x.lock", "echo", "ran", cwd=os.path.dirname(path))
    until(lambda: ("waits", waiter.pid, "flock x.lock echo ran") in who(path), "flock(1) waits")
    holder.say("")
    assert waiter.line() == "ran"
    assert waiter.wait(60) == 0


@linux
def test_filelock_and_it_exclude_each_other(start: Callable[..., Process], path: str) -> None:
    need_module("filelock")
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('locked', flush=True); input()"
    holder = start(sys.executable, "-c", code, path)
    assert holder.line() == "locked"
    assert [row[:2] for row in who(path)] == [("holds", holder.pid)]
    waiter = start(*TOOL, "run", path, "--", "sh", "-c", "echo ran; read end")
    assert f"held by pid {holder.pid} ({sys.executable} -c import sys, filelock" in waiter.complaint()
    other = start(sys.executable, "-c", code, path)
    holder.say("")
    assert waiter.line() == "ran" or other.line() == "locked"  # filelock polls: it may come first
    until(lambda: len(who(path)) > 0, "one of them holds")
    for process in (waiter, other):
        process.say("")
        assert process.wait(60) == 0


@linux
def test_who_knows_a_forked_child_that_kept_the_descriptor(start: Callable[..., Process], path: str) -> None:
    code = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
sys.stdin.readline()
"""
    holder = start(sys.executable, "-c", code, path)
    child = int(holder.line())
    holder.wait(60)
    [(name, pid, command)] = who(path)
    assert (name, pid) == ("inherits", child)
    assert command.startswith(f"{sys.executable} -c")
    waiter = start(*TOOL, "run", path, "--", "echo", "ran")
    assert f"held by pid {child} ({sys.executable} -c" in waiter.complaint()
    holder.say("")
    assert waiter.line() == "ran"


# ---- signals


PASSED = [
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
]  # fmt: skip


def test_signals_sent_to_the_wrapper_reach_the_command_once(start: Callable[..., Process], path: str) -> None:
    holder = start(*TOOL, "run", path, "--", sys.executable, "-c", REPORTER, *map(int, PASSED))
    assert holder.line() == "ready"
    for number in PASSED:
        os.kill(holder.pid, number)
        assert holder.line() == number.name
    assert holder.poll() is None
    os.kill(holder.pid, signal.SIGVTALRM)  # one that is not passed on kills the wrapper alone
    assert holder.wait(60) == -signal.SIGVTALRM
    assert not free(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_the_command_does_not_handle_ends_both(
    start: Callable[..., Process], path: str, number: signal.Signals
) -> None:
    holder = start(*TOOL, "run", path, "--", "sh", "-c", "echo ready; exec sleep 600")
    holder.line()
    os.kill(holder.pid, number)
    assert holder.wait(60) == -number
    assert free(path)


def test_a_command_that_survives_a_signal_decides_the_status(start: Callable[..., Process], path: str) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    holder = start(*TOOL, "run", path, "--", "sh", "-c", script)
    holder.line()
    os.kill(holder.pid, signal.SIGTERM)
    assert holder.line() == "caught"
    assert holder.wait(60) == 3


@linux
def test_what_the_command_sends_to_its_own_group_is_not_sent_back(start: Callable[..., Process], path: str) -> None:
    code = """
import os, signal, time
first = signal.SIGRTMIN + 1  # real-time signals are queued: two are two
signal.pthread_sigmask(signal.SIG_BLOCK, {first, first + 1})
os.write(1, b"%d\\n" % (first + 1))
os.kill(0, first)
if not os.fork():
    os.kill(0, first)
    while True:
        time.sleep(60)  # a sender that is gone cannot be told from a stranger
while True:
    os.write(1, b"%d\\n" % (signal.sigwaitinfo({first, first + 1}).si_signo - first))
"""
    holder = start(*TOOL, "run", path, "--", sys.executable, "-c", code)
    last = int(holder.line())
    assert [holder.line(), holder.line()] == ["0", "0"]
    os.kill(holder.pid, last)  # the wrapper takes lower ones first
    assert holder.line() == "1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_wrapper_dies_of_a_signal_and_leaves_nothing(
    start: Callable[..., Process], path: str, number: signal.Signals
) -> None:
    with Lock(path):
        waiter = start(*TOOL, "run", path, "--", "echo", "ran")
        assert "waiting for" in waiter.complaint()
        os.kill(waiter.pid, number)
        assert waiter.wait(60) == -number
        assert waiter.complaint() == ""
        if sys.platform == "linux":
            assert [row[0] for row in who(path)] == ["holds"]


@linux
def test_stopped_and_continued_through_the_wrapper(start: Callable[..., Process], path: str) -> None:
    """As a shell does it that knows only the wrapper: it sees the job stop, and continues it."""
    with_parent_outside = "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
    job = start(
        *("sh", "-c", '"$@"; echo ended', "sh"),  # stays: a group without a parent outside cannot be stopped
        *(sys.executable, "-c", with_parent_outside),
        *TOOL, "run", path, "--", sys.executable, "-c", REPORTER, int(signal.SIGUSR1),
    )  # fmt: skip
    assert job.line() == "ready"
    [wrapper] = children(job.pid)
    [command] = children(wrapper)
    for _ in range(3):
        os.kill(wrapper, signal.SIGTSTP)
        until(lambda: state(command) == "T" and state(wrapper) == "T", "both stopped")
        assert not free(path)
        os.kill(wrapper, signal.SIGCONT)
        until(lambda: state(command) != "T" and state(wrapper) != "T", "both go on")
        os.kill(wrapper, signal.SIGUSR1)
        assert job.line() == "SIGUSR1"
    os.kill(command, signal.SIGSTOP)
    until(lambda: state(wrapper) == "T", "the wrapper stops with its command")
    os.kill(wrapper, signal.SIGCONT)
    os.kill(wrapper, signal.SIGKILL)
    assert job.line() == "ended"


# ---- terminals


TERMINAL = """
import fcntl, os, signal, subprocess, sys, termios
# A shell with job control, reduced to one job in the foreground of the terminal on descriptor 0.
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
def foreground():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
job = subprocess.Popen(sys.argv[1:], preexec_fn=foreground)
while True:
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    print("stopped", signal.Signals(os.WSTOPSIG(status)).name, flush=True)
    os.read(3, 1)
    os.tcsetpgrp(0, job.pid)
    os.killpg(job.pid, signal.SIGCONT)
    print("continued", flush=True)
print("ended", os.waitstatus_to_exitcode(status), flush=True)
"""


class Terminal:
    """A terminal with somebody in front of it, and a shell that runs one job."""

    def __init__(self, *words: object, shell: bool = True) -> None:
        self._keyboard, screen = os.openpty()
        tty.setraw(screen)
        attributes = termios.tcgetattr(screen)
        attributes[3] |= termios.ISIG
        termios.tcsetattr(screen, 0, attributes)
        go_on, self._go_on = os.pipe()

        def prepare() -> None:
            os.dup2(go_on, 3)
            if not shell:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.shell = subprocess.Popen(
            [*([sys.executable, "-c", TERMINAL] if shell else []), *map(str, words)],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=prepare,
            pass_fds=(3,),
        )
        os.close(screen)
        os.close(go_on)
        self._unread = b""

    def line(self) -> str:
        while b"\n" not in self._unread:
            self._unread += os.read(self._keyboard, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode().rstrip("\r")

    def press(self, key: str) -> None:
        os.write(self._keyboard, bytes([ord(key) - 64]))

    def go_on(self) -> None:
        """`fg`."""
        os.write(self._go_on, b"\n")
        assert self.line() == "continued"

    def hang_up(self) -> None:
        os.close(self._keyboard)
        self._keyboard = -1

    def close(self) -> None:
        self.shell.kill()
        self.shell.wait()
        if self._keyboard >= 0:
            self.hang_up()  # ends the job in the foreground
        os.close(self._go_on)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def terminal(*words: object, shell: bool = True) -> Terminal:
        terminals.append(Terminal(*words, shell=shell))
        return terminals[-1]

    yield terminal
    for each in terminals:
        each.close()


def test_the_keyboards_signals_reach_the_command_once(terminal: Callable[..., Terminal], path: str) -> None:
    window = terminal(*TOOL, "run", path, "--", sys.executable, "-c", REPORTER, 2, 3)
    assert window.line() == "ready"
    for _ in range(5):
        window.press("C")
        assert window.line() == "SIGINT"
        window.press("\\")
        assert window.line() == "SIGQUIT"
    assert not free(path)


def test_ctrl_c_ends_a_command_that_does_not_handle_it(terminal: Callable[..., Terminal], path: str) -> None:
    window = terminal(*TOOL, "run", path, "--", "sh", "-c", "echo ready; exec sleep 600")
    assert window.line() == "ready"
    window.press("C")
    assert window.line() == f"ended -{int(signal.SIGINT)}"
    assert free(path)


def test_ctrl_z_and_fg(terminal: Callable[..., Terminal], path: str) -> None:
    window = terminal(*TOOL, "run", path, "--", sys.executable, "-c", REPORTER, 2)
    assert window.line() == "ready"
    for _ in range(3):
        window.press("Z")
        assert window.line() == "stopped SIGTSTP"
        assert not free(path)
        window.go_on()
        window.press("C")
        assert window.line() == "SIGINT"


def test_a_command_in_the_foreground_reads_from_the_terminal(terminal: Callable[..., Terminal], path: str) -> None:
    window = terminal(*TOOL, "run", path, "--", "sh", "-c", "echo ready; read word; echo got $word; exit 4")
    assert window.line() == "ready"
    os.write(window._keyboard, b"hello\n")
    assert window.line() == "got hello"
    assert window.line() == "ended 4"


def test_a_terminal_that_hangs_up_ends_the_command(terminal: Callable[..., Terminal], path: str) -> None:
    """The wrapper leads the session: the kernel tells nobody else."""
    note = path + ".note"
    script = f"trap 'echo hup >>{note}; exit 6' HUP; echo ready; while :; do sleep 0.05; done"
    window = terminal(*TOOL, "run", path, "--", "sh", "-c", script, shell=False)
    assert window.line() == "ready"
    window.hang_up()
    assert window.shell.wait(60) == 6
    with open(note, encoding="ascii") as file:
        assert file.read() == "hup\n"
    assert free(path)
