"""The errno matrix of `transform`, `publish` and `once`: part of `python -m tests.faults.matrix`.

After each fault: the file is the old one or the new one, whole, and the new one if the verb said so; nothing is raised
but what is documented; the lock beside it is free; no descriptor is left; the next call succeeds, and after that
nothing is in the directory that an undisturbed run would not leave.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .gate import Fault, Gate, Site, gate, real_close, real_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .matrix import Failure, Row, World
    from .subjects import Referee

OLD, NEW = b"old" * 100, b"new" * 100


def _transform(path: str) -> bool:
    from interlock import transform

    return transform(path, lambda content: NEW, timeout=20) == NEW


def _publish(path: str) -> bool:
    from interlock import publish

    return publish(path, NEW)


def _build(place: Path) -> None:
    on, gate.on = gate.on, False
    fd = real_open(place, os.O_WRONLY | os.O_CREAT)
    os.write(fd, NEW)
    real_close(fd)
    gate.on = on


def _once(path: str) -> bool:
    from interlock import once

    return once(path, _build, timeout=20)


VERBS: dict[str, tuple[Callable[[str], bool], bool]] = {  # and is there an old file?
    "transform": (_transform, True),
    "transform, new file": (_transform, False),
    "publish": (_publish, False),
    "once": (_once, False),
}


def content(path: str) -> bytes | None:
    try:
        fd = real_open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096)
    finally:
        real_close(fd)


def once(name: str, referee: Referee, begin: Callable[[Gate], None], fault: Fault | None) -> tuple[World, list[str]]:
    from .matrix import World, descriptors, leaked, undocumented

    verb, there = VERBS[name]
    world = World(referee)
    path = os.path.join(world.directory, "file")
    if there:
        fd = real_open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, OLD)
        real_close(fd)
    problems = []
    before = descriptors()
    begin(gate)
    done = False
    try:
        done = verb(path)
    except Exception as error:  # noqa: BLE001 - judged
        gate.heal()
        problem = undocumented(error, fault, path)
        if problem:
            problems.append(f"5: {problem}")
    gate.heal()
    found = content(path)
    if found not in ((NEW,) if done else (NEW, OLD if there else None)):
        problems.append(f"1: the file is {found!r}")
    if name != "publish" and not referee.could_take("flock", path + ".lock", 20.0):
        problems.append("6: the lock is not free")
    try:
        verb(path)
    except Exception as error:  # noqa: BLE001 - noted
        problems.append(f"6: the next call: {type(error).__name__}: {error}")
    if content(path) != NEW:
        problems.append("6: the next call did nothing")
    left = leaked(before, world)
    if left:
        problems.append(f"2: descriptors leak: {left}")
    return world, problems


def measure(name: str, referee: Referee, every: int) -> tuple[Row, list[Failure]]:
    from .matrix import Failure, Row, cases

    sites: dict[Site, int] = {}
    names: set[str] = set()
    for _ in range(3):
        world, problems = once(name, referee, Gate.record, None)
        assert not problems, problems
        for site, count in gate.counts.items():
            sites[site] = max(count, sites.get(site, 0))
        names |= world.names()
        world.close()
    failures, done = [], 0
    for turn, fault in enumerate(cases(sites)):
        if turn % every:
            continue
        world, problems = once(name, referee, lambda each: each.inject(fault), fault)  # noqa: B023 - called at once
        done += gate.hit
        extra = world.names() - names
        if extra:
            problems.append(f"4: files stay: {sorted(extra)}")
        if problems:
            failures.append(Failure(name, "", fault, problems))
        world.close()
    return Row(name, len(sites), done, len(failures)), failures
