"""The command line as far as one process shows it: what it accepts, says and returns. More in process/test_run.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import interlock
from interlock import Party, Report, Timeout
from interlock.cli import _text

from .support import need_module

if TYPE_CHECKING:
    from collections.abc import Callable

need_module("click")

TOOL = [sys.executable, "-m", "interlock"]


def tool(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *words], capture_output=True, text=True, timeout=100, cwd=cwd)


def test_version() -> None:
    done = tool("--version")
    assert done.stdout == f"interlock, version {interlock.__version__}\n"
    assert done.returncode == 0


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("interlock" + (".exe" if sys.platform == "win32" else ""))
    if not script.exists():
        pytest.skip("interlock is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=100)
    assert done.stdout == tool("--version").stdout


@pytest.mark.parametrize("start", ["from interlock.cli import main; sys.exit(main())", "import interlock.__main__"])
def test_without_click_it_says_how_to_get_it(start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['click'] = None; {start}"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr == "interlock: the command line needs click: pip install 'interlock[cli]'\n"
    assert done.stdout == ""


def test_a_broken_click_is_not_mistaken_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import no_such_module")
    done = subprocess.run(
        [sys.executable, "-c", "import interlock.__main__"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "no_such_module" in done.stderr
    assert "pip install" not in done.stderr


def test_importing_the_library_loads_no_click() -> None:
    code = "import sys, interlock; interlock.Lock('x'); sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_every_command_is_where_the_table_says() -> None:
    import click

    from interlock.cli import _commands

    overview = " ".join(tool("--help").stdout.split())
    context = click.Context(_commands.interlock)
    for name in _commands.COMMANDS:
        command = _commands.interlock.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert _commands.COMMANDS[name][1] in overview


def test_the_overview_loads_no_command() -> None:
    code = (
        "import sys, interlock.cli as cli; sys.argv = ['interlock', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name in ('interlock.cli._run', 'interlock.lock', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_documents_every_exit_status() -> None:
    text = tool("run", "--help").stdout
    for status in ("1 ", "2 ", "125 ", "126 ", "127 "):
        assert f"\n    {status}" in text
    assert "--conflict-exit-code" in text
    assert "Exit status" in tool("who", "--help").stdout
    assert tool("run", "-h").stdout == text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run",), "Usage"),
        (("run", "x"), "'--'"),
        (("run", "x", "--"), "CMD"),
        (("run", "x", "true", "--quiet"), "'--'"),
        (("run", "--nonsense", "x", "--", "true"), "--nonsense"),
        (("run", "--timeout", "soon", "x", "--", "true"), "--timeout"),
        (("run", "--timeout", "-1", "x", "--", "true"), "'-1': a time in seconds is a number from 0 on; 0 is one"),
        (("run", "--timeout", "nan", "x", "--", "true"), "'nan': a time in seconds is a number from 0 on; 0 is one"),
        (("break", "--watch", "nan", "x"), "'nan': a time in seconds is a number from 0 to 1000000"),
        (("break", "--watch", "-1", "x"), "'-1': a time in seconds is a number from 0 to 1000000"),
        (("top", "--once", "--interval", "nan", "."), "'nan': a time in seconds is a number from 0.1 to 3600"),
        (("doctor", "--wait", "-1", "--peer", "."), "'-1': a time in seconds is a number from 0 on"),
        (("doctor", "--wait", "nan", "--peer", "."), "'nan': a time in seconds is a number from 0 on"),
        (("run", "--timeout", "1", "--no-wait", "x", "--", "true"), "exclude each other"),
        (("run", "--conflict-exit-code", "256", "x", "--", "true"), "'256': an exit status is a number from 0 to 255"),
        (("run", "--conflict-exit-code", "1.5", "x", "--", "true"), "'1.5': an exit status is a number from 0 to 255"),
        (("run", "--conflict-exit-code", "9" * 5000, "x", "--", "true"), "an exit status is a number from 0 to 255"),
        (("run", "", "--", "true"), "TARGET"),
        (("run", ".", "--", "true"), "TARGET"),
        (("who", "d/"), f"lock a file in it, say {os.path.join('d/', 'NAME.lock')!r}"),
        (("run", "memory://#x", "--", "true"), "memory"),
        (("run", "Memory://#x", "--", "true"), "memory"),
        (("run", "file:///tmp", "--", "true"), "TARGET"),
        (("run", "carrier-pigeon://x#y", "--", "true"), "no engine for carrier-pigeon:// URLs; there are etcd, etcds,"),
        (("who",), "TARGET"),
        (("who", "memory://#x"), "memory"),
        (("who", "x", "y"), "y"),
        (("what",), "what"),
        (("trace", "--output", "", "--", "true"), "--output"),
    ],
)
def test_a_wrong_command_line_is_2(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = tool(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr + done.stdout
    assert "None" not in done.stderr  # a command line has no None
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links, FIFOs and devices are POSIX's")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to("elsewhere"), "a symbolic link"),
        (lambda path: subprocess.run(["mkfifo", path], check=True), "a FIFO"),
        (lambda path: path.mkdir(), "Is a directory (a file is wanted, such as one in that directory)"),
        (lambda path: path.parent.joinpath("file").write_text(""), "Not a directory (a part of the path is"),
    ],
)
def test_what_cannot_be_locked_is_125_and_one_line(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    target = tmp_path / "x"
    make(target)
    if not target.is_symlink() and not target.exists():
        target = tmp_path / "file" / "x"
    done = tool("run", target, "--", "touch", tmp_path / "ran")
    assert done.returncode == 125
    assert done.stderr.startswith("interlock: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
def test_who_refuses_what_is_no_lock_file(tmp_path: Path) -> None:
    link = tmp_path / "x"
    link.symlink_to("elsewhere")
    done = tool("who", link)
    assert done.returncode == 1
    assert done.stderr == f"interlock: {os.path.realpath(tmp_path)}/x is not a regular file, so it is no lock file\n"


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
def test_who_of_a_free_lock_is_0_and_makes_no_file(tmp_path: Path) -> None:
    done = tool("who", "x.lock", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "x.lock: nobody holds it, nobody waits (there is no lock file yet)\n"
    assert list(tmp_path.iterdir()) == []
    tool("run", tmp_path / "x.lock", "--", "true")
    assert tool("who", "x.lock", cwd=tmp_path).stdout == "x.lock: nobody holds it, nobody waits\n"


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
def test_who_json_is_the_report(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with interlock.Lock(path):
        done = tool("who", "--json", path)
        report = json.loads(done.stdout)
        expected = interlock.inspect(path).as_dict()
    assert done.returncode == 0
    [holder], [mine] = report.pop("holders"), expected.pop("holders")
    assert holder["pid"] == mine["pid"] == os.getpid()
    assert holder["command"] == mine["command"]
    assert abs(holder["since"] - mine["since"]) < 3600  # another process knows our start only
    assert report == json.loads(json.dumps(expected))


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
def test_a_file_url_names_the_same_lock(tmp_path: Path) -> None:
    with interlock.Lock(f"file://{tmp_path}#build"):
        done = tool("run", "--no-wait", f"file://localhost{tmp_path}#build", "--", "true")
        assert done.returncode == 1
        assert done.stderr.startswith(f"interlock: file://localhost{tmp_path}#build is held by pid {os.getpid()} (")


# ---- the sentences


NOW = 1e9


@pytest.fixture
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def party(pid: int, command: str, seconds: float | None = 12, *, exact: bool = True, inherited: bool = False) -> Party:
    since = None if seconds is None else NOW - seconds
    return Party(pid, command, "me", "here", since, exact, inherited)


@pytest.mark.usefixtures("_noon")
@pytest.mark.parametrize(
    ("holder", "others", "limit", "text"),
    [
        (party(4242, "make -j8"), 0, None, "waiting for x: held by pid 4242 (make -j8) for 12 s"),
        (party(4242, "make -j8"), 1, None, "waiting for x: held by pid 4242 (make -j8) for 12 s; 1 other waits"),
        (party(1, "a", exact=False), 3, None, "waiting for x: held by pid 1 (a) for at most 12 s; 3 others wait"),
        (party(1, "", None), 0, 60.0, "waiting for x: held by pid 1; giving up after 1 min 0 s"),
        (None, 0, float("inf"), "waiting for x: its holder cannot be seen; --timeout would limit this"),
    ],
)
def test_waiting(holder: Party | None, others: int, limit: float | None, text: str) -> None:
    assert _text.waiting("x", holder, others, limit) == text


@pytest.mark.usefixtures("_noon")
def test_conflict() -> None:
    holder = party(4242, "make -j8")
    assert _text.conflict(Timeout("x", 0.0001, holder), 0) == "x is held by pid 4242 (make -j8) for 12 s"
    assert _text.conflict(Timeout("x", 0.0001), 0) == "x is held by somebody else"
    waited = _text.conflict(Timeout("x", 5.01, holder), 5)
    assert waited == "x was not acquired within 5.01 s: held by pid 4242 (make -j8) for 12 s"


@pytest.mark.usefixtures("_noon")
def test_table() -> None:
    report = Report(
        "x",
        "kernel",
        holders=(
            replace(party(4242, "make -j8", 200), thread="main (tid 4243)"),
            party(31, "cc a.c", exact=False, inherited=True),
            replace(party(32, "gpu", 200), mode="permit", slot=3),
        ),
        waiters=(
            replace(
                party(5, "git commit"), thread="Main Thread (tid 7)", task="Task-1", mode="read", waited=12, position=1
            ),
            party(6, "", None),
        ),
    )
    rows = [line.split(maxsplit=10) for line in _text.table(report).splitlines()]
    assert rows[0] == "STATE POS SLOT PID USER HOST THREAD SINCE FOR WAITED COMMAND".split()
    since = time.strftime("%H:%M:%S", time.localtime(NOW - 200))
    assert rows[1][7].endswith(since)  # after the date, where noon in Greenwich is just after midnight
    assert rows[2][7].startswith(">")
    assert [[*row[:7], *row[8:]] for row in rows[1:]] == [
        ["holds", "-", "-", "4242", "me", "here", "main/4243", "3min20s", "?", "make -j8"],
        ["inherits", "-", "-", "31", "me", "here", "?", "<12s", "?", "cc a.c"],
        ["holds:permit", "-", "3", "32", "me", "here", "?", "3min20s", "?", "gpu"],
        ["waits:read", "1", "-", "5", "me", "here", "Main_Thread/7:Task-1", "12s", "12s", "git commit"],
        ["waits", "?", "-", "6", "me", "here", "?", "?", "?", "?"],
    ]
    lines = _text.table(report).splitlines()
    assert len({line.index(row[8]) for line, row in zip(lines[1:], rows[1:], strict=True) if row[8] != "?"}) == 1


def test_table_of_nothing() -> None:
    assert _text.table(Report("x", "kernel")) == "x: nobody holds it, nobody waits"
    unseen = Report("x", "kernel", complete=False)
    assert _text.table(unseen) == "x: no holder and no waiter is known (not all processes may be seen)"
    unknown = Report("x", "kernel", complete=False, hint="not told here")
    assert _text.table(unknown) == "x: no holder and no waiter is known (not told here)"


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    assert _text.plain("a\x1b[31mb\nc\udcff") == "a?[31mb?c?"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_the_command_runs_where_standard_streams_are_closed(closed: str, tmp_path: Path) -> None:
    """As daemons start their children. The lock file's descriptor must not become the command's standard output."""
    need_module("click")
    script = f"exec {sys.executable} -m interlock run x.lock -- sh -c 'echo ran >mark' {closed}"
    assert subprocess.run(["sh", "-c", script], cwd=tmp_path, timeout=100).returncode == 0
    assert (tmp_path / "mark").read_text() == "ran\n"
    assert (tmp_path / "x.lock").read_bytes() == b""


def test_an_empty_command_is_not_found(tmp_path: Path) -> None:
    need_module("click")
    done = tool("run", "x.lock", "--", "", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (127, 1)


def test_who_says_that_it_cannot_write(tmp_path: Path) -> None:
    need_module("click")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TOOL, "who", "x.lock"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100
        )
    assert done.returncode == 125
    assert done.stderr.startswith("interlock: standard output: ")


@pytest.mark.parametrize("words", [("run", "x", "--", ""), ("trace", "--", "")])
def test_an_empty_command_is_127_and_nothing_is_made(words: tuple[str, ...], tmp_path: Path) -> None:
    done = tool(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (127, 1)
    assert "the command is an empty word" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="places are told apart on Linux")
@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("INTERLOCK_PRIMITIVE", "flok", "the environment variable INTERLOCK_PRIMITIVE: 'flok' is not one of auto,"),
        ("INTERLOCK_PRIMITIVE", "/x = flok", "INTERLOCK_PRIMITIVE: '/x = flok': 'flok' is not one of auto, flock,"),
        ("INTERLOCK_CONFIG", "table", "table, line 2: '/lustre = flok': 'flok' is not one of auto, flock,"),
        ("INTERLOCK_CONFIG", "none", "none: No such file or directory (INTERLOCK_CONFIG names it as the table that"),
    ],
)
@pytest.mark.parametrize(
    ("words", "status"),
    [(("run", "x", "--", "true"), 125), (("who", "x"), 1), (("break", "x"), 125), (("doctor", "."), 2)],
)
def test_a_wrong_setting_is_not_blamed_on_the_target(
    words: tuple[str, ...], status: int, variable: str, value: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "table").write_text("# mine\n/lustre = flok\n")
    environment = {**os.environ, variable: value if variable == "INTERLOCK_PRIMITIVE" else str(tmp_path / value)}
    done = subprocess.run(
        [*TOOL, *words], capture_output=True, text=True, timeout=100, cwd=tmp_path, env=environment
    )
    assert done.stderr.startswith("interlock: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "TARGET" not in done.stderr
    assert done.returncode == status
    assert os.listdir(tmp_path) == ["table"]


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("redis://127.0.0.1:1/0#x", "redis"),
        ("postgresql://127.0.0.1:1/db#x", "psycopg"),
        ("etcd://127.0.0.1:1#x", "urllib"),
    ],
)
def test_a_server_that_is_not_there_is_named_with_what_to_look_at(url: str, module: str, tmp_path: Path) -> None:
    need_module(module)
    done = tool("who", url, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"interlock: {url.partition('#')[0]}")
    assert "refused" in done.stderr
    assert done.stderr.rstrip().lower().endswith("is it running, and is the url right?")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are known on Linux only")
def test_doctor_takes_a_relative_second_path(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    done = tool("doctor", "d", "d", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["trouble"], found["second"]) == ("", str(tmp_path / "d"))


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are known on Linux only")
@pytest.mark.parametrize("second", ["missing", "other"])
def test_doctor_wants_the_same_directory_twice(second: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "other").mkdir()
    done = tool("doctor", "d", second, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"interlock: {tmp_path / second} is not the same directory\n"
