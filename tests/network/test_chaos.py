"""What happens to hosts, and `doctor` between them, on real NFS and SMB. All: `python -m tests.network --chaos`."""

from __future__ import annotations

import sys

import pytest

from ..support import need, need_root
from . import chaos
from .guests import missing
from .inside import MOUNTS
from .test_hosts import REFUSED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="guests are user-mode Linux"),
]


def need_guests() -> None:
    need_root()
    for tool in missing():
        need(tool)


def test_who_was_paused_beyond_the_lease_is_told_before_its_next_write() -> None:
    need_guests()
    cells = chaos.run(["pause"], ["NFSv4.2"], ["auto", "flock"], patience=120)["cells"]
    assert [(cell["check"]["said"], cell["write"]["said"], cell["verdict"]) for cell in cells] == [
        ("lost", "lost", "told")
    ] * 2, cells


def test_what_happens_to_hosts_is_told_or_waited_for() -> None:
    """A server that forgets its NFSv3 locks without a word, and a host that dies: each at locks and leases."""
    need_guests()
    mounts = list(chaos.MOUNTS)
    found = {
        (cell["trouble"], cell["mount"], cell["lock"]): cell
        for cell in chaos.run(["mute", "kill"], mounts, ["auto", "marker"])["cells"]
    }
    assert {cell["verdict"] for cell in found.values()} <= {"excludes", "told"}, found
    for mount in mounts:
        assert found["mute", mount, "marker"]["first"]["said"] == "in"
        assert found["kill", mount, "marker"]["second"]["said"] == "in", "a lease does not wait for the dead host"
    assert found["mute", "NFSv3", "auto"]["verdict"] == "told"
    assert found["kill", "NFSv3", "auto"]["after_boot"] == "in", "the host that booted has given its locks back"


def test_doctor_finds_out_between_hosts_which_mounts_exclude() -> None:
    need_guests()
    texts = chaos.run([], list(MOUNTS), [], doctor=tuple(MOUNTS))["doctor"]
    for mount, text in texts.items():
        peer = chaos.Peer(text)
        if mount in REFUSED:
            assert peer.takes == ["nothing: it refuses"], text
            assert "flock(2)" in peer.granted_to_two, text
        else:
            assert peer.granted_to_two == (["flock(2)"] if mount.startswith("SMB") else []), text
            assert [overlaps for _, overlaps in peer.storm] == [0], text
            assert all(holds for holds, _ in peer.storm), text
