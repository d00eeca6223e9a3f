"""A standby takes over from PostgreSQL's primary: what holders are told, what becomes of tokens, and the bad news."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, inspect
from interlock.testing.conformance import acts
from interlock.testing.conformance.crew import WORLDS, Crew, MemberError, acquire, look, release

from ..servers import Postgres, free_port
from ..support import need_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

need_module("psycopg")


def ask(server: Postgres, sql: str) -> Any:
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchone() if cursor.description else None


def until(true: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.02)


@contextmanager
def pair(*options: str) -> Iterator[tuple[Postgres, Postgres, str]]:
    """A primary, its standby, and a URL that names both."""
    with Postgres("wal_level=replica", "max_wal_senders=4", *options) as primary:
        standby = Postgres("hot_standby=on", port=free_port())
        made = subprocess.run(
            [*standby._wrapped(), Postgres.program("pg_basebackup"), "-h", primary.host, "-p", str(primary.port),
             "-U", "postgres", "-R", "-D", standby.data, "-c", "fast", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=standby.directory,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with standby:
            until(lambda: ask(primary, "SELECT count(*) FROM pg_stat_replication")[0], "the replication")
            hosts = f"{primary.host}:{primary.port},{standby.host}:{standby.port}"
            yield primary, standby, f"postgresql://postgres@{hosts}/postgres"


def level(primary: Postgres) -> None:
    """Until the standby has all that the primary has written."""
    behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
    until(lambda: ask(primary, behind)[0], "the standby's catching up")


def cut_off(standby: Postgres) -> None:
    """It gets no more from its primary."""
    ask(standby, "ALTER SYSTEM SET primary_conninfo = ''")
    ask(standby, "SELECT pg_reload_conf()")
    until(lambda: not ask(standby, "SELECT count(*) FROM pg_stat_wal_receiver")[0], "the end of the replication")


def promote(standby: Postgres) -> None:
    assert ask(standby, "SELECT pg_promote(true, 60)")[0]


@pytest.mark.slow
@pytest.mark.parametrize("fence", ["sequence", "table"])
def test_a_failover_is_told_to_holders_and_the_next_token_is_greater(fence: str) -> None:
    """For those who hold, wait, and come, in each world. The standby was level; for the table it had to be."""
    synchronous = ("synchronous_commit=remote_apply",) if fence == "table" else ()
    with pair(*synchronous) as (primary, standby, url), Crew() as crew:
        if fence == "table":
            ask(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
            ask(primary, "SELECT pg_reload_conf()")
        held = []
        for number, world in enumerate(WORLDS):
            target = f"{url}?il_ttl=2&il_fence={fence}#{world}"
            holder, waiter = crew.hire(world), crew.hire(WORLDS[(number + 1) % 3])
            token = holder.do(acquire, target, 30.0).token
            waiting = waiter.begin(acquire, target, 90.0)
            until(lambda: inspect(target).waiters, "the waiter")  # noqa: B023
            held.append((target, holder, waiter, waiting, token))
        if fence == "sequence":
            level(primary)
        primary.kill()
        for target, holder, _, _, _ in held:
            assert holder.do(acts.until_lost, target, 30.0), f"{holder} was not told"
            assert holder.do(acts.guarded, target)  # no guarded action any more
        promote(standby)
        for target, holder, waiter, waiting, token in held:
            holder.do(acts.try_release, target)
            try:
                grant = waiting.result(90)
            except MemberError as error:  # its session has ended, as is documented
                if error.kind != "EngineError":
                    raise
                grant = waiter.do(acquire, target, 30.0, patience=60)
            assert grant.token > token
            assert waiter.do(look, target) == (True, "")
            waiter.do(release, target)


@pytest.mark.slow
def test_the_bad_news_of_a_failover() -> None:
    """Locks are not replicated, so an old primary that lingers grants beside the new one. And the tokens of a sequence
    go back where the standby was behind."""
    with pair() as (primary, standby, _):
        old, new = (f"{each.url}?il_ttl=2#a" for each in (primary, standby))
        Lock(old).acquire(timeout=30).release()
        level(primary)
        cut_off(standby)
        for _ in range(100):  # a sequence is written ahead by 32
            Lock(old).acquire(timeout=30).release()
        first = Lock(old).acquire(timeout=30)
        promote(standby)
        second = Lock(new).acquire(timeout=30)
        first.assert_held()
        second.assert_held()  # two holders, none of whom can know of the other
        assert first.token is not None
        assert second.token is not None
        assert second.token < first.token
        first.release()
        second.release()
