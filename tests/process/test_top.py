"""`interlock top` with real holders and waiters: in a terminal, as text, as JSON."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..support import need, need_module
from .workers import until

need_module("click")
need_module("rich")
need_module("pyte")

import pyte  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .workers import Worker

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"

TOP = [sys.executable, "-m", "interlock", "top"]
HOSTILE = "a [red]b[bold] \x1b[31m\x1b]0;owned\x07\n\udcff.lock"


def top(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOP, *words], capture_output=True, text=True, timeout=100)


def locks(*words: str) -> dict[str, Any]:
    done = top("--json", *words)
    assert done.returncode == 0, done.stderr
    return {os.path.basename(lock["resource"]): lock for lock in json.loads(done.stdout)["locks"]}


class Terminal:
    """`interlock top` in a pseudo-terminal of its own, and what stands on its screen."""

    def __init__(self, directory: str, width: int = 160, height: int = 24) -> None:
        self.main, there = pty.openpty()
        self._screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self.resize(width, height)
        self.before = termios.tcgetattr(self.main)
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*TOP, directory, "--interval", "0.1"], stdin=there, stdout=there, stderr=there,
            env={**environ, "TERM": "xterm"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(there)

    def resize(self, width: int, height: int) -> None:
        self._screen.resize(height, width)
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def lines(self) -> list[str]:
        while select.select([self.main], [], [], 0.01)[0]:
            try:
                news = os.read(self.main, 65536)
            except OSError:  # nobody has the other end any more
                break
            self.raw += news
            self._stream.feed(news)
        return [line.rstrip() for line in self._screen.display]

    def shows(self, *words: str) -> None:
        """Return when a line has all these words."""
        until(lambda: any(all(word in line for word in words) for line in self.lines()), f"{words}")

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def ended(self) -> int:
        until(lambda: self.lines() and self.process.poll() is not None, "it ends")
        return int(self.process.returncode)

    def restored(self) -> bool:
        """Is the terminal as it was: echo, lines, its own screen, a cursor?"""
        self.lines()
        ends = {b"\x1b[?1049h": b"\x1b[?1049l", b"\x1b[?25l": b"\x1b[?25h"}
        off = all(self.raw.rfind(end) > self.raw.rfind(begin) >= 0 for begin, end in ends.items())
        return off and termios.tcgetattr(self.main) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(directory: Path, **size: int) -> Terminal:
        opened.append(Terminal(str(directory), **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_holders_and_waiters_come_and_go(spawn: Spawn, tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(tmp_path)
    screen.shows("locks: 0, waiting: 0,")
    one, two = spawn(), spawn()
    path = str(tmp_path / "build.lock")
    one.ask("acquire", path)
    screen.shows("build.lock", str(one.pid), getpass.getuser(), "write")
    two.tell("acquire", path, None)
    two.waits(path)
    screen.shows("build.lock", str(one.pid), str(two.pid))
    screen.shows("locks: 1, waiting: 1,")
    one.ask("release")
    two.answer("acquired")
    screen.shows("locks: 1, waiting: 0,")
    two.kill()
    screen.shows("locks: 0, waiting: 0,")
    screen.press(b"q")
    assert screen.ended() == 0
    assert screen.restored()


@pytest.mark.parametrize(
    ("how", "status"), [(b"\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)]
)
def test_it_leaves_the_terminal_as_it_was(
    how: bytes | int, status: int, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal(tmp_path)
    screen.shows("locks: 0")
    if isinstance(how, bytes):
        screen.press(how)
    else:
        screen.process.send_signal(how)
    assert screen.ended() == status
    assert screen.restored()
    assert b"Traceback" not in screen.raw


def test_it_fits_the_terminal_whatever_its_size(
    spawn: Spawn, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    worker = spawn()
    for number in range(12):
        worker.ask("acquire", str(tmp_path / f"{number:02}-with-quite-a-long-name-that-takes-room.lock"))
    screen = terminal(tmp_path, width=60, height=10)
    screen.shows("6 more lines")
    assert "locks: 12" in screen.lines()[0]
    assert sum(str(worker.pid) in line for line in screen.lines()) == 6
    screen.resize(150, 30)
    until(lambda: sum(str(worker.pid) in line for line in screen.lines()) == 12, "all of them are drawn")
    assert any("SINCE" in line for line in screen.lines())
    screen.press(b"xq")  # what means nothing does not hide what comes with it
    assert screen.ended() == 0


def test_names_are_neither_obeyed_nor_markup(spawn: Spawn, tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    worker = spawn()
    worker.ask("acquire", str(tmp_path / HOSTILE))
    screen = terminal(tmp_path, width=260)
    screen.shows("a [red]b[bold] ?[31m?]0;owned???.lock", str(worker.pid))
    assert b"\x1b]0;owned" not in screen.raw
    assert b"\xff" not in screen.raw
    once = top("--once", str(tmp_path))
    assert "a [red]b[bold] ?[31m?]0;owned???.lock" in once.stdout
    assert locks(str(tmp_path)).keys() == {HOSTILE}


def test_json_tells_all_of_it(spawn: Spawn, tmp_path: Path) -> None:
    one, two, three = spawn(), spawn(), spawn()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    path = str(inner / "x.lock")
    one.ask("acquire", path)
    two.tell("acquire", path, None)
    two.waits(path)
    three.ask("acquire", str(tmp_path.parent / f"{tmp_path.name}-beside.lock"))  # not below it
    (lock,) = locks(str(tmp_path)).values()
    assert lock["resource"] == os.path.realpath(path)
    (holder,) = lock["holders"]
    (waiter,) = lock["waiters"]
    assert (holder["pid"], holder["user"], holder["mode"]) == (one.pid, getpass.getuser(), "write")
    assert "workers.py" in holder["command"]
    assert holder["since"] <= time.time()
    assert (waiter["pid"], waiter["position"]) == (two.pid, 1)
    assert 0 <= waiter["waited"] < 20


def test_the_locks_of_others_and_those_that_block_in_the_kernel(tmp_path: Path) -> None:
    flock = need("flock")
    path = str(tmp_path / "shared.lock")
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        blocked = subprocess.Popen([flock, path, "true"])
        try:
            until(lambda: len(locks(str(tmp_path))["shared.lock"]["waiters"]) == 1, "it blocks")
            lock = locks(str(tmp_path))["shared.lock"]
            assert [(party["pid"], party["mode"]) for party in lock["holders"]] == [(os.getpid(), "read")]
            assert lock["waiters"][0]["pid"] == blocked.pid
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
            assert blocked.wait(60) == 0


def test_leases_are_shown(spawn: Spawn, tmp_path: Path) -> None:
    worker = spawn()
    worker.ask("acquire", f"marker://{tmp_path}#deploy")
    (lock,) = locks(str(tmp_path)).values()
    assert lock["engine"] == "marker lease"
    assert [party["pid"] for party in lock["holders"]] == [worker.pid]
    worker.ask("release")
    assert locks(str(tmp_path)) == {}


def test_a_file_that_was_replaced_is_not_taken_for_the_locked_one(spawn: Spawn, tmp_path: Path) -> None:
    worker = spawn()
    path = tmp_path / "x.lock"
    worker.ask("acquire", str(path))
    assert len(locks(str(tmp_path))) == 1
    path.rename(tmp_path / "y.lock")
    path.touch()
    assert locks(str(tmp_path)).keys() == {"y.lock"}
    (tmp_path / "y.lock").unlink()
    assert locks(str(tmp_path)) == {}


def test_without_a_terminal_it_prints_once(spawn: Spawn, tmp_path: Path) -> None:
    empty = top(str(tmp_path))
    assert (empty.returncode, empty.stderr) == (0, "")
    assert "no lock below it is held or waited for" in empty.stdout
    worker = spawn()
    worker.ask("acquire", str(tmp_path / "x.lock"))
    head, line, *rest = top(str(tmp_path)).stdout.splitlines()
    assert head.split() == ["LOCK", "PID", "USER", "MODE", "SINCE", "FOR", "COMMAND", "WAIT", "LONGEST", "WAITERS"]
    assert line.split()[:4] == ["x.lock", str(worker.pid), getpass.getuser(), "write"]
    assert rest == [] or os.geteuid() != 0


@pytest.mark.parametrize("words", [("no-such-directory",), (".", "--interval", "0"), ()])
def test_a_wrong_command_line_is_2(words: tuple[str, ...]) -> None:
    assert top(*words).returncode == 2


def test_a_look_does_not_walk_the_directory(spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock.cli import _top

    walks = []
    walk = _top._walk

    def counted(root: str) -> Iterator[os.DirEntry[str]]:
        walks.append(root)
        return walk(root)

    monkeypatch.setattr(_top, "_walk", counted)
    watch = _top.Watch(os.path.realpath(tmp_path))
    worker = spawn()
    worker.ask("acquire", str(tmp_path / "x.lock"))
    for _ in range(3):
        assert [report.holders[0].pid for report in watch.look().reports] == [worker.pid]
    assert len(walks) == 1


def test_a_survey_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock.cli import _top

    monkeypatch.setattr(_top, "ENTRIES", 5)
    for number in range(9):
        (tmp_path / str(number)).touch()
    look = _top.Watch(os.path.realpath(tmp_path)).look()
    assert not look.searched
    assert "not all leases and markers are seen" in _top.text(look)
