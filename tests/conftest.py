"""For all tests."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from .servers import (  # noqa: F401 - fixtures
    etcd_cluster,
    etcd_server,
    pgbouncer_server,
    postgres_server,
    redis_server,
    valkey_server,
    zookeeper_server,
)

if TYPE_CHECKING:
    from .places import Places

pytest.register_assert_rewrite("interlock.testing.conformance")  # so that failures show what was compared

# Runners, nohup(1) and shells with background jobs ignore these, and children inherit that; the tests are about what
# signals do by default.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGQUIT"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The simulator's tests come first, whatever the shuffle says. They replace the tables of this process by simulated
    ones, and nothing of another test may be alive then: a keeper of leases, a coroutine that is collected. Those with
    guests follow: they last minutes, in which another process (`-n 2`) does the rest."""
    items.sort(key=lambda item: ("sim" not in item.path.parts, "network" not in item.path.parts))


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    """The test says what is mounted where, and what the user said about it."""
    from .places import Places

    return Places(monkeypatch)
