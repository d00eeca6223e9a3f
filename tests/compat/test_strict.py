"""Strict claims: never broken by inference, beside real filelock's."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock import inspect
from interlock._filelock import state
from interlock._filelock.errors import SoftFileLockProtocolError, Timeout
from interlock._filelock.soft import SoftFileLock
from interlock._filelock.soft_strict import StrictSoftFileLock
from interlock.engines.marker import identity, records

from .soft_support import NEW, Peer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs hard links")


def test_strict_locks_exclude_each_other_across_libraries(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ours = StrictSoftFileLock(path)
    with Peer(NEW, "StrictSoftFileLock", path) as peer:
        with ours:
            assert peer.ask("acquire 0.3") == "Timeout"
            assert peer.ask("tell claims").count(ours.claims[0].token) == 4  # name and token, of intent and held
        assert peer.ask("acquire 5") == "got"
        with pytest.raises(Timeout):
            ours.acquire(timeout=0.3)
        assert [claim.pid for claim in ours.claims] == [peer.process.pid] * 2
        peer.send("release")
        ours.acquire(timeout=5)
        ours.release()
    assert ours.claims == ()


def test_a_dead_holder_stays_until_somebody_decides(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ours = StrictSoftFileLock(path)
    with Peer(NEW, "StrictSoftFileLock", path) as peer:
        assert peer.ask("acquire 5") == "got"
        peer.kill()
    with pytest.raises(Timeout):
        ours.acquire(timeout=0.3)
    for claim in ours.claims:
        ours.force_break(claim.name)
    with ours:
        pass
    with pytest.raises(FileNotFoundError):
        ours.force_break("held-v1-" + "0" * 32 + ".claim")
    for name in ("", ".x", "a/b", "a\0"):
        with pytest.raises(ValueError, match="basename"):
            ours.force_break(name)


@pytest.mark.parametrize("library", [NEW, "interlock"])
def test_plain_soft_locks_and_strict_ones_exclude_each_other(tmp_path: Path, library: str) -> None:
    path = tmp_path / "a.lock"
    ours = StrictSoftFileLock(path)
    with Peer(library, "SoftFileLock", path) as peer:
        assert peer.ask("acquire 5") == "got"
        with pytest.raises(Timeout):
            ours.acquire(timeout=0.3)
        assert f"pid {peer.process.pid}" in str(ours.lock_path_occupant)
        assert peer.ask("release") == "released"
        with ours:
            assert peer.ask("acquire 0.3") == "Timeout"
            assert ours.lock_path_occupant is None


def test_threads_take_turns(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "a.lock", [0], [0]

    def work() -> None:
        lock = StrictSoftFileLock(path, poll_interval=0.002)
        for _ in range(10):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]
    assert os.listdir(tmp_path / "a.lock.filelock" / "claims") == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("held-v2-" + "0" * 32 + ".claim", b""),
        ("held-v1-" + "0" * 32 + ".claim", b"filelock-strict-v1\n"),
        ("intent-v1-" + "0" * 32 + ".claim", b"filelock-strict-v1\n" + b"1" * 32 + b"\n1\n68\n\n"),
        ("held-v1-" + "0" * 32 + ".claim", b"x" * 2000),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    claims = tmp_path / "a.lock.filelock" / "claims"
    claims.mkdir(parents=True)
    (claims / name).write_bytes(content)
    lock = StrictSoftFileLock(tmp_path / "a.lock")
    with pytest.raises(SoftFileLockProtocolError) as caught:
        lock.acquire(timeout=1)
    assert caught.value.claim_name == name
    assert not lock.is_locked
    assert (claims / name).exists()


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.lock.filelock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SoftFileLockProtocolError, match="not a real directory"):
        StrictSoftFileLock(tmp_path / "a.lock").acquire(timeout=1)


@pytest.mark.skipif(sys.platform != "linux", reason="proof of death is known on Linux only")
def test_the_marker_of_a_dead_owner_is_named_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    pid, host, start = identity.me()
    assert start is not None
    path.write_bytes(records.plain((pid, host, start + 1)))
    with pytest.raises(SoftFileLockProtocolError, match="has exited"):
        StrictSoftFileLock(path).acquire(timeout=1)
    assert path.exists()


def test_a_hold_survives_the_directory_being_read_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = StrictSoftFileLock(tmp_path / "a.lock")
    lock.acquire()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(OSError, match="Read-only"):
            lock.release()
    assert lock.is_locked
    lock.release()
    assert not lock.is_locked
    assert lock.claims == ()


def test_a_soft_lock_waits_for_strict_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with StrictSoftFileLock(path):
        pass
    with pytest.raises(Timeout):  # the sentinel stays: the path is strict's for good
        SoftFileLock(path).acquire(timeout=0.2)


@pytest.mark.parametrize("kind", [SoftFileLock, StrictSoftFileLock])
def test_a_release_interrupted_at_its_end_does_not_refuse_the_path_for_ever(
    kind: type[SoftFileLock | StrictSoftFileLock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is released by then, and only who held it is still noted."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.lock"
    lock = kind(path)
    lock.acquire()
    for owner, name in [(kind, "_clear"), (state, "forget")]:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                lock.release()
        assert not lock.is_locked
        with kind(path):  # raised "Deadlock"
            pass
        lock.acquire()
    lock.release()


def test_who_names_the_holder_of_a_strict_lock(tmp_path: Path) -> None:
    """It said that nobody holds it."""
    path = tmp_path / "a.lock"
    ours = StrictSoftFileLock(path)
    with ours:
        assert [(party.pid, party.host) for party in inspect(path).holders] == [(os.getpid(), identity.host())]
    assert inspect(path).holders == ()
    with Peer(NEW, "StrictSoftFileLock", path) as peer:
        assert peer.ask("acquire 5") == "got"
        assert [party.pid for party in inspect(path).holders] == [peer.process.pid]
        peer.kill()
    assert [party.pid for party in inspect(path).holders] == [peer.process.pid]  # until an operator decides
