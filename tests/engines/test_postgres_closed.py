"""A holder asks whether it has lost while its heartbeat is under way, and the server is gone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from interlock import Lock, LostError

from ..servers import Postgres
from ..support import need_module

need_module("psycopg")


def test_a_closed_connection_is_a_loss_also_while_another_thread_talks_on_it() -> None:
    """Found by the fight: a process that was stopped while the server was restarted went on, and was told by the
    session that its heartbeat would find out. Until then somebody else's lock was written under."""
    with Postgres() as server:
        hold = Lock(server.target("closed")).acquire()
        session: Any = hold._claim.session  # type: ignore[union-attr]
        assert session.enter(1.0)  # as the heartbeat does
        try:
            hold.assert_held()
            server.kill()
            limit = time.monotonic() + 60
            while not hold.lost and time.monotonic() < limit:
                time.sleep(0.01)
            assert hold.lost
            with pytest.raises(LostError, match="closed the connection"):
                hold.assert_held()
        finally:
            session.leave()
            hold.release()
