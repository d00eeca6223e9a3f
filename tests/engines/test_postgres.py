"""What is PostgreSQL's own: poolers, standbys, its deadlock detector, its settings, and connections of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    AsyncLock,
    DeadlockError,
    EngineError,
    Lock,
    NotHeldError,
    RWLock,
    Semaphore,
    Timeout,
    UnsupportedError,
)
from interlock._target import resolve
from interlock.testing.conformance import Peer

from ..servers import PgBouncer, Postgres, free_port
from ..support import need_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

need_module("psycopg")

from interlock.engines import postgres  # noqa: E402 - only where there is psycopg
from interlock.engines.postgres import keys  # noqa: E402

_numbers = count()


@pytest.fixture
def name() -> str:
    return f"own-{next(_numbers)}"


@pytest.fixture
def connection(postgres_server: Postgres) -> Iterator[Connection[Any]]:
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        yield connection


def pool(target: str) -> Any:
    return resolve(target).engine.pool  # type: ignore[attr-defined]


def until(true: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.005)


# ---- what is no session, or no primary


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_is_refused(postgres_server: Postgres, name: str, mode: str) -> None:
    with PgBouncer(postgres_server, mode) as pooler:
        with pytest.raises(UnsupportedError, match="il_scope=xact"):
            Lock(pooler.target(name)).acquire(timeout=5)
        with Lock(postgres_server.target(name), timeout=0):
            pass


def test_in_transaction_scope_a_pooler_will_do(
    postgres_server: Postgres, pgbouncer_server: PgBouncer, name: str
) -> None:
    pooled, direct = (Lock(server.target(name, "il_scope=xact")) for server in (pgbouncer_server, postgres_server))
    session = Lock(postgres_server.target(name))
    with pooled as hold:
        first = hold.token
        assert direct.try_acquire() is None
        assert session.try_acquire() is None
        with pytest.raises(Timeout):
            direct.acquire(timeout=0.05)
    waited: list[float] = []

    def wait() -> None:
        with pooled as hold:
            waited.append(hold.waited)

    with direct as hold:
        assert hold.token is not None
        assert first is not None
        assert hold.token > first
        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: session.inspect().waiters)
    waiter.join(60)
    assert waited
    with session:
        assert pooled.try_acquire() is None


def test_transaction_scope_has_no_part_of_a_lock(postgres_server: Postgres, name: str) -> None:
    target = postgres_server.target(name, "il_scope=xact")
    with RWLock(target).read(), RWLock(target).read(timeout=5):
        assert RWLock(target).try_write() is None
    with RWLock(target).write() as hold:
        assert RWLock(target).try_read() is None
        with pytest.raises(UnsupportedError, match="downgraded"):
            hold.downgrade()
    with pytest.raises(UnsupportedError, match="il_scope=session"):
        RWLock(target).update()
    with pytest.raises(UnsupportedError, match="il_scope=session"):
        Semaphore(target, 2)


def test_a_standby_is_refused_and_the_primary_found(name: str) -> None:
    with Postgres("wal_level=replica", "max_wal_senders=4") as primary:
        standby = Postgres("hot_standby=on", port=free_port())
        made = subprocess.run(
            [*standby._wrapped(), Postgres.program("pg_basebackup"), "-h", primary.host, "-p", str(primary.port),
             "-U", "postgres", "-R", "-D", standby.data, "-c", "fast", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=standby.directory,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with standby:
            with pytest.raises(UnsupportedError, match="read-only standby"):
                Lock(standby.target(name)).acquire(timeout=5)
            both = f"postgresql://postgres@{standby.host}:{standby.port},{primary.host}:{primary.port}/postgres#{name}"
            with Lock(both):
                assert Lock(primary.target(name)).try_acquire() is None


# ---- what the server finds out


def test_a_deadlock_that_the_server_finds(postgres_server: Postgres, connection: Connection[Any], name: str) -> None:
    """A writer waits for a reader, who asks for what the writer has already."""
    target = postgres_server.target(name)
    connection.execute("SET deadlock_timeout = '30s'")  # so it is the writer that is chosen
    reading = postgres.on(connection, name, shared=True)
    reading.acquire()
    raised: list[BaseException] = []

    def write() -> None:
        try:
            RWLock(target).write(timeout=60)
        except DeadlockError as error:
            raised.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: Lock(target).inspect().waiters)
    connection.execute("SELECT pg_advisory_lock(%s)", (keys.update_key(name),))
    writer.join(60)
    assert "circle" in str(raised[0])
    assert RWLock(target).try_write() is None  # what the reader had it still has
    connection.execute("SELECT pg_advisory_unlock(%s)", (keys.update_key(name),))
    reading.release()
    with RWLock(target).write(timeout=5):
        pass


def test_a_holder_that_is_killed(postgres_server: Postgres, name: str) -> None:
    target = postgres_server.target(name)
    peer = Peer(target)
    try:
        assert peer.ask("acquire") == "True"
        times: list[float] = []

        def wait() -> None:
            with Lock(target):
                times.append(time.monotonic())

        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: Lock(target).inspect().waiters)
        killed = time.monotonic()
        peer.end()
        waiter.join(60)
        assert times[0] - killed < 30
    finally:
        peer.end()


def test_a_session_that_the_server_ends_is_lost_at_once(
    postgres_server: Postgres, connection: Connection[Any], name: str
) -> None:
    target = postgres_server.target(name, "il_connections=7")
    told: list[str] = []
    hold = Lock(target).acquire()
    hold.on_lost(told.append)
    session = hold._claim.session  # type: ignore[union-attr]
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", (session.pid,))
    until(lambda: hold.lost)  # the session's socket is closed a moment after its process was seen to end
    assert "session" in hold.lost.reason
    until(lambda: told)
    with Lock(target) as again:  # on a new session
        assert hold.token is not None
        assert again.token is not None
        assert again.token > hold.token
        hold.release()
        assert Lock(target).try_acquire() is None


def test_the_settings_of_a_session(postgres_server: Postgres, name: str) -> None:
    target = postgres_server.target(name)
    with Lock(target, ttl=12.0) as hold:
        (session,) = resolve(target, ttl=12.0).engine.pool.sessions  # type: ignore[attr-defined]
        assert session.enter()
        wanted = {
            "tcp_user_timeout": "12000", "tcp_keepalives_idle": "4", "tcp_keepalives_interval": "2",
            "statement_timeout": "0", "idle_session_timeout": "0", "client_connection_check_interval": "1s",
        }  # fmt: skip
        said = {key: session.ask(f"SHOW {key}").get_value(0, 0).decode() for key in wanted}
        session.leave()
        assert said == wanted
        assert hold.token


# ---- how many connections


def test_a_thousand_locks_on_one_connection(postgres_server: Postgres, name: str) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            stack.enter_context(Lock(postgres_server.target(f"{name} {number}", "il_connections=4")))
        assert len(pool(postgres_server.target(name, "il_connections=4")).sessions) == 1


def test_more_waiters_than_connections(postgres_server: Postgres, name: str) -> None:
    query = "il_connections=3"
    targets = [postgres_server.target(f"{name} {number}", query) for number in range(8)]
    holders = [Lock(target.replace("il_connections=3", "il_connections=5")).acquire() for target in targets]
    got: list[str] = []
    most: list[int] = []

    async def wait(target: str) -> None:
        async with AsyncLock(target):
            most.append(len(pool(target).sessions))
            got.append(target)

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(wait(target)) for target in targets]
        await asyncio.sleep(0.2)
        for hold in holders:
            hold.release()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert sorted(got) == sorted(targets)
    assert max(most) <= 3


# ---- tokens, URLs


@pytest.mark.parametrize("fence", ["sequence", "xid", "table", "none"])
def test_tokens(postgres_server: Postgres, name: str, fence: str) -> None:
    lock = Lock(postgres_server.target(name, f"il_fence={fence}"))
    tokens = []
    for _ in range(3):
        with lock as hold:
            tokens.append(hold.token)
            assert lock.try_acquire() is None
    if fence == "none":
        assert tokens == [None] * 3
    else:
        assert tokens == sorted(set(tokens), key=tokens.index)
        assert tokens[0] < tokens[1] < tokens[2]  # type: ignore[operator]


def test_who_may_not_make_what_tokens_need_is_told(connection: Connection[Any], name: str) -> None:
    with Postgres() as server:
        import psycopg

        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE ROLE guest LOGIN")
        url = f"postgresql://guest@{server.host}:{server.port}/postgres"
        with pytest.raises(EngineError, match="il_fence=xid"):
            Lock(f"{url}#{name}").acquire(timeout=5)
        with Lock(f"{url}?il_fence=xid#{name}"), Lock(server.target("made")):
            pass
        with Lock(f"{url}#{name}") as hold:  # the administrator has made it meanwhile
            assert hold.token


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("il_scope=forever", ValueError), ("il_fence=hope", ValueError), ("il_fence=table&il_scope=xact", ValueError),
        ("il_connections=1", ValueError), ("il_connections=many", ValueError), ("il_ttl=0.5", ValueError),
        ("il_unknown=1", ValueError), ("port=1", ValueError), ("il_tls=maybe", ValueError),
    ],
)  # fmt: skip
def test_urls_that_make_no_sense(query: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Lock(f"postgresql://u:pa55word@localhost/db?{query}#x")


def test_no_password_is_shown() -> None:
    lock = Lock(f"postgresql://someone:pa55word@127.0.0.1:{free_port()}/db#x")
    with pytest.raises(EngineError, match="PostgreSQL cannot be reached") as caught:
        lock.acquire(timeout=1)
    assert "pa55word" not in f"{lock!r} {caught.value!r} {caught.value} {resolve_repr(lock)}"


def resolve_repr(lock: Lock) -> str:
    engine = lock._line.engine
    return f"{engine!r} {engine.inspect!r} {engine.pool!r}"  # type: ignore[attr-defined]


# ---- a connection of the caller's


def test_on_excludes_and_is_excluded(postgres_server: Postgres, connection: Connection[Any], name: str) -> None:
    lock = Lock(postgres_server.target(name))
    with lock:
        with pytest.raises(Timeout):
            postgres.on(connection, name, timeout=0).acquire()
        with pytest.raises(Timeout):
            postgres.on(connection, name, timeout=0.05).acquire()
    assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    with postgres.on(connection, name, fence="sequence") as held:
        assert held.token
        assert lock.try_acquire() is None
        with pytest.raises(DeadlockError):
            held.acquire()
    with pytest.raises(NotHeldError):
        held.release()
    with lock:
        pass


def test_on_in_a_transaction(postgres_server: Postgres, connection: Connection[Any], name: str) -> None:
    lock = Lock(postgres_server.target(name))
    with pytest.raises(ValueError, match="open transaction"):
        postgres.on(connection, name, scope="xact").acquire()
    with connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE written (value int)")
        with lock, pytest.raises(Timeout):
            postgres.on(connection, name, scope="xact", timeout=0.05).acquire()
        with postgres.on(connection, name, scope="xact", timeout=5) as held:
            connection.execute("INSERT INTO written VALUES (1)")  # the timeout did not end the transaction
            with pytest.raises(UnsupportedError):
                held.release()
        assert lock.try_acquire() is None
    assert connection.execute("SELECT value FROM written").fetchone() == (1,)
    with lock:
        pass


def test_on_through_a_pooler(pgbouncer_server: PgBouncer, name: str) -> None:
    import psycopg

    with psycopg.connect(pgbouncer_server.url) as connection:
        with pytest.raises(UnsupportedError, match="pooler"):
            postgres.on(connection, name).acquire()
        connection.rollback()
        postgres.on(connection, name, scope="xact").acquire()
        connection.commit()


def test_on_async(postgres_server: Postgres, name: str) -> None:
    import psycopg

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres_server.url, autocommit=True) as connection:
            async with postgres.on_async(connection, name):
                assert await AsyncLock(postgres_server.target(name)).try_acquire() is None
            async with AsyncLock(postgres_server.target(name)):
                with pytest.raises(Timeout):
                    await postgres.on_async(connection, name, timeout=0.05).acquire()

    asyncio.run(main())


def test_a_forked_child_has_connections_of_its_own(postgres_server: Postgres, name: str) -> None:
    target = postgres_server.target(name, "il_connections=6")
    with Lock(target) as hold:
        (session,) = pool(target).sessions
        child = os.fork()
        if child == 0:
            try:
                own = Lock(target).try_acquire() is None
                other = Lock(target.replace("#", "#other-")).try_acquire() is not None
                os._exit(0 if own and other and pool(target).sessions.keys().isdisjoint([session]) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        hold.assert_held()
        assert not hold.lost
        assert Lock(target).try_acquire() is None


# ---- interrupts


@pytest.mark.parametrize("where", ["_leave", "ask"])
@pytest.mark.parametrize("kind", ["lock", "write", "read", "permit"])
def test_an_interrupted_release_leaves_nothing_locked(
    postgres_server: Postgres, name: str, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a release: what had been begun was not done again, and the lock stayed for good."""

    def acquire(query: str) -> Any:
        target = postgres_server.target(name, query)
        if kind == "lock":
            return Lock(target).acquire(timeout=20)
        if kind == "permit":
            return Semaphore(target, 1).acquire(timeout=20)
        lock = RWLock(target)
        return lock.read(timeout=20) if kind == "read" else lock.write(timeout=20)

    hold = acquire("")
    claim = hold._claim
    struck: Any = claim.session
    if where == "_leave":
        struck, where = claim.line.engine, "_leave_home" if claim.at_home else "_leave_own"
    whole = getattr(struck, where)

    def interrupted(*args: Any) -> Any:
        monkeypatch.setattr(struck, where, whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(struck, where, interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        hold.release()
    monkeypatch.setattr(struck, where, whole)
    del hold, claim
    if kind == "read":
        RWLock(postgres_server.target(name, "il_connections=9")).write(timeout=20).release()
    acquire("il_connections=9").release()
    acquire("").release()
