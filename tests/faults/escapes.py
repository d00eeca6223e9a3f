"""Does a system call get past the gate of the errno matrix? strace is asked: python -m tests.faults.escapes [NAME...]

A run without faults is traced. Around each call that the gate sees it looks up a path that does not exist, so that the
trace says which system calls were made within one, and which were not. Those which were not, on the lock's directory or
a descriptor from there, have escaped: no fault of the matrix can reach them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from typing import NamedTuple

from .gate import Gate, gate, install
from .words import parser

real_stat = os.stat
MARK = "/gate-of-the-matrix/"
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")

class Report(NamedTuple):
    seen: Counter[str]
    """System calls on the lock's directory within a call that the gate saw."""
    escaped: Counter[tuple[str, str]]
    """The others, and whether "the thread" of the caller made them or "another"."""
    lines: list[str]

    def all(self) -> list[str]:
        return [f"{count} x {call} in {who}" for (call, who), count in sorted(self.escaped.items())]


def mark(word: str) -> None:
    try:
        real_stat(MARK + (word or "-"))
    except OSError:
        pass


class Watched(Gate):
    """Marks when it is switched on and off, too. Sees all threads: a lease is renewed whenever it is due."""

    @property
    def all_threads(self) -> bool:
        return True

    @all_threads.setter
    def all_threads(self, value: bool) -> None: ...

    @property
    def on(self) -> bool:
        return bool(self.__dict__.get("switch"))

    @on.setter
    def on(self, value: bool) -> None:
        if value != self.__dict__.get("switch"):
            self.__dict__["switch"] = value
            mark("on" if value else "off")


def child(name: str, plant: bool) -> None:
    """What is traced."""
    warnings.simplefilter("ignore")
    from . import files, matrix
    from .subjects import Referee, watch_renewals

    referee = Referee()
    install()
    matrix.hook_waits()
    watch_renewals()
    from interlock.engines.kernel.ops import EXCLUSIVE, Ops

    if plant:
        try_lock = Ops.try_lock

        def behind(self: Ops, fd: int, path: str, operation: int = EXCLUSIVE) -> bool:
            real_stat(path)
            return try_lock(self, fd, path, operation)

        Ops.try_lock = behind  # type: ignore[method-assign]
    gate.__class__ = Watched
    gate.say = mark
    if name in files.VERBS:
        for _ in range(2):
            world, problems = files.once(name, referee, Gate.record, None)
            assert not problems, problems
            world.close()
    else:
        for scenario in matrix.scenarios(name):
            run = matrix.Run(name, scenario, referee)
            run.go(Gate.record, None)
            assert not run.problems, run.problems
            run.world.close()
    referee.close()


def read(trace: str, directory: str) -> Report:
    seen: Counter[str] = Counter()
    escaped: Counter[tuple[str, str]] = Counter()
    lines = []
    inside: set[str] = set()
    main, on = "", False
    for line in trace.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, call, rest = found.groups()
        if MARK in rest:
            word = rest.partition(MARK)[2].partition('"')[0]
            main = main or thread
            if word in ("on", "off"):
                on = word == "on"
            elif word == "-":
                inside.discard(thread)
            else:
                inside.add(thread)
        elif directory not in rest:
            continue
        elif thread in inside:
            seen[call] += 1
        elif on:
            escaped[call, "the thread" if thread == main else "another"] += 1
            lines.append(line)
    return Report(seen, escaped, lines)


def escapes(name: str, plant: bool = False) -> Report:
    with tempfile.TemporaryDirectory(prefix="escapes") as directory:
        directory = os.path.realpath(directory)
        trace = os.path.join(directory, "trace")
        world = os.path.join(directory, "world")
        os.mkdir(world)
        words = ["strace", "-f", "-y", "-q", "-b", "execve", "-s", "4096", "-e", "trace=%file,%desc", "-o", trace]
        ran = subprocess.run(
            [*words, sys.executable, "-m", "tests.faults.escapes", "--child", json.dumps([name, plant])],
            env={**os.environ, "TMPDIR": world}, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        with open(trace, errors="replace") as file:
            return read(file.read(), world)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*json.loads(sys.argv[2]))
        return
    from .files import VERBS
    from .subjects import SUBJECTS

    for name in parser(__doc__, "NAME", [*SUBJECTS, *VERBS]).parse_args().names:
        report = escapes(name)
        print(f"{name}: seen {report.seen.total()}, escaped {report.escaped.total()}")
        for line in report.all():
            print(f"  {line}")
        if os.environ.get("ESCAPES_LINES"):
            print("\n".join(report.lines))


if __name__ == "__main__":
    main()
