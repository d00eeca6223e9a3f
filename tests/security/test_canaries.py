"""Credentials of a URL are in nothing that anybody sees: not in an error or its causes, a repr, a log, a pickle, the
command line or environment of a child, what `interlock who --json` prints, a trace, a span, a record on the server."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("servers are started as on Linux, and /proc is read", allow_module_level=True)

from interlock import AsyncLock, Lock, Timeout, connect
from interlock._address import Address, command_line, public
from interlock._core import arbiter
from interlock.engines import redis as redis_engine
from interlock.engines.etcd import client as etcd_client
from interlock.engines.postgres import settings as postgres_settings
from interlock.engines.zookeeper import core as zookeeper_core
from interlock.engines.zookeeper import session as zookeeper_session

from ..servers import Etcd, Postgres, Redis, ZooKeeper, free_port
from ..support import need_module
from .canaries import ACTIONS, CANARY, FORMS, MADE, URLS, Fake, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

for _module in ("redis", "psycopg", "kazoo"):
    need_module(_module)

import psycopg  # noqa: E402

# Clients of servers that misbehave leave sockets to the garbage collector. That is not what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """Nor anything that would be found in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert arbiter.listener is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who can answer is there, so nobody is waited for."""
    assert etcd_client.Client.call.__kwdefaults__ is not None
    monkeypatch.setitem(etcd_client.Client.call.__kwdefaults__, "limit", 0.3)
    monkeypatch.setattr(etcd_client, "ANSWER", 0.3)
    monkeypatch.setattr(etcd_client, "CONNECT", 0.3)
    monkeypatch.setattr(zookeeper_core, "PATIENCE", 0.4)
    monkeypatch.setattr(zookeeper_session, "CONNECT", 0.3)
    monkeypatch.setattr(postgres_settings, "CONNECT", 0.4)
    monkeypatch.setattr(redis_engine, "DEFAULT_TTL", 0.9)


def filled(url: str, where: str) -> str:
    return url.replace("HOST", where).replace("/NONE", "NONE").replace("NONE", "/nonexistent/none")


def use(name: str, where: str, actions: list[str]) -> Watch:
    url = filled(URLS[name], where)
    with Watch() as watch:
        for action in actions:
            watch.attempt(action, lambda action=action: ACTIONS[action](url))  # type: ignore[misc]
        watch.objects()
    return watch


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", URLS)
def test_nobody_is_there(name: str) -> None:
    watch = use(name, f"127.0.0.1:{free_port()}", list(ACTIONS))
    assert watch.leaks() == []
    assert watch.raised != []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["echo", "nonsense", "closes"])
@pytest.mark.parametrize("name", [name for name in URLS if "HOST" in URLS[name]])
def test_who_answers_is_no_server(name: str, how: str) -> None:
    """"echo" repeats what it was told in its error: some servers do."""
    with Fake(how) as fake:
        watch = use(name, fake.where, ["acquire", "async", "inspect", "connect"])
    assert watch.leaks() == []
    assert watch.raised != []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["redis password", "postgresql", "etcd", "zookeeper"])
def test_who_is_there_never_answers(name: str) -> None:
    with Fake("silent") as fake:
        watch = use(name, fake.where, [*MADE, "acquire", "inspect"])
    assert watch.leaks() == []
    assert watch.raised != []


# ---- negative controls


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["redis password", "postgresql", "etcd"])
def test_a_server_that_repeats_what_it_was_told_would_be_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Address, "hide", lambda self, text, user=False: text)
    with Fake("echo") as fake:
        watch = use(name, fake.where, ["acquire"])
        assert CANARY.encode() in fake.heard
    assert watch.leaks() != []


def test_what_is_shown_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless() -> None:
        raise ValueError(f"cannot use {CANARY}")

    with Watch() as watch:
        watch.attempt("careless", careless)
        watch.attempt("chained", lambda: Lock(f"redis://:{CANARY}@h/0"))
        print(CANARY)
    assert {leak.partition(":")[0] for leak in watch.leaks()} >= {"careless, printed", "careless, said", "printed"}
    monkeypatch.setattr(Address, "__repr__", lambda self: str(self.password))
    with Watch() as again:
        kept = Address.parse(f"redis://:{CANARY}@h/0")
        again.objects()
    assert kept.password == CANARY
    assert any(leak.startswith("repr of Address") for leak in again.leaks())


# ---- command lines, which others see


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["make", f"redis://:{CANARY}@h/0#a"], "make redis://h/0#a"),
        (["x", f"--lock=redis://joe:{CANARY}@h/0#a", "-j8"], "x --lock=redis://h/0#a -j8"),
        (["python", "-c", f"Lock('etcd://u:{CANARY}@h#a')"], "python -c Lock('etcd://h#a')"),
        (["x", f"postgresql://u@h/db?password={CANARY}&a=b#x"], "x postgresql://h/db?a=b#x"),
        (["x", "redis://u:S3cr3t/x@h#a"], "x redis://…"),
        (["x", "redis://u:S3cr3t#x@h#a"], "x redis://…"),
        (["x", "file:///a@b#c", "no://", "a@b"], "x file:///a@b#c no:// a@b"),
    ],
)
def test_urls_in_command_lines(words: list[str], shown: str) -> None:
    assert command_line(words) == shown


def test_a_password_with_a_hash_is_not_the_name() -> None:
    for url in ("redis://joe:12#S3cr3t@h:6379/0#a", "redis://joe:S3cr3t#x@h/0"):
        assert "S3cr3t" not in public(url)
        with pytest.raises(ValueError, match=r"percent-encode|names a lock") as caught:
            Lock(url)
        with pytest.raises(ValueError, match="redis://") as again:
            connect(url)
        assert "S3cr3t" not in f"{caught.value} {again.value}"


@pytest.mark.parametrize("name", ["redis password", "postgresql", "zookeeper", "slash", "hash", "etcd, query", "file"])
def test_the_commands(name: str, tmp_path: Path) -> None:
    url = filled(URLS[name], f"127.0.0.1:{free_port()}")
    environment = {**os.environ, "INTERLOCK_TRACE": str(tmp_path)}
    for words in (["run", "--timeout", "0.2", url, "--", "true"], ["who", "--json", url], ["break", url]):
        ran = subprocess.run(
            [sys.executable, "-m", "interlock", *words], capture_output=True, text=True, env=environment, check=False
        )
        assert ran.returncode not in (0, 1, None) or "who" in words or "break" in words
        assert not [form for form in FORMS if form in ran.stdout + ran.stderr]
    assert not [path for path in tmp_path.iterdir() if any(form in path.read_text() for form in FORMS)]


# ---- with servers

CHILD = """
import os, sys
print(open("/proc/self/cmdline").read(), open("/proc/self/environ").read(), flush=True)
sys.stdin.read()
"""


class Guarded:
    """A server, the right URL, a wrong one, and all that is on it as text."""

    def __init__(self, right: str, wrong: str, dump: Any) -> None:
        self.right, self.wrong, self.dump = right, wrong, dump


def _redis() -> Iterator[Guarded]:
    import redis

    with Redis("--requirepass", CANARY) as server:
        client = redis.Redis(port=server.port, password=CANARY)
        yield Guarded(
            f"redis://:{CANARY}@{server.host}:{server.port}/0?il_settle=0#a",
            f"redis://:{CANARY}Wrong@{server.host}:{server.port}/0#a",
            lambda: [client.dump(key) for key in client.scan_iter()] + client.client_list(),
        )
        client.close()


def _postgres() -> Iterator[Guarded]:
    with Postgres() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"ALTER USER postgres PASSWORD '{CANARY}'")
            with open(os.path.join(server.data, "pg_hba.conf"), "w") as file:
                file.write("host all all all scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        right = server.url.replace("postgres@", f"postgres:{CANARY}@")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until the new rules are read
            try:
                psycopg.connect(server.url).close()
            except psycopg.OperationalError:
                break
            time.sleep(0.05)

        def dump() -> list[Any]:
            with psycopg.connect(right) as connection:
                return connection.execute("SELECT * FROM pg_stat_activity").fetchall()

        yield Guarded(f"{right}#a", f"{right.replace(CANARY, CANARY + 'Wrong')}#a", dump)


def _etcd() -> Iterator[Guarded]:
    import base64
    import urllib.request

    with Etcd() as server:

        def ask(path: str, body: dict[str, object], token: str = "") -> dict[str, Any]:
            request = urllib.request.Request(
                f"http://{server.host}:{server.port}/v3/{path}", data=json.dumps(body).encode(),
                headers={"Authorization": token} if token else {},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        ask("auth/user/add", {"name": "root", "password": CANARY})
        ask("auth/role/add", {"name": "root"})
        ask("auth/user/grant", {"user": "root", "role": "root"})
        ask("auth/enable", {})
        token = ask("auth/authenticate", {"name": "root", "password": CANARY})["token"]

        def dump() -> list[bytes]:
            everything = base64.b64encode(b"\0").decode()
            found = ask("kv/range", {"key": everything, "range_end": everything}, token).get("kvs", [])
            return [base64.b64decode(each[key]) for each in found for key in ("key", "value")]

        where = f"{server.host}:{server.port}/x"
        yield Guarded(f"etcd://root:{CANARY}@{where}#a", f"etcd://root:{CANARY}Wrong@{where}#a", dump)


def _zookeeper() -> Iterator[Guarded]:
    """It knows no wrong passwords, only other users' nodes."""
    from kazoo.client import KazooClient

    with ZooKeeper() as server:

        def dump() -> list[Any]:
            client = KazooClient(f"{server.host}:{server.port}", auth_data=[("digest", f"joe:{CANARY}")])
            client.start(30)
            found: list[Any] = []
            todo = ["/"]
            while todo:
                path = todo.pop()
                if path.startswith("/zookeeper"):
                    continue
                found += [path, client.get(path)[0]]
                todo += [f"{path.rstrip('/')}/{name}" for name in client.get_children(path)]
            client.stop()
            client.close()
            return found

        where = f"{server.host}:{server.port}/x"
        yield Guarded(f"zookeeper://joe:{CANARY}@{where}#a", f"zookeeper://ann:{CANARY}Wrong@{where}#a", dump)


@pytest.mark.slow
@pytest.mark.parametrize("make", [_redis, _postgres, _etcd, _zookeeper], ids=["redis", "postgres", "etcd", "zookeeper"])
def test_with_a_server(make: Any, tmp_path: Path) -> None:
    """`interlock run` holds; others look, wait in vain, and come with a wrong password."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from interlock.otel import instrument, uninstrument

    servers = make()
    its: Guarded = next(servers)
    command = [sys.executable, "-m", "interlock", "run", its.right, "--", sys.executable, "-c", CHILD]
    environment = {**os.environ, "INTERLOCK_TRACE": str(tmp_path)}
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    watch = Watch()
    try:
        assert holder.stdout is not None
        assert holder.stdin is not None
        child = holder.stdout.readline()
        assert "python" in child, holder.stderr and holder.stderr.read()
        watch.note("the child", child)
        instrument(provider)
        with watch:
            for action in ("acquire", "async", "read", "permit", "inspect", "connect", "all", "told", *MADE):
                watch.attempt(action, lambda action=action: ACTIONS[action](its.right))  # type: ignore[misc]
                watch.attempt(f"{action}, wrong", lambda action=action: ACTIONS[action](its.wrong))  # type: ignore[misc]
            watch.objects()
        who = subprocess.run(
            [sys.executable, "-m", "interlock", "who", "--json", its.right], capture_output=True, text=True, check=False
        )
        watch.note("who", who.stdout + who.stderr)
        assert json.loads(who.stdout)["holders"]
        watch.note("the server", its.dump())
        assert any("Timeout" in text for text in watch.raised)
        with pytest.raises(TypeError, match="credentials"):
            pickle.dumps(AsyncLock(its.right))
    finally:
        if holder.stdin is not None:
            holder.stdin.close()
        ended = holder.wait(60)
        for pipe in (holder.stdout, holder.stderr):
            if pipe is not None:
                watch.note("the holder", pipe.read())
                pipe.close()
    assert ended == 0
    with watch:
        with Lock(its.right, timeout=30.0) as hold:
            watch.note("a hold", f"{hold!r} {hold.token}")
            with pytest.raises(Timeout) as caught:
                Lock(its.right).acquire(0)
            watch.error("a timeout", caught.value)
    uninstrument()
    for path in tmp_path.iterdir():
        watch.note("a trace", path.read_text())
    watch.note("spans", [span.to_json() for span in exporter.get_finished_spans()])
    assert exporter.get_finished_spans()
    next(servers, None)
    assert watch.leaks() == []
