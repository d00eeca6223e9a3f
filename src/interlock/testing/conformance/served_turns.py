"""Contenders on a server that all live: attempts, timeouts, exclusion, order, the speed of waking, cancellation."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from . import acts
from .crew import WORLDS, Crew, MemberError, acquire, release, try_acquire
from .served import Served, ServedSuite

if TYPE_CHECKING:
    from pathlib import Path

HANDOFF = 0.25
"""Seconds, at the median, where a waiter is woken by an event."""


class Turns(ServedSuite):
    def test_01_who_holds_keeps_others_out_until_the_release(self, served: Served, crew: Crew, name: str) -> None:
        options = self.options(served)
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            first = one.do(acquire, target, None, "", options)
            self.taken(served, two, target)
            with pytest.raises(MemberError, match="KeyError"):
                two.do(release, target)  # it has nothing to release
            one.do(release, target)
            second = two.do(acquire, target, None, "", options)
            assert second.token > first.token
            assert one.do(acts.count, f"{target}-", "/dev/null", 0, options).times == []
            self.taken(served, one, target)
            two.do(release, target)

    def test_02_an_attempt_leaves_nothing_behind(self, served: Served, crew: Crew, name: str) -> None:
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            one.do(acquire, target, None, "", self.options(served))
            before = served.residue()
            opened = two.do(acts.tries, target, 20, self.options(served))
            assert opened[-1] <= opened[0] + 1, "attempts leave connections open"
            self.same_residue(served, before)
            one.do(release, target)

    def test_03_a_timeout_is_kept_and_leaves_nothing_behind(self, served: Served, crew: Crew, name: str) -> None:
        for mine, its, target in self.everywhere(served, name):
            one, two, three = crew.hire(mine), crew.hire(its), crew.hire(mine)
            one.do(acquire, target, None, "", self.options(served))
            before = served.residue()
            waits = []
            for _ in range(10):  # a busy machine may be late, but not each time
                waits.append(two.do(acts.timed_out, target, 0.3, self.options(served)))
                if waits[-1] < 0.4:
                    break
            assert min(waits) >= 0.3
            assert min(waits) < 0.4
            self.same_residue(served, before)
            waiting = self.waiting(served, three, target)
            self.queued(served, target, 1)
            at = one.do(release, target)
            assert waiting.result().got - at < self.within(served)
            three.do(release, target)

    def test_04_processes_count_together(self, served: Served, crew: Crew, name: str, tmp_path: Path) -> None:
        """And none gets less than half of its share, where order is promised."""
        times, path, target = served.increments, str(tmp_path / "counter"), served.target(name)
        members = [crew.hire(WORLDS[number % 3]) for number in range(8)]
        gate = crew.hire()
        gate.do(acquire, target, None, "", self.options(served))
        counting = [each.begin(acts.count, target, path, times, self.options(served)) for each in members]
        self.queued(served, target, 8)
        gate.do(release, target)
        counted = [each.result(120) for each in counting]
        assert acts.Register(path).read() == 8 * times
        assert sum(each.overlaps for each in counted) == 0
        holds = sorted((at, token) for each in counted for at, token in zip(each.times, each.tokens, strict=True))
        tokens = [token for _, token in holds]
        assert all(earlier < later for earlier, later in pairwise(tokens)), "tokens went back"
        if self.traits(served).fair == "fifo":
            first_done = min(each.times[-1] for each in counted)
            shares = [sum(at <= first_done for at in each.times) for each in counted]
            assert min(shares) >= 0.5 * statistics.mean(shares), shares

    def test_05_threads_tasks_and_clients_of_one_process_count_together(
        self, served: Served, crew: Crew, name: str, tmp_path: Path
    ) -> None:
        """Two locks of different ttl are two clients to the server, in one process."""
        targets = [served.target(name)]
        several = [self.options(served)]
        if served.ttl is not None:
            several.append({"ttl": served.ttl + 1.0})
        path = str(tmp_path / "counter")
        parts = [("blocking", 8, 6), ("asyncio", 50, 2), ("trio", 50, 2)]
        counting = [
            crew.hire(world).begin(acts.count_together, targets, path, number, times, several)
            for world, number, times in parts
        ]
        counted = [each.result(120) for each in counting]
        assert acts.Register(path).read() == sum(number * times for _, number, times in parts)
        assert sum(each.overlaps for each in counted) == 0
        tokens = [token for each in counted for token in each.tokens]
        assert len(set(tokens)) == len(tokens)

    def test_07_a_release_wakes_the_waiter(self, served: Served, crew: Crew, name: str) -> None:
        self.need(self.traits(served).wait != "naps", "waiters nap")
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            took = []
            one.do(acquire, target, None, "", self.options(served))
            for _ in range(15):
                waiting = self.waiting(served, two, target)
                self.queued(served, target, 1)
                at = one.do(release, target)
                took.append(waiting.result().got - at)
                one, two = two, one
            one.do(release, target)
            assert statistics.median(took) < HANDOFF, f"{mine} to {its}: {statistics.median(took):.4f} s"

    def test_07_waiters_do_not_ask_more_than_once_a_second(self, served: Served, crew: Crew, name: str) -> None:
        self.need_server(served)
        holder = crew.hire()
        networks, waiting, targets = [], [], []
        seconds = 3.0
        try:
            for mine, its, target in self.everywhere(served, name):
                holder.do(acquire, target, None, target, self.patient(served))
                networks.append(self.network(served))
                through = served.target(f"{name} {mine}", networks[-1].port)
                targets.append((target, through))
                waiting.append(self.waiting(served, crew.hire(its), through, self.patient(served)))
                self.queued(served, target, 1)
            time.sleep(0.3)
            began, at = [each.requests for each in networks], time.monotonic()
            time.sleep(seconds)
            asked = [each.requests - before for each, before in zip(networks, began, strict=True)]
            seconds = time.monotonic() - at
            assert max(asked) <= seconds + 1, f"a waiter asked {max(asked)} times in {seconds} s"
            for target, _ in targets:
                holder.do(release, target)
            for each in waiting:
                each.result()
        finally:
            for network in networks:
                network.close()

    def test_08_first_come_first_served(self, served: Served, crew: Crew, name: str) -> None:
        self.need(self.traits(served).fair == "fifo", "no order among processes")
        target, one = served.target(name), crew.hire()
        one.do(acquire, target, None, "", self.options(served))
        members = [crew.hire(WORLDS[number % 3]) for number in range(5)]
        waiting = []
        for number, each in enumerate(members):
            waiting.append(self.waiting(served, each, target))
            self.queued(served, target, number + 1)
        one.do(release, target)
        last = 0.0
        for pending, member in zip(waiting, members, strict=True):
            grant = pending.result()
            assert grant.got > last
            last = time.monotonic()
            member.do(release, target)

    @pytest.mark.parametrize("world", WORLDS)
    def test_12_cancelled_at_random_moments(
        self, served: Served, crew: Crew, name: str, world: str, tmp_path: Path
    ) -> None:
        """Against a rival that takes it and lets it go all the time. Nothing may be left that nobody knows of."""
        target = served.target(name)
        before = served.residue()
        rival, victim, third = crew.hire(), crew.hire(world), crew.hire()
        third.do(acquire, target, None, "", self.options(served))
        third.do(release, target)
        busy = rival.begin(acts.cycles, target, str(tmp_path / "stop"), self.options(served))
        got, missed = victim.do(acts.interrupted, target, 200, 0.01, 12, self.options(served), patience=60)
        assert got + missed >= 200
        assert missed > 0
        (tmp_path / "stop").touch()
        assert busy.result(60) > 0
        self.free(served, third, target, within=self.within(served))
        self.same_residue(served, before)
        assert third.do(try_acquire, target, "", self.options(served)) is not None
        third.do(release, target)
