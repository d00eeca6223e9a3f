"""Where functions of Python stand in the place of the system's, as gevent and eventlet do it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import fcntl, os, select, sys

def wrapped(function):
    def call(*args, **options):
        return function(*args, **options)
    return call

OS = "open close read write pread pwrite stat lstat fstat unlink rename link utime mkdir rmdir listdir fsync dup dup2"
for module, names in ((os, OS), (fcntl, "flock fcntl"), (select, "poll select")):
    for name in names.split():
        setattr(module, name, wrapped(getattr(module, name)))

import interlock, interlock.filelock

place = os.path.join(sys.argv[1], sys.argv[2])
with eval(sys.argv[3])(place):
    pass
with eval(sys.argv[3])(place):
    pass
"""

KINDS = {
    "Lock": "interlock.Lock",
    "fair": "lambda path: interlock.Lock(path, fair=True)",
    "dual": "lambda path: interlock.Lock(path, primitive='dual')",
    "lease": "lambda path: interlock.Lock(path, primitive='marker', ttl=10)",
    "rwlock": "lambda path: interlock.RWLock(path).write()",
    "semaphore": "lambda path: interlock.Semaphore(path, 2)",
    "FileLock": "interlock.filelock.FileLock",
    "SoftFileLock": "interlock.filelock.SoftFileLock",
    "StrictSoftFileLock": "interlock.filelock.StrictSoftFileLock",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the kinds of locks are those of Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_functions_of_python_in_the_place_of_the_systems(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), kind, KINDS[kind]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
