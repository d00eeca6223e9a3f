"""Kill a writer before each of its system calls that has an effect, and in the middle of each write; then look.

    python -m tests.store.steps [SCENARIO...]     # all steps of all scenarios

Each step runs in a forked child, in a copy of a small store. After the kill: every reader reads all that was
acknowledged, and nothing that is not whole; a writer does its work as if nothing had happened; verify is clean, or
repairs to clean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from interlock.store import Store, chain, files

from .support import hashes, numbered

if TYPE_CHECKING:
    from collections.abc import Callable

EFFECTS = ("open", "write", "fsync", "link", "replace", "unlink", "mkdir", "close")


class DyingOps(files.Ops):
    """Counts calls; is killed before the one of that number, or in the middle of it if it writes."""

    def __init__(self, victim: int) -> None:
        self.count = 0
        for name in EFFECTS:
            setattr(self, name, self._wrapped(name, getattr(files.Ops, name), victim))

    def _wrapped(self, name: str, real: Callable[..., Any], victim: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.count += 1
            if self.count == victim:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "write" and len(args[1]) > 1:
                self.count += 1
                if self.count == victim:
                    real(args[0], args[1][: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return None if name == "fsync" else real(*args)

        return call


def base(root: str) -> None:
    store = Store(root, durable=False)
    for number in range(5):
        store.put(*numbered(number), views=["v"])
    store.index()


def put(root: str) -> None:
    Store(root).put(*numbered(9), views=["v"])


def mend(root: str) -> None:
    """Put a build whose archive is gone."""
    store = Store(root)
    with store.get(hash_of(4)) or sys.exit("missed") as build:
        os.unlink(build.archive)
    store.put(*numbered(4), views=["v"])


def snapshots(root: str) -> None:
    """So many that snapshots are written and old files deleted."""
    chain.FEWEST = 1
    store = Store(root)
    for number in range(9, 13):
        store.put(*numbered(number), views=["v"])


def index(root: str) -> None:
    store = Store(root)
    store.put(*numbered(9), views=["w"])
    store.index()


def gc(root: str) -> None:
    Store(root).gc(keep=["package0"], grace=0)


def build(root: str) -> None:
    Store(root).get_or_build(numbered(9)[0], lambda _job: numbered(9)[1], views=["v"]).close()


def repair(root: str) -> None:
    store = Store(root)
    with store.get(hash_of(4)) or sys.exit("missed") as found:
        os.truncate(found.archive, 3)
    store.verify(repair=True, grace=0)


def adopt(root: str) -> None:
    """Write into a mirror that only Spack has written to."""
    side = Store(root).layout.side
    if os.path.exists(side):
        shutil.rmtree(side)
    put(root)


SCENARIOS: dict[str, tuple[Callable[[str], None], bool, set[int]]] = {
    "the first put": (put, False, set()),
    "put": (put, True, set()),
    "put of a broken build": (mend, True, {4}),
    "put with snapshots": (snapshots, True, set()),
    "index": (index, True, set()),
    "gc": (gc, True, {1, 2, 3, 4}),
    "get_or_build": (build, True, set()),
    "verify --repair": (repair, True, {3, 4, 5}),
    "a mirror taken over": (adopt, True, set()),
}
"""What is done; whether the store has five builds before; which of them may be gone afterwards."""


def hash_of(number: int) -> str:
    found: str = numbered(number)[0]["spec"]["nodes"][0]["hash"]
    return found


def run(name: str, place: str, every: int) -> int:
    """All steps of a scenario, or every so many, starting at another in each scenario; returns how many there are."""
    work, filled, mortal = SCENARIOS[name]
    origin = os.path.join(place, "origin")
    if filled:
        base(origin)
    else:
        os.mkdir(origin)
    victim = len(name) % every - every
    while True:
        victim += every
        if victim < 1:
            continue
        root = os.path.join(place, f"step{victim}")
        shutil.copytree(origin, root)
        if not killed(work, root, victim):
            break
        look(root, set(range(5)) - mortal if filled else set(), f"{name}, step {victim}")
        shutil.rmtree(root)
    shutil.rmtree(origin)
    return victim - every


def killed(work: Callable[[str], None], root: str, victim: int) -> bool:
    """Do the work in a child that is killed at a step. False: it ended before that."""
    pid = os.fork()
    if not pid:
        status = 3
        try:
            files.ops = DyingOps(victim)
            work(root)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _pid, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"the work failed, with status {os.WEXITSTATUS(status)}"
    return False


def look(root: str, must: set[int], where: str) -> None:
    reader = Store(root)
    listed = set(hashes(reader))
    assert {hash_of(number) for number in must} <= listed, f"{where}: a build is lost"
    for number in range(13):
        document, archive = numbered(number)
        hash_ = hash_of(number)
        found = None
        if hash_ in listed and (number != 4 or number in must):
            found = reader.get(hash_)
        if number in must:
            assert found is not None, f"{where}: build {number} is lost"
        if found is not None:
            with found:
                assert found.read() == archive, f"{where}: build {number} is not whole"
                assert found.spec() == document
    writer = Store(root, durable=False)
    for number in (4, 9):
        writer.put(*numbered(number), views=["v"])
        with writer.get(hash_of(number)) or sys.exit(f"{where}: put, and not there") as build:
            assert build.read() == numbered(number)[1]
    writer.index()
    mended = writer.verify(repair=True, grace=0)
    assert mended.clean, f"{where}: {mended.problems}"
    last = Store(root).verify()
    assert last.problems == (), f"{where}: {last.problems}"
    assert os.listdir(writer.layout.temporary) == [], f"{where}: leftovers"
    assert last.builds == len(hashes(Store(root)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="a slice: every so many steps")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    for name in options.names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="interlock-steps-") as place:
            last = run(name, place, options.every)
            which = "each step" if options.every == 1 else f"every {options.every}th step"
            print(f"{name}: killed at {which} of {last} steps", flush=True)


if __name__ == "__main__":
    main()
