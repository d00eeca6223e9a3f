"""Many processes at once, killed at any time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.store import Store

from . import storm
from .support import numbered

if sys.platform == "win32":
    pytest.skip("the publishers are killed by signals", allow_module_level=True)

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("lie", [False, True], ids=["lock", "a lock that always succeeds"])
def test_a_storm_of_publishers_and_kills_loses_nothing(tmp_path: Path, lie: bool) -> None:
    outcome = storm.storm(str(tmp_path), 120, 8, 0.4, lie, durable=False)
    assert outcome.kills > 0
    storm.check(str(tmp_path), 120, outcome)


BUILDER = """
import os, sys, time
from interlock.store import Store
from tests.store.support import numbered
root, log, pause, number, answer = sys.argv[1:]
document, archive = numbered(int(number))
def build(job):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(pause))
    if answer == "fail":
        raise RuntimeError("no compiler")
    return archive
with Store(root, durable=False).get_or_build(document, build) as found:
    assert found.read() == archive
print("good")
"""


def builders(count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BUILDER, *arguments]
    return [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]


def first_builder(log: Path) -> int:
    limit = time.monotonic() + 60
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return int(log.read_text().split()[0])


@pytest.mark.slow
def test_64_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = builders(64, str(tmp_path / "store"), str(log), "0.5", "3", "good")
    answers = [process.communicate(timeout=100) for process in processes]
    assert [out for out, _err in answers] == ["good\n"] * 64, answers
    assert len(log.read_text().split()) == 1
    assert Store(tmp_path / "store").verify().problems == ()


@pytest.mark.slow
def test_a_builder_killed_in_the_middle_has_a_successor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = builders(16, str(tmp_path / "store"), str(log), "3", "3", "good")
    victim = first_builder(log)
    os.kill(victim, signal.SIGKILL)
    answers = {process.pid: process.communicate(timeout=100)[0] for process in processes}
    assert answers.pop(victim) == ""
    assert set(answers.values()) == {"good\n"}
    assert len(log.read_text().split()) == 2
    assert sorted(os.listdir(Store(tmp_path / "store").layout.building)) == [], "what the dead builder left is gone"


@pytest.mark.slow
def test_a_failure_is_told_to_those_who_waited(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = builders(8, str(tmp_path / "store"), str(log), "4", "3", "fail")
    answers = [process.communicate(timeout=100) for process in processes]
    assert len(log.read_text().split()) == 1, "all had come before the build failed"
    assert sum("RuntimeError: no compiler" in err and "BuildFailed" not in err for _out, err in answers) == 1
    assert sum("BuildFailed" in err and "RuntimeError: no compiler" in err for _out, err in answers) == 7
    [again] = builders(1, str(tmp_path / "store"), str(log), "0", "3", "good")
    assert again.communicate(timeout=60)[0] == "good\n", "whoever comes later builds again"


READER = """
import random, sys, time
from interlock.store import Store
root, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
store, chance = Store(root), random.Random(sys.argv[3])
held = reads = misses = 0
while time.monotonic() < until:
    entries = list(store.entries())
    if not entries:
        continue
    build = store.get(chance.choice(entries).hash)
    if build is None:
        misses += 1
        continue
    with build:
        held += 1
        first = build.read()
        for _ in range(5):
            time.sleep(0.001)
            assert open(build.archive, "rb").read() == first
            build.spec()
            reads += 1
print(held, reads, misses)
"""


@pytest.mark.slow
def test_gc_in_a_loop_never_takes_what_a_reader_holds(tmp_path: Path) -> None:
    root, seconds = str(tmp_path / "store"), 4.0
    store = Store(root, durable=False)
    for number in range(20):
        store.put(*numbered(number))
    command = [sys.executable, "-c", READER, root, str(seconds)]
    readers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    publisher = subprocess.Popen(
        [sys.executable, "-m", "tests.store.test_many", root, str(seconds)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until, removed, held = time.monotonic() + seconds, 0, 0
    chance = random.Random(1)
    while time.monotonic() < until:
        kept = [f"package{chance.randrange(13)}" for _ in range(4)]
        done = store.gc(keep=kept, grace=0)
        removed, held = removed + len(done.builds), held + len(done.held)
    for process in readers:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert int(out.split()[0]) > 0
    _out, err = publisher.communicate(timeout=60)
    assert publisher.returncode == 0, err
    assert removed > 0
    assert store.verify().problems == ()


def publish_for(root: str, seconds: float) -> None:
    """Publish the same builds again and again; each must be readable when it is acknowledged."""
    store, until, number = Store(root, durable=False), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number = (number + 1) % 40
        document, archive = numbered(number)
        with store.get_or_build(document, lambda _job, archive=archive: archive) as build:  # type: ignore[misc]
            assert build.read() == archive


if __name__ == "__main__":
    publish_for(sys.argv[1], float(sys.argv[2]))
