"""What only etcd can do to a lock: leases, compaction, leaders, users, certificates, requests that come late."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64decode, b64encode
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interlock import EngineError, Lock, LostError, NotHeldError, RWLock, Semaphore, UnsupportedError, inspect
from interlock._address import Address
from interlock._target import resolve
from interlock.engines.etcd import EtcdClaim, guard
from interlock.engines.etcd.client import Client
from interlock.engines.etcd.watch import Listener
from interlock.testing.conformance import verbs
from interlock.testing.conformance.crew import Crew, MemberError, acquire, look, release

from ..servers import Etcd, EtcdCluster
from ..support import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 60.0


def ask(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/{path}", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        return dict(json.load(answer))


def text(data: str) -> str:
    return b64encode(data.encode()).decode()


def until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    limit = time.monotonic() + patience
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen within {patience} s"
        time.sleep(0.005)


def entries(server: Etcd, path: str) -> list[str]:
    """The idents of a lock's queue, in order."""
    body = {"key": text(path), "range_end": text(path[:-1] + "0"), "sort_target": "CREATE", "sort_order": "ASCEND"}
    kvs = ask(server.port, "kv/range", body).get("kvs", [])
    return [b64decode(kv["key"]).decode().rpartition("/")[2] for kv in kvs]


def queue(server: Etcd, target: str) -> list[str]:
    return entries(server, inspect(target).facts["keys"] + "e/")


def revoke(server: Etcd, ident: str) -> None:
    """End the lease of whoever made this entry."""
    ask(server.port, "lease/revoke", {"ID": str(int(ident[:16], 16))})


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.fixture
def target(etcd_server: Etcd, request: pytest.FixtureRequest) -> str:
    return f"{etcd_server.url}/only?il_ttl=3#{request.node.name} {time.monotonic_ns()}"


# ---- leases


@pytest.mark.parametrize("world", ["blocking", "asyncio"])
def test_a_lease_revoked_in_the_queue_costs_the_place_and_grants_nothing(
    etcd_server: Etcd, crew: Crew, target: str, world: str
) -> None:
    holder, waiter, third = crew.hire(), crew.hire(world), crew.hire()
    holder.do(acquire, target)
    waiting = waiter.begin(acquire, target)
    until(lambda: len(queue(etcd_server, target)) == 2, "the waiter's entry")
    behind = third.begin(acquire, target)
    until(lambda: len(queue(etcd_server, target)) == 3, "the third's entry")
    before = queue(etcd_server, target)
    revoke(etcd_server, before[1])
    until(lambda: len(queue(etcd_server, target)) == 3, "the new entry of the waiter")
    assert queue(etcd_server, target)[:2] == [before[0], before[2]]
    assert not waiting.done()
    assert not behind.done()
    holder.do(release, target)
    first = behind.result()
    assert not waiting.done()
    third.do(release, target)
    assert waiting.result().token > first.token


def test_a_lease_revoked_under_a_holder_is_told_at_once(etcd_server: Etcd, target: str) -> None:
    told: list[str] = []
    one, other = (Lock(target.replace("il_ttl=3", f"il_ttl={ttl}")) for ttl in (90, 4))  # renewed every 30 s
    hold = one.acquire()
    hold.on_lost(told.append)
    until(lambda: hold._claim.watch.live_from, "the watch")  # type: ignore[union-attr]
    revoke(etcd_server, queue(etcd_server, target)[0])
    began = time.monotonic()
    until(lambda: told, "the news")
    assert time.monotonic() - began < 15  # and not at the next renewal
    with pytest.raises(LostError):
        hold.assert_held()
    with other.acquire(timeout=5.0) as taken:
        hold.release()
        taken.assert_held()
        assert len(queue(etcd_server, target)) == 1
    with one.acquire(timeout=5.0) as again:  # under a new lease
        assert again.token > taken.token  # type: ignore[operator]


def test_a_lease_that_ends_while_it_is_granted(etcd_server: Etcd, target: str) -> None:
    """Who asked was told, a callback never."""
    told: list[str] = []
    hold = Lock(target).acquire()
    claim: Any = hold._claim
    claim.since, since, lease = 0.0, claim.since, claim.lease
    revoke(etcd_server, queue(etcd_server, target)[0])
    until(lambda: lease.gone, "the end")
    claim.since = since
    hold.on_lost(told.append)
    assert told
    hold.release()


def test_a_process_that_ends_leaves_nothing_behind(etcd_server: Etcd, target: str) -> None:
    program = "import sys; from interlock import Lock; hold = Lock(sys.argv[1]).acquire(); print(hold.token)"
    before = {each["ID"] for each in ask(etcd_server.port, "lease/leases", {}).get("leases", [])}
    subprocess.run([sys.executable, "-c", program, target], check=True, capture_output=True)
    after = {each["ID"] for each in ask(etcd_server.port, "lease/leases", {}).get("leases", [])}
    assert queue(etcd_server, target) == []
    assert after <= before


def test_one_lease_for_all_locks_of_a_process(etcd_server: Etcd, target: str) -> None:
    holds = [Lock(f"{target} {number}").acquire() for number in range(20)]
    idents = {queue(etcd_server, f"{target} {number}")[0][:16] for number in range(20)}
    for hold in holds:
        hold.release()
    assert len(idents) == 1


def test_a_ttl_is_whole_seconds(etcd_server: Etcd) -> None:
    for ttl in (0.5, 2.5, 1e9):
        with pytest.raises(ValueError, match="whole number of seconds"):
            Lock(etcd_server.target("x"), ttl=ttl)


# ---- requests that are lost, or late


def test_a_late_request_makes_no_entry_that_nobody_knows(
    etcd_server: Etcd, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was lost, its claim is withdrawn; then it arrives."""
    line = resolve(target)
    engine: Any = line.engine
    with Lock(target):  # there is a lease now
        pass
    client, real, late = engine.server.client, engine.server.client.call, []

    def lose(path: str, body: dict[str, Any], **options: Any) -> Any:
        if options.get("tally") is not None:
            options["tally"].pending += 1
            late.append((path, body))
            raise EngineError("no answer")
        return real(path, body, **options)

    monkeypatch.setattr(client, "call", lose)
    contender = verbs.Contender(line)
    with pytest.raises(EngineError):
        engine.try_now(contender.claim, 1.0)
    engine.let_go(contender.claim)
    (request,) = late
    real(*request)
    assert queue(etcd_server, target) == []
    monkeypatch.undo()
    with Lock(target).acquire(timeout=1.0):
        pass


def test_a_request_that_did_arrive_is_found_by_the_next(
    etcd_server: Etcd, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, the entry is made: the same request again is granted, with the same token."""
    engine: Any = resolve(target).engine
    client, real = engine.server.client, engine.server.client._once
    lost: list[int] = []

    def once(endpoint: int, path: str, data: bytes, seconds: float, tally: Any) -> Any:
        answer = real(endpoint, path, data, seconds, tally)
        if tally is not None and not lost and "header" in answer[1]:  # not yet that it has no leader
            lost.append(int(answer[1]["header"]["revision"]))
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(client, "_once", once)
    hold = Lock(target).acquire(timeout=5.0)
    assert [hold.token] == lost
    hold.release()
    assert queue(etcd_server, target) == []


# ---- what the server does


def test_compaction_while_somebody_waits(etcd_server: Etcd, crew: Crew, target: str) -> None:
    holder, waiter = crew.hire(), crew.hire("asyncio")
    holder.do(acquire, target)
    waiting = waiter.begin(acquire, target)
    until(lambda: len(queue(etcd_server, target)) == 2, "the waiter's entry")
    for number in range(50):
        answer = ask(etcd_server.port, "kv/put", {"key": text(f"noise{number % 5}"), "value": ""})
    ask(etcd_server.port, "kv/compaction", {"revision": answer["header"]["revision"], "physical": True})
    at = holder.do(release, target)
    assert waiting.result().got - at < 20
    waiter.do(release, target)


@pytest.mark.slow
def test_the_leader_is_killed(crew: Crew) -> None:
    with EtcdCluster() as cluster:
        target = cluster.target("a", "il_ttl=5")
        holder, waiter = crew.hire(), crew.hire("trio")
        token = holder.do(acquire, target).token
        waiting = waiter.begin(acquire, target)
        until(lambda: len(inspect(target).waiters) == 1, "the waiter")
        cluster.leader().kill()
        cluster.leader()  # there is one again
        time.sleep(5.0)  # a whole ttl: only renewals can have kept it
        assert holder.do(look, target) == (True, "")
        assert not waiting.done()
        holder.do(release, target)
        assert waiting.result().token > token
        waiter.do(release, target)


def test_an_endpoint_that_is_not_there_is_passed_over(etcd_server: Etcd) -> None:
    dead = f"etcd://127.0.0.1:1,127.0.0.1:{etcd_server.port}/only#failover"
    with Lock(dead).acquire(timeout=5.0), pytest.raises(TimeoutError):
        Lock(f"{etcd_server.url}/only#failover").acquire(timeout=0.1)


# ---- the guard


def test_a_guard_lets_a_transaction_through_only_while_held(etcd_server: Etcd, target: str) -> None:
    def write(fence: Any, value: str) -> bool:
        put = {"request_put": {"key": text("guarded"), "value": text(value)}}
        return bool(ask(etcd_server.port, "kv/txn", {"compare": [fence.compare], "success": [put]}).get("succeeded"))

    kinds: list[Callable[[], Any]] = [Lock(target).acquire, RWLock(target).write, Semaphore(target + "s", 2).acquire]
    for get in kinds:
        hold = get()
        fence = guard(hold)
        assert hold.token in (fence.revision, None)  # a semaphore's holds show none
        assert write(fence, "in time")
        hold.release()
        assert not write(fence, "too late")
        with pytest.raises(NotHeldError):
            guard(hold)
    with Lock("memory://#x") as other, pytest.raises(UnsupportedError, match="not a lock on etcd"):
        guard(other)


def test_the_guard_of_a_revoked_hold_fails(etcd_server: Etcd, target: str) -> None:
    hold = Lock(target).acquire()
    fence = guard(hold)
    revoke(etcd_server, queue(etcd_server, target)[0])
    assert not ask(etcd_server.port, "kv/txn", {"compare": [fence.compare]}).get("succeeded")
    hold.release()


# ---- upgrades between clients


def test_an_upgrade_waits_for_the_readers_of_others(target: str) -> None:
    """Two leases in one process are two clients to the server."""
    mine, other = RWLock(target), RWLock(target.replace("il_ttl=3", "il_ttl=4"))
    updating = mine.update()
    with other.read():
        assert not updating.try_upgrade()
    updating.upgrade(5.0)
    assert other.try_read() is None
    updating.downgrade("read")
    with other.read(5.0):
        pass
    updating.release()
    with other.write(5.0):
        pass


def test_a_downgrade_lets_waiting_readers_in(target: str) -> None:
    mine, other = RWLock(target), RWLock(target.replace("il_ttl=3", "il_ttl=4"))
    writing = mine.write()
    took: list[float] = []

    def read() -> None:
        with other.read(10.0):
            took.append(time.monotonic())

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: len(inspect(target).waiters) == 1, "the reader")
    at = time.monotonic()
    writing.downgrade("read")
    thread.join()
    assert took[0] - at < 9
    writing.release()


# ---- users


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[Etcd]:
    with Etcd() as server:
        port = server.port
        for name in ("root", "u"):
            ask(port, "auth/user/add", {"name": name, "password": "p@ss:w/rd"})
        for role in ("root", "r"):
            ask(port, "auth/role/add", {"name": role})
        ask(port, "auth/user/grant", {"user": "root", "role": "root"})
        ask(port, "auth/user/grant", {"user": "u", "role": "r"})
        permission = {"permType": "READWRITE", "key": text("mine/"), "range_end": text("mine0")}
        ask(port, "auth/role/grant", {"name": "r", "perm": permission})
        ask(port, "auth/enable", {})
        yield server


def with_user(server: Etcd, password: str = "p%40ss%3Aw%2Frd", prefix: str = "mine") -> str:
    return f"etcd://u:{password}@127.0.0.1:{server.port}/{prefix}?il_ttl=3#a"


def test_a_user_and_a_password(guarded_server: Etcd, crew: Crew) -> None:
    target = with_user(guarded_server)
    with Lock(target) as hold:
        assert "p@ss" not in repr(hold) + repr(Lock(target)) + str(inspect(target))
    holder, waiter = crew.hire(), crew.hire("asyncio")
    holder.do(acquire, target)
    waiting = waiter.begin(acquire, target)  # the watch, too, has to say who it is
    until(lambda: len(inspect(target).waiters) == 1, "the waiter")
    time.sleep(0.1)
    at = holder.do(release, target)
    assert waiting.result().got - at < 20


def test_a_token_that_has_run_out_is_renewed(guarded_server: Etcd) -> None:
    target = with_user(guarded_server)
    with Lock(target):
        pass
    engine: Any = resolve(target).engine
    engine.server.client._token = "nonsense.1"
    with Lock(target).acquire(timeout=5.0):
        pass


@pytest.mark.parametrize(
    ("password", "prefix", "said"),
    [("wrong", "mine", "refuses this user"), ("p%40ss%3Aw%2Frd", "others", "permission denied")],
)
def test_who_may_not(guarded_server: Etcd, password: str, prefix: str, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        Lock(with_user(guarded_server, password, prefix)).acquire()
    assert "wrong" not in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert str(guarded_server.port) in str(caught.value)


def test_nobody_may_not(guarded_server: Etcd) -> None:
    with pytest.raises(EngineError, match="user of the URL needs permission"):
        Lock(f"{guarded_server.url}/mine#a").acquire()


def test_credentials_where_none_are_needed(etcd_server: Etcd) -> None:
    """As etcd's own client: without users everybody may do everything."""
    with Lock(f"etcd://u:p@127.0.0.1:{etcd_server.port}/only#nobody").acquire(timeout=5.0):
        pass


# ---- TLS


class TlsEtcd(Etcd):
    def __init__(self, certificates: Path) -> None:
        super().__init__()
        self.certificates = certificates

    def command(self) -> list[str]:
        client = f"http://{self.host}:{self.port}"
        words = [word.replace(client, client.replace("http", "https")) for word in super().command()]
        where = str(self.certificates)
        return [*words, "--cert-file", f"{where}/server.crt", "--key-file", f"{where}/server.key",
                "--client-cert-auth", "--trusted-ca-file", f"{where}/ca.crt"]  # fmt: skip

    def ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        context.load_cert_chain(self.certificates / "client.crt", self.certificates / "client.key")
        try:
            with urllib.request.urlopen(
                f"https://{self.host}:{self.port}/health", timeout=2.0, context=context
            ) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False


def openssl(directory: Path, *words: str) -> None:
    subprocess.run([need("openssl"), *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEtcd]:
    where = tmp_path_factory.mktemp("certificates")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(where, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests", "-days", "2")
    (where / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl(where, "req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(where, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "2", "-extfile", "names")  # fmt: skip
    with TlsEtcd(where) as server:
        yield server


def with_tls(server: TlsEtcd, *, ca: bool = True, certificate: bool = True, more: str = "") -> str:
    where = server.certificates
    options = ["il_ttl=3"]
    options += [f"il_ca={where}/ca.crt"] if ca else []
    options += [f"il_cert={where}/client.crt", f"il_key={where}/client.key"] if certificate else []
    return f"etcds://127.0.0.1:{server.port}/only?{'&'.join(options)}{more}#a"


def test_tls(tls_server: TlsEtcd, crew: Crew) -> None:
    target = with_tls(tls_server)
    with Lock(target) as hold:
        assert hold.token
    holder, waiter = crew.hire(), crew.hire("trio")
    holder.do(acquire, target)
    for _ in range(3):
        waiting = waiter.begin(acquire, target)
        until(lambda: len(inspect(target).waiters) == 1, "the waiter")
        time.sleep(0.1)
        at = holder.do(release, target)
        assert waiting.result().got - at < 20
        holder, waiter = waiter, holder


def test_a_server_that_nobody_vouches_for_is_refused(tls_server: TlsEtcd) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"not to be trusted.*il_ca"):
        Lock(with_tls(tls_server, ca=False)).acquire()
    assert time.monotonic() - began < 30
    with Lock(with_tls(tls_server, ca=False, more="&il_verify=no")).acquire(timeout=5.0):
        pass


def test_a_client_without_a_certificate_is_refused(tls_server: TlsEtcd) -> None:
    with pytest.raises(EngineError):
        Lock(with_tls(tls_server, certificate=False)).acquire()


def test_certificates_that_are_not_there(tls_server: TlsEtcd, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be used"):
        Lock(f"etcds://127.0.0.1:{tls_server.port}/only?il_ca={tmp_path}/nothing#a").acquire()


# ---- URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("etcd:///prefix#a", "names no host"),
        ("etcd://h?timeout=3#a", "unknown options timeout"),
        ("etcd://h?il_colour=3#a", "unknown options il_colour"),
        ("etcd://h?il_ca=x#a", "write etcds://"),
        ("etcds://h?il_verify=perhaps#a", "yes or no"),
        ("etcds://h?il_key=x#a", "il_cert, which is missing"),
        ("etcd://:secret@h#a", "no user"),
        ("etcd://h", "names no lock"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Lock(url)
    assert "secret" not in str(caught.value)


def test_a_forked_child_has_connections_of_its_own(etcd_server: Etcd, target: str) -> None:
    hold = Lock(target).acquire()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with Lock(target + " child"):
                code = 3 if Lock(target).try_acquire() is not None else 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(queue(etcd_server, target)) == 1
    hold.assert_held()
    hold.release()
    assert queue(etcd_server, target) == []


def test_threads_that_wait_first_at_the_same_moment_have_one_listener(
    etcd_server: Etcd, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each started one, with a wake-up of its own; one of them had its closed, and never slept any more."""
    both = threading.Barrier(2)

    def meeting() -> tuple[socket.socket, socket.socket]:
        both.wait(60.0)
        return socket.socketpair()

    monkeypatch.setattr("interlock.engines.etcd.watch.socket", SimpleNamespace(socketpair=meeting))
    began = set(threading.enumerate())
    listener = Listener(Client(Address.parse(target)))
    claims = [EtcdClaim(), EtcdClaim()]
    for number, claim in enumerate(claims):
        listener.attach(claim, f"{target} {number}/".encode(), False)
    until(lambda: all(claim.watch and claim.watch.live_from for claim in claims), "both watches")
    until(lambda: len(listeners(began)) == 1, "the end of the other listener")
    for claim in claims:
        listener.detach(claim)


def listeners(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in set(threading.enumerate()) - before if thread.name == "interlock etcd"]


def test_a_member_of_the_crew_is_told_why(crew: Crew) -> None:
    with pytest.raises(MemberError, match="etcd does not answer"):
        crew.hire("asyncio").do(acquire, "etcd://127.0.0.1:1/only#a")
