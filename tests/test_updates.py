"""One JSON file, eight processes, two hundred updates of each, and kills: nothing that was acknowledged is lost.

Each update appends what it is to the document itself, with its fencing token, so the document is the history. A worker
writes to its own log what was acknowledged to it, and is killed now and then, anywhere; its successor goes on with
the next number that was not acknowledged. Readers look at the file all the time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, transform
from interlock.atomic import update

from .test_transform import Lie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if sys.platform != "linux":
    pytest.skip("forks", allow_module_level=True)

WORKERS = 8
UPDATES = 200


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: nothing here is about power, and a sync costs 10 ms elsewhere.
    INTERLOCK_UPDATES_IN names another place."""
    place = os.environ.get("INTERLOCK_UPDATES_IN", "/dev/shm")
    if not os.access(place, os.W_OK):
        yield tmp_path
        return
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="interlock-", dir=place))
    yield made
    shutil.rmtree(made)


def append(entry: list[int]) -> Callable[[bytes | None], str]:
    def fn(old: bytes | None) -> str:
        document = json.loads(old) if old else {"updates": [], "padding": "x" * 500}
        document["updates"].append(entry)
        return json.dumps(document)

    return fn


def tokened(path: Path, worker: int, number: int) -> None:
    with Lock(f"{path}.lock") as hold:
        transform(path, append([worker, number, hold.token or 0]), hold=hold)


def plain(path: Path, worker: int, number: int) -> None:
    transform(path, append([worker, number, 0]))


def acknowledged(log: Path) -> list[int]:
    """A torn last line was not acknowledged to anybody."""
    return [int(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []


def work(path: Path, worker: int, change: Callable[[Path, int, int], None], updates: int) -> None:
    log = path.with_name(f"{worker}.log")
    begin = max(acknowledged(log), default=-1) + 1
    with log.open("ab", buffering=0) as lines:
        for number in range(begin, updates):
            change(path, worker, number)
            lines.write(b"%d\n" % number)


def start(path: Path, worker: int, change: Callable[[Path, int, int], None], updates: int) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work(path, worker, change, updates)
            status = 0
        finally:
            os._exit(status)
    return pid


def run(
    path: Path, change: Callable[[Path, int, int], None], *, updates: int, every: int
) -> tuple[int, list[str]]:
    """Let all work, and kill one somewhere after each `every` updates.

    Returns how many kills met somebody, and what readers saw wrong."""
    dice, over = random.Random(7), threading.Event()
    wrong: list[str] = []
    seen: list[int] = [0]

    def read() -> None:
        while not over.wait(0.0005):
            try:
                length = len(json.loads(path.read_bytes())["updates"])
            except FileNotFoundError:
                if seen[0]:
                    wrong.append("missing")
            except ValueError as error:
                wrong.append(repr(error))
            else:
                if length < seen[0]:
                    wrong.append(f"{length} updates after {seen[0]}")
                seen[0] = length

    running = {start(path, worker, change, updates): worker for worker in range(WORKERS)}
    reader = threading.Thread(target=read)
    reader.start()
    kills = 0
    next_kill = every
    while running:
        if seen[0] >= next_kill:
            time.sleep(dice.uniform(0, 0.003))  # anywhere in an update
            os.kill(dice.choice(list(running)), signal.SIGKILL)
            next_kill += every
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.001)
            continue
        if pid not in running:  # a child that another test has left
            continue
        worker = running.pop(pid)
        assert status in (0, signal.SIGKILL)
        if status:
            kills += 1
            running[start(path, worker, change, updates)] = worker
    over.set()
    reader.join()
    return kills, wrong


def judge(path: Path, number: int) -> list[str]:
    """What is wrong with the document, given the logs."""
    updates: list[list[int]] = json.loads(path.read_bytes())["updates"]
    found: list[str] = []
    for worker in range(WORKERS):
        mine = [each for who, each, _ in updates if who == worker]
        acks = acknowledged(path.with_name(f"{worker}.log"))
        found += [f"{worker}: {each} was acknowledged and is lost" for each in acks if each not in mine]
        if acks != list(range(number)):
            found.append(f"{worker}: {len(acks)} acknowledgements")
        if mine != sorted(mine):  # done, killed before the acknowledgement, and done again: the same number twice
            found.append(f"{worker}: out of order")
    tokens = [token for *_, token in updates if token]
    found += [f"token {b} after {a}" for a, b in pairwise(tokens) if b <= a]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("change", "number"), [(tokened, UPDATES), (plain, UPDATES // 4)])
def test_nothing_is_lost(
    directory: Path, change: Callable[[Path, int, int], None], number: int, record_property: Any
) -> None:
    path = directory / "state.json"
    began = time.monotonic()
    kills, wrong = run(path, change, updates=number, every=25)
    updates = json.loads(path.read_bytes())["updates"]
    summary = f"{len(updates)} updates, {kills} kills, {time.monotonic() - began:.1f} s"
    record_property("summary", summary)
    print(summary)
    assert wrong == []
    assert judge(path, number) == []
    assert len(updates) >= WORKERS * number
    assert kills >= 1
    assert len({token for *_, token in updates}) == (len(updates) if change is tokened else 1)
    plain(path, 0, number)  # the next one clears away what was left
    assert not [name for name in os.listdir(directory) if name.endswith(".new")]


@pytest.mark.slow
def test_without_its_protection_it_loses(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: no lock and no sweep."""
    monkeypatch.setattr(update, "Lock", Lie)
    monkeypatch.setattr(update, "sweep", lambda *args, **options: None)
    for number in range(20):  # whether two meet is luck
        place = directory / str(number)
        place.mkdir()
        path = place / "state.json"
        run(path, plain, updates=25, every=10**9)
        if any("lost" in fault for fault in judge(path, 25)):
            return
    raise AssertionError("nothing was lost in twenty runs")
