"""The locks exclude between two hosts on real NFS. The long run is `python -m tests.network`."""

from __future__ import annotations

import os
import sys

import pytest

from ..support import need, need_root
from .__main__ import faults, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="guests are user-mode Linux"),
]


PATIENCE = 240.0
"""Seconds; usually it takes 45."""

REFUSED = ("NFSv3 nolock", "SMB 3.1.1 nobrl")


@pytest.fixture
def guests() -> None:
    need_root()
    for tool in ("linux.uml", "uml_switch", "unshare"):
        need(tool)
    paths = os.environ["PATH"].split(os.pathsep)
    assert "/usr/sbin" in paths, "root's programs are not in PATH"
    for tool in ("rpc.nfsd", "mount.nfs", "smbd", "mount.cifs", "mkfs.ext4", "modprobe"):
        need(tool)


def test_two_hosts_take_turns_on_nfs_and_smb(guests: None) -> None:
    plan = {
        "mounts": ["NFSv3", "NFSv3 nolock", "NFSv4.2", "SMB 3.1.1", "SMB 3.1.1 nobrl"],
        "locks": ["none", "auto"], "seconds": 3, "workers": 2, "files": 1, "kills": 1, "seed": 1,
    }  # fmt: skip
    try:
        results = run(plan, PATIENCE)
    except TimeoutError:  # a kernel or a mount that hung at boot: what locks do is bounded in time, and reported
        results = run(plan, PATIENCE)
    print(results)
    assert faults(results) == []
    for cell in results["cells"]:
        if cell["lock"] == "auto":
            assert bool(cell["refused"]) == (cell["mount"] in REFUSED), cell
