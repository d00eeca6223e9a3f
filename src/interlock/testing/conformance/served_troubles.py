"""Servers that restart, hang or are gone, networks that fail, clocks that are set."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from . import acts
from .crew import WORLDS, Crew, MemberError, acquire, look, release, try_acquire
from .served import GRACE, Served, ServedSuite

if TYPE_CHECKING:
    from ..proxy import Proxy
    from .crew import Member

_CLOCK = """
import sys, time
from interlock import Lock
hold = Lock(sys.argv[1], ttl=float(sys.argv[2]) or None).acquire()
print(hold.token, flush=True)
for line in sys.stdin:
    print(bool(hold.lost), int(time.time()), flush=True)
"""


class Troubles(ServedSuite):
    def _through(self, served: Served, crew: Crew, name: str) -> list[tuple[Member, str, str, Proxy]]:
        """In each world one that holds through a network of its own: (member, its target, others' target, network)."""
        self.need_server(served)
        holders = []
        for mine, _, target in self.everywhere(served, name):
            network = self.network(served)
            own = served.target(f"{name} {mine}", network.port)
            member = crew.hire(mine)
            member.do(acquire, own, None, "", self.options(served))
            holders.append((member, own, target, network))
        return holders

    def test_14_cut_off_is_known_before_others_get_it(self, served: Served, crew: Crew, name: str) -> None:
        """A network that drops everything. Of a lease, the holder knows by its own clock, in time."""
        lease = self.traits(served).family == "lease"
        holders = self._through(served, crew, name)
        try:
            waits = []
            for number, (one, own, target, _) in enumerate(holders):
                one.do(acts.told, own)
                two = crew.hire(WORLDS[(number + 1) % 3])
                waits.append((two, self.waiting(served, two, target)))
                self.queued(served, target, 1)
            patience = (served.ttl or served.notices) + GRACE
            for *_, network in holders:
                network.drop()
            seen = [one.begin(acts.until_lost, own, patience + 5) for one, own, _, _ in holders]
            dropped = time.monotonic()
            for (one, own, target, network), looking, (two, waiting) in zip(holders, seen, waits, strict=True):
                lost = looking.result(patience + 20)
                assert lost, f"{one} did not notice that it was cut off"
                assert lost - dropped <= patience
                self.until(lambda: one.do(acts.when_told, own), "the news of the loss", 5.0)  # noqa: B023
                if not lease:
                    network.cut()  # until then the server knows as little as the holder knew
                grant = waiting.result(self.within(served) + 20)
                assert grant.got >= lost, "given to another while the holder believed that it had it"
                network.heal()
                one.do(acts.try_release, own)
                assert two.do(look, target) == (True, "")
                self.taken(served, one, target)
        finally:
            for *_, network in holders:
                network.close()

    def test_14_a_server_that_hangs(self, served: Served, crew: Crew, name: str) -> None:
        self.need_server(served)
        holders = []
        for mine, _, target in self.everywhere(served, name):
            member = crew.hire(mine)
            member.do(acquire, target, None, "", self.options(served))
            holders.append((member, target))
        patience = (served.ttl or served.notices) + GRACE
        served.suspend()
        try:
            stopped = time.monotonic()
            seen = [member.begin(acts.until_lost, target, patience + 5) for member, target in holders]
            for looking in seen:
                lost = looking.result(patience + 20)
                assert lost
                assert lost - stopped <= patience
        finally:
            served.resume()
        for member, target in holders:
            member.do(acts.try_release, target)
            assert member.do(acquire, target, 20.0, "", self.options(served), patience=40).token is not None
            member.do(release, target)

    def test_15_the_server_is_restarted(self, served: Served, crew: Crew, name: str) -> None:
        """Holds are kept or lost, as declared, and never silently; waiters get it in the end."""
        self.need_server(served)
        kept = self.traits(served).restart.startswith("kept")
        options = self.patient(served) if kept else self.options(served)
        assert self.traits(served).restart.split()[0].strip(",:") in ("kept", "lost", "released")
        holders = []
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            token = one.do(acquire, target, None, "", options).token
            waiting = self.waiting(served, two, target, options)
            self.queued(served, target, 1)
            holders.append((one, two, target, waiting, token))
        served.restart()
        patience = (served.ttl or served.notices) + GRACE
        if kept:
            time.sleep(1.0)
        seen = [one.begin(acts.until_lost, target, patience) for one, _, target, _, _ in holders if not kept]
        for number, (one, two, target, waiting, token) in enumerate(holders):
            if kept:
                assert one.do(look, target) == (True, "")
                assert not waiting.done()
                one.do(release, target)
            else:
                assert seen[number].result(patience + 20), f"{one} holds on to what is gone"
                one.do(acts.try_release, target)
            try:
                grant = waiting.result(self.within(served) + 20)
            except MemberError as error:  # told that the server was away: as good as a grant, but it must be said so
                assert error.kind in ("EngineError", "LostError"), error
                grant = two.do(acquire, target, 20.0, "", options)
            assert grant.token > token
            two.do(release, target)

    def test_15_connections_are_reset(self, served: Served, crew: Crew, name: str) -> None:
        """While holding: kept, or lost and told. While waiting: it goes on. While releasing: free, sooner or later."""
        lease = self.traits(served).family == "lease"
        holders = self._through(served, crew, name)
        patience = (served.ttl or served.notices) + GRACE
        try:
            for *_, network in holders:
                network.cut()
            for number, (one, own, target, network) in enumerate(holders):
                other = crew.hire(WORLDS[(number + 1) % 3])
                if lease:
                    self.taken(served, other, target)
                    assert one.do(look, own) == (True, "")
                else:
                    assert one.do(acts.until_lost, own, patience), "a silent hold after a reset"
                network.cut()
                one.begin(acts.try_release, own).result(patience + 20)
                self.free(served, other, target)
                # and a waiter whose connection is reset
                other.do(acquire, target, None, "", self.options(served))
                waiting = self.waiting(served, one, own)
                self.queued(served, target, 1)
                network.cut()
                time.sleep(0.05)
                other.do(release, target)
                try:
                    assert waiting.result(self.within(served) + 20).token is not None
                except MemberError as error:
                    assert error.kind == "EngineError", error
                    one.do(acquire, own, 20.0, "", self.options(served))
                self.taken(served, other, target)
                one.do(release, own)
        finally:
            for *_, network in holders:
                network.close()

    def test_16_the_answer_to_an_acquire_is_lost(self, served: Served, crew: Crew, name: str) -> None:
        """The server has granted it and nobody was told: the next attempt must not wait for itself, nor be a second
        holder."""
        self.need_server(served)
        for mine, its, target in self.everywhere(served, name):
            with self.network(served) as network:
                one, two = crew.hire(mine), crew.hire(its)
                own = served.target(f"{name} {mine}", network.port)
                warm = served.target(f"{name} {mine} warm", network.port)
                one.do(acquire, warm, None, "", self.options(served))
                one.do(release, warm)
                network.lose_answers()
                getting = one.begin(acquire, own, 10.0, "", self.options(served))
                self.until(lambda: network.lost, "a lost answer")
                network.heal()
                try:
                    getting.result(30)
                    got = True
                except MemberError as error:
                    assert error.kind == "EngineError", error
                    got = False
                if got:
                    self.taken(served, two, target)
                    one.do(release, own)
                self.free(served, two, target)
                one.do(acquire, own, 20.0, "", self.options(served))
                one.do(release, own)

    @pytest.mark.parametrize("world", WORLDS)
    def test_17_a_server_that_is_not_there(self, served: Served, crew: Crew, name: str, world: str) -> None:
        self.need_server(served)
        with self.network(served) as network:
            network.refuse()
            target = served.target(name, network.port, "tester:sesame")
            began = time.monotonic()
            with pytest.raises(MemberError) as caught:
                crew.hire(world).do(acquire, target, None, "", self.options(served), patience=60)
            assert time.monotonic() - began < 40
            assert caught.value.kind == "EngineError", caught.value
            said = str(caught.value)
            assert f"{served.host}:{network.port}" in said
            assert self.engine in said.lower()
            assert "sesame" not in said

    def test_26_the_wall_clock_is_set(self, served: Served, crew: Crew, name: str, tmp_path: object) -> None:
        """An hour forward and an hour back, under a holder: it neither loses it early nor keeps it late."""
        library = _faketime()
        stamp = os.path.join(str(tmp_path), "clock")
        other, target = crew.hire(), served.target(name)

        def set_clock(offset: str) -> None:
            with open(stamp, "w") as file:
                file.write(offset)

        set_clock("+0")
        environment = {
            **os.environ, "FAKETIME_TIMESTAMP_FILE": stamp, "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": library,
        }  # fmt: skip
        holder = subprocess.Popen(
            [sys.executable, "-c", _CLOCK, target, str(served.ttl or 0)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert int(holder.stdout.readline()) > 0
            moved = []
            for offset in ("+3600", "-3600", "+0"):
                set_clock(offset)
                time.sleep((served.ttl or 1.0) / 2)
                self.taken(served, other, target)
                holder.stdin.write("look\n")
                holder.stdin.flush()
                lost, clock = holder.stdout.readline().split()
                assert lost == "False", f"lost when the clock was set by {offset} s"
                moved.append(int(clock) - int(time.time()))
            assert moved[0] > 3500, "the clock was not set"
            assert moved[1] < -3500
        finally:
            holder.kill()
            holder.communicate()
        self.free(served, other, target)
        assert other.do(try_acquire, target, "", self.options(served)) is not None
        other.do(release, target)


def _faketime() -> str:
    for pattern in ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1"):
        for found in glob.glob(pattern):
            return found
    reason = "needs libfaketime (the Debian package of that name)"
    if os.environ.get("INTERLOCK_REQUIRE_ALL"):
        pytest.fail(reason + ", and INTERLOCK_REQUIRE_ALL is set")
    pytest.skip(reason)
