"""What only Redis has: failovers, replicas, Sentinels and clusters, users, and its way of forgetting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from interlock import EngineError, Lock, LostError, ProtocolError, RWLock, Semaphore, Timeout, inspect
from interlock._target import resolve
from interlock._wait.workers import workers

from ..servers import PATIENCE, Redis, Valkey, free_port
from ..support import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def url(redis_server: Redis, request: pytest.FixtureRequest) -> str:
    return f"{redis_server.url}?il_settle=0#{request.node.name}-{time.monotonic_ns()}"


@pytest.fixture
def client(redis_server: Redis) -> Iterator[Any]:
    with redis.Redis(port=redis_server.port) as client:
        yield client


def until(true: Callable[[], object], what: str = "it") -> None:
    limit = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def holder(url: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds until it is told to end."""
    program = f"import sys\nfrom interlock import Lock\nwith Lock({url!r}, **{options!r}):\n"
    program += " print('held', flush=True)\n sys.stdin.readline()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
            process.communicate()


# ---- the script


def test_a_flushed_script_is_sent_again(url: str, client: Any) -> None:
    lock = Lock(url)
    with lock as hold:
        client.script_flush()
        hold.renew()
        assert lock.try_acquire() is None
        client.script_flush()
        engine: Any = resolve(url).engine
        claim: Any = hold._claim
        before = claim.deadline
        assert engine.renew_all([claim]) == {claim: ""}
        assert claim.deadline > before
        client.script_flush()
    with lock:
        pass


@pytest.fixture
def calls(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the script, to be made again: as copies that come late, by connections that were given up."""
    server: Any = resolve(url).engine.core.server  # type: ignore[attr-defined]
    made, call_on = [], server._call_on

    def note(node: Any, keys: Any, args: Any, *rest: Any) -> Any:
        made.append((keys, args))
        return call_on(node, keys, args, *rest)

    monkeypatch.setattr(server, "_call_on", note)
    return made


def again(url: str, call: Any) -> None:
    server: Any = resolve(url).engine.core.server  # type: ignore[attr-defined]
    server.call(call[0], *call[1])


def test_a_downgrade_that_comes_again_late_lets_nobody_in_beside_a_writer(url: str, calls: list[Any]) -> None:
    with RWLock(url).write() as hold:
        hold.downgrade("update")
        copy = calls[-1]
        assert copy[1][0] == b"mode"
        hold.upgrade()
        again(url, copy)
        with pytest.raises(Timeout):
            RWLock(url.replace("il_settle=0", "il_settle=0.0")).read(timeout=0)
        hold.assert_held()


def test_an_upgrade_that_comes_again_late_keeps_no_reader_out(url: str, calls: list[Any]) -> None:
    other = RWLock(url.replace("il_settle=0", "il_settle=0.0"))
    with RWLock(url).update() as hold, other.read(timeout=5):
        with pytest.raises(Timeout):
            hold.upgrade(timeout=0)
        (copy,) = {call for call in calls if call[1][0] == b"upgrade"}
        again(url, copy)
        other.read(timeout=0).release()


def test_an_acquire_that_comes_again_late_takes_nothing(
    url: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first copy is on its way when the repetition is answered, and comes after the release."""
    server: Any = resolve(url).engine.core.server  # type: ignore[attr-defined]
    call_on = server._call_on

    def lose_the_first(*args: Any) -> Any:
        if not calls:
            calls.append((args[1], args[2]))
            raise redis.exceptions.TimeoutError
        return call_on(*args)

    monkeypatch.setattr(server, "_call_on", lose_the_first)
    with Lock(url):
        assert [args[0] for _, args in calls] == [b"acquire", b"acquire"]
    again(url, calls[0])
    assert not inspect(url).holders


@pytest.mark.parametrize("reported", [1, 2])
def test_the_uptime_is_rounded_and_not_trusted_to_the_second(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, reported: int
) -> None:
    """A server says 1 where it has been up for 0.1 s: with a ttl of 1 s, another holder of before still believes."""
    from interlock.engines.redis import server as module

    exchange = module._exchange

    def report(connection: Any, commands: Any) -> Any:
        if commands[0][0] == b"INFO":
            return [b"uptime_in_seconds:%d\r\n" % reported]
        return exchange(connection, commands)

    monkeypatch.setattr(module, "_exchange", report)
    url = f"{redis_server.url}?il_settle={reported}&il_namespace={request.node.name}{reported}#x"
    assert not inspect(url).holders  # connects
    server: Any = resolve(url).engine.core.server  # type: ignore[attr-defined]
    assert any(line.settled for line in server._pool(None).free)


def test_tokens_follow_the_clock_and_rise_without_it(url: str, client: Any) -> None:
    with Lock(url) as hold:
        first = hold.token
    assert first is not None
    assert abs(first / 1e6 - time.time()) < 60
    key = inspect(url).facts["key"].replace(":s", ":t")
    client.set(key, first + 10**9)  # as of a clock that was ahead
    with Lock(url) as hold:
        assert hold.token == first + 10**9 + 1
    assert 0 < client.ttl(key) <= 7 * 86400


def test_nothing_is_left_but_the_token(url: str, client: Any) -> None:
    with Lock(url):
        key = inspect(url).facts["key"]
        assert 0 < client.pttl(key) <= 12_000
    assert not client.exists(key)
    assert client.exists(key.replace(":s", ":t"))


def test_a_lock_and_a_rwlock_of_one_name_exclude_each_other(url: str) -> None:
    with Lock(url):
        assert RWLock(url).try_read() is None
    with RWLock(url).read():
        assert Lock(url).try_acquire() is None
    with Lock(url), pytest.raises(ProtocolError, match="in use as a lock"):
        Semaphore(url, 2).acquire(0)
    with Semaphore(url, 2), pytest.raises(ProtocolError, match="in use as a semaphore"):
        Lock(url).acquire(0)


def test_reports_name_holders_and_waiters(url: str) -> None:
    with holder(url) as first:
        report = inspect(url)
        assert [party.pid for party in report.holders] == [first.pid]
        (its,) = report.holders
        assert its.host
        assert its.mode == "write"
        assert its.since is not None
        assert abs(its.since - time.time()) < 60
        with pytest.raises(Timeout, match=str(first.pid)):
            Lock(url).acquire(0)


def test_broken_by_force(url: str) -> None:
    engine: Any = resolve(url).engine
    line = resolve(url)
    assert engine.break_stale(line) == ""
    with Lock(url) as hold:
        with pytest.raises(ProtocolError, match="nothing proves"):
            engine.break_stale(line)
        assert engine.break_stale(line, force=True) == "forced"
        with pytest.raises(LostError, match="does not know"):
            hold.renew()
        assert hold.lost


# ---- forgetting


def test_a_server_that_has_just_started_is_waited_for() -> None:
    """It lost its memory, while a hold of before may still be believed in."""
    with Redis() as server:
        url = f"{server.url}#a"
        first = Lock(f"{server.url}?il_settle=0#a", ttl=2).acquire()
        server.restart(kill=True)
        began = time.monotonic()
        with pytest.raises(Timeout, match="just started"):
            Lock(url, ttl=2).acquire(0)
        with Lock(url, ttl=2) as second:
            assert first.lost
            assert time.monotonic() - began > 1.0
            assert second.token is not None
            assert first.token is not None
            assert second.token > first.token
        first.release()


def test_durable_servers_keep_holds_over_a_restart() -> None:
    with Redis(durable=True) as server:
        url = f"{server.url}?il_settle=0#a"
        with Lock(url) as hold:
            server.restart(kill=True)
            hold.renew()
            assert not hold.lost
            assert Lock(url).try_acquire() is None
        with Lock(url) as again:
            assert again.token is not None
            assert hold.token is not None
            assert again.token > hold.token


def _replica(server: Redis, of: Redis) -> Any:
    client: Any = redis.Redis(port=server.port)
    client.replicaof(of.host, of.port)
    until(lambda: client.info("replication")["master_link_status"] == "up", "replication")
    return client


def test_a_failover_that_lost_writes_gives_a_second_holder_a_greater_token() -> None:
    """The bad news, as documented, and what fencing is for."""
    with Redis() as primary, Redis() as other:
        first = Lock(f"{primary.url}?il_settle=0#a").acquire()
        client = _replica(other, primary)
        client.replicaof("no", "one")  # cut off before the next write
        second = Lock(f"{primary.url}?il_settle=0#b").acquire()
        primary.kill()
        with Lock(f"{other.url}?il_settle=0#b") as hold:  # its holder still believes in it: two holders
            assert hold.token is not None
            assert second.token is not None
            assert hold.token > second.token
            assert not second.lost
        assert Lock(f"{other.url}?il_settle=0#a").try_acquire() is None  # this one had been copied
        client.close()
        for each in (first, second):
            each.release()
        workers().settle(20)


def test_so_many_replicas_or_nothing() -> None:
    with Redis() as primary, Redis() as other:
        url = f"{primary.url}?il_settle=0&il_min_replicas=1#a"
        with pytest.raises(EngineError, match=r"0 of the 1 replicas"):
            Lock(url).acquire()
        assert inspect(url).holders == ()
        client = _replica(other, primary)
        with Lock(url):
            assert client.keys("il1:*:s")
        client.close()


# ---- who may, and by which way


def test_users_without_rights_and_wrong_passwords() -> None:
    with Redis("--requirepass", "sesame") as server:
        for wrong in ("", "tester:opened@", ":opened@"):
            with pytest.raises(EngineError, match="refuses") as caught:
                Lock(f"redis://{wrong}{server.host}:{server.port}/0#a").acquire(0)
            assert "opened" not in str(caught.value)
        right = f"redis://:sesame@{server.host}:{server.port}/0?il_settle=0#a"
        with Lock(right) as hold:
            assert "sesame" not in repr(hold) + repr(inspect(right))
        with redis.Redis(port=server.port, password="sesame") as client:
            client.execute_command(*"ACL SETUSER few on >few ~il1:* +@all resetchannels".split())
        few = f"redis://few:few@{server.host}:{server.port}/0?il_settle=0#a"
        with Lock(few), pytest.raises(EngineError, match="channels &il1"):
            Lock(few.replace("il_settle", "il_ttl=9&il_settle")).acquire(5)


def test_unix_sockets(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:
        path = os.path.join(short, "s")
        with Redis("--unixsocket", path), Lock(f"redis+unix://{path}?il_settle=0#a") as hold:
            assert hold.token


@pytest.fixture(scope="module")
def certificates() -> Iterator[str]:
    openssl = need("openssl")
    directory = tempfile.mkdtemp()
    made = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem",
    ]  # fmt: skip
    subprocess.run([openssl, *made], check=True, capture_output=True)
    yield directory
    shutil.rmtree(directory)


def test_tls_is_verified_unless_told_otherwise(certificates: str) -> None:
    secure = free_port()
    files = [f"{certificates}/{name}.pem" for name in ("cert", "key", "cert")]
    options = "--tls-port", str(secure), "--tls-auth-clients", "no"
    names = "--tls-cert-file", files[0], "--tls-key-file", files[1], "--tls-ca-cert-file", files[2]
    with Redis(*options, *names):
        rest = f"{secure}/0?il_settle=0"
        with pytest.raises(EngineError, match=r"(?i)certificate"):
            Lock(f"rediss://localhost:{rest}#a").acquire(0)
        with pytest.raises(EngineError, match=r"(?i)certificate|hostname|mismatch"):
            Lock(f"rediss://127.0.0.1:{rest}&ssl_ca_certs={files[0]}#a").acquire(0)
        with Lock(f"rediss://localhost:{rest}&ssl_ca_certs={files[0]}#a") as hold:
            assert hold.token
        with Lock(f"valkeys://127.0.0.1:{rest}&ssl_cert_reqs=none#a"):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/x#a", "redis://a,b/0#a", "redis+sentinel://h#a", "redis+sentinel:///mymaster#a", "redis+cluster://#a",
        "redis+cluster://h/3#a", "redis+unix://h/s#a", "redis+unix://#a", "redis://h?il_min_replicas=x#a",
        "redis://h?il_min_replicas=1.5#a", "redis://h?il_settle=-1#a", "redis://h?il_ttl=0.1#a", "redis://h?il_x=1#a",
        "redis://h?socket_timeout=soon#a",
    ],
)  # fmt: skip
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(ValueError, match="redis"):
        Lock(url)


# ---- Valkey, Sentinel, Cluster


def test_valkey(valkey_server: Valkey) -> None:
    url = f"{valkey_server.url}?il_settle=0#a"
    with holder(url) as first:
        begun = time.monotonic()
        assert first.stdin is not None
        first.stdin.write("\n")
        first.stdin.flush()
        with Lock(url).acquire(PATIENCE) as hold:
            assert hold.token
        assert time.monotonic() - begun < 20


@pytest.mark.slow
def test_sentinels_name_the_new_master(tmp_path: Path) -> None:
    port = free_port()
    with Redis() as primary, Redis() as other:
        client = _replica(other, primary)
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
        )
        sentinel = subprocess.Popen(
            [need("redis-server"), str(conf), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            asked: Any = redis.Redis(port=port)
            until(lambda: _known_replicas(asked) == 1, "the Sentinel's knowledge of the replica")
            url = f"redis+sentinel://127.0.0.1:{port}/mymaster/0?il_settle=0&il_ttl=5#a"
            with Lock(url) as first:
                until(lambda: client.keys("il1:*:s"), "the copy")
            primary.kill()
            until(lambda: asked.sentinel_get_master_addr_by_name("mymaster")[1] == other.port, "the failover")
            with Lock(url).acquire(PATIENCE) as second:
                assert first.token is not None
                assert second.token is not None
                assert second.token > first.token
            asked.close()
        finally:
            sentinel.kill()
            sentinel.wait()
            client.close()


def _known_replicas(sentinel: Any) -> int:
    try:
        return len(sentinel.sentinel_slaves("mymaster"))
    except redis.RedisError:
        return -1


@pytest.mark.slow
def test_a_cluster_and_a_slot_that_moves(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Redis("--cluster-enabled", "yes")) for _ in range(3)]
        subprocess.run(
            [need("redis-cli"), "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes), "--cluster-yes"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        base = f"redis+cluster://127.0.0.1:{nodes[0].port}?il_settle=0"
        client: Any = redis.RedisCluster(host="127.0.0.1", port=nodes[0].port)
        until(lambda: client.cluster_info()["cluster_state"] == "ok", "the cluster")
        for number in range(12):  # of all nodes
            with Lock(f"{base}#{number}") as hold, holder_fails(f"{base}#{number}"):
                hold.renew()
        url = f"{base}#waited"
        with holder(url) as first:
            assert first.stdin is not None
            begun = time.monotonic()
            first.stdin.write("\n")
            first.stdin.flush()
            with Lock(url).acquire(PATIENCE) as hold:
                assert time.monotonic() - begun < 20
                _move(client, nodes, inspect(url).facts["key"])
                hold.renew()
                assert Lock(url).try_acquire() is None
        client.close()


@contextlib.contextmanager
def holder_fails(url: str) -> Iterator[None]:
    with pytest.raises(Timeout):
        Lock(url).acquire(0)
    yield


def _move(client: Any, nodes: list[Redis], key: str) -> None:
    """Give the key's slot to another node."""
    slot = client.keyslot(key)
    source = client.get_node_from_key(key)
    target = next(node for node in nodes if node.port != source.port)
    clients: dict[int, Any] = {node.port: redis.Redis(port=node.port) for node in nodes}
    ids = {port: each.execute_command("CLUSTER MYID").decode() for port, each in clients.items()}
    clients[target.port].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
    clients[source.port].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target.port])
    keys = clients[source.port].execute_command("CLUSTER GETKEYSINSLOT", slot, 10)
    clients[source.port].execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for port in ids:
        clients[port].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target.port])
    for each in clients.values():
        each.close()


# ---- stopped, killed, forked


def test_a_stopped_waiter_is_passed_and_a_stopped_holder_finds_it_lost(url: str) -> None:
    stopped = f"import sys\nfrom interlock import Lock\nlock = Lock({url!r}, ttl=1)\nprint('begin', flush=True)\n"
    stopped += "hold = lock.acquire()\nprint(hold.token, bool(hold.lost), flush=True)\n"
    with Lock(url, ttl=1) as hold:
        process = subprocess.Popen([sys.executable, "-c", stopped], stdout=subprocess.PIPE, text=True)
        try:
            until(lambda: inspect(url).waiters, "the wait")
            os.kill(process.pid, signal.SIGSTOP)
            until(lambda: not inspect(url).waiters, "the end of its place")
            token = hold.token
            hold.release()
            begun = time.monotonic()
            with Lock(url, ttl=1) as other:
                assert time.monotonic() - begun < 20
                assert other.token is not None
                assert token is not None
                assert other.token > token
                os.kill(process.pid, signal.SIGCONT)
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            mine, lost = process.stdout.readline().split()
            assert int(mine) > other.token
            assert lost == "False"
        finally:
            process.kill()
            process.communicate()


def test_a_process_that_ends_without_releasing_leaves_nothing(url: str) -> None:
    program = f"from interlock import Lock\nimport threading, time\nhold = Lock({url!r}).acquire()\n"
    program += "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nkeep = [hold]\nkeep.append(keep)\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=100)
    assert inspect(url).holders == ()


# ---- the command line


def interlock(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interlock", *words], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_commands_take_urls(url: str) -> None:
    with holder(url) as first:
        ran = interlock("run", "--no-wait", url, "--", "echo", "never")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert str(first.pid) in ran.stderr
        assert str(first.pid) in interlock("who", url).stdout
        assert interlock("break", url).returncode == 1
        assert interlock("break", "--force", url).returncode == 0
        ran = interlock("run", url, "--", "sh", "-c", "echo in; exit 7")
        assert (ran.returncode, ran.stdout) == (7, "in\n")
    assert inspect(url).holders == ()


def test_a_command_whose_lock_is_lost_is_told_to_end(url: str) -> None:
    short = url.replace("il_settle=0", "il_settle=0&il_ttl=1")
    script = "trap 'echo told; exit 3' TERM; echo in; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [sys.executable, "-m", "interlock", "run", short, "--", "sh", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            assert interlock("break", "--force", short).returncode == 0
            assert process.stdout.readline() == "told\n"
            assert process.wait(60) == 3
            assert process.stderr is not None
            assert "does not know of it any more" in process.stderr.read()
        finally:
            process.kill()


def test_a_refused_password_is_not_shown() -> None:
    with Redis("--requirepass", "sesame") as server:
        wrong = f"redis://:opened@{server.host}:{server.port}/0#a"
        for words in (["run", wrong, "--", "true"], ["who", wrong], ["break", wrong]):
            ran = interlock(*words)
            assert ran.returncode in (1, 125)
            assert "refuses" in ran.stderr
            assert "opened" not in ran.stderr + ran.stdout
