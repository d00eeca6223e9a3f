"""Read-write locks, semaphores and names, over processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from . import acts
from .crew import WORLDS, Crew, MemberError, acquire, release, try_acquire
from .served import Served, ServedSuite

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    "plain", "Plain", "PLAIN", "two words", " two words", "two  words", "a/b", "a/b/", "/a/b", "{a}b", "{a}", "%61",
    "a", "%", "ä", "a\u0308", "Ä", "锁", "🔒", "*", "?", "[a]", "..", "a\tb", "a\nb", "'", '"; drop', "x" * 1000,
    "x" * 999 + "y",
]  # fmt: skip


class Kinds(ServedSuite):
    def test_18_readers_together_writers_alone(self, served: Served, crew: Crew, name: str) -> None:
        self.need("rwlock" in self.traits(served).abilities, "no read-write locks")
        target, options = served.target(name), self.options(served)
        readers = [crew.hire(world) for world in WORLDS]
        for each in readers:
            each.do(acts.read, target, "read", 5.0, options)
        writer, late = crew.hire("asyncio"), crew.hire("trio")
        with pytest.raises(MemberError, match="Timeout"):
            writer.do(acts.read, target, "write", 0.1, options)
        late.do(acts.read, target, "read", 5.0, options)  # a writer that gave up bars nobody
        late.do(release, "read")
        writing = writer.begin(acts.read, target, "write", None, options)
        self.until(lambda: self._shut(served, late, target), "that a waiting writer keeps new readers out")
        reading = late.begin(acts.read, target, "read", None, options)
        assert not writing.done()
        assert not reading.done()
        for each in readers[:2]:
            each.do(release, "read")
        readers[2].kill()  # a reader that dies is as good as one that releases
        at = writing.result(self.within(served) + 20)
        time.sleep(0.05)
        assert not reading.done()
        writer.do(release, "write")
        assert reading.result() > at
        late.do(release, "read")

    def _shut(self, served: Served, member: object, target: str) -> bool:
        try:
            member.do(acts.read, target, "read", 0.05, self.options(served))  # type: ignore[attr-defined]
        except MemberError as error:
            assert error.kind == "Timeout", error
            return True
        member.do(release, "read")  # type: ignore[attr-defined]
        return False

    def test_18_upgrades_work_or_are_refused_clearly(self, served: Served, crew: Crew, name: str) -> None:
        self.need("rwlock" in self.traits(served).abilities, "no read-write locks")
        options = self.options(served)
        for mine, its, target in self.everywhere(served, name):
            one, two = crew.hire(mine), crew.hire(its)
            try:
                one.do(acts.read, target, "update", 5.0, options)
            except MemberError as error:
                assert error.kind == "UnsupportedError", error
                continue
            two.do(acts.read, target, "read", 5.0, options)
            with pytest.raises(MemberError, match="Timeout"):
                one.do(upgrade, 0.1)
            two.do(release, "read")
            one.do(upgrade, 5.0)
            with pytest.raises(MemberError, match="Timeout"):
                two.do(acts.read, target, "read", 0.1, options)
            one.do(release, "update")

    def test_19_so_many_permits_and_no_more(self, served: Served, crew: Crew, name: str, tmp_path: Path) -> None:
        self.need("semaphore" in self.traits(served).abilities, "no semaphores")
        target, options = served.target(name), self.options(served)
        members = [crew.hire(WORLDS[number % 3]) for number in range(6)]
        working = [each.begin(acts.pool, target, 3, str(tmp_path), 15, options) for each in members]
        done = [each.result(60) for each in working]
        assert sum(collisions for collisions, _ in done) == 0
        assert max(most for _, most in done) <= 3
        slots = sorted(each.do(acts.take, target, 3, 5.0, options) for each in members[:3])
        assert slots == [0, 1, 2]
        with pytest.raises(MemberError, match="Timeout"):
            members[3].do(acts.take, target, 3, 0.1, options)
        with pytest.raises(MemberError, match="ProtocolError"):
            members[3].do(acts.take, target, 4, 0.1, options)
        waiting = members[3].begin(acts.take, target, 3, None, options)
        killed = time.monotonic()
        members[0].kill()
        assert waiting.result(self.within(served) + 20) in slots
        assert time.monotonic() - killed <= self.within(served) + 1.0
        for each in members[1:4]:
            each.do(release, "permit")

    def test_21_names_are_distinct(self, served: Served, crew: Crew, name: str) -> None:
        one, two = crew.hire(), crew.hire("asyncio")
        targets = [served.target(f"{name}{each}") for each in NAMES]
        assert len(set(targets)) == len(NAMES)
        one.do(acts.hold_many, targets, self.options(served), patience=60)
        for target in targets:
            self.taken(served, two, target)
        elsewhere = served.elsewhere(f"{name}{NAMES[0]}")
        if elsewhere is not None:
            assert two.do(try_acquire, elsewhere, "", self.options(served)) is not None, "namespaces collide"
            two.do(release, elsewhere)
        for target in targets:
            one.do(release, target)
        assert two.do(acquire, targets[-1], 5.0, "", self.options(served)).token > 0
        two.do(release, targets[-1])


async def upgrade(desk: object, timeout: float) -> None:
    hold = desk.holds["update"]  # type: ignore[attr-defined]
    await desk.call(hold, "upgrade", timeout)  # type: ignore[attr-defined]
