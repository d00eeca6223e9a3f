"""`interlock break`: what is proven dead goes, what is not stays, and a kernel's lock is nobody's to break."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, UnsupportedError
from interlock.filelock import SoftFileLock, StrictSoftFileLock

from ..support import need_module

if TYPE_CHECKING:
    from pathlib import Path

need_module("click")

if sys.platform == "win32":
    pytest.skip("POSIX processes", allow_module_level=True)

TOOL = [sys.executable, "-m", "interlock", "break"]

HOLD = """
import sys
from interlock import Lock
from interlock.filelock import SoftFileLock
kind, path = sys.argv[1:]
if kind == "soft":
    lock = SoftFileLock(path)
    lock.acquire()
elif kind == "lease":
    hold = Lock(path, primitive="marker", ttl=30).acquire()
else:
    hold = Lock(path).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def breaking(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, str(path), *words], capture_output=True, text=True, timeout=100)


class Holder:
    def __init__(self, kind: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"
        self.pid = self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> int:
        self.process.communicate("")
        return self.process.returncode


def test_a_free_lock_needs_no_breaking(tmp_path: Path) -> None:
    done = breaking(tmp_path / "x.lock")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
@pytest.mark.parametrize("words", [(), ("--force",)])
def test_a_kernel_lock_is_not_broken(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = Holder("kernel", path)
    done = breaking(path, *words)
    assert done.returncode == 1
    assert f"pid {holder.pid} " in done.stderr
    assert "nothing to break, end that process" in done.stderr
    assert Lock(path).try_acquire() is None
    holder.kill()
    assert breaking(path).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="holders are known on Linux only")
def test_who_inherited_a_kernel_lock_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    program = (
        "import fcntl, os, subprocess, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "child = subprocess.Popen(['sleep', '60'], pass_fds=[file.fileno()], stdout=-3, stderr=-3)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=100)
    child = int(done.stdout)
    try:
        asked = breaking(path)
        assert asked.returncode == 1
        assert f"pid {child} (sleep 60), which inherited the descriptor," in asked.stderr
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["soft", "lease"])
def test_a_dead_owner_is_proof(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = _holder(kind, path)
    holder.kill()
    done = breaking(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "broken" in done.stdout
    again = breaking(path)
    assert again.returncode == 0
    assert "nobody" in again.stdout


@pytest.mark.parametrize("kind", ["soft", "lease"])
def test_without_proof_it_is_refused_and_nothing_changes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = _holder(kind, path)
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    done = breaking(path)
    assert done.returncode == 1
    assert "nothing proves" in done.stderr
    assert "--force" in done.stderr
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}.keys() == before.keys()
    if kind == "soft":
        assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before
        assert str(holder.pid) in done.stderr
    assert holder.end() == 0


@pytest.mark.parametrize("kind", ["soft", "lease"])
def test_force_breaks_what_lives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = _holder(kind, path)
    done = breaking(path, "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert "broken (forced)" in done.stdout
    assert breaking(path).returncode == 0
    if kind == "soft":
        with SoftFileLock(path, timeout=1):
            assert holder.end() == 0
            assert path.exists(), "the one whose hold was broken removes nothing of its successor"
    else:
        holder.kill()


def _holder(kind: str, path: Path) -> Holder:
    if kind == "lease":
        try:
            Lock(path, primitive="marker")
        except UnsupportedError:
            pytest.skip("there are no leases here")
    return Holder(kind, path)


def test_what_another_host_owns_is_not_broken_without_force(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("1\nsome.other.host\n")
    done = breaking(path)
    assert done.returncode == 1
    assert "pid 1 of host some.other.host" in done.stderr
    assert path.read_text() == "1\nsome.other.host\n"
    assert breaking(path, "--force").returncode == 0
    assert not path.exists()


def test_a_file_of_ones_own_is_nobodys_marker(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("important\n")
    assert breaking(path, "--force").returncode == 0
    assert path.read_text() == "important\n"


@pytest.mark.parametrize("make", ["fifo", "link", "directory"])
def test_what_is_no_lock_is_125(make: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "link":
        path.symlink_to("elsewhere")
    else:
        path.mkdir()
    done = breaking(path, "--force")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("watch", [(), ("--watch", "0.2")])
def test_a_damaged_lease_is_125_until_it_is_forced(watch: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    _holder("lease", path).kill()
    (newest,) = sorted((tmp_path / "x.lock.interlock").iterdir())[-1:]
    newest.write_bytes(newest.read_bytes().replace(b"pid=", b"pid=9"))
    damaged = newest.read_bytes()
    done = breaking(path, *watch)
    assert done.returncode == 125
    assert "is damaged: nobody can tell who holds" in done.stderr
    assert "interlock break --force" in done.stderr
    assert newest.read_bytes() == damaged
    forced = breaking(path, "--force")
    assert (forced.returncode, forced.stderr) == (0, "")
    Lock(path, primitive="marker").acquire(1).release()


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_a_damaged_marker_is_125(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("filelock/2\npid=12")
    done = breaking(path, *words)
    assert done.returncode == 125
    assert "damaged" in done.stderr
    assert path.read_text() == "filelock/2\npid=12"
    with SoftFileLock(path, timeout=10):  # as it says
        pass


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_a_strict_lock_that_nobody_holds_is_free(words: tuple[str, ...], tmp_path: Path) -> None:
    from interlock.engines.marker import records

    path = tmp_path / "x.lock"
    with StrictSoftFileLock(path):
        pass
    assert path.read_bytes() == records.SENTINEL
    done = breaking(path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody holds it" in done.stdout
    assert path.read_bytes() == records.SENTINEL


def test_force_is_not_offered_where_it_is_refused(tmp_path: Path) -> None:
    """The claims of a strict lock are its operator's; what is told frees it."""
    path = tmp_path / "x.lock"
    code = "import os, sys, interlock.filelock as f; x = f.StrictSoftFileLock(sys.argv[1]); x.acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=100)
    claims = StrictSoftFileLock(path).claims
    asked, forced = breaking(path), breaking(path, "--force")
    assert (asked.returncode, forced.returncode) == (1, 1)
    assert asked.stderr == forced.stderr
    assert "--force" not in asked.stderr
    assert f"claimed by pid {claims[0].pid} of host {claims[0].hostname}." in asked.stderr
    assert StrictSoftFileLock(path).claims == claims
    name = re.search(r"StrictSoftFileLock\('(.*)'\)\.force_break\(NAME\); there are (.*)$", asked.stderr)
    assert name is not None
    assert name[1] == str(path)
    for claim in name[2].split(", "):
        StrictSoftFileLock(name[1]).force_break(claim.strip("'"))
    assert breaking(path).returncode == 0
    with StrictSoftFileLock(path, timeout=10):
        pass
