"""Locks on servers: each beside the raw recipe with the same client, and the libraries that people use.

`uncontended` is acquire and release in one process, in turns of a few dozen cycles per subject. `handoff` is the time
from just before `release` in one process until `acquire` returns in another that has waited there for 15 to 45 ms (at
random, so that pollers are met at any point of their nap), in turns too: a server in Java gets faster for the first
thousands of requests, and who came last would be the fastest. The servers are real ones on the loopback, started for
this.
"""

from __future__ import annotations

import contextlib
import time
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from . import recipes
from .figures import Column, Row, Target, find, median, p99, ratio, target
from .harness import FAILURES, Crew, Plan, clock, progress, why
from .subjects import Subject, _plain, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .harness import Child, Wire
    from .subjects import Acquire, Release

TITLE = "locks on servers"
COLUMNS = (
    Column("server", "server"),
    Column("subject", "lock"),
    Column("us", "uncontended p50, µs", ".0f"),
    Column("us_p99", "p99", ".0f"),
    Column("to_raw", "x raw", ".2f"),
    Column("handoff_ms", "handoff p50, ms", ".2f"),
    Column("handoff_p99_ms", "p99", ".2f"),
    Column("handoffs", "n"),
)
RAW, OURS, TASK = "raw recipe", "interlock", "interlock, asyncio"
TURN = 40  # cycles of a subject before the next one's turn


class Contest(NamedTuple):
    """The locks on one server. `start`: returns it; `make` of a subject gets "PORT NAME"."""

    name: str
    start: Callable[[], Any]
    subjects: list[Subject]


# ---- the subjects


def _of(make: Callable[[int, str], tuple[Any, Any]]) -> Callable[[str], tuple[Acquire, Release]]:
    def made(where: str) -> tuple[Acquire, Release]:
        port, _, name = where.partition(" ")
        return _plain(*make(int(port), name))

    return made


def _ours(url: str, asynchronous: bool = False) -> Callable[[str], tuple[Acquire, Release]]:
    def made(where: str) -> tuple[Acquire, Release]:
        from interlock import AsyncLock, Lock

        port, _, name = where.partition(" ")
        lock: Any = (AsyncLock if asynchronous else Lock)(f"{url.replace('PORT', port)}#{name}")
        if not asynchronous:
            return _plain(lock.acquire, lambda hold: hold.release())

        async def release(hold: Any) -> None:
            await hold.release()

        return lock.acquire, release

    return made


def _tooz(url: str) -> Callable[[str], tuple[Acquire, Release]]:
    def made(port: int, name: str) -> tuple[Any, Any]:
        import os

        from tooz import coordination

        coordinator = coordination.get_coordinator(url.replace("PORT", str(port)), f"m{os.getpid()}".encode())
        coordinator.start(start_heart=True)
        lock = coordinator.get_lock(name.encode())
        return lock.acquire, lambda _: lock.release()

    return _of(made)


def _redis_py(port: int, name: str) -> tuple[Any, Any]:
    lock = recipes.redis_client(port).lock(name, timeout=recipes.TTL)
    return lock.acquire, lambda _: lock.release()


def _python_redis_lock(port: int, name: str) -> tuple[Any, Any]:
    import redis_lock

    lock = redis_lock.Lock(recipes.redis_client(port), name, expire=recipes.TTL)
    return lock.acquire, lambda _: lock.release()


def _kazoo(port: int, name: str) -> tuple[Any, Any]:
    lock = recipes.zookeeper_client(port).Lock(f"/kazoo/{name}", "bench")
    return lock.acquire, lambda _: lock.release()


def _contests() -> list[Contest]:
    from tests import servers

    def both(url: str, package: str | None) -> list[Subject]:
        return [Subject(OURS, package, _ours(url)), Subject(TASK, package, _ours(url, True), asynchronous=True)]

    redis = [
        Subject(RAW, "redis", _of(recipes.redis)),
        *both("redis://127.0.0.1:PORT/0", "interlock.engines.redis"),
        Subject("redis-py Lock", "redis", _of(_redis_py)),
        Subject("python-redis-lock", "redis_lock", _of(_python_redis_lock)),
        Subject("tooz", "tooz", _tooz("redis://127.0.0.1:PORT")),
    ]
    postgres = [
        Subject(RAW, "psycopg", _of(recipes.postgres)),
        *both("postgresql://postgres@127.0.0.1:PORT/postgres", "interlock.engines.postgres"),
        Subject("tooz", "tooz", _tooz("postgresql://postgres@127.0.0.1:PORT/postgres")),
    ]
    etcd = [
        Subject(RAW, None, _of(recipes.etcd)),
        *both("etcd://127.0.0.1:PORT", "interlock.engines.etcd"),
        Subject("etcd's lock API", None, _of(recipes.etcd_lock_api)),
        Subject("tooz", "tooz", _tooz("etcd3+http://127.0.0.1:PORT?api_version=v3")),
    ]
    zookeeper = [
        Subject(RAW, "kazoo", _of(recipes.zookeeper)),
        *both("zookeeper://127.0.0.1:PORT", "interlock.engines.zookeeper"),
        Subject("kazoo Lock", "kazoo", _of(_kazoo)),
        Subject("tooz", "tooz", _tooz("zookeeper://127.0.0.1:PORT")),
    ]
    return [
        Contest("redis", servers.Redis, redis),
        Contest("valkey", servers.Valkey, redis[:2]),
        Contest("postgresql", servers.Postgres, postgres),
        Contest("etcd", servers.Etcd, etcd),
        Contest("zookeeper", servers.ZooKeeper, zookeeper),
    ]


# ---- the measurement


def run(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for contest in _contests():
        able = []
        for subject in contest.subjects:
            reason = missing(subject.package)
            if reason is None:
                able.append(subject)
            else:
                rows.append({"server": contest.name, "subject": subject.name, "missing": reason})
        with contest.start() as server:
            progress(f"engines: {contest.name}")
            rows += _contest(contest.name, server.port, able, plan.quick)
    return rows


def _contest(name: str, port: int, subjects: list[Subject], quick: bool) -> list[Row]:
    cycles = 2 * TURN if quick else 15 * TURN
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    handoffs: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    failed: dict[str, str] = {}
    with Crew() as crew:
        runners: dict[str, Child] = {}
        for number, subject in enumerate(subjects):
            body = _cycler(subject, f"{port} alone{number}")
            runners[subject.name] = crew.fork(body)
        for _ in range(0, cycles, TURN):
            for subject, wire in _able(subjects, runners, failed):
                with _noted(subject, failed):
                    wire.say(TURN)
                    samples[subject.name] += wire.hear()
    with Crew() as crew:
        random = Random(1)
        relays: dict[str, _Relay] = {}
        for number, subject in enumerate(subjects):
            if subject.name not in failed:
                with _noted(subject, failed):
                    relays[subject.name] = _Relay(crew, subject, f"{port} pair{number}", random)
        for _ in range(4 if quick else 16):
            for subject in subjects:
                if subject.name not in failed:
                    with _noted(subject, failed):
                        handoffs[subject.name] += relays[subject.name].turn(0.25)
    raw = median(samples[RAW][TURN:]) if RAW in samples else None
    rows: list[Row] = []
    for subject in subjects:
        mine, passed = samples[subject.name][TURN:], handoffs[subject.name]
        if subject.name in failed:
            rows.append({"server": name, "subject": subject.name, "failed": failed[subject.name]})
            continue
        rows.append({
            "server": name, "subject": subject.name, "us": median(mine), "us_p99": p99(mine),
            "to_raw": ratio(median(mine), raw), "handoff_ms": median(passed), "handoff_p99_ms": p99(passed),
            "handoffs": len(passed),
        })  # fmt: skip
    return rows


def _able(
    subjects: list[Subject], runners: dict[str, Child], failed: dict[str, str]
) -> Iterator[tuple[Subject, Wire]]:
    for subject in subjects:
        if subject.name not in failed:
            yield subject, runners[subject.name].wire


@contextlib.contextmanager
def _noted(subject: Subject, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        failed[subject.name] = why(error)


def _cycler(subject: Subject, where: str) -> Callable[[Wire], None]:
    async def cycle(wire: Wire) -> None:
        acquire, release = subject.make(where)
        while True:
            times = []
            for _ in range(wire.hear()):
                began = clock()
                token = await acquire()
                await release(token)
                times.append((clock() - began) / 1e3)
            wire.say(times)

    return lambda wire: subject.run(cycle(wire))


class _Relay:
    """Two processes that hand a lock back and forth."""

    def __init__(self, crew: Crew, subject: Subject, where: str, random: Random) -> None:
        self._name, self._random = subject.name, random
        self._one, self._two = (crew.fork(_passer(subject, where)) for _ in range(2))
        _tell(self._one, "acquire")
        for _ in range(2):  # the first of each side imports, connects and subscribes
            self._hand_over()

    def turn(self, seconds: float) -> list[float]:
        """Milliseconds, of handoffs for about so long; one at least."""
        passed = []
        limit = time.monotonic() + seconds
        while not passed or time.monotonic() < limit:
            passed.append(self._hand_over())
        return passed

    def _hand_over(self) -> float:
        self._two.wire.say("acquire")
        time.sleep(self._random.uniform(0.015, 0.045))
        released = _tell(self._one, "release")
        taken = float(self._two.wire.hear() - released) / 1e6
        if taken < 0:
            raise EOFError(f"{self._name}: acquired a lock that was held")
        self._one, self._two = self._two, self._one
        return taken


def _tell(child: Child, word: str) -> Any:
    child.wire.say(word)
    return child.wire.hear()


def _passer(subject: Subject, where: str) -> Callable[[Wire], None]:
    async def passing(wire: Wire) -> None:
        acquire, release = subject.make(where)
        token: Any = None
        while True:
            if wire.hear() == "acquire":
                token = await acquire()
                wire.say(clock())
            else:
                at = clock()
                await release(token)
                wire.say(at)

    return lambda wire: subject.run(passing(wire))


def targets(rows: list[Row]) -> list[Target]:
    def value(server: str, subject: str, key: str) -> Any:
        return find(rows, server=server, subject=subject).get(key)

    found = [
        target(f"{server}: uncontended, x the raw recipe", value(server, OURS, "to_raw"), 1.3)
        for server in ("redis", "postgresql", "etcd", "zookeeper")
    ]
    found += [
        target(f"{server}: handoff p50, ms", value(server, OURS, "handoff_ms"), 1.5)
        for server in ("redis", "postgresql")
    ]
    for server, peer, times in (
        ("redis", "redis-py Lock", 20),
        ("redis", "tooz", 20),
        ("etcd", "etcd's lock API", 10),
        ("zookeeper", "kazoo Lock", 1),
    ):
        faster = ratio(value(server, peer, "handoff_ms"), value(server, OURS, "handoff_ms"))
        found.append(target(f"{server}: handoff, times as fast as {peer}", faster, times, least=True))
    return found
