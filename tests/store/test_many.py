"""Many processes at once, killed at any time."""

from __future__ import annotations

import json
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
    """On a fast machine they are done before the first kill, so then they are killed sooner."""
    for every in (0.3, 0.1, 0.03, 0.01):
        place = tmp_path / str(every)
        place.mkdir()
        outcome = storm.storm(str(place), 64, 8, every, lie, durable=False)
        storm.check(str(place), 64, outcome)
        if outcome.kills:
            return
    raise AssertionError("nobody was killed")


BUILDERS = """
import json, os, sys, time
from interlock.store import Store, single
from tests.store.support import numbered
single.TOLD_FIRST = 0.5
count, root, log, mode = sys.argv[1:]
document, archive = numbered(3)
def lines(path):
    return len(open(path).read().split()) if os.path.exists(path) else 0
def build(job):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    while lines(log + ".waiting") < int(count) - 1 or (mode == "stuck" and lines(log) == 1):
        time.sleep(0.01)  # until all others wait; or for ever
    if mode == "fail":
        raise RuntimeError("no compiler")
    return archive
waits = []
def progress(state):
    if not waits:
        waits.append(state)
        with open(log + ".waiting", "a") as file:
            file.write(f"{os.getpid()}\\n")
def ask():
    try:
        with Store(root, durable=False).get_or_build(document, build, progress=progress) as found:
            return "good" if found.read() == archive else "bad"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
children = []
for _ in range(int(count)):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, ask().encode())
        os._exit(0)
    os.close(writer)
    children.append((pid, reader))
print("started", flush=True)
answers = {pid: os.read(reader, 10_000).decode() for pid, reader in children}
statuses = [os.waitpid(pid, 0)[1] for pid, _reader in children]
print(json.dumps(answers))
"""


class Builders:
    """Many processes that ask for the same build at once."""

    def __init__(self, tmp_path: Path, count: int, mode: str) -> None:
        self.log = tmp_path / f"log of {mode}"
        words = [count, tmp_path / "store", self.log, mode]
        command = [sys.executable, "-c", BUILDERS, *map(str, words)]
        self.driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.driver.stdout is not None
        assert self.driver.stdout.readline() == "started\n"

    def first_builder(self, waiters: int) -> int:
        """Once so many wait for it."""
        limit, waiting = time.monotonic() + 90, Path(f"{self.log}.waiting")
        while not waiting.exists() or len(waiting.read_text().split()) < waiters:
            assert time.monotonic() < limit
            time.sleep(0.01)
        return int(self.log.read_text().split()[0])

    def builds(self) -> int:
        return len(self.log.read_text().split())

    def answers(self) -> dict[int, str]:
        out, _err = self.driver.communicate(timeout=100)
        return {int(pid): answer for pid, answer in json.loads(out).items()}


@pytest.mark.slow
def test_64_processes_build_once(tmp_path: Path) -> None:
    builders = Builders(tmp_path, 64, "good")
    assert list(builders.answers().values()) == ["good"] * 64
    assert builders.builds() == 1
    assert Store(tmp_path / "store").verify().problems == ()


@pytest.mark.slow
def test_a_builder_killed_in_the_middle_has_a_successor(tmp_path: Path) -> None:
    builders = Builders(tmp_path, 64, "stuck")
    victim = builders.first_builder(63)
    os.kill(victim, signal.SIGKILL)
    answers = builders.answers()
    assert answers.pop(victim) == ""
    assert list(answers.values()) == ["good"] * 63
    assert builders.builds() == 2
    assert os.listdir(Store(tmp_path / "store").layout.building) == [], "what the dead builder left is gone"


@pytest.mark.slow
def test_a_failure_is_told_to_those_who_waited(tmp_path: Path) -> None:
    builders = Builders(tmp_path, 16, "fail")
    answers = sorted(builders.answers().values())
    assert builders.builds() == 1, "all had come before the build failed"
    assert answers.pop() == "RuntimeError: no compiler"
    assert all(text.startswith("BuildFailed: ") and text.endswith("RuntimeError: no compiler") for text in answers)
    again = Builders(tmp_path, 1, "good")
    assert list(again.answers().values()) == ["good"], "whoever comes later builds again"


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
    root, seconds = str(tmp_path / "store"), 3.0
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
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert int(out.split()[0]) > 0
    _out, err = publisher.communicate(timeout=100)
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
