"""Many processes of many kinds on one resource, some of them killed: nothing is lost. And without a lock, it is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ..support import need, need_module
from . import fleet

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    pytest.skip("flock(1), sh and kill -9 are POSIX's", allow_module_level=True)

TOOL = [sys.executable, "-m", "interlock"]

# ---- git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    need("git")
    repository = tmp_path / "repository"
    git(tmp_path, "init", "-q", str(repository))
    git(repository, "commit", "--allow-empty", "-m", "the first one")
    return repository


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_{what}": "fleet@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(directory: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(directory), *words], env=ENVIRONMENT, check=True, capture_output=True, text=True, timeout=100
    ).stdout


def commit_all_at_once(repository: Path, *wrapper: str) -> tuple[list[int], list[str]]:
    """32 commits at once; who made it by exit status, and the messages in the log."""
    commits = [
        subprocess.Popen(
            [*wrapper, "git", "-C", str(repository), "commit", "--allow-empty", "-m", f"{number}"],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(32)
    ]
    made = [number for number, commit in enumerate(commits) if commit.wait(60) == 0]
    return made, git(repository, "log", "--format=%s").splitlines()[:-1]


@pytest.mark.timeout(600)
def test_32_commits_at_once_are_all_there(repository: Path, tmp_path: Path) -> None:
    need_module("click")
    made, log = commit_all_at_once(repository, *TOOL, "run", str(tmp_path / "repo.lock"), "--")
    assert made == list(range(32))
    assert sorted(map(int, log)) == made
    git(repository, "fsck", "--strict")


def test_without_the_lock_some_of_32_commits_fail(repository: Path) -> None:
    """What the lock is for. Should all succeed by luck, they try again."""
    for _ in range(10):
        before = len(git(repository, "log", "--format=%s").splitlines()) - 1
        made, log = commit_all_at_once(repository)
        assert len(log) - before == len(made)  # those that succeed are there: git's own locks see to that
        if len(made) < 32:
            return
    pytest.fail("320 commits at once, and none met another")


# ---- the mixed fleet

TARGET = 1000


class Fleet:
    """Keeps one worker per place alive until the target is reached, and kills."""

    def __init__(self, directory: Path, target: int, places: list[str]) -> None:
        self._directory = directory
        self._target = target
        self._started = 0
        self.kills = 0
        (directory / "counter").write_text("0\n")
        (directory / "history").touch()
        self._places = [(kind, *self._start(kind)) for kind in places]

    def _start(self, kind: str) -> tuple[str, subprocess.Popen[bytes]]:
        self._started += 1
        name = f"{kind}-{self._started}"
        command = [sys.executable, fleet.__file__, kind, name, str(self._target)]
        shell = ["sh", "-c", fleet.SHELL, "sh", name, str(self._target)]
        if kind == "flock":
            command = ["flock", "lock", *shell]
        elif kind == "run":
            command = [*TOOL, "run", "--quiet", "lock", "--", *shell]
        return name, subprocess.Popen(command, cwd=self._directory, stdin=subprocess.DEVNULL)

    def count(self) -> int:
        return int((self._directory / "counter").read_text())

    def sail(self, chance: random.Random, kill_every: float) -> None:
        """Until the target is reached. One in two kills is aimed at who is in."""
        next_kill = time.monotonic() + kill_every
        while self.count() < self._target:
            for index, (kind, _name, process) in enumerate(self._places):
                if process.poll() is not None:
                    assert process.returncode in (0, -9, 137), f"{kind} ended with {process.returncode}"
                    self._places[index] = (kind, *self._start(kind))
            if time.monotonic() > next_kill:
                next_kill = time.monotonic() + kill_every
                self._kill(chance)
            time.sleep(0.001)
        for _kind, _name, process in self._places:
            assert process.wait(60) in (0, -9, 137)

    def _kill(self, chance: random.Random) -> None:
        _kind, _name, victim = chance.choice(self._places)
        if chance.random() < 0.5:
            last = self._history()[-1:]
            for _kind, name, process in self._places:
                if last and last[0].startswith((f"begin {name} ", f"begin {name}-")):
                    victim = process
        if victim.poll() is None:
            victim.kill()
            self.kills += 1

    def _history(self) -> list[str]:
        return (self._directory / "history").read_text().splitlines()

    def tally(self) -> fleet.Tally:
        return fleet.check(self._history(), self.count())

    def close(self) -> None:
        for _kind, _name, process in self._places:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mixed_fleet_counts_to_1000_while_it_is_killed(tmp_path: Path) -> None:
    need_module("click")
    places = ["sync", "sync", "asyncio", "run"]
    if sys.platform == "linux":
        need("flock")
        places += ["fair", "flock"]
    if find_spec("filelock") is not None or os.environ.get("INTERLOCK_REQUIRE_ALL"):
        places.append("filelock")
    ships = Fleet(tmp_path, TARGET, places)
    try:
        ships.sail(random.Random(5), 0.2)
        tally = ships.tally()
    finally:
        ships.close()
    by_kind = Counter(name.partition("-")[0] for name in tally.finished)
    died = len(tally.died_counted) + len(tally.died_uncounted)
    print(f"{dict(by_kind)}; {ships.kills} kills; {died} died inside, {len(tally.died_counted)} of them had counted")
    assert tally.final == TARGET
    assert set(by_kind) == set(places)
    assert tally.died_counted
    assert tally.died_uncounted


def test_a_fleet_without_a_lock_is_found_out(tmp_path: Path) -> None:
    """The judge is not blind: the same workers, with nothing between them."""
    ships = Fleet(tmp_path, 200, ["nothing"] * 4)
    try:
        ships.sail(random.Random(5), 60)
        with pytest.raises(AssertionError, match=r"was still in|had been counted|counted from"):
            ships.tally()
    finally:
        ships.close()


# ---- the judge


def test_the_judge_accepts_deaths() -> None:
    history = [
        *("begin a 0", "end a 1"),
        "begin b 1",  # died before it counted
        "begin c 1",  # died after
        *("begin d 2", "end d 3"),
        "begin e 3",
    ]
    assert fleet.check(history, 3) == (3, ["a", "d"], ["c"], ["b", "e"])
    assert fleet.check(history, 4) == (4, ["a", "d"], ["c", "e"], ["b"])


@pytest.mark.parametrize(
    ("history", "final", "says"),
    [
        (["begin a 0", "begin b 0", "end a 1"], 1, "a was still in"),
        (["begin a 0", "end a 1", "end a 2"], 2, "a was still in"),
        (["begin a 0", "end a 1", "begin b 0"], 1, "b found 0"),
        (["begin a 0", "end a 1", "begin b 2"], 2, "b found 2"),
        (["begin a 0", "begin b 2"], 2, "b found 2"),
        (["begin a 0", "end a 2"], 2, "a counted from 0 to 2"),
        (["begin a 0", "end a 1"], 0, "found 0"),
        (["begin a 0", "end a 1"], 2, "found 2"),
        (["begin a 0", "begin a 0"], 0, "a began twice"),
    ],
)
def test_the_judge_condemns(history: list[str], final: int, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        fleet.check(history, final)
