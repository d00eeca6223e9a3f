"""The read-write locks: SQLite's own ranges without SQLite, the log of generations, and real filelock beside both."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from interlock._filelock.async_readwrite import AsyncReadWriteLock, AsyncSoftReadWriteLock
from interlock._filelock.errors import SoftFileLockProtocolError, Timeout
from interlock._filelock.readwrite import ReadWriteLock
from interlock._filelock.soft_readwrite import SoftReadWriteLock
from interlock.engines import sqlite_ranges
from interlock.engines.marker import generations

from .soft_support import NEW, Peer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open file description locks")


def lock_on(path: Path) -> ReadWriteLock:
    lock: ReadWriteLock = ReadWriteLock(path, is_singleton=False)
    return lock


def soft_on(path: Path, **options: Any) -> SoftReadWriteLock:
    lock: SoftReadWriteLock = SoftReadWriteLock(path, is_singleton=False, **{"poll_interval": 0.01, **options})
    return lock


def refused(acquire: Any) -> bool:
    try:
        acquire(0.15)
    except TimeoutError:
        return True
    return False


# ---- SQLite itself is the judge of the ranges


def transaction(path: Path, write: bool) -> sqlite3.Connection:
    """A connection that holds what filelock's lock holds; raises `OperationalError` if it does not get it at once."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=MEMORY")
        connection.execute("BEGIN EXCLUSIVE" if write else "BEGIN")
        if not write:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


JUDGE = """
import sqlite3, sys
for line in sys.stdin:
    connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE" if line == "write\\n" else "BEGIN")
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        print("got", flush=True)
    except sqlite3.OperationalError as error:
        print(error, flush=True)
    connection.close()
"""


def test_sqlite_sees_our_locks_as_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    lock = lock_on(path)
    with subprocess.Popen(
        [sys.executable, "-c", JUDGE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as judge:

        def sqlite_says(mode: str) -> str:
            assert judge.stdin is not None
            assert judge.stdout is not None
            judge.stdin.write(mode + "\n")
            judge.stdin.flush()
            return judge.stdout.readline().strip()

        assert (sqlite_says("read"), sqlite_says("write")) == ("got", "got")
        with lock.read_lock():
            assert (sqlite_says("read"), sqlite_says("write")) == ("got", "database is locked")
        with lock.write_lock():
            assert (sqlite_says("read"), sqlite_says("write")) == ("database is locked", "database is locked")
        assert sqlite_says("write") == "got"
        assert judge.stdin is not None
        judge.stdin.close()
        judge.wait()
    assert path.read_bytes() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize("write", [False, True])
def test_we_see_sqlites_locks(tmp_path: Path, write: bool) -> None:
    path = tmp_path / "a.db"
    lock = lock_on(path)
    with closing(transaction(path, write)):
        # In one process closing a descriptor drops SQLite's locks: so one attempt each, on one descriptor.
        claim = sqlite_ranges.RangeClaim(lock._line, None, True)
        assert not sqlite_ranges.engine().attempt(claim)
        claim.write = False
        claim.announced = False
        assert sqlite_ranges.engine().attempt(claim) is not write
    sqlite_ranges.engine().drop(claim)


def test_a_database_with_content_can_be_locked_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    before = path.read_bytes()
    with lock_on(path).write_lock():
        assert refused(lock_on(path).acquire_read)
    assert path.read_bytes() == before


def test_what_readers_and_writers_of_which_do_not_exclude_is_refused(tmp_path: Path) -> None:
    wal, other, link = tmp_path / "wal.db", tmp_path / "other", tmp_path / "link"
    with closing(sqlite3.connect(wal)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(ValueError, match="WAL-mode"):
        ReadWriteLock(wal)
    other.write_text("a text\n" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        ReadWriteLock(other)
    link.symlink_to(wal)
    with pytest.raises(OSError, match="symbolic link"):
        ReadWriteLock(link)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="not a"):
            ReadWriteLock(tmp_path / "fifo")


# ---- beside filelock


@pytest.mark.parametrize("soft", [False, True])
def test_readers_share_and_writers_exclude_across_libraries(tmp_path: Path, soft: bool) -> None:
    path = tmp_path / "a.lock"
    ours: Any = soft_on(path) if soft else lock_on(path)
    kind, options = ("SoftReadWriteLock", {"poll_interval": 0.01}) if soft else ("ReadWriteLock", {})
    with Peer(NEW, kind, path, **options) as peer:
        with ours.read_lock():
            assert peer.ask("acquire_read 5") == "got"
            assert peer.ask("release") == "released"
            assert peer.ask("acquire_write 0.2") == "Timeout"
        with ours.write_lock():
            assert peer.ask("acquire_read 0.2") == "Timeout"
            assert peer.ask("acquire_write 0.2") == "Timeout"
        assert peer.ask("acquire_read 5") == "got"
        ours.acquire_read(5)
        ours.release()
        assert refused(ours.acquire_write)
        assert peer.ask("release") == "released"
        assert peer.ask("acquire_write 5") == "got"
        assert refused(ours.acquire_read)
        assert refused(ours.acquire_write)
        peer.send("release")
        ours.acquire_write(5)
        ours.release()


@pytest.mark.parametrize("mode", ["acquire_read", "acquire_write"])
def test_a_killed_filelock_holder_is_followed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    ours = lock_on(path)
    with Peer(NEW, "ReadWriteLock", path) as peer:
        assert peer.ask(f"{mode} 5") == "got"
        killer = threading.Timer(0.1, peer.process.kill)
        killer.start()
        ours.acquire_write(30)
        killer.join()
    ours.release()


def test_a_waiting_writer_keeps_new_readers_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    ours, reader = lock_on(path), lock_on(path)
    reader.acquire_read()
    got = threading.Event()

    def write() -> None:
        ours.acquire_write(30)
        got.set()
        ours.release()

    writer = threading.Thread(target=write)
    writer.start()
    with Peer(NEW, "ReadWriteLock", path) as peer:
        deadline = time.monotonic() + 60
        while not refused(lock_on(path).acquire_read):
            assert time.monotonic() < deadline
        assert peer.ask("acquire_read 0.2") == "Timeout"
        assert not got.is_set()
        reader.release()
        assert got.wait(60)
    writer.join()


# ---- waiting, threads, fork


def test_a_waiter_is_woken_by_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ranges, "NAP", 3600.0)  # only an event can wake it
    path = tmp_path / "a.db"
    with Peer(NEW, "ReadWriteLock", path) as peer:
        assert peer.ask("acquire_write 5") == "got"
        releaser = threading.Timer(0.3, peer.send, ["release"])
        releaser.start()
        with lock_on(path).write_lock(60):
            pass
        releaser.join()


def test_threads_with_instances_of_their_own(tmp_path: Path) -> None:
    path, readers, writers, most = tmp_path / "a.db", [0], [0], [0]
    failed: list[str] = []

    def work(number: int) -> None:
        lock = lock_on(path)
        for turn in range(25):
            if (turn + number) % 3:
                with lock.read_lock():
                    readers[0] += 1
                    if writers[0]:
                        failed.append("a reader beside a writer")
                    time.sleep(0.001)
                    readers[0] -= 1
            else:
                with lock.write_lock():
                    writers[0] += 1
                    if writers[0] > 1 or readers[0]:
                        failed.append("a writer beside somebody")
                    writers[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed

    def beside() -> None:
        with lock_on(path).read_lock(60):
            most[0] = 2

    reader = threading.Thread(target=beside)
    with lock_on(path).read_lock():
        reader.start()
        reader.join(90)
    assert most[0] == 2



def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    lock = lock_on(path)
    claim = sqlite_ranges.RangeClaim(lock._line, None, True)
    engine = sqlite_ranges.engine()
    assert engine.attempt(claim)
    path.unlink()
    assert "unlinked" in engine.lost(claim)
    with lock.write_lock(1):  # the one at the path now
        pass
    engine.drop(claim)


@pytest.mark.parametrize("kind", ["ReadWriteLock", "SoftReadWriteLock"])
def test_a_forked_child_has_no_part_in_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    home = "readwrite" if kind == "ReadWriteLock" else "soft_readwrite"
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
from interlock._filelock.{home} import {kind}
lock = {kind}({str(path)!r})
lock.acquire_write()
pid = os.fork()
if not pid:
    lock.release()
    try:
        lock.acquire_read(0)
    except RuntimeError:
        try:
            {kind}({str(path)!r}).acquire_read(0.1)
        except TimeoutError:
            os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
lock.release()
other = {kind}({str(path)!r}, is_singleton=False)
other.acquire_write(5)
other.release()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_forgotten_hold_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    lock_on(path).acquire_write()
    with lock_on(path).write_lock(5):
        pass


def test_tasks_hold_for_themselves(tmp_path: Path) -> None:
    async def all_of_it(lock: Any) -> None:
        inside = {"read": 0, "write": 0}
        met = asyncio.Event()

        async def meet() -> None:
            async with lock.read_lock(30):
                inside["read"] += 1
                if inside["read"] == 2:
                    met.set()
                await asyncio.wait_for(met.wait(), 20)
                inside["read"] -= 1

        async def read() -> None:
            async with lock.read_lock(30):
                inside["read"] += 1
                assert not inside["write"]
                await asyncio.sleep(0.005)
                inside["read"] -= 1

        async def write() -> None:
            async with await lock.acquire_write(30):
                assert inside == {"read": 0, "write": 0}
                inside["write"] += 1
                await asyncio.sleep(0.002)
                inside["write"] -= 1

        await asyncio.gather(meet(), meet())
        await asyncio.gather(*[read() for _ in range(6)], *[write() for _ in range(4)])
        await lock.acquire_write()
        waiting = asyncio.create_task(lock.acquire_read())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await lock.release()
        async with lock.write_lock(5):
            pass
        await lock.close()

    asyncio.run(all_of_it(AsyncReadWriteLock(tmp_path / "a.db")))
    asyncio.run(all_of_it(AsyncSoftReadWriteLock(tmp_path / "b.lock", poll_interval=0.005)))


# ---- the log of generations


def test_a_dead_member_is_put_out_by_the_observers_clock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Peer(NEW, "SoftReadWriteLock", path, heartbeat_interval=0.2, stale_threshold=0.6) as peer:
        assert peer.ask("acquire_write 5") == "got"
        ours = soft_on(path, heartbeat_interval=0.2, stale_threshold=0.6)
        assert refused(ours.acquire_read)
        peer.kill()
        ours.acquire_write(30)
        before = ours.generation
        assert before is not None
        ours.release()
        ours.acquire_read(5)
        assert ours.generation is not None
        assert ours.generation > before
        ours.release()


def test_a_holder_that_was_put_out_is_told(tmp_path: Path) -> None:
    path, told, rang = tmp_path / "a.lock", [], threading.Event()

    def tell(loss: Any) -> None:
        told.append(loss)
        rang.set()

    lock = soft_on(path, heartbeat_interval=0.05, stale_threshold=30.0, on_compromise=tell)
    lock.acquire_write()
    for record in (tmp_path / "a.lock.rw" / "holders").iterdir():
        record.unlink()
    assert rang.wait(60)
    assert lock.compromise == told[0]
    assert told[0].reason == "evicted"
    with pytest.raises(RuntimeError, match="was lost"):
        lock.acquire_write(0)
    lock.release()


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with soft_on(path).write_lock():
        pass
    newest = max((tmp_path / "a.lock.rw" / "gen").glob("0*"))
    newest.write_bytes(b"nonsense")
    with pytest.raises(SoftFileLockProtocolError, match="malformed generation record"):
        soft_on(path).acquire_read(1)


def test_a_log_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lock.rw").symlink_to(tmp_path)
    with pytest.raises(OSError, match="not a directory"):
        soft_on(tmp_path / "a.lock").acquire_read(1)


def test_only_a_window_of_generations_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = soft_on(path)
    for _ in range(60):
        with lock.write_lock():
            pass
    log = generations.Log(generations.Tree(str(path) + ".rw"))
    assert log.newest().generation == 120
    assert len(log._listed()) <= generations.WINDOW + 1
    stale = generations.Log(log.tree)
    stale._epoch = log._epoch
    assert not stale.commit(generations.Snapshot(3, None, frozenset()))  # its number was freed long ago
    assert generations.parse(b"filelock-rw/1\ngeneration=01\n") is None


def test_a_removed_log_begins_anew(tmp_path: Path) -> None:
    import shutil

    path = tmp_path / "a.lock"
    lock = soft_on(path)
    for _ in range(3):
        with lock.write_lock():
            pass
    shutil.rmtree(str(path) + ".rw")
    with lock.write_lock(5):
        assert lock.generation == 1


def test_timeouts_name_the_file(tmp_path: Path) -> None:
    lock, other = lock_on(tmp_path / "a.db"), lock_on(tmp_path / "a.db")
    with lock.write_lock(), pytest.raises(Timeout, match=r"a\.db"):
        other.acquire_write(blocking=False)
