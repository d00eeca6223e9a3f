"""The queue on ZooKeeper, without a server: names, and upgrades in all interleavings, read from servers that lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from interlock.engines.zookeeper.entries import Queue

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_the_order_is_that_of_the_numbers() -> None:
    queue = Queue(["w-bb-0000000010", "r-aa-0000000002", "slot-3", "as-r.bb", "something else", "p3-cc-0000000001"])
    assert [entry.guid for entry in queue.entries] == ["cc", "aa", "bb"]
    assert [entry.mode for entry in queue.entries] == ["write", "read", "read"]
    assert [entry.permits for entry in queue.entries] == [3, 0, 0]
    assert queue.slots == {3}


def test_the_order_goes_on_where_the_servers_counter_wraps() -> None:
    queue = Queue(["w-cc--2147483648", "w-aa-2147483646", "w-dd--2147483647", "w-bb-2147483647"])
    assert [entry.guid for entry in queue.entries] == ["aa", "bb", "cc", "dd"]
    queue = Queue(["w-bb-0000000000", "w-aa--000000001"])
    assert [entry.guid for entry in queue.entries] == ["aa", "bb"]


def test_the_weakest_mode_that_was_announced_counts_except_for_an_upgrade() -> None:
    for announced, mode in (("as-u.aa", "update"), ("as-u.aa as-r.aa", "read"), ("as-r.aa as-w.aa", "write")):
        (entry,) = Queue(["w-aa-0000000001", *announced.split()]).entries
        assert entry.mode == mode


@pytest.mark.parametrize("others", ["r", "rr", "wr", "wu"])
@pytest.mark.parametrize("back", [False, True])
def test_upgrades_exclude_and_nobody_waits_for_ever(others: str, back: bool) -> None:
    """One upgrades, beside others of whom writers may give up at any moment; each reads what some server knows."""
    contenders = tuple(Contender(kind, f"g{number}") for number, kind in enumerate(("U" if back else "X", *others)))
    explored = explore(contenders)
    assert explored.ends > 0
    assert explored.upgraded > 0
    assert explored.states > 100


def test_an_upgrade_that_does_not_look_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exploration finds what it is for."""
    monkeypatch.setattr(f"{__name__}.PLANTED", True)
    with pytest.raises(AssertionError, match="together"):
        explore((Contender("X", "g0"), Contender("w", "g1"), Contender("r", "g2")))


# ---- the exploration

PLANTED = False
"""A bug: what the upgrade announced is believed without another look."""


class Contender(NamedTuple):
    """`kind`: the letter of its entry; X updates, upgrades and leaves; U goes back to reading before it leaves."""

    kind: str
    guid: str
    step: str = "new"
    waits: str = ""
    seen: int = 0
    """The oldest state of the servers that it can still read."""

    def at(self, step: str, seen: int, waits: str = "") -> Contender:
        return self._replace(step=step, seen=seen, waits=waits)

    @property
    def letter(self) -> str:
        return "u" if self.kind in "XU" else self.kind

    def holds(self) -> str:
        """What it believes to hold."""
        if self.step in ("holding", "marked", "announced", "drawing back", "waiting to write"):
            return self.letter
        return {"writing": "w", "reading": "r"}.get(self.step, "")


class World(NamedTuple):
    """`log`: all states of the servers that anybody can still read; the last one is the present."""

    contenders: tuple[Contender, ...]
    log: tuple[frozenset[str], ...]
    number: int

    def after(self, who: int, contender: Contender, state: frozenset[str] | None = None, number: int = 0) -> World:
        contenders = (*self.contenders[:who], contender, *self.contenders[who + 1 :])
        log = self.log if state is None else (*self.log, state)
        oldest = min((each.seen for each in contenders if each.step != "gone"), default=len(log) - 1)
        moved = tuple(each._replace(seen=max(each.seen - oldest, 0)) for each in contenders)
        return World(moved, log[oldest:], self.number + number)


def own(contender: Contender, state: frozenset[str], kind: str = "") -> str:
    """The name of its entry, or of its upgrade's mark."""
    return next((name for name in state if name.startswith(f"{kind or contender.letter}-{contender.guid}-")), "")


def made(world: World, who: int, name: str, step: str) -> World:
    contender = world.contenders[who]
    return world.after(who, contender.at(step, len(world.log)), world.log[-1] | {name}, 1)


def removed(world: World, who: int, name: str, step: str) -> World:
    contender = world.contenders[who]
    return world.after(who, contender.at(step, len(world.log)), world.log[-1] - {name}, 0)


def steps(world: World, who: int) -> Iterator[World]:
    """What this contender may do next; one for each state that it may read."""
    me, now = world.contenders[who], world.log[-1]
    step = me.step
    if step == "new":
        yield made(world, who, f"{me.letter}-{me.guid}-{world.number:010d}", "entered")
    elif step in ("entered", "waiting"):
        if me.kind == "w":  # it may give up
            yield removed(world, who, own(me, now), "gone")
        if step == "entered" or me.waits not in now:
            for index in range(me.seen, len(world.log)):
                queue = Queue(world.log[index])
                mine = next(entry for entry in queue.entries if entry.guid == me.guid)
                blocker = queue.blocker(mine)
                yield world.after(who, me.at("waiting" if blocker else "holding", index, blocker))
    elif step == "holding":
        if me.kind in "XU":
            yield made(world, who, f"x-{me.guid}-{world.number:010d}", "marked")
        else:
            yield removed(world, who, own(me, now), "gone")
    elif step in ("marked", "announced", "waiting to write"):
        if step != "waiting to write" or me.waits not in now:
            for index in range(me.seen, len(world.log)):
                yield looked(world, who, index)
    elif step == "announcing":
        yield made(world, who, f"as-w.{me.guid}", "writing" if PLANTED else "announced")
    elif step == "drawing back":
        yield world.after(who, me.at("waiting to write", len(world.log), me.waits), now - {f"as-w.{me.guid}"})
    elif step == "writing" and me.kind == "U":
        yield made(world, who, f"as-r.{me.guid}", "downgrading")
    elif step == "downgrading":
        yield removed(world, who, f"as-w.{me.guid}", "unmarking")
    elif step == "unmarking":
        yield removed(world, who, own(me, now, "x"), "reading")
    elif step in ("writing", "reading"):
        yield removed(world, who, own(me, now), "leaving")
    elif step == "leaving":
        left = sorted(name for name in now if me.guid in name)
        yield removed(world, who, left[-1], "leaving") if left else world.after(who, me.at("gone", 0))


def looked(world: World, who: int, index: int) -> World:
    me, state = world.contenders[who], world.log[index]
    queue = Queue(state)
    marker = next(entry for entry in queue.entries if entry.kind == "x" and entry.guid == me.guid)
    hindrance = queue.hinders_upgrade(marker)
    if me.step == "announced":
        return world.after(who, me.at("drawing back" if hindrance else "writing", index, hindrance))
    return world.after(who, me.at("waiting to write" if hindrance else "announcing", index, hindrance))


def together(one: str, other: str) -> bool:
    return "w" not in (one, other) and "r" in (one, other)


class Explored(NamedTuple):
    states: int
    ends: int
    upgraded: int


def explore(contenders: tuple[Contender, ...]) -> Explored:
    """All that may happen. Fails if two hold what does not go together, or if some wait and none can go on."""
    start = World(contenders, (frozenset(),), 1)
    known, todo = {start}, [start]
    ends = upgraded = 0
    while todo:
        world = todo.pop()
        held = [each.holds() for each in world.contenders]
        upgraded += "w" in held[:1]
        for number, mode in enumerate(held):
            for other in held[number + 1 :]:
                assert not mode or not other or together(mode, other), f"together: {world}"
        following = [each for who in range(len(contenders)) for each in steps(world, who)]
        if not following:
            assert all(each.step == "gone" for each in world.contenders), f"they wait for ever: {world}"
            ends += 1
        for each in following:
            if each not in known:
                known.add(each)
                todo.append(each)
    return Explored(len(known), ends, upgraded)
