"""Three members of ZooKeeper, the leader of which is killed; and ZooKeeper over TLS."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interlock import EngineError, Lock, RWLock, Semaphore, inspect
from interlock.testing.conformance import acts
from interlock.testing.conformance.crew import WORLDS, Crew, MemberError, acquire, look, release

from ..servers import ZooKeeper, ZooKeeperEnsemble, free_port
from ..support import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


def until(true: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.02)


# ---- an ensemble


@pytest.mark.slow
def test_the_leader_is_killed_and_then_the_majority_is_gone(crew: Crew) -> None:
    """Holds and queues outlive the leader. Without a majority a holder is told by its own clock, and nobody gets it."""
    ttl = {"ttl": 8.0}
    with ZooKeeperEnsemble() as ensemble:
        held = []
        for number, world in enumerate(WORLDS):
            target = ensemble.target(f"leader {world}")
            holder, waiter = crew.hire(world), crew.hire(WORLDS[(number + 1) % 3])
            token = holder.do(acquire, target, 30.0, "", ttl).token
            waiting = waiter.begin(acquire, target, None, "", ttl)
            until(lambda: inspect(target).waiters, "the waiter")  # noqa: B023
            held.append((target, holder, waiter, waiting, token))
        ensemble.leader().kill()
        ensemble.leader()  # there is one again
        time.sleep(ttl["ttl"])  # a whole timeout: only signs of life can have kept it
        for target, holder, waiter, waiting, token in held:
            assert holder.do(look, target) == (True, ""), f"{holder} lost it with the leader"
            assert not waiting.done()
            holder.do(release, target)
            assert waiting.result().token > token
            assert waiter.do(look, target) == (True, "")
        ensemble.leader().kill()  # one of three is left
        others = [crew.hire(world) for world in WORLDS]
        trying = [other.begin(acquire, target, 20.0, "", ttl) for other, (target, *_) in zip(others, held, strict=True)]
        for target, _, waiter, _, _ in held:
            assert waiter.do(acts.until_lost, target, 30.0), f"{waiter} was not told"
        for each in trying:
            with pytest.raises(MemberError) as caught:
                each.result(60)
            assert caught.value.kind in ("EngineError", "Timeout")
        gone = next(each for each in ensemble.members if each.process is None)
        gone.start()  # a majority again
        for target, _, waiter, _, token in held:
            waiter.do(acts.try_release, target)
            again = crew.hire().do(acquire, target, 40.0, "", ttl, patience=90)
            assert again.token > token + 1


# ---- TLS


class Secure(ZooKeeper):
    """With a port for TLS beside its own. Clients must show a certificate."""

    def __init__(self, certificates: Path) -> None:
        self.secure = free_port()
        super().__init__(
            f"secureClientPort={self.secure}",
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
            f"ssl.keyStore.location={certificates}/server.p12", "ssl.keyStore.type=PKCS12",
            "ssl.keyStore.password=secret",
            f"ssl.trustStore.location={certificates}/ca.crt.pem", "ssl.trustStore.type=PEM",
        )  # fmt: skip


def openssl(directory: Path, *words: str) -> None:
    subprocess.run([need("openssl"), *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("certificates")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(where, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt.pem", "-subj", "/CN=tests", "-days", "2")
    (where / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl(where, "req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(where, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.crt", "-days", "2", "-extfile", "names")  # fmt: skip
    openssl(where, "pkcs12", "-export", "-in", "server.crt", "-inkey", "server.key", "-out", "server.p12",
            "-passout", "pass:secret")  # fmt: skip
    return where


@pytest.fixture(scope="module")
def secure(certificates: Path) -> Iterator[Secure]:
    with Secure(certificates) as server:
        yield server


def target_of(server: Secure, certificates: Path, *left_out: str, more: str = "", host: str = "127.0.0.1") -> str:
    options = {
        "il_ca": f"{certificates}/ca.crt.pem",
        "il_cert": f"{certificates}/client.crt",
        "il_key": f"{certificates}/client.key",
    }
    query = "&".join(f"{key}={value}" for key, value in options.items() if key not in left_out)
    return f"zookeepers://{host}:{server.secure}/tls?{query}{more}#a"


def test_tls(secure: Secure, certificates: Path, crew: Crew) -> None:
    target = target_of(secure, certificates)
    before = 0
    for number, world in enumerate(WORLDS):
        one, two = crew.hire(world), crew.hire(WORLDS[(number + 1) % 3])
        grant = one.do(acquire, target, 30.0)
        assert grant.token > before
        waiting = two.begin(acquire, target)
        until(lambda: inspect(target).waiters, "the waiter")
        one.do(release, target)
        before = waiting.result().token
        assert before > grant.token
        two.do(release, target)
    with Semaphore(target.replace("#a", "#pool"), 2).acquire(), RWLock(target).read():
        RWLock(target).read(timeout=30).release()


class _HasRead(socket.socket):
    def pending(self) -> int:
        return 5


def test_what_tls_has_read_already_is_seen() -> None:
    """Of two answers in one record the second lay there until the server said something more."""
    from interlock.engines.zookeeper.server import _see_what_is_pending

    handler: Any = SimpleNamespace(select=select.select)
    _see_what_is_pending(handler)
    with socket.socket() as listening, _HasRead(socket.AF_INET, socket.SOCK_DGRAM) as one:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        assert handler.select([one, listening], [], [], 60.0)[0] == [one]
        assert handler.select([listening], [], [], 0.01)[0] == []


def test_a_server_that_nobody_vouches_for_is_refused(secure: Secure, certificates: Path) -> None:
    with pytest.raises(EngineError, match=r"(?i)certificate"):
        Lock(target_of(secure, certificates, "il_ca")).acquire(timeout=0)
    with pytest.raises(EngineError, match=r"(?i)hostname|mismatch"):
        Lock(target_of(secure, certificates, host="localhost")).acquire(timeout=0)
    with Lock(target_of(secure, certificates, "il_ca", more="&il_verify=no"), timeout=30):
        pass


def test_a_client_without_a_certificate_is_refused(secure: Secure, certificates: Path) -> None:
    with pytest.raises(EngineError):
        Lock(target_of(secure, certificates, "il_cert", "il_key")).acquire(timeout=0)


def test_tls_that_makes_no_sense(secure: Secure, certificates: Path) -> None:
    target = target_of(secure, certificates)
    with pytest.raises(ValueError, match="zookeepers://"):
        Lock(target.replace("zookeepers://", "zookeeper://"))
    with pytest.raises(ValueError, match="yes or no"):
        Lock(target_of(secure, certificates, more="&il_verify=perhaps"))
    with pytest.raises(ValueError, match="together"):
        Lock(target_of(secure, certificates, "il_key"))
    with pytest.raises(EngineError, match="il_ca"):
        Lock(target.replace("ca.crt.pem", "nothing.pem")).acquire(timeout=0)
