"""System calls that fail in the kernel, not in Python: python -m tests.faults.traced [--every N] [KIND...]

strace lets the n-th call on the lock's path return an errno. A worker takes the lock and releases it three times, and
says what happened; the referee, another process where nothing fails, is asked each time whether it gets the lock, and
flock(2) itself once the worker has ended. A `close` that strace lets fail was not made: its descriptor stays until the
worker ends, which no real kernel does, so there the descriptors are not counted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from .gate import Fault, Site
from .matrix import World, descriptors, leaked, undocumented
from .plants import PLANTS
from .subjects import SUBJECTS, Referee
from .words import parser, positive

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
KERNEL = ("openat", "flock", "fcntl", "newfstatat", "close")
CALLS = {
    "flock": KERNEL,
    "filelock": KERNEL,
    "dual": KERNEL,
    "rwlock write": KERNEL,
    "rwlock read": KERNEL,
    "semaphore": ("openat", "fcntl", "newfstatat", "close"),
    "marker": ("openat", "write", "newfstatat", "unlink", "close"),
    "marker strict": ("openat", "newfstatat", "unlink", "link", "rename"),
    "lease": ("openat", "newfstatat", "rename"),
}
ERRNOS = ("EIO", "ENOLCK", "ENOSPC", "EINTR", "ESTALE", "EACCES", "ENOENT")
FLOCKS = ("flock", "filelock", "dual")
PATIENCE = 20.0


class Case(NamedTuple):
    kind: str
    call: str
    errno: str
    nth: int


def cases() -> Iterator[Case]:
    for kind, calls in CALLS.items():
        for call in calls:
            for number in ERRNOS:
                for nth in (1, 2, 3):
                    yield Case(kind, call, number, nth)


def worker(kind: str, path: str, number: int) -> None:
    """What is traced. After each line that it prints it waits until the referee has been asked."""
    warnings.simplefilter("ignore")
    subject = SUBJECTS[kind]
    fault = Fault(Site("", "", 0), number, False, 1)
    before = descriptors()

    def tell(**what: Any) -> None:
        print(json.dumps(what), flush=True)
        sys.stdin.readline()

    def judged(error: Exception) -> dict[str, Any]:
        return {"error": type(error).__name__, "errno": getattr(error, "errno", None), "text": str(error)[:200],
                "wrong": undocumented(error, fault, path)}  # fmt: skip

    for _ in range(ROUNDS):
        lock = subject.make(path)
        try:
            hold = subject.take(lock, PATIENCE)
        except Exception as error:  # noqa: BLE001 - told
            tell(step="take", held=False, **judged(error))
            continue
        tell(step="take", held=subject.held(hold))
        for _ in range(ROUNDS):
            said: dict[str, Any] = {}
            try:
                subject.release(hold)
            except Exception as error:  # noqa: BLE001 - told
                said = judged(error)
            tell(step="release", held=subject.held(hold), **said)
            if not subject.held(hold):
                break
        del hold
    world = World.__new__(World)
    world.directory = os.path.dirname(path)
    tell(step="end", held=False, leaked=leaked(before, world))


def free(path: str) -> bool:
    """Does flock(2) on it succeed?"""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class Outcome(NamedTuple):
    hit: bool
    how: str
    """What became of the fault: "no error", or the exception's name."""
    problems: list[str]


def run(case: Case, referee: Referee, plants: tuple[str, ...] = ()) -> Outcome:
    directory = os.path.realpath(tempfile.mkdtemp(prefix="traced"))
    path = os.path.join(directory, "x.lock")
    trace = directory + ".trace"
    process = subprocess.Popen(
        ["strace", "-f", "-q", "-o", trace, "-e", f"trace={case.call}", "-P", path, "-P", path + ".interlock",
         "-e", f"inject={case.call}:error={case.errno}:when={case.nth}",
         sys.executable, "-m", "tests.faults.traced", "--worker", case.kind, path,
         str(getattr(errno, case.errno)), *plants],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    problems, errors, steps = [], [], []
    try:
        for line in process.stdout:
            said = json.loads(line)
            steps.append(said["step"])
            if "error" in said:
                errors.append(said["error"])
                if said["wrong"]:
                    problems.append(f"{said['step']}: {said['wrong']}")
            if said["step"] == "end":
                if said["leaked"] and case.call != "close":
                    problems.append(f"descriptors leak: {said['leaked']}")
            elif said["held"]:
                if referee.could_take(case.kind, path):
                    problems.append(f"{said['step']}: held, and another process gets it too")
            elif said["step"] == "take" and "error" not in said:
                problems.append("granted, and not held")
            elif not referee.could_take(case.kind, path, PATIENCE):
                problems.append(f"{said['step']}: not held, and another process does not get it")
            process.stdin.write("\n")
            process.stdin.flush()
        _, complaint = process.communicate()
        if process.returncode or steps[-1:] != ["end"]:
            problems.append(f"the worker ended with {process.returncode}: {complaint[-300:]}")
        if "take" in steps and steps.count("release") < 2:
            problems.append(f"one fault, and more than one acquire did not succeed: {steps}")
        if case.kind in FLOCKS and not free(path):
            problems.append("the worker has ended, and flock(2) finds its lock")
        with open(trace, errors="replace") as file:
            hit = "(INJECTED)" in file.read()
        os.unlink(trace)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)
    return Outcome(hit, errors[0] if errors else "no error", problems)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--worker"]:
        for plant in words[4:]:
            PLANTS[plant]()
        worker(words[1], words[2], int(words[3]))
        return
    asked = parser(__doc__, "KIND", CALLS)
    asked.add_argument("--every", type=positive, default=1, help="run every N-th case only (1)", metavar="N")
    options = asked.parse_args()
    referee = Referee()
    wrong = []
    total: Counter[str] = Counter()
    print("| lock | cases | fault met | survived | said so | wrong |\n|---|---:|---:|---:|---:|---:|")
    for name in options.names:
        count: Counter[str] = Counter()
        for turn, case in enumerate(cases()):
            if case.kind != name or turn % options.every:
                continue
            found = run(case, referee)
            count["cases"] += 1
            count["met"] += found.hit
            if found.hit:
                count["survived" if found.how == "no error" else "said"] += 1
            count["wrong"] += bool(found.problems)
            wrong += [f"{case}: {found.how}: {problem}" for problem in found.problems]
        total += count
        print(f"| {name} | {' | '.join(str(count[key]) for key in _KEYS)} |", flush=True)
    print(f"| together | {' | '.join(str(total[key]) for key in _KEYS)} |")
    print("\n".join(wrong))
    referee.close()


_KEYS = ("cases", "met", "survived", "said", "wrong")

if __name__ == "__main__":
    main()
