"""Real filelock beside us: its releases in directories of their own, and processes of it that do as they are told."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .fleet import HERE, NEW, OLD, ROOT, install

_made: dict[str, Path] = {}

PEER = """
import sys
from fleet_worker import find
library, kind, path, options = sys.argv[1], sys.argv[2], sys.argv[3], eval(sys.argv[4])
lock = find(library, kind)(path, **options)
held = []
print("ready", flush=True)
for line in sys.stdin:
    name, *rest = line.split()
    try:
        if name == "release":
            lock.release()
            answer = "released"
        elif name == "tell":
            answer = str(getattr(lock, rest[0]))
        else:
            held.append(getattr(lock, name)(float(rest[0])))
            answer = "got"
    except Exception as error:
        answer = type(error).__name__
    print(answer, flush=True)
"""


def filelock(version: str) -> Path:
    """A directory with this release of filelock, made once."""
    if version not in _made:
        try:
            # Not in a fixture's directory: all tests of a run share it, in whatever order they come.
            _made[version] = install(version, Path(tempfile.mkdtemp(prefix="filelock-"), version))
        except subprocess.CalledProcessError as error:
            reason = f"needs filelock {version}: {error.stderr.decode()[-300:]}"
            if os.environ.get("INTERLOCK_REQUIRE_ALL"):
                pytest.fail(reason)
            pytest.skip(reason)
    return _made[version]


class Peer:
    """A process with one lock object of a library, on a leash."""

    def __init__(self, library: str, kind: str, path: Path, **options: object) -> None:
        where = ROOT / "src" if library == "interlock" else filelock(library)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, library, kind, str(path), repr(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(where), str(HERE)]), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        self.send(command)
        return self._read()

    answer = _read

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


__all__ = ["NEW", "OLD", "Peer", "filelock"]
