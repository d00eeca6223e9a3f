"""Contenders on a server: several clients of one process, a fight by the clock, several versions of Python."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from glob import glob
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from . import acts
from .crew import WORLDS, Crew, acquire, release
from .served import Served, ServedSuite

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 3.0

_COUNTS = """
import json, os, sys, time
from interlock import Lock
target, ttl, path, times = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lock, overlaps, holds = Lock(target, ttl=ttl or None), 0, []
print("ready", flush=True)
for _ in range(times):
    with lock as hold:
        try:
            os.close(os.open(path + ".inside", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            overlaps += 1
        with open(path) as file:
            value = int(file.read())
        holds.append((time.monotonic(), hold.token))
        with open(path, "w") as file:
            file.write(str(value + 1))
        os.unlink(path + ".inside")
print(json.dumps([overlaps, holds]))
"""


def pythons() -> list[str]:
    """Interpreters of other versions that are here, one of each: in the PATH, or of pyenv."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = {}
    for minor in range(11, 20):
        name = f"python3.{minor}"
        its = sorted(glob(f"{root}/versions/3.{minor}.*/bin/{name}"))
        on_path = shutil.which(name)
        if on_path is not None and f"{os.sep}shims{os.sep}" not in on_path:
            its.append(on_path)
        if its and minor != sys.version_info.minor:
            found[name] = its[-1]
    return list(found.values())


def _environment() -> dict[str, str]:
    """The packages of this interpreter, for another one: what is compiled in them is not used."""
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    paths = [path for path in sys.path if path and os.path.isdir(path)]
    paths = [path for path in paths if path not in own and os.path.basename(path) != "lib-dynload"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


class Company(ServedSuite):
    def test_05_clients_of_one_process_exclude_each_other(
        self, served: Served, crew: Crew, name: str, tmp_path: Path
    ) -> None:
        """Two `connect()`, each with a client of its own to the server, and one lock. Neither goes before the other
        twice as often as it should."""
        targets = served.clients(name)
        options = self.options(served)
        several = [options, options]
        if served.ttl is not None:
            several[1] = {"ttl": served.ttl + 1.0}
        path, rounds = str(tmp_path / "counter"), 30
        gate, members = crew.hire(), [crew.hire(world) for world in WORLDS]
        for member in members:
            gate.do(acquire, targets[0], None, "", options)
            fighting = member.begin(acts.clients_count, targets, path, rounds, several)
            self.queued(served, targets[0], 2)
            gate.do(release, targets[0])
            counted = fighting.result(120)
            assert sum(each.overlaps for each in counted) == 0
            tokens = [token for _, token in sorted((at, token) for each in counted for at, token in each.holds())]
            assert all(earlier < later for earlier, later in pairwise(tokens)), f"{member}: tokens went back"
            if self.traits(served).fair == "fifo":
                done = min(each.times[-1] for each in counted)
                shares = [sum(at <= done for at in each.times) for each in counted]
                assert min(shares) >= 0.5 * statistics.mean(shares), f"{member}: {shares}"
        assert acts.Register(path).read() == 2 * rounds * len(members)

    def test_08_a_fight_of_three_seconds(self, served: Served, crew: Crew, name: str, tmp_path: Path) -> None:
        """Where order is promised nobody gets less than half of its share; elsewhere everybody gets it."""
        target, options = served.target(name), self.options(served)
        path = str(tmp_path / "counter")
        gate, members = crew.hire(), [crew.hire(WORLDS[number % 3]) for number in range(4)]
        gate.do(acquire, target, None, "", options)
        fighting = [each.begin(acts.count_until, target, path, str(tmp_path / "stop"), options) for each in members]
        self.queued(served, target, len(members))
        gate.do(release, target)
        time.sleep(SECONDS)
        (tmp_path / "stop").touch()
        counted = [each.result(120) for each in fighting]
        shares = [len(each.times) for each in counted]
        assert acts.Register(path).read() == sum(shares)
        assert sum(each.overlaps for each in counted) == 0
        assert min(shares) >= 1, shares
        if self.traits(served).fair == "fifo":
            assert min(shares) >= 0.5 * statistics.mean(shares), shares

    def test_27_other_versions_of_python(self, served: Served, crew: Crew, name: str, tmp_path: Path) -> None:
        others = pythons()
        if not others:
            pytest.skip("needs an interpreter of another version, 3.11 or later, in the PATH or of pyenv")
        target, options, path = served.target(name), self.options(served), tmp_path / "counter"
        path.write_text("0")
        times = 15
        gate = crew.hire()
        gate.do(acquire, target, None, "", options)
        words = [target, str(served.ttl or 0), str(path), str(times)]
        started = [
            subprocess.Popen(
                [python, "-c", _COUNTS, *words],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
            )
            for python in others
        ]  # fmt: skip
        try:
            counting = [crew.hire(world).begin(acts.count, target, str(path), times, options) for world in WORLDS]
            for each in started:
                assert each.stdout is not None
                assert each.stdout.readline() == "ready\n", each.communicate()
            gate.do(release, target)
            holds: list[Any] = []
            for counted in (each.result(120) for each in counting):
                assert counted.overlaps == 0
                holds += counted.holds()
            for python, process in zip(others, started, strict=True):
                said, errors = process.communicate(timeout=120)
                assert process.returncode == 0, f"{python}: {errors}"
                overlaps, its = json.loads(said)
                assert overlaps == 0
                holds += its
        finally:
            for each in started:
                each.kill()
                each.communicate()
        assert int(path.read_text()) == times * (len(others) + len(WORLDS)) == len(holds)
        tokens = [token for _, token in sorted(map(tuple, holds))]
        assert all(earlier < later for earlier, later in pairwise(tokens)), "tokens went back"
