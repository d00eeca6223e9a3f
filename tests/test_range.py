"""The range that SMB is locked with. Linux. The real thing is `tests/network`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("OFD ranges are Linux's", allow_module_level=True)

from interlock import Lock
from interlock.engines.kernel.ops import EXCLUSIVE, UNLOCK
from interlock.engines.kernel.other_ops import RangeOps

if TYPE_CHECKING:
    from pathlib import Path

    from .places import Places

def test_it_ends_by_close_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the SMB client of Linux an unlock by one who waits is one by its neighbour who holds."""
    ops = RangeOps()
    asked: list[bytes] = []
    real = ops.fcntl

    def fcntl(fd: int, command: int, lock: bytes) -> Any:
        asked.append(lock)
        return real(fd, command, lock)

    monkeypatch.setattr(ops, "fcntl", fcntl)
    path = os.fspath(tmp_path / "a")
    holder, waiter, other = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3))
    assert ops.try_lock(holder, path)
    assert not ops.try_lock(waiter, path)
    ops.flock(waiter, UNLOCK)
    os.close(waiter)
    assert not ops.try_lock(other, path)
    ops.flock(holder, UNLOCK)
    assert not ops.try_lock(other, path)
    os.close(holder)
    assert ops.try_lock(other, path)
    os.close(other)
    assert len(set(asked)) == 1, "nothing but the one request for the range"
    with pytest.raises(OSError, match="Bad file descriptor"):
        ops.flock(other, EXCLUSIVE)


CONTEND = """
import os, sys
from interlock.engines.kernel.other_ops import RangeOps
print("got" if RangeOps().try_lock(os.open(sys.argv[1], os.O_RDWR), sys.argv[1]) else "refused")
"""


def test_processes_exclude_each_other_where_smb_is_mounted(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "cifs", "rw,vers=3.1.1")
    path = tmp_path / "a.lock"
    lock = Lock(path)

    def other() -> str:
        words = [sys.executable, "-c", CONTEND, os.fspath(path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    with lock as hold:
        assert lock.inspect().facts["primitive"] == "range"
        assert [other(), other()] == ["refused", "refused"]
        hold.assert_held()
    assert other() == "got"
    lock.acquire(0).release()
