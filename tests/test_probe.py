"""`probe` and `interlock doctor`: what they find out about filesystems that keep their word, lie, and hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("looks into /proc, and tries what Linux has", allow_module_level=True)

import interlock
from interlock import _probe as probing
from interlock._probe import probe
from interlock._probe.bounded import CallError, Child, HungError
from interlock._wait import mounts

from .support import need, need_lockfs, need_module, need_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .places import Places


def doctor(*arguments: str | Path, limit: float = 60) -> subprocess.CompletedProcess[str]:
    need_module("click")
    return subprocess.run(
        [sys.executable, "-m", "interlock", "doctor", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=limit,
    )  # fmt: skip


def nothing_left(directory: Path) -> None:
    assert [name for name in os.listdir(directory) if name.startswith(".interlock")] == []


# ---- what keeps its word


def test_a_local_directory(tmp_path: Path) -> None:
    found = interlock.probe(tmp_path)
    assert found.directory == str(tmp_path)
    assert found.filesystem == mounts.fstype(str(tmp_path))
    assert (found.threads.answer, found.processes.answer, found.hosts.answer) == ("yes", "yes", "yes")
    assert found.primitive == "flock"
    assert [trial.name for trial in found.trials] == [
        "flock", "dual", "ofd", "posix", "link", "excl", "noreplace", "rename", "exchange",
    ]  # fmt: skip
    for trial in found.trials:
        if trial.name not in ("noreplace", "exchange"):  # an overlay may not have them
            assert trial.works, trial
            assert trial.latency is not None
            assert 0 < trial.latency < 60
        if trial.name in ("flock", "dual", "ofd", "posix"):
            assert (trial.processes, trial.freed) == (True, True), trial
            assert trial.threads is (trial.name != "posix")
        if trial.name in ("link", "excl"):
            assert trial.processes is True
    assert found.trouble == found.left == ""
    nothing_left(tmp_path)
    json.dumps(found.as_dict())


def test_the_command(tmp_path: Path) -> None:
    result = doctor(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("flock(2)", "O_EXCL", "hard link", "auto takes  flock", "excludes hosts      yes"):
        assert words in result.stdout
    result = doctor(tmp_path, "--json")
    assert json.loads(result.stdout)["processes"]["answer"] == "yes"
    nothing_left(tmp_path)


@pytest.mark.parametrize("arguments", [["missing"], ["file"], [".", "--peer", "--join", "x"], [".", "b", "--peer"], []])
def test_what_cannot_be_looked_at(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = doctor(*arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried, and what is known stays."""
    real = Child.ask

    def refused(self: Child, limit: float, do: str, **arguments: object) -> Any:
        if do == "scratch":
            raise CallError(13, "Permission denied")
        return real(self, limit, do, **arguments)

    monkeypatch.setattr(Child, "ask", refused)
    found = probe(tmp_path)
    assert found.trials == ()
    assert (found.processes.answer, found.hosts.answer) == ("unknown", "yes")
    assert "Permission denied" in found.trouble
    nothing_left(tmp_path)


def test_a_caller_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, os, time\n"
        "from interlock import _probe as p\n"
        "def stay(*_): print(os.listdir(sys.argv[1]), flush=True); time.sleep(60)\n"
        "p.run = stay\n"
        "p.probe(sys.argv[1])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert ".interlock-probe-" in process.stdout.readline()
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while os.listdir(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.01)


# ---- what lies. The fault filesystem plays it; two mounts of one place are two hosts.


@contextmanager
def played(tmp_path: Path, mode: str, kind: str = "fuse.lockfs") -> Iterator[tuple[Any, Path, Path]]:
    need_lockfs()
    from interlock.testing.lockfs import MODES, LockFS

    with LockFS(tmp_path / "disk") as fs:
        first = fs.mount(tmp_path / "one", MODES[mode], kind=kind)
        fs.mount(tmp_path / "two", MODES[mode], kind=kind)
        yield first, tmp_path / "one", tmp_path / "two"
        if mode != "hang":
            nothing_left(tmp_path / "disk")


LIES: dict[str, tuple[dict[str, tuple[bool | None, bool | None]], str, str]] = {
    # mode: ({primitive: (excludes processes, excludes mounts)}, processes, hosts)
    "coherent": ({"flock": (True, True), "dual": (True, True), "ofd": (True, True), "posix": (True, True),
                  "link": (True, True), "excl": (True, True)}, "yes", "unknown"),
    "gpfs": ({"flock": (True, False), "ofd": (True, True), "dual": (True, True), "link": (True, True)}, "yes", "no"),
    "ocfs2": ({"flock": (True, True), "ofd": (True, False), "posix": (True, False), "dual": (True, True)},
              "yes", "unknown"),
    "local-lock": ({"flock": (True, False), "dual": (True, False), "excl": (True, True)}, "yes", "no"),
    "always": ({"flock": (False, False), "dual": (False, False), "link": (True, True)}, "no", "no"),
    "lustre-noflock": ({"flock": (None, None), "excl": (True, True)}, "no", "no"),
    "nfs-nolockd": ({"flock": (None, None), "excl": (True, True)}, "no", "no"),
    "stale-blind": ({"flock": (True, True), "excl": (True, True)}, "yes", "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("mode", LIES)
def test_the_second_mount_is_found_and_lies_are_found_out(mode: str, tmp_path: Path) -> None:
    primitives, processes, hosts = LIES[mode]
    with played(tmp_path, mode) as (_, one, two):
        found = probe(one)
    assert found.filesystem == "fuse.lockfs"
    assert found.second == str(two)
    for name, expected in primitives.items():
        trial = found.trial(name)
        assert trial is not None
        assert (trial.processes, trial.mounts) == expected, trial
    assert (found.processes.answer, found.hosts.answer) == (processes, hosts), found
    assert found.primitive == ""
    assert "FUSE of any other name" in found.reason
    assert found.left == ""


@pytest.mark.slow
def test_the_second_mount_may_be_named(tmp_path: Path) -> None:
    with played(tmp_path, "gpfs") as (_, one, two):
        assert probe(two, second=one).hosts.answer == "no"
        assert doctor(one, two).returncode == 1
        wrong = probe(one, second=tmp_path)
    assert wrong.second == ""
    assert "not the same directory" in wrong.trouble


@pytest.mark.slow
def test_a_lock_that_hangs(tmp_path: Path) -> None:
    began = time.monotonic()
    with played(tmp_path, "hang") as (_, one, _two):
        result = doctor(one, "--json")
    assert time.monotonic() - began < 90
    found = json.loads(result.stdout)
    assert found["seconds"] < 60
    assert result.returncode == 1
    trials = {trial["name"]: trial for trial in found["trials"]}
    assert "did not answer" in trials["flock"]["detail"]
    assert trials["excl"]["processes"] is not False  # None: a busy machine, and the time was over
    assert found["left"] == ""


def test_auto_on_a_mount_that_nobody_knows_is_refused(tmp_path: Path, places: Places) -> None:
    with played(tmp_path, "gpfs") as (_, one, two):
        with pytest.raises(interlock.UnsupportedError, match=r"fuse\.lockfs.*INTERLOCK_PRIMITIVE"):
            interlock.Lock(one / "a.lock").acquire()
        assert os.listdir(one) == []
        # who knows that it is like GPFS, says so, and excludes the other "host"
        places.say("dual")
        with interlock.Lock(one / "a.lock"):
            assert interlock.Lock(two / "a.lock").try_acquire() is None
        with interlock.Lock(two / "a.lock"):
            pass


@pytest.mark.parametrize("kind", ["fuse.juicefs", "fuse.sshfs"])
def test_auto_on_a_mount_that_is_known(kind: str, tmp_path: Path, places: Places) -> None:
    with played(tmp_path, "coherent", kind) as (_, one, two):
        if kind == "fuse.sshfs":
            with pytest.raises(interlock.UnsupportedError, match="SFTP has no locks"):
                interlock.Lock(one / "a.lock").acquire()
            return
        with interlock.Lock(one / "a.lock"):
            assert interlock.Lock(two / "a.lock").try_acquire() is None
        assert probe(one).hosts.answer == "yes"


@pytest.mark.parametrize("mode", ["lustre-noflock", "nfs-nolockd", "unsupported"])
def test_what_the_lock_call_says_is_said(mode: str, tmp_path: Path, places: Places) -> None:
    """Known to exclude, and then the server has no locks: refused by the call, and nothing else is tried."""
    with played(tmp_path, mode, "fuse.juicefs") as (_, one, _two):
        with pytest.raises(interlock.UnsupportedError, match=r"flock\(2\) failed with E.* on fuse\.juicefs"):
            interlock.Lock(one / "a.lock").acquire()
        assert os.listdir(one) == ["a.lock"]


# ---- what hangs


def test_a_filesystem_that_answers_nothing(tmp_path: Path) -> None:
    with played(tmp_path, "coherent") as (mount, one, _two):
        mount.pause()
        try:
            began = time.monotonic()
            result = doctor(one, "--json")
            took = time.monotonic() - began
        finally:
            mount.resume()
        assert result.returncode == 4, result.stdout + result.stderr
        assert took < 90
        assert "did not answer" in json.loads(result.stdout)["trouble"]
        assert json.loads(result.stdout)["filesystem"] == "fuse.lockfs"


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """An ext4 on which every change waits in state D, where no signal ends a process."""
    need_root()
    for tool in ("mkfs.ext4", "mount", "umount", "fsfreeze"):
        need(tool)
    image, point = tmp_path / "image", tmp_path / "ext4"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, point], check=False).returncode:
        if os.environ.get("INTERLOCK_REQUIRE_ALL"):
            pytest.fail("needs loop devices, and INTERLOCK_REQUIRE_ALL is set")
        pytest.skip("needs loop devices")
    subprocess.run(["fsfreeze", "-f", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["fsfreeze", "-u", point], check=False)
        for _ in range(200):
            if not subprocess.run(["umount", point], check=False, stderr=subprocess.DEVNULL).returncode:
                break
            time.sleep(0.05)


def test_a_process_that_no_signal_ends_is_left_behind(frozen: Path) -> None:
    before = os.stat(frozen).st_mtime_ns
    began = time.monotonic()
    result = doctor(frozen, "--json")
    assert time.monotonic() - began < 90
    assert result.returncode == 4, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert (found["filesystem"], found["primitive"]) == ("ext4", "flock")
    assert "did not answer" in found["trouble"]
    assert found["left"].startswith(f"{frozen}/.interlock-probe-")
    subprocess.run(["fsfreeze", "-u", frozen], check=True)
    # the stuck child goes on, finds that nobody listens, and removes what it made
    until = time.monotonic() + 60
    seen = False  # it is made, and removed again
    while not seen or os.path.exists(found["left"]):
        seen = seen or os.stat(frozen).st_mtime_ns != before
        assert time.monotonic() < until
        time.sleep(0.02)
    subprocess.run(["fsfreeze", "-f", frozen], check=True)



# ---- the children


def test_a_child_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child()
    assert child.ask(5, "hello") is True
    os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(HungError):
        child.ask(0.1, "hello")
    assert time.monotonic() - began < 60
    with pytest.raises(HungError):
        child.ask(0.1, "hello")
    assert not child.close()


def test_a_child_that_dies_is_no_answer() -> None:
    child = Child()
    child.ask(5, "hello")
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(HungError):
        child.ask(5, "hello")


def test_without_an_interpreter_there_is_no_probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match="interpreter"):
        probe(tmp_path)


# ---- where the mount table promises the same place


def test_other_mounts_of_one_place(places: Places) -> None:
    places.mount("/a", "nfs4")
    places._lines += (
        "50 22 0:50 / /b rw - nfs4 server:/export rw\n"
        "51 22 0:51 /deep /c rw - nfs4 server:/export rw\n"
        "52 22 0:99 /other /d rw - nfs4 server:/export rw\n"
        "53 22 0:53 / /e rw - nfs4 elsewhere:/export rw\n"
        "54 22 0:99 / /f rw - nfs4 server:/export rw\n"
        "55 22 0:55 / /g rw - nfs4 server:/export rw\n"
        "56 22 0:56 / /g rw - tmpfs tmpfs rw\n"
    )
    places.mount("/unrelated", "xfs")
    mount = mounts.mount_of("/a/deep/x")
    assert probing.others("/a/deep/x", mount) == ["/b/deep/x", "/c/x", "/f/deep/x"]
    assert probing.others("/a", mount) == ["/b", "/f"]
