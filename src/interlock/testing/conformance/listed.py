"""The list that every engine on a server is put to: each of its items, and by which tests of the suites it is shown.

All of them run for each engine with its real server, in processes of threads, asyncio tasks and trio tasks; `missing`
tells of a suite that an engine leaves out. A name is that of a class of this package and one of its tests.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LIST", "Item"]


class Item(NamedTuple):
    promise: str
    tests: tuple[str, ...]


LIST: dict[int, Item] = {
    1: Item(
        "acquire, release, blocks; twice, or by one that does not hold: an error, and no effect on the holder",
        (
            "ServerSuite.test_01_who_holds_keeps_others_out_until_the_release", "LockSuite.test_block",
            "LockSuite.test_released_twice", "EngineSuite.test_release_removes_only_its_own",
        ),
    ),
    2: Item(
        "an attempt on a held lock returns at once and leaves nothing",
        ("ServerSuite.test_02_an_attempt_leaves_nothing_behind",),
    ),
    3: Item(
        "a timeout is kept, leaves nothing, and the next release goes to somebody else",
        ("ServerSuite.test_03_a_timeout_is_kept_and_leaves_nothing_behind",),
    ),
    4: Item("eight processes count together", ("ServerSuite.test_04_processes_count_together",)),
    5: Item(
        "threads, tasks and two clients of one process count together, and exclude each other",
        (
            "ServerSuite.test_05_threads_tasks_and_clients_of_one_process_count_together",
            "ServerSuite.test_05_clients_of_one_process_exclude_each_other",
        ),
    ),
    6: Item(
        "tokens rise over processes, releases, expiries, crashes and restarts",
        (
            "ServerSuite.test_06_tokens_rise_over_processes_and_crashes", "ServerSuite.test_15_the_server_is_restarted",
            "EngineSuite.test_tokens_rise_if_it_fences",
        ),
    ),
    7: Item(
        "a release wakes the waiter, and a waiter asks at most once a second",
        (
            "ServerSuite.test_07_a_release_wakes_the_waiter",
            "ServerSuite.test_07_waiters_do_not_ask_more_than_once_a_second",
        ),
    ),
    8: Item(
        "first come, first served; in a fight of three seconds nobody below half of the mean",
        ("ServerSuite.test_08_first_come_first_served", "ServerSuite.test_08_a_fight_of_three_seconds"),
    ),
    9: Item("a holder is killed: the next one holds within the ttl", ("ServerSuite.test_09_a_holder_is_killed",)),
    10: Item(
        "a holder is stopped beyond its ttl: it sees the loss before its next guarded action, and frees nobody else's",
        ("ServerSuite.test_10_a_holder_is_stopped_beyond_its_ttl",),
    ),
    11: Item(
        "a waiter is killed in the queue: the others are served",
        ("ServerSuite.test_11_a_waiter_is_killed_in_the_queue",),
    ),
    12: Item(
        "a waiter is cancelled, or interrupted, at 200 random moments: no grant that nobody knows of",
        ("ServerSuite.test_12_cancelled_at_random_moments", "TaskLockSuite.test_cancelled_in_the_step_of_the_grant"),
    ),
    13: Item(
        "a hold is renewed until it is released, and renewals end with the process",
        (
            "ServerSuite.test_13_a_hold_is_renewed_until_it_is_released",
            "ServerSuite.test_13_an_interpreter_that_holds_can_exit",
        ),
    ),
    14: Item(
        "renewals do not get through: the holder knows before others can get in",
        (
            "ServerSuite.test_14_cut_off_is_known_before_others_get_it", "ServerSuite.test_14_a_server_that_hangs",
        ),
    ),
    15: Item(
        "the server is restarted, connections are reset: kept or lost as declared, and never silently",
        ("ServerSuite.test_15_the_server_is_restarted", "ServerSuite.test_15_connections_are_reset"),
    ),
    16: Item(
        "the answer to a grant is lost: neither a deadlock with oneself nor two holders",
        ("ServerSuite.test_16_the_answer_to_an_acquire_is_lost",),
    ),
    17: Item(
        "a server that is not there is named, in time; no password in any message",
        ("ServerSuite.test_17_a_server_that_is_not_there",),
    ),
    18: Item(
        "readers together, writers alone, a queued writer keeps new readers out; upgrades",
        (
            "ServerSuite.test_18_readers_together_writers_alone",
            "ServerSuite.test_18_upgrades_work_or_are_refused_clearly", "RWLockSuite.test_a_crowd",
        ),
    ),
    19: Item(
        "so many permits and no more; a crash gives one back; another number is refused",
        ("ServerSuite.test_19_so_many_permits_and_no_more", "SemaphoreSuite.test_another_number_is_refused"),
    ),
    20: Item(
        "re-entrance as declared",
        ("LockSuite.test_reentrant", "LockSuite.test_waiting_for_oneself_is_a_deadlock"),
    ),
    21: Item(
        "names are distinct, whatever is in them, and so are namespaces",
        ("ServerSuite.test_21_names_are_distinct",),
    ),
    22: Item(
        "a forked child has nothing and frees nothing",
        ("ProcessSuite.test_a_forked_child_has_nothing_and_frees_nothing",),
    ),
    23: Item("locks can be pickled, holds not", ("LockSuite.test_locks_can_be_pickled_and_holds_not",)),
    24: Item(
        "a hold that is forgotten warns, and is released or runs out",
        ("ServerSuite.test_24_a_hold_that_is_forgotten", "LockSuite.test_a_dropped_hold_is_released_with_a_warning"),
    ),
    25: Item("a thousand locks by a bounded number of connections", ("ServerSuite.test_25_a_thousand_locks",)),
    26: Item("the wall clock is set by an hour under a holder", ("ServerSuite.test_26_the_wall_clock_is_set",)),
    27: Item(
        "threads, tasks and other versions of Python on one lock",
        ("ServerSuite.test_27_other_versions_of_python", "MixedSuite.test_each_waits_for_each"),
    ),
    28: Item(
        "the same application by changing only the target",
        ("engines/test_application.py::test_the_application",),
    ),
}  # fmt: skip
