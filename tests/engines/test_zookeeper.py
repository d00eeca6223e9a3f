"""What only ZooKeeper has: sessions that end, connections that come back, parents that go, answers that are lost."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from interlock import (
    EngineError,
    Lock,
    LockError,
    LostError,
    ProtocolError,
    RWLock,
    Semaphore,
    Timeout,
    connect,
    inspect,
)
from interlock._address import Address
from interlock._remote import engine_for
from interlock._target import resolve
from interlock._wait.keeping import now
from interlock.engines.zookeeper.entries import key_path
from interlock.engines.zookeeper.session import Disconnected
from interlock.testing.conformance import crew as acts
from interlock.testing.conformance.crew import Crew
from interlock.testing.proxy import Proxy

from ..servers import ZooKeeper, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interlock.engines.zookeeper.session import Session
    from interlock.testing.conformance.crew import Desk

_numbers = count()
TTL = 1.0
"""Two ticks of the server: the shortest session that it gives."""
TICK = 0.5


@pytest.fixture
def name() -> str:
    return f"zk-{next(_numbers)}"


@pytest.fixture
def raw(zookeeper_server: ZooKeeper) -> Iterator[Any]:
    """A client of the server, to look and to meddle."""
    yield from _client(zookeeper_server.port)


def _client(port: int, **options: Any) -> Iterator[Any]:
    client = pytest.importorskip("kazoo.client").KazooClient(hosts=f"127.0.0.1:{port}", **options)
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def network(zookeeper_server: ZooKeeper) -> Iterator[Proxy]:
    with Proxy(zookeeper_server.host, zookeeper_server.port) as proxy:
        yield proxy
        proxy.heal()
        engine_for(Address.parse(_url(proxy))).close()  # type: ignore[attr-defined]


def _url(network: Proxy) -> str:
    return f"zookeeper://127.0.0.1:{network.port}?il_ttl={TTL:g}"


def _through(network: Proxy, name: str) -> str:
    return f"{_url(network)}#{name}"


def _near(server: ZooKeeper, name: str) -> str:
    return server.target(name, f"il_ttl={TTL:g}")


def _until(true: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen within {seconds} s"
        time.sleep(0.005)


def _entries(raw: Any, name: str) -> list[str]:
    with contextlib.suppress(LookupError):
        return [each for each in _children(raw, key_path("", name)) if not each.startswith(("as-", "slot-"))]
    return []


def _children(raw: Any, path: str) -> list[str]:
    from kazoo.exceptions import NoNodeError

    try:
        found: list[str] = raw.get_children(path)
    except NoNodeError:
        return []
    return found


def _session(target: str) -> Session:
    engine: Any = resolve(target).engine
    session: Session = engine.ensemble._session
    return session


def _expire(target: str, server: ZooKeeper) -> None:
    """Have the server end this process's session, as it does when it has not heard of it for too long."""
    session = _session(target)
    for double in _client(server.port, client_id=session._client.client_id):
        assert double.client_id[0] == session.id


class Waiter:
    """A thread that acquires."""

    def __init__(self, target: str, timeout: float | None = 20.0) -> None:
        self.error: BaseException | None = None
        self.token: int | None = None
        self.at = 0.0
        self._lock = Lock(target, timeout=timeout)
        self._free = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._lock as hold:
                self.at = time.monotonic()
                self.token = hold.token
                self._free.wait(30.0)
        except BaseException as error:  # noqa: BLE001 - raised in the test
            self.error = error

    def got(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.token is not None

    def end(self) -> None:
        self._free.set()
        self._thread.join(30.0)
        assert not self._thread.is_alive()


# ---- holders and waiters that die


@pytest.mark.parametrize("world", ["blocking", "asyncio", "trio"])
def test_the_next_holds_when_the_holder_is_killed(zookeeper_server: ZooKeeper, name: str, world: str) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        one, two = crew.hire(world), crew.hire(world)
        first = one.do(acts.acquire, target)
        waiting = two.begin(acts.acquire, target)
        _until(lambda: inspect(target).waiters, "the wait")
        killed = time.monotonic()
        one.kill()
        second = waiting.result()
        assert second.got - killed < TTL + 1.0
        assert second.token > first.token


def test_a_holder_that_stands_still_is_told_and_harms_nobody(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        one, two, three = (crew.hire() for _ in range(3))
        first = one.do(acts.acquire, target)
        waiting = two.begin(acts.acquire, target)
        _until(lambda: inspect(target).waiters, "the wait")
        one.stop()
        second = waiting.result()
        assert second.token > first.token
        one.go_on()
        assert "not heard" in one.do(acts.look, target).lost
        one.do(acts.release, target)
        assert three.do(acts.try_acquire, target) is None
        assert two.do(acts.look, target).lost == ""


def test_a_waiter_that_is_killed_holds_nobody_up(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        holder, dies, last = (crew.hire() for _ in range(3))
        holder.do(acts.acquire, target)
        for number, each in enumerate((dies, last), 1):
            waiting = each.begin(acts.acquire, target)
            _until(lambda: len(inspect(target).waiters) == number, "the wait")  # noqa: B023
        dies.kill()
        released = holder.do(acts.release, target)
        assert waiting.result().got - released < TTL + 1.0


def test_those_who_wait_are_named(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        members = [crew.hire() for _ in range(3)]
        members[0].do(acts.acquire, target)
        waiting = []
        for number, each in enumerate(members[1:], 1):
            waiting.append(each.begin(acts.acquire, target))
            _until(lambda: len(inspect(target).waiters) == number, "the wait")  # noqa: B023
        report = inspect(target)
        assert [party.pid for party in report.holders] == [members[0].pid]
        assert [(party.pid, party.position) for party in report.waiters] == [(members[1].pid, 1), (members[2].pid, 2)]
        assert all(party.host and party.command and party.since for party in (*report.holders, *report.waiters))
        with pytest.raises(Timeout) as caught:
            Lock(target, timeout=0).acquire()
        assert caught.value.holder is not None
        assert caught.value.holder.pid == members[0].pid


# ---- sessions that end


def test_a_session_that_expires_while_holding(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    told: list[str] = []
    with Lock(target) as hold:
        hold.on_lost(told.append)
        _expire(target, zookeeper_server)
        _until(lambda: told, "the news")
        assert "session" in told[0]
        assert hold.lost
        with pytest.raises(LostError):
            hold.assert_held()
        old = hold.token
    with Lock(target) as again:
        assert not again.lost
        assert old is not None
        assert again.token is not None
        assert again.token > old


def test_a_session_that_expires_while_queued(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        holder = crew.hire()
        first = holder.do(acts.acquire, target)
        waiter = Waiter(target)
        _until(lambda: len(_entries(raw, name)) == 2, "the wait")
        before = set(_entries(raw, name))
        _expire(target, zookeeper_server)
        _until(lambda: len(after := set(_entries(raw, name))) == 2 and after != before, "another entry")
        assert not waiter.got()
        holder.do(acts.release, target)
        _until(waiter.got, "the grant")
        assert waiter.token is not None
        assert waiter.token > first.token
        waiter.end()
    assert _entries(raw, name) == []


# ---- nodes that are removed by others


def test_a_parent_that_is_removed_while_held(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    target = _near(zookeeper_server, name)
    told: list[str] = []
    with Lock(target) as hold:
        hold.on_lost(told.append)
        assert not hold.lost
        raw.delete(key_path("", name), recursive=True)
        _until(lambda: told, "the news")
        assert "removed" in told[0]
        assert hold.lost
    with Lock(target) as again:
        assert not again.lost


def test_a_removal_is_noticed_also_where_nobody_asked(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    target = _near(zookeeper_server, name)
    with Lock(target) as hold:
        raw.delete(key_path("", name), recursive=True)
        _until(lambda: hold.lost, "the loss", 3.0)


def test_a_parent_that_is_removed_while_queued(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        holder = crew.hire()
        first = holder.do(acts.acquire, target)
        waiter = Waiter(target)
        _until(lambda: len(_entries(raw, name)) == 2, "the wait")
        path = key_path("", name)
        transaction = raw.transaction()
        for entry in _entries(raw, name):
            transaction.delete(f"{path}/{entry}")
        transaction.delete(path)
        assert transaction.commit() == [True, True, True]
        _until(waiter.got, "the grant")  # of what nobody holds any more
        assert waiter.token is not None
        assert waiter.token > first.token
        _until(lambda: holder.do(acts.look, target).lost, "the loss", 3.0)
        holder.do(acts.release, target)
        assert len(_entries(raw, name)) == 1
        waiter.end()


# ---- connections


def test_a_connection_that_comes_back_keeps_all(network: Proxy, zookeeper_server: ZooKeeper, name: str) -> None:
    target = _through(network, name)
    with Crew() as crew:
        other = crew.hire()
        with Lock(target) as hold:
            session = _session(target)
            waiting = other.begin(acts.acquire, _near(zookeeper_server, name))
            _until(lambda: inspect(target).waiters, "the wait")
            for _ in range(3):
                up = session._signs[0]
                network.cut()
                _until(lambda: session._up.is_set() and session._signs[0] != up, "the reconnect")  # noqa: B023
            assert not hold.lost
            assert not waiting.done()
            assert _session(target) is session
        assert waiting.result().token > (hold.token or 0)


def test_a_waiter_survives_a_connection_that_comes_back(network: Proxy, zookeeper_server: ZooKeeper, name: str) -> None:
    with Crew() as crew:
        holder = crew.hire()
        holder.do(acts.acquire, _near(zookeeper_server, name))
        waiter = Waiter(_through(network, name))
        _until(lambda: inspect(_near(zookeeper_server, name)).waiters, "the wait")
        session = _session(_through(network, name))
        network.cut()
        _until(session._up.is_set, "the reconnect")
        assert not waiter.got()
        released = holder.do(acts.release, _near(zookeeper_server, name))
        _until(waiter.got, "the grant")
        assert waiter.at - released < 1.0  # its watch was made anew
        waiter.end()


def test_the_answer_to_a_creation_is_lost(network: Proxy, name: str, raw: Any) -> None:
    url = f"zookeeper://127.0.0.1:{network.port}?il_ttl=10"
    target = f"{url}#{name}"
    with Lock(f"{url}#warm-{name}"):
        pass
    session = _session(target)
    _until(lambda: session._next_beat - now() > 1.0, "some time without heartbeats")
    network.lose_answers()
    waiter = Waiter(target)
    _until(lambda: _entries(raw, name), "the entry")
    _until(lambda: network.lost, "the loss of its answer")
    assert not waiter.got()
    network.heal()
    _until(waiter.got, "the grant")
    (entry,) = _entries(raw, name)
    assert raw.exists(f"{key_path('', name)}/{entry}").czxid == waiter.token
    waiter.end()
    assert _entries(raw, name) == []
    engine_for(Address.parse(url)).close()  # type: ignore[attr-defined]


def test_the_answer_to_a_release_is_lost(network: Proxy, name: str, raw: Any) -> None:
    hold = Lock(_through(network, name)).acquire()
    network.lose_answers()
    threading.Timer(0.2, network.heal).start()
    hold.release()
    _until(lambda: not _entries(raw, name), "the end of the entry")
    with Lock(_through(network, name), timeout=5.0):
        pass


def test_requests_that_do_not_arrive_leave_nothing(network: Proxy, name: str, raw: Any) -> None:
    with Lock(_through(network, name)):
        pass
    network.refuse()
    began = time.monotonic()
    with pytest.raises(EngineError, match=str(network.port)):
        Lock(_through(network, name), timeout=0.3).acquire()
    assert time.monotonic() - began < 30
    network.heal()
    with Lock(_through(network, name), timeout=5.0):
        assert len(_entries(raw, name)) == 1
    assert _entries(raw, name) == []


def test_a_holder_that_is_cut_off_knows_before_another_enters(
    network: Proxy, zookeeper_server: ZooKeeper, name: str
) -> None:
    told: list[float] = []
    with Crew() as crew:
        other = crew.hire()
        hold = Lock(_through(network, name)).acquire()
        hold.on_lost(lambda _reason: told.append(time.monotonic()))
        waiting = other.begin(acts.acquire, _near(zookeeper_server, name))
        _until(lambda: inspect(_near(zookeeper_server, name)).waiters, "the wait")
        network.drop()
        grant = waiting.result()
        assert told
        assert told[0] < grant.got
        assert hold.lost
        assert grant.token > (hold.token or 0)
        network.heal()
        hold.release()
        assert other.do(acts.look, _near(zookeeper_server, name)).lost == ""


def test_a_session_that_is_cut_off_burns_no_processor(network: Proxy, name: str) -> None:
    with Lock(_through(network, name)):
        network.refuse()
        time.sleep(TTL)
        before = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - before < 0.6


@pytest.mark.parametrize("held", [False, True])
def test_a_session_that_is_cut_off_and_not_needed_ends_itself(network: Proxy, name: str, held: bool) -> None:
    """It tried to connect as long as the process lived, and said so each time."""
    target = _through(network, name)
    hold = Lock(target).acquire()
    session = _session(target)
    if not held:
        hold.release()
    network.refuse()
    assert session._ended.wait(30.0)
    assert session.dead
    assert session._client._connection._connection_routine is None  # kazoo's thread has been joined
    if held:
        assert "was not heard" in str(hold.lost.reason)
        hold.release()
    network.heal()
    with Lock(target, timeout=30.0):  # in another session; the entry of the first has gone, or goes with it
        assert _session(target) is not session


def _once(session: Session, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have the first answers that tell of a node that was made go through `change`."""
    ask, left = session.ask, [change]

    def asked(*requests: Any, until: float | None = None) -> list[Any]:
        answers = ask(*requests, until=until)
        made = isinstance(answers[0], tuple) and type(requests[0]).__name__ == "Create2"
        return left.pop()(answers) if made and left else answers

    monkeypatch.setattr(session, "ask", asked)


def test_the_answer_to_the_taking_of_a_slot_is_lost(
    zookeeper_server: ZooKeeper, name: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took another one then, and the first was nobody's as long as the process lived."""
    target = zookeeper_server.target(name)
    Semaphore(target, 2).acquire().release()
    session = _session(target)

    def second(answers: list[Any]) -> list[Any]:  # the entry is made: now for the slot
        def lose(_answers: list[Any]) -> list[Any]:
            raise Disconnected("its answer")

        _once(session, monkeypatch, lose)
        return answers

    _once(session, monkeypatch, second)
    with Semaphore(target, 2).acquire() as hold:
        slots = [each for each in _children(raw, key_path("", name)) if each.startswith("slot-")]
        assert slots == [f"slot-{hold.slot}"]
        Semaphore(target, 2).acquire(timeout=10.0).release()


class _Interrupting(str):
    __slots__ = ()

    def rpartition(self, _: object) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_when_the_entry_is_there(
    zookeeper_server: ZooKeeper, name: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed, known to nobody, as long as the process lived."""
    target = zookeeper_server.target(name)
    Lock(target).acquire().release()
    _once(_session(target), monkeypatch, lambda answers: [(_Interrupting(answers[0][0]), answers[0][1]), *answers[1:]])
    with pytest.raises(KeyboardInterrupt):
        Lock(target).acquire()
    _until(lambda: not _entries(raw, name), "the end of the entry")
    Lock(target).acquire(timeout=10.0).release()


def test_a_deadline_that_passes_and_moves_on_while_it_is_granted(
    zookeeper_server: ZooKeeper, name: str, raw: Any
) -> None:
    """Who asked was told; a callback was not, and others waited."""
    target = zookeeper_server.target(name)
    told: list[str] = []
    hold = Lock(target).acquire()
    hold.on_lost(told.append)
    _session(target).era += 1
    _until(lambda: told, "the loss")
    _until(lambda: not _entries(raw, name), "the end of the entry")
    hold.release()


def test_a_session_that_ends_while_it_is_granted(network: Proxy, zookeeper_server: ZooKeeper, name: str) -> None:
    target = _through(network, name)
    told: list[str] = []
    hold = Lock(target).acquire()
    claim: Any = hold._claim
    session, claim.since, since = _session(target), 0.0, claim.since
    _expire(target, zookeeper_server)
    _until(lambda: session.dead, "the end")
    claim.since = since
    hold.on_lost(told.append)
    assert told
    hold.release()


def test_what_kazoo_says_of_connections_is_for_who_looks_for_faults(
    network: Proxy, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("interlock.zookeeper").setLevel(logging.NOTSET)
    with caplog.at_level(logging.DEBUG, "interlock.zookeeper"), Lock(_through(network, name)) as hold:
        network.refuse()
        _until(lambda: hold.lost, "the loss")
        told = [each for each in caplog.records if each.name == "interlock.zookeeper"]
    assert any("Connecting to" in each.getMessage() for each in told)
    assert {each.levelno for each in told} <= {logging.DEBUG, 5}  # 5: kazoo's own


def test_a_waiter_asks_less_than_once_a_second(network: Proxy, zookeeper_server: ZooKeeper, name: str) -> None:
    url = f"zookeeper://127.0.0.1:{network.port}?il_ttl=10#{name}"
    with Crew() as crew:
        holder = crew.hire()
        holder.do(acts.acquire, _near(zookeeper_server, name))
        waiter = Waiter(url)
        _until(lambda: inspect(_near(zookeeper_server, name)).waiters, "the wait")
        time.sleep(0.2)  # its last requests before it sleeps
        before, began = network.requests, time.monotonic()
        time.sleep(2.0)
        assert network.requests - before <= time.monotonic() - began
        holder.do(acts.release, _near(zookeeper_server, name))
        _until(waiter.got, "the grant")
        waiter.end()
    engine_for(Address.parse(url).without_name()).close()  # type: ignore[attr-defined]


def test_many_locks_have_one_connection(network: Proxy, name: str) -> None:
    with connect(_url(network)) as locks:
        holds = [locks.lock(f"{name} {number}").acquire() for number in range(200)]
        assert network.connections == 1
        assert len({hold.token for hold in holds}) == 200
        for hold in holds:
            assert not hold.lost
            hold.release()
    _until(lambda: not network.connections, "the end of the connection")


# ---- servers that stop


@pytest.fixture(scope="module")
def weak_server() -> Iterator[ZooKeeper]:
    """One that tests may stop."""
    with ZooKeeper() as server:
        yield server


def test_a_restart_of_the_server_keeps_holds_and_the_queue(weak_server: ZooKeeper, name: str) -> None:
    target = weak_server.target(name)  # 10 s: longer than the restart
    with Crew() as crew:
        other = crew.hire()
        with Lock(target) as hold:
            waiting = other.begin(acts.acquire, target)
            _until(lambda: inspect(target).waiters, "the wait")
            session = _session(target)
            weak_server.restart(kill=True)
            _until(session._up.is_set, "the reconnect")
            hold.renew()
            assert not hold.lost
            assert not waiting.done()
        assert waiting.result().token > (hold.token or 0)
        other.do(acts.release, target)


def test_a_server_that_hangs_is_told_in_time(weak_server: ZooKeeper, name: str) -> None:
    target = _near(weak_server, name)
    hold = Lock(target).acquire()
    told: list[float] = []
    hold.on_lost(lambda _reason: told.append(time.monotonic()))
    weak_server.suspend()
    hung = time.monotonic()
    try:
        _until(lambda: told, "the news")
        assert told[0] - hung < TTL + 3
        with pytest.raises(LockError):
            Lock(target, timeout=0.2).acquire()
    finally:
        weak_server.resume()
    hold.release()
    with Lock(target, timeout=10.0) as again:
        assert not again.lost


def test_no_server() -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(EngineError) as caught:
        Lock(f"zookeeper://joe:sesame@127.0.0.1:{port}#x", timeout=0.5).acquire()
    assert time.monotonic() - began < 30
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "zookeeper" in str(caught.value)
    assert "sesame" not in str(caught.value)


# ---- who may


def test_credentials(zookeeper_server: ZooKeeper, name: str, raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    from kazoo.exceptions import NoAuthError

    caplog.set_level(1)
    logging.getLogger("interlock.zookeeper").setLevel(1)
    where = f"127.0.0.1:{zookeeper_server.port}/{name}"
    mine = f"zookeeper://joe:sesame@{where}#x"
    with Lock(mine) as hold:
        path = key_path(f"/{name}", "x")
        entry = f"{path}/{_session(mine).claims and next(iter(_session(mine).claims)).name}"
        with pytest.raises(NoAuthError):
            raw.delete(entry)
        with pytest.raises(NoAuthError):
            raw.get(entry)
        for stranger in (f"zookeeper://{where}#x", f"zookeeper://ann:other@{where}#x"):
            with pytest.raises(EngineError, match="NoAuth") as caught:
                Lock(stranger).acquire()
            assert "other" not in str(caught.value)
        assert not hold.lost
        assert "sesame" not in repr(hold) + repr(hold.resource) + repr(_session(mine)._client.auth_data)
    assert "sesame" not in caplog.text
    engine_for(Address.parse(mine).without_name()).close()  # type: ignore[attr-defined]


# ---- what is left


def test_nothing_is_left(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    root = f"/{name}"
    with connect(f"{zookeeper_server.url}{root}") as locks:
        with locks.lock("held"):
            assert locks.lock("held").try_acquire() is None
            with pytest.raises(Timeout):
                locks.rwlock("held").read(timeout=0.05)
            assert len(_children(raw, key_path(root, "held"))) == 1
        with locks.semaphore("pool", 2):
            pass
        with locks.rwlock("modes").update() as hold:
            hold.upgrade()
            hold.downgrade("update")
            hold.upgrade()
            hold.downgrade("read")
        for each in ("held", "pool", "modes"):
            assert _children(raw, key_path(root, each)) == []
        _until(lambda: not _children(raw, f"{root}/interlock/1"), "the end of unused parents", 5.0)
        with locks.lock("again"):
            pass
    assert _children(raw, f"{root}/interlock/1") == []


def test_kinds_exclude_or_refuse_each_other(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    with Lock(target), pytest.raises(Timeout):
        RWLock(target).read(timeout=0)
    with RWLock(target).read():
        with pytest.raises(Timeout):
            Lock(target).acquire(0)
        with pytest.raises(ProtocolError, match="lock"):
            Semaphore(target, 2).acquire(0)
    with Semaphore(target, 2), pytest.raises(ProtocolError, match="semaphore of 2"):
        Lock(target).acquire(0)


async def read(desk: Desk, target: str, timeout: float | None = None) -> None:
    desk.holds[target] = await desk.call(desk.rwlock(target), "read", timeout)


async def take_slot(desk: Desk, target: str, permits: int) -> int:
    hold = await desk.call(desk.semaphore(target, permits), "acquire")
    desk.holds[target] = hold
    slot: int = hold.slot
    return slot


def test_upgrades_and_downgrades_between_processes(zookeeper_server: ZooKeeper, name: str, raw: Any) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        one, two = crew.hire("blocking"), crew.hire("asyncio")
        one.do(read, target)
        hold = RWLock(target).update()
        assert not hold.try_upgrade()
        with pytest.raises(Timeout):
            hold.upgrade(0.05)
        two.do(read, target)  # the upgrade was given up
        one.do(acts.release, target)
        done: list[bool] = []

        def upgrade() -> None:
            hold.upgrade(10.0)
            done.append(True)

        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        _until(lambda: any(entry.startswith("x-") for entry in _entries(raw, name)), "the mark of the upgrade")
        late = one.begin(read, target)
        two.do(acts.release, target)
        upgrading.join()
        assert done == [True]
        assert not late.done()
        hold.downgrade()
        late.result()  # woken by the downgrade
        hold.release()


def test_a_permit_comes_back_when_its_holder_is_killed(zookeeper_server: ZooKeeper, name: str) -> None:
    target = _near(zookeeper_server, name)
    with Crew() as crew:
        members = [crew.hire() for _ in range(3)]
        slots = [each.do(take_slot, target, 2) for each in members[:2]]
        assert sorted(slots) == [0, 1]
        waiting = members[2].begin(take_slot, target, 2)
        _until(lambda: inspect(target).waiters, "the wait")
        members[0].kill()
        assert waiting.result() == slots[0]


@pytest.mark.parametrize("dropped", [True, False])
def test_a_release_that_was_cut_off_gives_its_slot_back(
    network: Proxy, zookeeper_server: ZooKeeper, name: str, dropped: bool
) -> None:
    """The session lives on, and has to remove the node of the slot too."""
    hold = Semaphore(_through(network, name), 2).acquire()
    assert hold.slot == 0
    network.drop()
    sent = network.requests
    releasing = threading.Thread(target=hold._let_go, args=(dropped,))
    releasing.start()
    _until(lambda: network.requests > sent, "the request")
    network.cut()  # it never arrives
    network.heal()
    releasing.join(30)
    near = _near(zookeeper_server, name)
    with Semaphore(near, 2).acquire(10) as first, Semaphore(near, 2).acquire(10) as second:
        assert sorted([first.slot, second.slot]) == [0, 1]


@pytest.mark.parametrize("trouble", [None, Disconnected, KeyboardInterrupt])
def test_an_upgrade_whose_hold_is_lost_meanwhile_leaves_no_mark(
    zookeeper_server: ZooKeeper, name: str, raw: Any, monkeypatch: pytest.MonkeyPatch, trouble: Any
) -> None:
    """It waited for a connection while its nodes were removed, and then made one more, for as long as it lived."""
    target = zookeeper_server.target(name)
    hold = RWLock(target).update()
    claim: Any = hold._claim
    session = claim.session
    await_up, ask = session.await_up, session.ask

    def lose_it(until: float) -> None:
        monkeypatch.setattr(session, "await_up", await_up)
        monkeypatch.setattr(session, "gone", lambda _: "it stood still")
        session._give_up(claim)
        monkeypatch.undo()
        _until(lambda: claim.session is None, "the removal of the entry")
        if trouble is not None:
            monkeypatch.setattr(session, "ask", fail)

    def fail(*requests: Any, until: float | None = None) -> Any:
        ask(*requests, until=until)
        if not any(type(each).__name__ == "Create2" for each in requests):  # nor can it be taken away at once
            monkeypatch.undo()
            raise Disconnected("its answer")
        raise trouble

    monkeypatch.setattr(session, "await_up", lose_it)
    with pytest.raises((LostError, KeyboardInterrupt)):
        hold.upgrade(timeout=5)
    _until(lambda: not _children(raw, key_path("", name)), "the end of the mark", 15.0)
    Lock(target).acquire(timeout=10.0).release()
    hold.release()
