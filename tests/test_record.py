"""Recording for `interlock trace`: nothing is lost, and nothing but its own file is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def python(program: str, directory: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "INTERLOCK_TRACE": str(directory / "trace")}
    (directory / "trace").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )


def recorded(directory: Path) -> list[list[dict[str, Any]]]:
    """The lines of each file, the one with the smallest pid first."""
    files = sorted((directory / "trace").iterdir(), key=lambda path: int(path.name.split("-")[0]))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in files]


def kinds(lines: list[dict[str, Any]]) -> list[str]:
    return [line["k"] for line in lines[1:]]


def test_every_event_is_a_line(tmp_path: Path) -> None:
    program = "from interlock import Lock\nwith Lock('x.lock'):\n    assert Lock('x.lock').try_acquire() is None\n"
    assert python(program, tmp_path).stderr == ""
    (lines,) = recorded(tmp_path)
    assert lines[0]["argv"][1] == "-c"
    assert kinds(lines) == ["acquired", "withdrawn", "released"]
    assert lines[1]["key"] == str(tmp_path / "x.lock")
    assert (next(iter((tmp_path / "trace").iterdir())).stat().st_mode & 0o777) == 0o600 or sys.platform == "win32"


def test_filelocks_api_is_recorded(tmp_path: Path) -> None:
    assert python("from interlock.filelock import FileLock\nwith FileLock('x.lock'): pass", tmp_path).stderr == ""
    (lines,) = recorded(tmp_path)
    assert kinds(lines) == ["acquired", "released"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    program = "import os\nfrom interlock import Lock\nLock('x.lock').acquire(), os.kill(os.getpid(), 9)"
    assert python(program, tmp_path).returncode == -signal.SIGKILL
    (lines,) = recorded(tmp_path)
    assert kinds(lines) == ["acquired"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_file_of_its_own(tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from interlock import Lock\n"
        "with Lock('x.lock'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        with Lock('y.lock'): pass\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    assert python(program, tmp_path).stderr == ""
    files = recorded(tmp_path)
    assert len(files) == 2
    child = next(lines for lines in files if lines[0]["forked_from"])
    parent = next(lines for lines in files if not lines[0]["forked_from"])
    assert child[0]["forked_from"] == parent[0]["pid"]
    assert [line["r"] for line in child[1:]] == ["y.lock"] * 2
    assert [line["r"] for line in parent[1:]] == ["x.lock"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")
def test_a_file_of_the_program_that_got_our_descriptors_number_is_not_written(tmp_path: Path) -> None:
    """What daemons do: close all, open their own."""
    program = (
        "import os\n"
        "from interlock import Lock\n"
        "with Lock('x.lock'): pass\n"
        "os.closerange(3, 100)\n"
        "fds = [os.open(f'mine{n}', os.O_RDWR | os.O_CREAT) for n in range(8)]\n"
        "with Lock('x.lock'): pass\n"
    )
    assert python(program, tmp_path).stderr == ""
    assert [(tmp_path / f"mine{number}").read_bytes() for number in range(8)] == [b""] * 8
    assert sorted(kind for lines in recorded(tmp_path) for kind in kinds(lines)) == ["acquired"] * 2 + ["released"] * 2


def test_a_file_ends_at_the_limit(tmp_path: Path) -> None:
    program = (
        "import interlock._record as r\n"
        "r.LIMIT = 1000\n"
        "from interlock import Lock\n"
        "for _ in range(20):\n"
        "    with Lock('x.lock'): pass\n"
    )
    assert python(program, tmp_path).stderr == ""
    (lines,) = recorded(tmp_path)
    assert lines[-1]["full"] is True
    assert 3 < len(lines) < 10


def test_a_directory_that_is_gone_breaks_nothing(tmp_path: Path) -> None:
    program = "import os\nos.rmdir('trace')\nfrom interlock import Lock\nwith Lock('x.lock'): print('ok')"
    done = python(program, tmp_path)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_without_the_variable_nothing_is_loaded() -> None:
    code = "import sys, interlock; interlock.Lock('x'); sys.exit('interlock._record' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "INTERLOCK_TRACE"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=100).returncode == 0
