"""The command line and the store take the URL of every engine, and what is on a server says which version made it."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Lock, ProtocolError
from interlock.testing.conformance.crew import Crew, acquire, release

from ..store.support import numbered
from .backends import BACKENDS, Backend, PostgresBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with BACKENDS[request.param]() as backend:
        yield backend


@pytest.fixture
def url(backend: Backend) -> str:
    return at(backend, uuid.uuid4().hex)


def at(backend: Backend, name: str) -> str:
    """A server that has just been started gives no lock for a while, unless it is told that it is new."""
    return backend.target(name).replace("/0#", "/0?il_settle=0#")


def interlock(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interlock", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_commands(url: str) -> None:
    with Crew() as crew:
        holder = crew.hire("asyncio")
        holder.do(acquire, url, 60.0)
        ran = interlock("run", "--no-wait", url, "--", "echo", "never")
        assert (ran.returncode, ran.stdout) == (1, ""), ran.stderr
        assert str(holder.pid) in ran.stderr
        assert str(holder.pid) in interlock("who", url).stdout
        holder.do(release, url)
        ran = interlock("run", url, "--", "sh", "-c", "echo in; exit 7")
        assert (ran.returncode, ran.stdout) == (7, "in\n"), ran.stderr


def test_the_store(backend: Backend, tmp_path: Path) -> None:
    """Of two that build the same, one builds."""
    url = at(backend, "store/")
    document, archive = numbered(3)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    spec = tmp_path / "a.spec.json"
    spec.write_text(json.dumps(document))
    script = f"echo x >> {tmp_path}/built; sleep 0.3; cp {tmp_path}/a.tar.gz $INTERLOCK_ARCHIVE"
    words = ["store", "build", tmp_path / "store", spec, "--lock", url, "--", "sh", "-c", script]
    command = [sys.executable, "-m", "interlock", *map(str, words)]
    builders = [subprocess.Popen(command) for _ in range(2)]
    assert [builder.wait(120) for builder in builders] == [0, 0]
    assert (tmp_path / "built").read_text() == "x\n"


def test_what_is_there_says_its_version(backend: Backend, url: str) -> None:
    """So that another version does not take it for its own."""
    if isinstance(backend, PostgresBackend):
        import psycopg

        Lock(url).acquire(timeout=60).release()
        with psycopg.connect(backend.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE another")
        other: Any = backend.url().removesuffix("/postgres") + "/another"
        with psycopg.connect(other, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA interlock")
            connection.execute("COMMENT ON SCHEMA interlock IS 'interlock format 999'")
        with pytest.raises(ProtocolError, match="another version"):
            Lock(f"{other}#a").acquire(timeout=5)
        return
    before = backend.residue()
    with Lock(url, timeout=60):
        made = backend.residue() - before
    assert made
    for each in made:
        assert each.startswith("il1:") or "interlock/1/" in each, each
