"""Locks on real filesystems that are mounted for it."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from interlock import Lock, Timeout, inspect
from interlock.testing.lockfs.disks import disk, read_only

if TYPE_CHECKING:
    from pathlib import Path

assert sys.platform == "linux"


def mounts_below(directory: Path) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return [line for line in table if str(directory) in line]


def kind_at(path: str) -> str:
    with open("/proc/self/mounts", encoding="utf-8") as table:
        (kind,) = [line.split()[2] for line in table if line.split()[1] == path]
    return kind


def test_it_is_what_it_says_and_excludes_at_both_places(disks: tuple[str, str, str]) -> None:
    kind, one, two = disks
    assert kind_at(one) == kind_at(two) == kind
    with Lock(f"{one}/x.lock"):
        assert inspect(f"{two}/x.lock").holders[0].pid == os.getpid()
        with pytest.raises(Timeout) as caught:
            Lock(f"{two}/x.lock").acquire(0.01)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == os.getpid()
    with Lock(f"{two}/x.lock", timeout=0):
        pass


def test_nothing_stays_mounted(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), disk("tmpfs", tmp_path):
        assert len(mounts_below(tmp_path)) == 2
        _ = 1 / 0
    assert mounts_below(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_read_only_tree_locks_files_that_are_there(ext4: tuple[str, str]) -> None:
    one, two = ext4
    with Lock(f"{one}/there.lock"):
        pass
    read_only(one, two)
    with Lock(f"{one}/there.lock"), pytest.raises(Timeout):
        Lock(f"{two}/there.lock").acquire(0)
    with pytest.raises(OSError, match="Read-only") as caught:
        Lock(f"{one}/missing.lock").acquire(0)
    assert caught.value.errno == errno.EROFS
    assert caught.value.filename == f"{one}/missing.lock"
