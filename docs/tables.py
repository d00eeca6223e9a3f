"""Write the tables of the documentation that are the code's own: python docs/tables.py"""

from __future__ import annotations

import re
from pathlib import Path

from interlock._fs import facts
from interlock._target import resolve
from interlock.engines.kernel import answers
from interlock.testing.conformance.listed import LIST

PAGE = Path(__file__).parent / "concepts" / "filesystems.md"
ENGINES = PAGE.with_name("engines.md")
LISTED = PAGE.with_name("engines-list.md")

SERVERS = {
    "redis": "redis://127.0.0.1:1/0#x",
    "postgresql": "postgresql://127.0.0.1:1/x#x",
    "etcd": "etcd://127.0.0.1:1#x",
    "zookeeper": "zookeeper://127.0.0.1:1#x",
}
"""A target on each; nothing is opened there."""

PROMISES = {
    "family": "family",
    "fair": "order",
    "wait": "wait",
    "frozen": "holder frozen",
    "restart": "server restart",
    "failover": "failover",
    "token_back": "a token can go back",
    "connections": "connections of a process",
}

SHOWN = {
    "family": ["test_09_a_holder_is_killed", "test_14_cut_off_is_known_before_others_get_it"],
    "fair": ["test_08_first_come_first_served", "test_04_processes_count_together"],
    "wait": ["test_07_a_release_wakes_the_waiter", "test_07_waiters_do_not_ask_more_than_once_a_second"],
    "frozen": ["test_10_a_holder_is_stopped_beyond_its_ttl"],
    "restart": ["test_15_the_server_is_restarted", "test_15_connections_are_reset"],
    "token_back": ["test_06_tokens_rise_over_processes_and_crashes"],
    "connections": ["test_25_a_thousand_locks"],
}
"""By which tests of the suite for servers each promise is shown, on every engine."""

SHOWN_BY_ITS_OWN: dict[str, dict[str, list[str]]] = {
    "redis": {
        "restart": ["engines/test_redis.py::test_durable_servers_keep_holds_over_a_restart"],
        "failover": ["engines/test_redis.py::test_a_failover_that_lost_writes_gives_a_second_holder_a_greater_token"],
        "token_back": [
            "engines/test_redis.py::test_tokens_follow_the_clock_and_rise_without_it",
            "engines/test_server_clock.py::test_redis_counts_by_its_clock",
        ],
    },
    "postgresql": {
        "failover": [
            "engines/test_postgres_failover.py::test_a_failover_is_told_to_holders_and_the_next_token_is_greater",
            "engines/test_postgres_failover.py::test_the_bad_news_of_a_failover",
        ],
        "token_back": ["engines/test_postgres_failover.py::test_the_bad_news_of_a_failover"],
    },
    "etcd": {"failover": ["engines/test_etcd.py::test_the_leader_is_killed"]},
    "zookeeper": {
        "restart": ["engines/test_zookeeper.py::test_a_restart_of_the_server_keeps_holds_and_the_queue"],
        "failover": [
            "engines/test_zookeeper_ensemble.py::test_the_leader_is_killed_and_then_the_majority_is_gone",
        ],
    },
}
"""And by which of its own."""

MORE: dict[str, dict[str, list[str]]] = {
    "redis": {
        "failover that lost writes": [
            "engines/test_redis.py::test_a_failover_that_lost_writes_gives_a_second_holder_a_greater_token"
        ],
        "scripts are flushed": ["engines/test_redis.py::test_a_flushed_script_is_sent_again"],
        "Sentinel": ["engines/test_redis.py::test_sentinels_name_the_new_master"],
        "cluster, a slot moves": ["engines/test_redis.py::test_a_cluster_and_a_slot_that_moves"],
        "il_min_replicas": ["engines/test_redis.py::test_so_many_replicas_or_nothing"],
        "Unix socket": ["engines/test_redis.py::test_unix_sockets"],
        "TLS": ["engines/test_redis.py::test_tls_is_verified_unless_told_otherwise"],
        "users and rights": ["engines/test_redis.py::test_users_without_rights_and_wrong_passwords"],
        "a break that is repeated": ["engines/test_redis_break.py::test_a_break_that_is_repeated_ends_no_other_hold"],
        "calls that come again late": ["engines/test_redis.py::test_an_acquire_that_comes_again_late_takes_nothing"],
        "the server's clock": ["engines/test_server_clock.py::test_redis_counts_by_its_clock"],
        "Valkey": ["conformance/test_redis_server.py::TestValkeyServer"],
    },
    "postgresql": {
        "pooler refused": ["engines/test_postgres.py::test_a_pooler_is_refused"],
        "transaction scope": ["engines/test_postgres.py::test_in_transaction_scope_a_pooler_will_do"],
        "read-only standby refused": ["engines/test_postgres.py::test_a_standby_is_refused_and_the_primary_found"],
        "deadlock found by the server": ["engines/test_postgres.py::test_a_deadlock_that_the_server_finds"],
        "keepalive and `tcp_user_timeout`": ["engines/test_postgres.py::test_the_settings_of_a_session"],
        "the caller's own connection": ["engines/test_postgres.py::test_on_excludes_and_is_excluded"],
        "failover to a standby": [
            "engines/test_postgres_failover.py::test_a_failover_is_told_to_holders_and_the_next_token_is_greater",
            "engines/test_postgres_failover.py::test_the_bad_news_of_a_failover",
        ],
        "Ctrl-C at any point": ["engines/test_postgres_talking.py::test_an_interrupt_costs_nobody_the_connection"],
        "the server's clock": ["engines/test_server_clock.py::test_nothing_is_lost_or_kept_by_the_servers_clock"],
        "TLS": [
            "engines/test_postgres_tls.py::test_verified",
            "engines/test_postgres_tls.py::test_what_nobody_vouches_for_is_refused",
        ],
    },
    "etcd": {
        "leader of three killed": ["engines/test_etcd.py::test_the_leader_is_killed"],
        "compaction during a wait": ["engines/test_etcd.py::test_compaction_while_somebody_waits"],
        "lease revoked in the queue, and under a holder": [
            "engines/test_etcd.py::test_a_lease_revoked_in_the_queue_costs_the_place_and_grants_nothing",
            "engines/test_etcd.py::test_a_lease_revoked_under_a_holder_is_told_at_once",
        ],
        "guard for a transaction of one's own": [
            "engines/test_etcd.py::test_a_guard_lets_a_transaction_through_only_while_held"
        ],
        "TLS": [
            "engines/test_etcd.py::test_tls",
            "engines/test_etcd.py::test_a_server_that_nobody_vouches_for_is_refused",
        ],
        "users": ["engines/test_etcd.py::test_a_user_and_a_password"],
        "requests that come late": [
            "engines/test_etcd.py::test_a_late_request_makes_no_entry_that_nobody_knows",
            "engines/test_etcd_slots.py::test_a_late_copy_takes_no_second_slot",
        ],
        "a slot without its entry": [
            "engines/test_etcd_slots.py::test_a_slot_whose_entry_was_removed_is_nobody_elses_before_its_release"
        ],
        "the server's clock": [],
    },
    "zookeeper": {
        "leader of three killed, then the majority": [
            "engines/test_zookeeper_ensemble.py::test_the_leader_is_killed_and_then_the_majority_is_gone"
        ],
        "session expires while queued, and under a holder": [
            "engines/test_zookeeper.py::test_a_session_that_expires_while_queued",
            "engines/test_zookeeper.py::test_a_session_that_expires_while_holding",
        ],
        "parent removed": [
            "engines/test_zookeeper.py::test_a_parent_that_is_removed_while_held",
            "engines/test_zookeeper.py::test_a_parent_that_is_removed_while_queued",
        ],
        "reconnect inside the session": [
            "engines/test_zookeeper.py::test_a_connection_that_comes_back_keeps_all",
            "engines/test_zookeeper.py::test_a_waiter_survives_a_connection_that_comes_back",
        ],
        "TLS": [
            "engines/test_zookeeper_ensemble.py::test_tls",
            "engines/test_zookeeper_ensemble.py::test_a_server_that_nobody_vouches_for_is_refused",
        ],
        "users": ["engines/test_zookeeper.py::test_credentials"],
        "the server's clock": ["engines/test_server_clock.py::test_nothing_is_lost_or_kept_by_the_servers_clock"],
    },
}
"""What only one engine can be put to. Without a test it says so."""

CLASSES = {
    "redis": "conformance/test_redis_server.py::TestServer",
    "postgresql": "conformance/test_postgres_server.py::TestServer",
    "etcd": "conformance/test_etcd.py::TestServer",
    "zookeeper": "conformance/test_zookeeper.py::TestServer",
}
"""Where each engine runs the suite for servers; those of its other suites are beside it."""


def _link(source: str) -> str:
    if not source.startswith("http"):
        return source
    thread = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/(?:issues|pull)/(\d+)", source)
    name = f"{thread[1]}#{thread[2]}" if thread else source.partition("://")[2].split("/")[0]
    return f"[{name}]({source})"


def filesystems() -> str:
    """The facts, one row per kind of filesystem."""
    rows = ["| filesystem | flock | ranges | names | `auto` | why we believe so |", "|---|---|---|---|---|---|"]
    for fact in (*facts.FACTS, facts.ANY_OTHER):
        sources = ", ".join(_link(source) for source in fact.sources)
        types = ", ".join(f"`{name}`" for name in fact.types[:4]) + (", …" if len(fact.types) > 4 else "")
        rows.append(
            f"| {fact.title} ({types}) | {fact.flock} | {fact.ranges} | {fact.creation}"
            f" | {fact.auto or 'refused'} | {fact.why}{f' ({sources})' if sources else ''} |"
        )
    return "\n".join(rows)


def errors() -> str:
    """What each error leads to."""
    rows = ["| error | of | meaning | then |", "|---|---|---|---|"]
    for name, _, call, meaning, outcome in answers.ANSWERS:
        rows.append(f"| {name} | {call} | {meaning} | {answers.OUTCOMES[outcome]} |")
    return "\n".join(rows)


def promises() -> str:
    """What each engine with a server promises, one row per engine."""
    rows = ["| engine | " + " | ".join(PROMISES.values()) + " |", "|---" * (len(PROMISES) + 1) + "|"]
    for name, target in SERVERS.items():
        traits = resolve(target).engine.traits
        words = [str(getattr(traits, field)) for field in PROMISES]
        if not all(words):
            raise ValueError(f"the traits of {name} leave out a promise: {words}")
        rows.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join(rows)


def shown() -> str:
    """By which tests. What has none says so."""
    rows = ["| promise | on every engine | " + " | ".join(SERVERS) + " |", "|---" * (len(SERVERS) + 2) + "|"]
    for field, heading in PROMISES.items():
        common = SHOWN.get(field, [])
        cells = [", ".join(f"`{test}`" for test in common)]
        for name in SERVERS:
            own = SHOWN_BY_ITS_OWN[name].get(field, [])
            cells.append(", ".join(f"`{test}`" for test in own) or ("" if common else "no test here"))
        rows.append(f"| {heading} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def listed() -> str:
    """Each item of the list, with the tests that all engines pass."""
    rows = ["| | promise | tests |", "|---|---|---|"]
    for number, item in LIST.items():
        rows.append(f"| {number} | {item.promise} | " + ", ".join(f"`{test}`" for test in item.tests) + " |")
    return "\n".join(rows)


def more() -> str:
    """What is asked of one engine alone."""
    rows = ["| engine | what happens to it | tests |", "|---|---|---|"]
    for engine, items in MORE.items():
        for what, tests in items.items():
            rows.append(f"| {engine} | {what} | " + (", ".join(f"`{test}`" for test in tests) or "no test here") + " |")
    return "\n".join(rows)


def where() -> str:
    """Which class runs the list for each engine."""
    rows = ["| engine | class |", "|---|---|", *(f"| {engine} | `{path}` |" for engine, path in CLASSES.items())]
    return "\n".join(rows)


def page(text: str) -> str:
    """A page, with its tables as the code has them now."""
    tables = {"filesystems": filesystems, "errors": errors, "promises": promises, "shown": shown}
    tables |= {"listed": listed, "more": more, "where": where}
    for name, make in tables.items():
        if f"<!-- {name}: begin -->" not in text:
            continue
        table = make()
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for path in (PAGE, ENGINES, LISTED):
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
