"""Which filesystem a path is on, by the kernel's table of mounts."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest

from interlock._wait import mounts
from interlock._wait.mounts import LOCAL, fstype

TABLE = r"""
22 1 254:1 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:30 / /mnt/a rw shared:5 master:2 - nfs4 server:/export rw,vers=4.2
25 22 0:31 / /mnt/ab rw - tmpfs tmpfs rw
26 22 0:32 / /home rw - nfs server:/home rw
27 26 0:33 / /home rw - xfs /dev/sdb rw
28 22 0:34 / /with\040space\011and\134more rw - fuse.sshfs host: rw
29 24 0:35 / /mnt/a/scratch rw - lustre scratch rw
broken line
30 22 0:36 / /mnt/odd rw no separator here
"""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "open", lambda *_, **__: io.StringIO(TABLE.lstrip()), raising=False)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/etc/a", "ext4"),
        ("/procession", "ext4"),
        ("/proc", "proc"),
        ("/mnt/a", "nfs4"),
        ("/mnt/a/deep/down", "nfs4"),
        ("/mnt/ab", "tmpfs"),
        ("/mnt/abc", "ext4"),
        ("/mnt/a/scratch/x", "lustre"),
        ("/mnt/a/scratchy", "nfs4"),
        ("/home/me", "xfs"),  # the later mount covers the earlier
        ("/with space\tand\\more/x", "fuse.sshfs"),
        ("/mnt/odd/x", "ext4"),
    ],
)
def test_the_longest_and_latest_mount_counts(path: str, kind: str) -> None:
    assert fstype(path) == kind


def test_without_a_table_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(mounts, "open", refuse, raising=False)
    assert fstype("/") == ""


def test_filesystems_that_others_can_write_to_are_not_local() -> None:
    shared = "nfs nfs4 cifs smb3 fuse fuse.sshfs fuseblk lustre gpfs ceph 9p virtiofs afs ocfs2 gfs2 vboxsf".split()
    assert LOCAL.isdisjoint([*shared, ""])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_table() -> None:
    assert fstype("/proc/self") == "proc"
    if os.path.ismount("/dev/shm"):
        assert fstype("/dev/shm") == "tmpfs"
    assert fstype("/") != ""
