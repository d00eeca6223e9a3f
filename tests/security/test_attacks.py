"""Whatever an attacker leaves at the path of a lock, or beside it, is refused at once, and is as it was."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("plants devices and sockets as Linux has them", allow_module_level=True)

from interlock import Lock, LockError, UnsafePathError, once, publish, transform
from interlock.filelock import FileLock
from interlock.paths import real

from ..seam import NAMES, PatchedOps, patched_engine
from ..support import need_root
from . import entries, worker
from .attacks import attacks, wrong
from .entries import CONTROLS, ENTRIES, Entry
from .plants import NOBODY, PRECIOUS, facts
from .worker import Team, Verdict, wealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    """Not below pytest's own directory, whose names are long."""
    need_root()
    with Team(tempfile.mkdtemp(prefix="attacks-")) as team:
        yield team


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_attacks(entry: Entry, team: Team) -> None:
    faults = []
    for attack in attacks((entry,)):
        fault = wrong(attack, team.ask(entry.name, attack.plant.name, attack.beside))
        if fault:
            faults.append(f"{attack.name}: {fault}")
    assert faults == []


# ---- negative controls


def test_a_careless_lock_is_found(team: Team) -> None:
    """One that follows links and truncates, as in CVE-2025-68146."""
    said = {}
    for attack in attacks(CONTROLS[:1]):
        said[attack.plant.name] = wrong(attack, team.ask("careless", attack.plant.name, ""))
    for plant in ("symlink", "dangling symlink", "hard link of own", "hard link of other"):
        assert said[plant].startswith("the victim was touched"), (plant, said)
    assert said["FIFO"].startswith("granted")


def test_a_lock_that_hangs_is_found(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LIMIT", 3.0)
    assert team.ask("trusting", "FIFO").kind == "hangs"


def test_a_wrong_error_is_found() -> None:
    attack = next(attack for attack in attacks() if (attack.entry.name, attack.plant.name) == ("Lock", "FIFO"))
    right = Verdict("refused", "UnsafePathError", "/tmp/1/place/a is a FIFO", 0.0, "", "")
    assert wrong(attack, right) == ""
    assert wrong(attack, right._replace(kind="timeout", error="Timeout")) != ""
    assert wrong(attack, right._replace(error="AttributeError")) != ""
    assert wrong(attack, right._replace(text="it is a FIFO")) != ""
    assert wrong(attack, right._replace(seconds=100.0)) != ""
    assert wrong(attack, right._replace(harmed="x")) != ""
    assert wrong(attack, right._replace(robbed="x")) != ""


# ---- swapped between two calls

SWAPS: dict[str, Callable[[str, str], None]] = {
    "symlink": lambda path, victim: os.symlink(victim, path),
    "dangling": lambda path, victim: os.symlink(victim + ".new", path),
    "FIFO": lambda path, victim: os.mkfifo(path),
    "directory": lambda path, victim: os.mkdir(path),
    "hard link": lambda path, victim: os.link(victim, path),
    "other file": lambda path, victim: open(path, "wb").close(),
    "gone": lambda path, victim: None,
}


def swap(kind: str, path: str, victim: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    SWAPS[kind](path, victim)


@pytest.fixture
def stage(tmp_path: Path) -> tuple[str, str, str]:
    """The path of a lock, the victim, and the directory of that."""
    (tmp_path / "place").mkdir()
    treasury = tmp_path / "treasury"
    treasury.mkdir()
    (treasury / "victim").write_bytes(PRECIOUS)
    return str(tmp_path / "place" / "a"), str(treasury / "victim"), str(treasury)


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
@pytest.mark.parametrize("kind", SWAPS)
def test_what_is_swapped_between_any_two_calls_harms_nobody(
    kind: str, there: bool, stage: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every system call of an acquire, before it is made."""
    path, victim, treasury = stage
    ops: PatchedOps = patched_engine(monkeypatch)
    rich = wealth(treasury)
    counted = [0]
    said: list[str] = []
    at = 0
    while True:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        swap("other file" if there else "gone", path, victim)
        counted[0] = 0

        def before(call: Callable[..., object], *args: object, _at: int = at, **options: object) -> object:
            counted[0] += 1
            if counted[0] == _at + 1 and not os.path.isdir(path):
                swap(kind, path, victim)
            return call(*args, **options)

        for name in NAMES:
            ops.patch(name, before)
        try:
            with Lock(path, timeout=0.05) as hold:
                assert hold.lost or stat.S_ISREG(os.lstat(path).st_mode)
        except (LockError, OSError) as error:
            said.append(str(error))
        ops.heal()
        assert wealth(treasury) == rich
        if counted[0] <= at:
            break
        at += 1
    assert at > 4
    assert all("place" in text for text in said)


FAST = [
    entry for entry in ENTRIES
    if entry.name in ("Lock", "Lock, fair", "Lock, dual", "RWLock, write", "Semaphore", "hold.token", "publish",
                      "inspect", "lease", "facade FileLock", "facade SoftFileLock", "facade StrictSoftFileLock")
]  # fmt: skip

ATTACKER = """
import os, random, sys
path, victim, seed = sys.argv[1:]
source = random.Random(seed)
makes = [
    lambda p: os.symlink(victim, p), lambda p: os.symlink(victim + ".new", p), lambda p: os.mkfifo(p),
    lambda p: os.link(victim, p), lambda p: open(p, "x").close(), lambda p: os.symlink(p, p),
]
print("ready", flush=True)
number = 0
while True:
    number += 1
    if number % 100 == 0:
        print("x", end="", flush=True)
    new = f"{path}.{number}.swap"
    try:
        source.choice(makes)(new)
        os.rename(new, path)
        if source.random() < 0.2:
            os.unlink(path)
    except OSError:
        pass
    try:
        os.unlink(new)  # renaming a hard link over another name of the same file does nothing
    except OSError:
        pass
"""


def storm(entry: Entry, stage: tuple[str, str, str]) -> bool:
    """Another process puts one thing after the other there, as fast as it can. Is the treasury as it was?"""
    path, victim, treasury = stage
    seed = str(random.randrange(1 << 30))
    rich = wealth(treasury)
    attacker = subprocess.Popen([sys.executable, "-c", ATTACKER, path, victim, seed], stdout=subprocess.PIPE, text=True)
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "ready\n"
        reports = attacker.stdout.fileno()
        os.set_blocking(reports, False)
        swaps, began = 0, time.monotonic()
        while swaps < 1000 and time.monotonic() - began < 100:
            try:
                entry.act(path)
            except (LockError, OSError):
                pass
            try:
                swaps += 100 * len(os.read(reports, 100))
            except BlockingIOError:
                pass
    finally:
        attacker.kill()
        attacker.wait()
        if attacker.stdout is not None:
            attacker.stdout.close()
    assert swaps >= 1000
    return wealth(treasury) == rich


@pytest.mark.parametrize("entry", FAST, ids=lambda entry: entry.name)
def test_a_storm_of_swaps_harms_nobody(
    entry: Entry, stage: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "WAIT", 0.005)
    assert storm(entry, stage)


def test_a_storm_of_swaps_finds_a_careless_lock(stage: tuple[str, str, str]) -> None:
    assert not storm(CONTROLS[0], stage)


# ---- links in the directories of a path


@pytest.fixture
def crowd(stage: tuple[str, str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A directory like /tmp in which another user has made a link `there` to the treasury."""
    need_root()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o1777)
        link = os.path.join(directory, "there")
        os.symlink(stage[2], link)
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        yield link, stage[2]


@pytest.mark.parametrize("use", [
    lambda path: Lock(path).acquire().release(),
    lambda path: Lock(path, primitive="marker").acquire().release(),
    lambda path: FileLock(path).acquire().lock.release(),
    lambda path: publish(path, b"x"),
    lambda path: once(path, lambda staged: staged.write_bytes(b"x")),
    lambda path: transform(path, lambda old: b"x"),
], ids=["Lock", "lease", "FileLock", "publish", "once", "transform"])  # fmt: skip
def test_a_strangers_link_in_tmp_leads_nobody(use: Callable[[str], object], crowd: tuple[str, str]) -> None:
    """Whatever fs.protected_symlinks says: paths are resolved here, not by the kernel."""
    link, treasury = crowd
    rich = wealth(treasury)
    with pytest.raises((UnsafePathError, PermissionError), match=f"{link} is a symbolic link that user {NOBODY} made"):
        use(os.path.join(link, "new", "a.lock"))
    with pytest.raises((UnsafePathError, PermissionError)):
        use(os.path.join(link, "a.lock"))
    assert wealth(treasury) == rich


def test_a_strangers_link_to_a_file_is_not_replaced(crowd: tuple[str, str]) -> None:
    link, treasury = crowd
    os.unlink(link)
    os.symlink(os.path.join(treasury, "victim"), link)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    rich = wealth(treasury)
    with pytest.raises(UnsafePathError, match="symbolic link that user"):
        transform(link, lambda old: b"x")
    assert wealth(treasury) == rich


def test_ones_own_links_lead_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    here = os.path.realpath(tmp_path)
    for given, leads in (
        ("two/a", "real/a"), ("two/../x", "x"), ("one/./b//c", "real/b/c"), ("no/../such", "such"), ("", ""),
    ):  # fmt: skip
        assert real(f"{tmp_path}/{given}") == os.path.normpath(f"{here}/{leads}")
        assert real(f"{tmp_path}/{given}") == os.path.realpath(f"{tmp_path}/{given}")
    (tmp_path / "loop").symlink_to("loop")
    assert real(f"{tmp_path}/loop/a") == os.path.realpath(f"{tmp_path}/loop/a")


def test_a_link_of_root_or_of_ones_own_in_tmp_is_followed(tmp_path: Path) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o1777)
        os.symlink(tmp_path, os.path.join(directory, "own"))
        with Lock(os.path.join(directory, "own", "a.lock")):
            assert (tmp_path / "a.lock").exists()


def test_a_strangers_token_file_gives_no_token(tmp_path: Path) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o1777)
        path = os.path.join(directory, "a.lock")
        with open(path + ".token", "wb"):
            pass
        os.chown(path + ".token", NOBODY, NOBODY)
        before = facts(path + ".token")
        with Lock(path) as hold, pytest.raises(UnsafePathError, match=f"belongs to user {NOBODY}"):
            hold.token  # noqa: B018
        assert facts(path + ".token") == before
        os.chmod(directory, 0o775)  # a directory of those who share it
        with Lock(path) as hold:
            assert hold.token
