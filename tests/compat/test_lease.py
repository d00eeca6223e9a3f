"""Leases: taken over by whoever has watched them stand still, beside real filelock's."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock._filelock.errors import LeaseSettingsMismatch, Timeout
from interlock._filelock.soft import MarkerSoftFileLock
from interlock._filelock.soft_lease import LeaseCompromise, SoftFileLease
from interlock.engines.marker import records

from .soft_support import NEW, Peer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="markers of living processes cannot be moved there")


def test_leases_exclude_each_other_across_libraries(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ours = SoftFileLease(path, lease_duration=2.0)
    with Peer(NEW, "SoftFileLease", path, lease_duration=2.0) as peer:
        with ours:
            assert peer.ask("acquire 2.6") == "Timeout"  # longer than the lease: it is refreshed
        assert peer.ask("acquire 60") == "got"
        with pytest.raises(Timeout):
            ours.acquire(timeout=2.6)
        assert ours.owner is not None
        assert ours.owner.mode == "lease"
        with pytest.raises(LeaseSettingsMismatch):
            SoftFileLease(path, lease_duration=9.0).acquire(timeout=1)


@pytest.mark.skipif(sys.platform != "linux", reason="exchange of names")
@pytest.mark.parametrize("library", [NEW, "interlock"])
def test_a_stopped_holder_loses_the_lease_and_is_told(tmp_path: Path, library: str) -> None:
    if sys.platform == "win32":
        raise NotImplementedError
    path = tmp_path / "a.lock"
    ours = SoftFileLease(path, lease_duration=2.0, heartbeat_interval=0.5)
    with Peer(library, "SoftFileLease", path, lease_duration=2.0, heartbeat_interval=0.5) as peer:
        assert peer.ask("acquire 5") == "got"
        os.kill(peer.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        ours.acquire(timeout=30)
        assert time.monotonic() - began >= 1.5
        os.kill(peer.process.pid, signal.SIGCONT)
        deadline = time.monotonic() + 60
        while (told := peer.ask("tell compromise")) == "None":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "owner-changed" in told
        assert peer.ask("release") == "released"  # removes nothing that is not its own
        assert ours.is_lock_held_by_us
        ours.release()
    assert not path.exists()


def test_an_exclusive_owner_grants_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with MarkerSoftFileLock(path), pytest.raises(Timeout):
        SoftFileLease(path, lease_duration=0.2).acquire(timeout=0.8)


def test_a_lost_marker_is_told_once_and_reset_by_the_next_hold(tmp_path: Path) -> None:
    path, told, rang = tmp_path / "a.lock", [], threading.Event()

    def tell(loss: LeaseCompromise) -> None:
        told.append(loss)
        rang.set()

    lease = SoftFileLease(path, lease_duration=60.0, heartbeat_interval=0.05, on_compromise=tell)
    lease.acquire()
    token = lease.token
    path.unlink()
    assert rang.wait(60)
    lease.release()
    assert told == [lease.compromise]
    assert (told[0].reason, told[0].token) == ("marker-missing", token)
    with lease:
        assert lease.compromise is None
        assert lease.token not in (None, token)


def test_a_forgotten_lease_is_released(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    SoftFileLease(path, lease_duration=60.0).acquire()
    with SoftFileLease(path, lease_duration=60.0).acquire(timeout=5):
        pass
    assert not path.exists()


@pytest.mark.parametrize("duration", [0, -1, float("inf"), float("nan")])
def test_a_duration_is_positive_and_finite(tmp_path: Path, duration: float) -> None:
    with pytest.raises(ValueError, match="lease_duration"):
        SoftFileLease(tmp_path / "a.lock", lease_duration=duration)


def test_the_record_says_what_others_must_know(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with SoftFileLease(path, lease_duration=7.5) as lease:
        record = records.parse_record(path.read_bytes())
        assert record is not None
        assert (record.mode, record.lease_duration, record.token) == ("lease", 7.5, lease.token)
