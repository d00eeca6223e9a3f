"""PostgreSQL over TLS: what is asked for is verified, unless the URL says otherwise in so many words."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from interlock import EngineError, Lock, inspect
from interlock.testing.conformance.crew import WORLDS, Crew, acquire, release

from ..servers import Postgres
from ..support import need, need_module

if TYPE_CHECKING:
    from collections.abc import Iterator

need_module("psycopg")


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[Postgres, str]]:
    """A server that knows TLS, and the file with its certificate, which is for `localhost`."""
    where = tempfile.mkdtemp(prefix="interlock-postgres-tls-")
    words = [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-keyout", f"{where}/key.pem", "-out", f"{where}/cert.pem",
    ]  # fmt: skip
    subprocess.run([need("openssl"), *words], check=True, capture_output=True)
    os.chmod(where, 0o755)
    os.chmod(f"{where}/key.pem", 0o600)
    if os.geteuid() == 0:
        shutil.chown(f"{where}/key.pem", "postgres")
    try:
        with Postgres("ssl=on", f"ssl_cert_file={where}/cert.pem", f"ssl_key_file={where}/key.pem") as server:
            yield server, f"{where}/cert.pem"
    finally:
        shutil.rmtree(where)


def target(server: Postgres, query: str, host: str = "localhost") -> str:
    return f"postgresql://postgres@{host}:{server.port}/postgres?{query}#tls"


def encrypted(server: Postgres) -> bool:
    """Is each session of this library's, there now, by TLS?"""
    import psycopg

    with psycopg.connect(server.url) as connection:
        rows = connection.execute(
            "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
            "WHERE a.application_name ~ 'interlock' OR a.query ~ 'advisory'"
        ).fetchall()
    return bool(rows) and any(ssl for (ssl,) in rows)


def test_verified(secure: tuple[Postgres, str]) -> None:
    server, certificate = secure
    with Crew() as crew:
        url = target(server, f"sslmode=verify-full&sslrootcert={certificate}")
        for number, world in enumerate(WORLDS):
            one, two = crew.hire(world), crew.hire(WORLDS[(number + 1) % 3])
            token = one.do(acquire, url, 30.0).token
            waiting = two.begin(acquire, url)
            while not inspect(url).waiters:
                assert not waiting.done()
            one.do(release, url)
            assert waiting.result().token > token
            assert encrypted(server)
            two.do(release, url)


def test_what_nobody_vouches_for_is_refused(secure: tuple[Postgres, str]) -> None:
    server, certificate = secure
    with pytest.raises(EngineError, match=r"(?i)certificate|sslrootcert|root"):
        Lock(target(server, "sslmode=require")).acquire(timeout=5)
    with pytest.raises(EngineError, match=r"(?i)certificate|host name"):
        Lock(target(server, f"sslmode=require&sslrootcert={certificate}", "127.0.0.1")).acquire(timeout=5)


def test_unless_it_is_told_otherwise(secure: tuple[Postgres, str]) -> None:
    server, _ = secure
    with Lock(target(server, "sslmode=require&il_tls=unverified", "127.0.0.1")):
        pass
