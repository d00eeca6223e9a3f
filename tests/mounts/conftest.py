"""Real filesystems, mounted for a test; they need root and their mkfs programs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from ..support import need_lockfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform == "linux":
    from interlock.testing.lockfs.disks import DISKS, disk, missing

    def need_disk(kind: str) -> None:
        reason = missing(kind)
        if reason:
            if os.environ.get("INTERLOCK_REQUIRE_ALL"):
                pytest.fail(reason + ", and INTERLOCK_REQUIRE_ALL is set")
            pytest.skip(reason)

    @pytest.fixture(params=list(DISKS))
    def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
        """The kind of a filesystem, and the two paths at which it is mounted; a test runs on each kind."""
        need_disk(request.param)
        with disk(request.param, tmp_path) as (one, two):
            yield request.param, one, two

    @pytest.fixture
    def ext4(tmp_path: Path) -> Iterator[tuple[str, str]]:
        """One that can be remounted."""
        need_disk("ext4")
        with disk("ext4", tmp_path) as paths:
            yield paths

    @pytest.fixture(scope="session")
    def all_places() -> None:
        """All filesystems of the harness can be had."""
        need_lockfs()
        for kind in DISKS:
            need_disk(kind)
else:
    collect_ignore = ["test_disks.py", "test_evidence.py"]
