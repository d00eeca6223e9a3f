"""The soft locks: markers that real filelock understands, broken only with proof, and what they do beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from interlock._core.arbiter import line_for
from interlock._filelock.errors import Timeout
from interlock._filelock.soft import MarkerSoftFileLock, SoftFileLock
from interlock.engines import marker
from interlock.engines.marker import MarkerClaim, Terms, identity, records, takeover
from interlock.engines.marker.ops import Ops

from .fleet import HERE, ROOT
from .soft_support import NEW, OLD, Peer, filelock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="markers of living processes cannot be moved there")
linux = pytest.mark.skipif(sys.platform != "linux", reason="proof of death is known on Linux only")


def claim_on(path: Path, **terms: float) -> MarkerClaim:
    key = str(path)
    line = line_for(marker.engine(), key, key)
    return MarkerClaim(line, None, Terms(records.plain(identity.me()), lifetime=terms.get("lifetime")))


def a_dead_process() -> tuple[int, int | None]:
    """The pid and the start token of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        token = identity.start_token(process.pid)
        assert process.stdin is not None
        process.stdin.write(b"\n")
    return process.pid, token


# ---- the same as filelock


def test_the_soft_and_read_write_names_do_what_they_do_in_filelock(tmp_path: Path) -> None:
    def run(library: str, where: Path) -> dict[str, object]:
        work = tmp_path / library.replace(".", "")
        work.mkdir()
        done = subprocess.run(
            [sys.executable, str(HERE / "soft_script.py"), library, str(work)],
            capture_output=True, text=True, timeout=100,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(where), str(HERE)]), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout)
        return result

    ours, theirs = run("interlock", ROOT / "src"), run(NEW, filelock(NEW))
    assert len(ours) > 40
    assert ours == theirs


# ---- beside filelock


@pytest.mark.parametrize("library", [OLD, NEW])
def test_a_soft_lock_excludes_filelocks_both_ways(tmp_path: Path, library: str) -> None:
    path = tmp_path / "a.lock"
    ours = SoftFileLock(path)
    with Peer(library, "SoftFileLock", path) as peer:
        with ours:
            assert peer.ask("acquire 0.2") == "Timeout"
        assert peer.ask("acquire 5") == "got"
        with pytest.raises(Timeout):
            ours.acquire(timeout=0.2)
        peer.send("release")
        ours.acquire(timeout=5)
        ours.release()
    assert not path.exists()


def test_a_marker_lock_excludes_filelocks_and_each_reads_the_others_record(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ours = MarkerSoftFileLock(path)
    with Peer(NEW, "MarkerSoftFileLock", path) as peer:
        with ours:
            assert peer.ask("acquire 0.2") == "Timeout"
            assert peer.ask("tell owner") == str(ours.owner)
        assert peer.ask("acquire 5") == "got"
        owner = ours.owner
        assert owner is not None
        assert (owner.pid, owner.mode) == (peer.process.pid, "exclusive")
        with pytest.raises(Timeout):
            ours.acquire(timeout=0.2)


@linux
@pytest.mark.parametrize("kind", ["SoftFileLock", "MarkerSoftFileLock"])
def test_a_killed_filelock_holder_is_followed_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    ours = (SoftFileLock if kind == "SoftFileLock" else MarkerSoftFileLock)(path)
    with Peer(NEW, kind, path) as peer:
        assert peer.ask("acquire 5") == "got"
        killer = threading.Timer(0.1, peer.process.kill)
        killer.start()
        ours.acquire(timeout=30)
        killer.join()
        peer.process.wait()
        assert ours.pid == os.getpid()
        ours.release()
    assert list(tmp_path.iterdir()) == []


@linux
def test_filelock_follows_a_killed_holder_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Peer("interlock", "SoftFileLock", path) as ours, Peer(NEW, "SoftFileLock", path) as theirs:
        assert ours.ask("acquire 5") == "got"
        assert theirs.ask("acquire 0.2") == "Timeout"
        ours.kill()
        assert theirs.ask("acquire 30") == "got"


def test_a_marker_of_old_filelock_says_nothing_and_is_never_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Peer(OLD, "SoftFileLock", path) as peer:
        assert peer.ask("acquire 5") == "got"
        assert path.read_bytes() == b""
        peer.kill()
    with pytest.raises(Timeout, match="recorded no PID"):
        SoftFileLock(path).acquire(timeout=0.3)
    SoftFileLock(path).break_lock()
    SoftFileLock(path).acquire(timeout=5).lock.release()


# ---- waiting


@linux
def test_a_waiter_is_woken_by_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With naps of an hour, only an event can wake it.
    monkeypatch.setattr(marker, "NAP", 3600.0)
    path = tmp_path / "a.lock"
    with Peer(NEW, "SoftFileLock", path) as peer:
        assert peer.ask("acquire 5") == "got"
        releaser = threading.Timer(0.3, peer.send, ["release"])
        releaser.start()
        SoftFileLock(path).acquire(timeout=60).lock.release()
        releaser.join()


@linux
def test_of_many_threads_that_wait_one_looks_after_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them looked after each release once, which cost 5 ms per handoff among a hundred threads."""
    many, path, go_on = 30, str(tmp_path / "a.lock"), threading.Event()
    engine = marker.engine()
    looks: list[object] = []
    attempt = engine.attempt

    def counted(claim: MarkerClaim) -> bool:
        looks.append(claim)
        return attempt(claim)

    monkeypatch.setattr(engine, "attempt", counted)
    holder = SoftFileLock(path)
    holder.acquire()
    line = holder._line
    assert line is not None

    def turn() -> None:
        with SoftFileLock(path, timeout=60):
            go_on.wait(60)

    def quiet() -> int:
        """How many have looked, once nobody does any more."""
        before = -1
        while before != len(looks):
            before = len(looks)
            time.sleep(0.1)
        return before

    threads = [threading.Thread(target=turn) for _ in range(many)]
    for thread in threads:
        thread.start()
    while len(waiting := list(engine._waiting.get(line, ()))) < many or not all(claim.parker for claim in waiting):
        time.sleep(0.001)
    before = quiet()
    holder.release()
    # The winner; the next, before and after it has subscribed, and a few times more lest the winner just died.
    assert quiet() - before < many
    go_on.set()
    for thread in threads:
        thread.join()
    assert not engine._waiting.get(line)


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "a.lock", [0], [0]

    def work() -> None:
        lock = SoftFileLock(path)
        for _ in range(20):
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
    assert not path.exists()


# ---- whose marker may be broken


@linux
@pytest.mark.parametrize("form", ["plain", "record"])
def test_only_the_proof_of_death_breaks(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.lock"
    _, host, start = identity.me()
    assert start is not None
    dead, token = a_dead_process()

    def write(pid: int, name: str, begun: int | None) -> None:
        record = records.OwnerRecord(pid, name, "exclusive", start=begun)
        path.write_bytes(records.plain((pid, name, begun)) if form == "plain" else records.encode(record))

    for pid, name, begun, broken in (
        (os.getpid(), host, start, False),  # this very process
        (os.getpid(), host, None, False),  # a pid that lives, and no token to tell whether it is the one
        (os.getpid(), host, start + 1, True),  # the pid was given away since
        (os.getpid(), host, start ^ (1 << 64), True),  # another boot
        (dead, host, token, True),
        (dead, host, None, True),
        (dead, "another-host", token, False),
        (dead, host + "?pidns-f0000001", token, False),  # a container's
    ):
        write(pid, name, begun)
        claim = claim_on(path)
        assert marker.engine().attempt(claim) is broken, (pid, name, begun)
        marker.engine().drop(claim)
        assert path.exists() is not broken
        path.unlink(missing_ok=True)


@linux
def test_a_zombie_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = identity.start_token(process.pid)
    path.write_bytes(records.plain((process.pid, identity.host(), token)))
    claim = claim_on(path)
    assert not marker.engine().attempt(claim)
    assert process.stdin is not None
    process.stdin.close()
    if sys.platform != "linux":
        raise NotImplementedError
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert identity.proven_dead(process.pid, identity.host(), token)
    assert marker.engine().attempt(claim)
    marker.engine().drop(claim)
    process.wait()


def test_what_is_not_a_marker_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("do not lose me\n")
    claim = claim_on(path)
    engine = marker.engine()
    engine._seen[str(path)] = (None, 0.0)
    for _ in range(2):
        assert not engine.attempt(claim)
    assert path.read_text() == "do not lose me\n"
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="a symbolic link"):
        SoftFileLock(path).acquire(timeout=0.1)


@linux
def test_a_torn_marker_is_broken_after_it_stood_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker, "TORN", 0.2)
    path = tmp_path / "a.lock"
    path.write_bytes(b"4242\nho")
    claim = claim_on(path)
    assert not marker.engine().attempt(claim)
    os.utime(path)  # somebody writes still
    assert not marker.engine().attempt(claim)
    SoftFileLock(path).acquire(timeout=10).lock.release()


@linux
def test_a_released_marker_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(records.RELEASED)
    claim = claim_on(path)
    assert marker.engine().attempt(claim)
    marker.engine().drop(claim)


@linux
def test_an_empty_marker_of_ours_is_broken_when_nobody_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "TORN", 0.0)
    path = tmp_path / "a.lock"
    engine = marker.engine()
    if not engine._sees_all_writers(str(path)):
        pytest.skip("a filesystem whose users are not all seen")
    claim = claim_on(path)
    fd = os.open(path, marker.ops.CREATE, 0o644 | marker.stake.BORN)
    for _ in range(3):
        assert not engine.attempt(claim)  # its maker may be about to write
    os.close(fd)
    assert engine.attempt(claim)
    engine.drop(claim)
    path.touch()  # of somebody who writes no record
    assert not engine.attempt(claim)


@linux
def test_the_sentinel_of_strict_claims_is_never_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(records.SENTINEL)
    os.utime(path, (1, 1))
    claim = claim_on(path, lifetime=0.0)
    assert not marker.engine().attempt(claim)


@linux
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_lifetime_lets_age_be_proof(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder = SoftFileLock(path)
    holder.acquire()
    os.utime(path, (time.time() - 100, time.time() - 100))
    with pytest.raises(Timeout):
        SoftFileLock(path).acquire(timeout=0.1)
    with SoftFileLock(path, lifetime=50.0) as second:
        assert second.is_lock_held_by_us
        holder.release()  # removes nothing that is not its own
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


# ---- take-over


@linux
def test_a_marker_taken_by_mistake_goes_back(tmp_path: Path) -> None:
    """Between the judgement and the exchange somebody else broke the marker and holds: its marker must return."""
    path = tmp_path / "a.lock"
    dead, token = a_dead_process()
    path.write_bytes(records.plain((dead, identity.host(), token)))

    class Late(Ops):
        def exchange(self, one: str, other: str) -> bool:
            if not path.read_bytes().startswith(b"1\n"):
                path.unlink()  # the peer's take-over, in the worst of all moments
                path.write_bytes(b"1\nelsewhere\n")
            return super().exchange(one, other)

    engine = marker.MarkerEngine(Late(), None)
    claim = claim_on(path)
    assert not engine.attempt(claim)
    assert path.read_bytes() == b"1\nelsewhere\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lock"]


@linux
def test_a_marker_that_a_dead_breaker_left_aside_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    breaker, token = a_dead_process()
    aside = tmp_path / f"a.lock.break.{breaker}.{'0' * 32}"
    live = records.plain(identity.me())
    path.write_bytes(records.plain((breaker, identity.host(), token)))
    aside.write_bytes(live)
    claim = claim_on(path)
    assert not marker.engine().attempt(claim)
    assert path.read_bytes() == live
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lock"]


@linux
def test_filelock_puts_back_what_a_dead_breaker_of_ours_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    breaker, token = a_dead_process()
    with Peer("interlock", "SoftFileLock", path) as live:
        assert live.ask("acquire 5") == "got"
        record = path.read_bytes()
        path.rename(tmp_path / f"a.lock.break.{breaker}.{'a' * 32}")
        path.write_bytes(records.plain((breaker, identity.host(), token)))
        with Peer(NEW, "SoftFileLock", path) as theirs:
            assert theirs.ask("acquire 0.3") == "Timeout"
        assert path.read_bytes() == record
        assert live.ask("release") == "released"
    assert list(tmp_path.iterdir()) == []


@linux
def test_a_release_while_a_breaker_has_the_marker_says_so_in_it(tmp_path: Path) -> None:
    path, aside = tmp_path / "a.lock", tmp_path / "aside"
    lock = SoftFileLock(path)
    lock.acquire()
    path.rename(aside)
    path.write_bytes(b"1\nelsewhere\n")
    lock.release()
    assert aside.read_bytes() == records.RELEASED
    assert path.read_bytes() == b"1\nelsewhere\n"


def test_a_breaker_does_not_wait_for_ever_to_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "PUT_BACK", 0.05)
    path, aside = tmp_path / "a.lock", tmp_path / "aside"
    engine = marker.engine()
    claim = claim_on(path)
    engine.ops.create(claim, str(tmp_path / "mine"), 0o644)
    aside.write_bytes(b"1\nelsewhere\n")
    path.write_bytes(b"2\nelsewhere\n")
    claim.aside = str(aside)
    engine.drop(claim)  # somebody stopped has our marker aside: what it left must stay shut
    assert aside.exists()
    assert path.exists()


# ---- fork


def test_a_forked_child_leaves_the_marker_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = f"""
import os, sys
from interlock._filelock.soft import SoftFileLock
lock = SoftFileLock({str(path)!r})
lock.acquire()
pid = os.fork()
if not pid:
    lock.release(force=True)
    alone = not lock.is_locked and os.path.exists({str(path)!r})
    try:
        lock.acquire()
    except RuntimeError:
        os._exit(0 if alone else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert lock.is_lock_held_by_us
lock.release()
assert not os.path.exists({str(path)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_exit_of_the_interpreter_removes_the_marker(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = f"from interlock._filelock.soft import SoftFileLock as L; kept = L({str(path)!r}); kept.acquire()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


# ---- records


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"), (b"1\nhost\n", "owner"), (b"1\nhost\n5\n", "owner"), (b"1\nhost", "torn"),
        (b"0\nhost\n", "torn"),
        (b"1\n", "torn"), (b"\0" * 40, "torn"), (b"filelock/2\npid=1\n", "torn"), (b"hello\n", "foreign"),
        (b"filelock/2\npid=1\nhost=h\nmode=new\n", "owner"), (b"filelock/2\npid=1\nhost=h\nmode=lease\n", "torn"),
        (b"filelock/2\npid=1\nhost=h\nmode=lease\ntoken=t\nduration=1e400\n", "torn"), (records.SENTINEL, "sentinel"),
        (records.RELEASED, "released"), (b"filelock/break\n77\n", "torn"), (b"9" * 2000, "foreign"),
        (b"\xff\xfe\n", "foreign"),
        (b"99999999999\nhost\n", "foreign"),
    ],
)  # fmt: skip
def test_reading_markers(data: bytes, what: str) -> None:
    assert records.parse(data)[0] == what


def test_records_come_back_as_they_were_written() -> None:
    for record in (
        records.OwnerRecord(1, "h", "exclusive"),
        records.OwnerRecord(2**31 - 1, "h?20x", "exclusive", start=5),
        records.OwnerRecord(7, "h", "lease", "ab", 0.30000000000000004, 12),
    ):
        assert records.parse_record(records.encode(record)) == record
    unknown = records.parse_record(b"filelock/2\nnew=1\npid=1\nhost=h\nmode=x\n")
    assert unknown == records.OwnerRecord(1, "h", "unknown")
    assert records.breaker(b"filelock/break\n77\n") == 77
