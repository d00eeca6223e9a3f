"""Four processes over one lock, while everything goes wrong: python -m tests.engines.fight --engine redis

Every second one of them is killed, every five seconds the one that holds is stopped beyond its ttl; a third of the way
the server is killed and started again, and at two thirds a partition cuts it off. The fighters are threads, asyncio
tasks and trio tasks. What they write down goes to the checker in `history`.

    --engine NAME      redis, valkey, postgres, etcd, zookeeper
    --seconds N --seed N
    --locks N          so many at once, each with fighters of its own (1). More kills of a lock are fewer holds of it:
                       one that was killed, also while it waited, is in the way for its ttl
    --kills N          a second (1). Of each second's kills one is aimed at a holder three times out of ten, the others
                       hit anybody
    --rounds N         so many restarts, and as many partitions, spread over the fight (1)
    --network KIND     namespace (needs root and nft), proxy, or auto
    --forgetful        a Redis that keeps nothing over its restart: what the table of promises excuses then is excused
    --plant BUG        to see that it is found: "none" (each fighter has a lock of its own), "deaf" (they do not ask
                       whether they still hold)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import LockError, LostError, NotHeldError, Timeout
from interlock.testing.conformance.crew import WORLDS, Crew

from .backends import BACKENDS, RedisBackend
from .history import Log, judge, now, read, together
from .network import partitionable

if TYPE_CHECKING:
    from interlock.testing.conformance.crew import Desk, Member

    from .backends import Backend
    from .history import Verdict
    from .network import Partition

FIGHTERS = 4


class Plan(NamedTuple):
    """How dense the trouble is."""

    locks: int = 1
    kills: int = 1
    """A second."""
    rounds: int = 1
    """Of a restart and a partition."""


class Rules(NamedTuple):
    """What a fighter is told."""

    target: str
    directory: str
    ttl: float | None
    deaf: bool
    seed: int


class Fought(NamedTuple):
    """What was done, and what came of it."""

    engine: str
    network: str
    seconds: float
    seed: int
    kills: int
    of_holders: int
    stops: int
    restarts: int
    partitions: int
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "verdict": self.verdict._asdict()}


# ---- a fighter


async def fight(desk: Desk, rules: Rules) -> None:
    """Acquire, write with the token, release, until there is a file "stop"."""
    log, dice = Log(rules.directory), random.Random(rules.seed)
    options = {} if rules.ttl is None else {"ttl": rules.ttl}
    lock = desk.lock(rules.target, **options)
    stop = os.path.join(rules.directory, "stop")
    while not os.path.exists(stop):
        try:
            hold = await desk.world.acquire(lock, 2.0)
        except Timeout:
            continue
        except LockError as error:
            log.note("error", now(), type(error).__name__)
            await desk.world.pause(0.02)
            continue
        assert hold.token is not None
        log.note("got", now(), hold.token)
        # now and then longer than a ttl: then it lives on renewals
        writes = dice.choice((1, 2, 3, 4, 20, 20))
        for _ in range(writes):
            asked = now()
            try:
                if not rules.deaf:
                    hold.assert_held()
            except LostError:
                log.note("lost", asked)
                break
            log.write(hold.token, asked)
            log.note("write", asked)
            await desk.world.pause(dice.random() * 0.01 if writes < 20 else 0.03)
        at = now()
        with contextlib.suppress(NotHeldError, LostError, LockError):
            await desk.world.release(hold)
        log.note("released", at)


# ---- the ring


class Ring:
    """Starts the fighters, and does to them and to their server what the rules say."""

    def __init__(
        self, crew: Crew, backend: Backend, network: Partition, directories: list[str], seed: int, plant: str
    ) -> None:
        self.crew, self.backend, self.network, self.directories = crew, backend, network, directories
        self.dice = random.Random(seed)
        self.plant = plant
        self.fighters: dict[Member, str] = {}
        """Each with the directory of its lock."""
        self.hired = self.kills = self.of_holders = self.stops = self.restarts = self.partitions = 0
        self.stopped: tuple[Member, float] | None = None
        self.excused: list[tuple[float, float]] = []

    def hire(self, directory: str) -> None:
        member = self.crew.hire(WORLDS[self.hired % len(WORLDS)])
        lock = self.directories.index(directory)
        name = f"fight {lock}, {self.hired}" if self.plant == "none" else f"fight {lock}"
        target = self.backend.target(name, self.network.port)
        rules = Rules(target, directory, self.backend.ttl, self.plant == "deaf", self.dice.randrange(1 << 30))
        member.begin(fight, rules)
        self.fighters[member] = directory
        self.hired += 1

    def holder(self) -> Member:
        """The one that wrote last, of any lock, if it still fights; else any."""
        last = [writes[-1].split() for writes in map(self._last_writes, self.directories) if writes]
        pid = int(max(last, key=lambda write: float(write[2]))[1]) if last else 0
        return next((member for member in self.fighters if member.pid == pid), None) or self.anybody()

    def anybody(self) -> Member:
        return self.dice.choice(list(self.fighters))

    def kill(self, aimed: bool = True) -> None:
        victim = self.holder() if aimed and self.dice.random() < 0.3 else self.anybody()
        if self.stopped is not None and victim is self.stopped[0]:
            return
        victim.kill()
        self.of_holders += self._wrote_last(victim)
        self.kills += 1
        self.hire(self.fighters.pop(victim))

    def _wrote_last(self, victim: Member) -> bool:
        """A moment before it was killed."""
        last = self._last_writes(self.fighters[victim])
        return bool(last) and int(last[-1].split()[1]) == victim.pid and now() - float(last[-1].split()[2]) < 0.04

    def until_held(self) -> None:
        """Until somebody is in the middle of a long hold, or for three seconds: what is next shall hit a holder."""
        limit = now() + 3.0
        while now() < limit:
            for directory in self.directories:
                last = [line.split() for line in self._last_writes(directory)]
                if len(last) >= 4 and len({line[0] for line in last[-4:]}) == 1 and now() - float(last[-1][2]) < 0.02:
                    return
            time.sleep(0.002)

    def _last_writes(self, directory: str) -> list[bytes]:
        try:
            with open(os.path.join(directory, "register"), "rb") as file:
                file.seek(max(os.path.getsize(file.name) - 400, 0))
                return file.read().splitlines()[1:]
        except OSError:
            return []

    def stop(self) -> None:
        if self.stopped is None:
            self.until_held()
            victim = self.holder()
            victim.stop()
            self.stops += 1
            self.stopped = (victim, now() + (self.backend.ttl or 1.0) + 1.0)

    def go_on(self, at_once: bool = False) -> None:
        if self.stopped is not None and (at_once or now() >= self.stopped[1]):
            self.stopped[0].go_on()
            self.stopped = None

    def restart(self, forgetful: bool) -> None:
        self.until_held()
        began = now()
        self.backend.restart()
        self.restarts += 1
        if forgetful:
            self.excused.append((began, now() + (self.backend.ttl or 1.0)))

    def fight(self, seconds: float, forgetful: bool, kills: int, rounds: int) -> None:
        began = now()
        at: list[tuple[float, Any]] = [(second, self.kill) for second in _every(1.0, seconds)]
        for more in range(1, kills):
            at += [(second - more / kills, lambda: self.kill(aimed=False)) for second in _every(1.0, seconds)]
        at += [(second + 0.5, self.stop) for second in _every(5.0, seconds) if second + 0.5 < seconds]
        if seconds < 10:
            at.append((0.5, self.stop))
        length = seconds / rounds
        lasts = min((self.backend.ttl or 1.0) * 1.5, length / 6)
        for number in range(rounds):
            at.append((length * (number + 1 / 3), lambda: self.restart(forgetful)))
            cut = length * (number + 2 / 3)
            at += [(cut, self._drop), (cut + lasts, self.network.heal)]
        for second, act in sorted(at, key=lambda each: each[0]):
            while now() - began < second:
                self.go_on()
                time.sleep(0.01)
            self.go_on()  # here too: a plan that is behind its times does not sleep
            act()
        while now() - began < seconds:
            self.go_on()
            time.sleep(0.01)
        self.go_on(at_once=True)
        for directory in self.directories:
            with open(os.path.join(directory, "stop"), "w"):
                pass
        time.sleep(0.2)

    def _drop(self) -> None:
        self.until_held()
        self.network.drop()
        self.partitions += 1


def _every(period: float, seconds: float) -> list[float]:
    return [period * number for number in range(1, int(seconds / period) + 1) if period * number < seconds]


class DurableRedis(RedisBackend):
    """Every write is on the disk before it is answered: then a restart loses nothing."""

    def make(self) -> Any:
        from ..servers import Redis

        return Redis(durable=True)


class DurableValkey(RedisBackend):
    scheme = "valkey"

    def make(self) -> Any:
        from ..servers import Valkey

        return Valkey(durable=True)


def run(
    engine: str,
    seconds: float,
    seed: int,
    *,
    network: str = "auto",
    forgetful: bool = False,
    plant: str = "",
    plan: Plan = Plan(),  # noqa: B008 - it cannot be changed
) -> Fought:
    """One fight. Raises nothing for what it finds: that is in the verdict."""
    kinds = dict(BACKENDS)
    if not forgetful:
        kinds |= {"redis": DurableRedis, "valkey": DurableValkey}
    with tempfile.TemporaryDirectory(prefix="interlock-fight-") as place:
        directories = [os.path.join(place, str(lock)) for lock in range(plan.locks)]
        for directory in directories:
            os.mkdir(directory)
        with partitionable(kinds[engine], network) as (backend, cut), Crew() as crew:
            ring = Ring(crew, backend, cut, directories, seed, plant)
            for directory in directories * FIGHTERS:
                ring.hire(directory)
            ring.fight(seconds, forgetful, plan.kills, plan.rounds)
        verdict = together(judge(read(directory), ring.excused) for directory in directories)
    done = (ring.kills, ring.of_holders, ring.stops, ring.restarts, ring.partitions)
    return Fought(engine, cut.kind, seconds, seed, *done, verdict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engines.fight", description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=list(BACKENDS), required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--locks", type=int, default=1, help="at once, each with fighters of its own")
    parser.add_argument("--kills", type=int, default=1, help="a second")
    parser.add_argument("--rounds", type=int, default=1, help="of a restart and a partition")
    parser.add_argument("--network", choices=["auto", "namespace", "proxy"], default="auto")
    parser.add_argument("--forgetful", action="store_true")
    parser.add_argument("--plant", choices=["none", "deaf"], default="")
    options = parser.parse_args()
    fought = run(
        options.engine, options.seconds, options.seed,
        network=options.network, forgetful=options.forgetful, plant=options.plant,
        plan=Plan(options.locks, options.kills, options.rounds),
    )  # fmt: skip
    said = fought.as_dict()
    said["verdict"]["faults"] = said["verdict"]["faults"][:10]
    print(json.dumps(said, indent=2))
    return 1 if fought.verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
