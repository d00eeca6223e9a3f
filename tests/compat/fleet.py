"""Mixed fleets: processes of filelock 3.12.4, filelock 4.2.11 and interlock on one path, some of them killed.

    python -m tests.compat.fleet --holds 100000        # all kinds together; JSON out; exit status 1 at an overlap

Every hold is recorded by its holder, from after acquire returned until before release is called, so two intervals that
overlap are two holders at once: nothing else can explain them. A killed holder held until it was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .fleet_worker import RECORD

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OLD, NEW, OURS = "3.12.4", "4.2.11", "interlock"


def install(version: str, target: Path) -> Path:
    """A directory with that filelock in it; raises `CalledProcessError` where there is none to be had."""
    if not (target / "filelock").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(target), f"filelock=={version}"], check=True, capture_output=True)
    return target


@dataclass
class Interval:
    start: int
    end: int
    write: bool
    who: str


@dataclass
class Worker:
    library: str
    process: subprocess.Popen[str]
    history: Path
    ended: int | None = None


@dataclass
class Outcome:
    """What a fleet did. `overlaps` names pairs of holders that held at once and must not."""

    kind: str
    holds: int = 0
    by_library: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    kills_while_holding: int = 0
    cleared_by_operator: int = 0
    seconds: float = 0.0
    overlaps: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return {**self.__dict__, "overlaps": len(self.overlaps), "examples": self.overlaps[:5]}


def intervals(worker: Worker) -> list[Interval]:
    data = worker.history.read_bytes() if worker.history.exists() else b""
    found: list[Interval] = []
    entered: tuple[int, bytes] | None = None
    who = f"{worker.library}/{worker.process.pid}"
    for at, what in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
        if what in b"rw":
            entered = (at, what)
        elif what == b"x" and entered is not None:
            found.append(Interval(entered[0], at, entered[1] == b"w", who))
            entered = None
    if entered is not None and worker.ended is not None:
        found.append(Interval(entered[0], worker.ended, entered[1] == b"w", who))
    return found


def overlapping(holds: list[Interval]) -> list[str]:
    """Every pair of holds that overlap, readers among themselves excepted."""
    found = []
    latest_write: Interval | None = None
    latest_read: Interval | None = None
    for hold in sorted(holds, key=lambda each: each.start):
        for other in (latest_write, latest_read if hold.write else None):
            if other is not None and other.end > hold.start:
                by = (min(other.end, hold.end) - hold.start) / 1000
                found.append(f"{other.who} and {hold.who} at {hold.start} for {by:.0f} us")
        if hold.write:
            latest_write = hold if latest_write is None or hold.end > latest_write.end else latest_write
        else:
            latest_read = hold if latest_read is None or hold.end > latest_read.end else latest_read
    return found


class Fleet:
    """Runs the workers of one kind on one path, kills some, replaces them, and checks what they recorded."""

    def __init__(self, kind: str, libraries: dict[str, Path | None], directory: Path, seed: int, kills: float) -> None:
        self.outcome = Outcome(kind)
        self._libraries = libraries
        self._directory = directory
        self._path = directory / "the.lock"
        self._chance = random.Random(seed)
        self._kills = kills
        self._workers: list[Worker] = []
        self._past: list[Worker] = []
        self._number = 0

    def _start(self, library: str) -> Worker:
        self._number += 1
        history = self._directory / f"history-{self._number}"
        where = self._libraries[library]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "fleet_worker.py"), "interlock" if where is None else "filelock",
             self.outcome.kind, str(self._path), str(history), str(self._chance.random())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(where or ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        return Worker(library, process, history)

    def _go(self, *workers: Worker) -> None:
        """When all are there, so that none is done before another one begins."""
        for worker in workers:
            assert worker.process.stdout is not None
            if worker.process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker of {worker.library} did not start")
        for worker in workers:
            assert worker.process.stdin is not None
            worker.process.stdin.write("go\n")
            worker.process.stdin.flush()

    def run(self, holds: int, seconds: float, each: int = 2, killed_holders: int = 0) -> Outcome:
        """Until there were so many holds, and so many were killed while they held; for so many seconds at most."""
        began = time.monotonic()
        try:
            self._workers += [self._start(library) for library in self._libraries for _ in range(each)]
            self._go(*self._workers)
            self._watch(holds, killed_holders, began + seconds)
        finally:
            for worker in self._workers:
                self._end(worker)
        everything = [(worker.library, intervals(worker)) for worker in self._past + self._workers]
        for library, found in everything:
            self.outcome.by_library[library] = self.outcome.by_library.get(library, 0) + len(found)
        together = [hold for _, found in everything for hold in found]
        self.outcome.holds = len(together)
        self.outcome.overlaps = overlapping(together)
        self.outcome.seconds = round(time.monotonic() - began, 1)
        return self.outcome

    def start_and_collect(self, other: Fleet, holds: int) -> list[Interval]:
        """Run beside another fleet, on paths that have nothing to do with each other; the holds of both."""
        import threading

        neighbour = threading.Thread(target=other.run, args=(holds, 20.0))
        neighbour.start()
        self.run(holds, 20.0)
        neighbour.join()
        return [
            hold for fleet in (self, other) for worker in fleet._past + fleet._workers for hold in intervals(worker)
        ]

    def _watch(self, holds: int, killed_holders: int, deadline: float) -> None:
        while time.monotonic() < deadline:
            by_library = dict.fromkeys(self._libraries, 0)
            for each in self._past + self._workers:
                by_library[each.library] += each.history.stat().st_size if each.history.exists() else 0
            written = {library: size // (3 * RECORD.size) for library, size in by_library.items()}
            enough = sum(written.values()) >= holds and all(written.values())
            if enough and self.outcome.kills_while_holding >= killed_holders:
                return
            for worker in self._workers:
                if worker.process.poll() is not None:
                    raise RuntimeError(f"a worker of {worker.library} ended by itself: {worker.process.returncode}")
            time.sleep(0.02)
            if self._chance.random() < self._kills * 0.02:
                self._kill_one()

    def _end(self, worker: Worker) -> None:
        if worker.ended is None:
            worker.ended = time.monotonic_ns()  # before: another may enter while we wait for its end
            worker.process.kill()
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    pipe.close()

    def _kill_one(self) -> None:
        """SIGKILL somebody, wherever it is. What its own release may still do is looked at while it is stopped: old
        filelock, between its close and its blind unlink, must not be replaced by a new holder; and a marker that it
        leaves empty can be told from a live one by nobody but us, who play the operator."""
        if sys.platform == "win32":
            raise NotImplementedError
        holding = [each for each in self._workers if _last(each) in (b"r", b"w")]
        victim = self._chance.choice(holding if holding and self._chance.random() < 0.7 else self._workers)
        pid = victim.process.pid
        os.kill(pid, signal.SIGSTOP)
        if not _stopped(pid):
            return
        last = _last(victim)
        soft = self.outcome.kind in ("SoftFileLock", "MarkerSoftFileLock")
        if soft and victim.library == OLD and last == b"x":
            os.kill(pid, signal.SIGCONT)
            return
        marker = _empty_marker_of(pid, self._path) if soft and victim.library != OURS else None
        victim.ended = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        victim.process.wait()
        for pipe in (victim.process.stdin, victim.process.stdout):
            if pipe is not None:
                pipe.close()
        if marker is not None and self._path.exists() and self._path.stat().st_ino == marker:
            self._path.unlink()
            self.outcome.cleared_by_operator += 1
        self.outcome.kills += 1
        self.outcome.kills_while_holding += last in (b"r", b"w")
        self._workers.remove(victim)
        self._past.append(victim)
        heir = self._start(victim.library)
        self._workers.append(heir)
        self._go(heir)


def _last(worker: Worker) -> bytes:
    """What this worker recorded last."""
    return worker.history.read_bytes()[-1:] if worker.history.exists() else b""


def _stopped(pid: int) -> bool:
    for _ in range(2000):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return True
        if state == "Z":
            return False
        time.sleep(0.0005)
    raise RuntimeError("a worker does not stop")


def _empty_marker_of(pid: int, path: Path) -> int | None:
    """The inode of the marker, if this (stopped) process made it and has written nothing into it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if found.st_size:
        return None
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if name.stat().st_ino == found.st_ino:
                return found.st_ino
        except OSError:
            continue
    return None


KINDS = ("FileLock", "SoftFileLock", "ReadWriteLock")


def libraries_for(kind: str, old: Path, new: Path) -> dict[str, Path | None]:
    found: dict[str, Path | None] = {NEW: new, OURS: None}
    if kind in ("FileLock", "SoftFileLock"):
        found[OLD] = old
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holds", type=int, default=100_000, help="of all kinds together")
    parser.add_argument("--seconds", type=float, default=600, help="at most, per kind")
    parser.add_argument("--kills", type=float, default=2.0, help="per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    options = parser.parse_args()
    report = []
    with tempfile.TemporaryDirectory() as scratch:
        old = install(OLD, Path(scratch, OLD))
        new = install(NEW, Path(scratch, NEW))
        for kind in options.kinds:
            directory = Path(scratch, kind)
            directory.mkdir()
            fleet = Fleet(kind, libraries_for(kind, old, new), directory, options.seed, options.kills)
            report.append(fleet.run(-(-options.holds // len(options.kinds)), options.seconds).as_dict())
    total = sum(int(str(each["holds"])) for each in report)
    print(json.dumps({"seed": options.seed, "holds": total, "fleets": report}, indent=2))
    return 1 if any(each["overlaps"] for each in report) else 0


if __name__ == "__main__":
    sys.exit(main())
