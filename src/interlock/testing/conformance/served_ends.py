"""Contenders on a server that are killed, stopped, forgotten, or outlive their ttl."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from . import acts
from .crew import WORLDS, Crew, acquire, look, release, try_acquire
from .served import GRACE, Served, ServedSuite

if TYPE_CHECKING:
    from .crew import Member, Pending

_EXITS = """
import sys
from interlock import Lock
ttl = float(sys.argv[2])
hold = Lock(sys.argv[1], ttl=ttl or None).acquire()
print("held", flush=True)
sys.exit(0)
"""


class Ends(ServedSuite):
    def _pairs(self, served: Served, crew: Crew, name: str) -> list[tuple[Member, Member, str, Pending, int | None]]:
        """In each world one that holds, with one of the next world that waits."""
        pairs = []
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            token = one.do(acquire, target, None, "", self.options(served)).token
            waiting = self.waiting(served, two, target)
            self.queued(served, target, 1)
            pairs.append((one, two, target, waiting, token))
        return pairs

    def test_06_tokens_rise_over_processes_and_crashes(self, served: Served, crew: Crew, name: str) -> None:
        """After releases, after kills, after an expiry."""
        told: dict[str, list[int]] = {}
        last = []
        for mine, its, target in self.everywhere(served, name):
            tokens = told.setdefault(target, [])
            for world in (mine, its, mine):
                member = crew.hire(world)
                tokens.append(member.do(acquire, target, 30.0, "", self.options(served)).token)
                if len(tokens) < 3:
                    member.do(release, target)
            member.kill()
            last.append((target, self.waiting(served, crew.hire(its), target)))
        for target, waiting in last:
            tokens = [*told[target], waiting.result(self.within(served) + 20).token]
            assert all(earlier < later for earlier, later in pairwise(tokens)), tokens

    def test_09_a_holder_is_killed(self, served: Served, crew: Crew, name: str) -> None:
        pairs = self._pairs(served, crew, name)
        for one, *_ in pairs:
            one.process.kill()
        killed = time.monotonic()
        for one, two, target, waiting, token in pairs:
            one.kill()
            grant = waiting.result(self.within(served) + 20)
            assert grant.got - killed <= self.within(served), f"{two}: {grant.got - killed:.2f} s"
            assert grant.token > token
            two.do(release, target)

    def test_10_a_holder_is_stopped_beyond_its_ttl(self, served: Served, crew: Crew, name: str) -> None:
        pairs = self._pairs(served, crew, name)
        for one, *_ in pairs:
            one.stop()
        lease = self.traits(served).family == "lease"
        if not lease:
            time.sleep(2.0)
        for one, two, target, waiting, token in pairs:
            if lease:
                grant = waiting.result(self.within(served) + 20)
                assert grant.token > token
            else:
                assert not waiting.done(), "a frozen holder lost what its session keeps"
            action = one.begin(acts.guarded, target)
            one.go_on()
            if lease:
                assert action.result() != "", "the old holder did not see that it had lost"
                one.do(acts.try_release, target)
                self.taken(served, one, target)
                assert two.do(look, target) == (True, "")
            else:
                assert action.result() == ""
                one.do(release, target)
                waiting.result()
            two.do(release, target)

    def test_11_a_waiter_is_killed_in_the_queue(self, served: Served, crew: Crew, name: str) -> None:
        pairs = self._pairs(served, crew, name)
        behind = []
        for number, (_, _, target, _, _) in enumerate(pairs):
            three = crew.hire(WORLDS[(number + 2) % 3])
            behind.append((three, self.waiting(served, three, target)))
            self.queued(served, target, 2)
        for one, two, target, _, _ in pairs:
            two.kill()
            one.do(release, target)
        released = time.monotonic()
        for (three, waiting), (_, _, target, _, token) in zip(behind, pairs, strict=True):
            grant = waiting.result(self.within(served) + 20)
            assert grant.token > token
            assert grant.got - released <= self.within(served)
            three.do(release, target)

    def test_13_a_hold_is_renewed_until_it_is_released(self, served: Served, crew: Crew, name: str) -> None:
        three_times = 3 * (served.ttl or 0.5)
        before = served.residue()
        pairs = []
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            one.do(acquire, target, None, "", self.options(served))
            pairs.append((one, two, target))
        limit = time.monotonic() + three_times
        while time.monotonic() < limit:
            for _, two, target in pairs:
                self.taken(served, two, target)
            time.sleep(0.1)
        for one, two, target in pairs:
            assert one.do(look, target) == (True, "")
            one.do(release, target)
            self.free(served, two, target, within=GRACE)
        time.sleep((served.ttl or 0.0) / 3)  # a renewal that was under way would bring it back
        self.same_residue(served, before)

    def test_13_an_interpreter_that_holds_can_exit(self, served: Served, crew: Crew, name: str) -> None:
        target = served.target(name)
        began = time.monotonic()
        command = [sys.executable, "-c", _EXITS, target, str(served.ttl or 0)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "held\n"), done.stderr
        assert time.monotonic() - began < 40
        self.free(served, crew.hire(), target)

    def test_24_a_hold_that_is_forgotten(self, served: Served, crew: Crew, name: str) -> None:
        """It warns, and is released or runs out."""
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            one.do(acquire, target, None, "", self.options(served))
            assert one.do(acts.drop, target) == 1
            self.free(served, two, target)

    def test_25_a_thousand_locks(self, served: Served, crew: Crew, name: str) -> None:
        """By so many connections as are documented; and a crash leaves nothing but what expires."""
        self.need_server(served)
        before = served.residue()
        targets = [served.target(f"{name} {number}") for number in range(1000)]
        one = crew.hire()
        connections = one.do(acts.hold_many, targets, self.options(served), patience=120)
        assert connections <= served.most_connections, f"{connections} connections for 1,000 locks"
        assert len(served.residue() - before) >= 1
        other = crew.hire("asyncio")
        for target in targets[::250]:
            self.taken(served, other, target)
        one.kill()
        limit = time.monotonic() + self.within(served) + 10
        while left := served.residue() - before:
            assert time.monotonic() < limit, f"a crash left {len(left)} behind"
            time.sleep(0.2)
        assert other.do(try_acquire, targets[0], "", self.options(served)) is not None
        other.do(release, targets[0])
