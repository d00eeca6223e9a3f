"""`interlock break --force` on Redis ends who held when it looked, and nobody else, however often the request comes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis

from interlock import Lock, Semaphore
from interlock._target import resolve

if TYPE_CHECKING:
    from ..servers import Redis


@pytest.fixture
def url(redis_server: Redis) -> str:
    return f"{redis_server.url}?il_settle=0#{uuid.uuid4().hex}"


def broken_with_a_copy(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Break it, with the answer to the request lost; the repetition comes when the next one holds."""
    engine: Any = resolve(url).engine
    server = engine.core.server
    other = url.replace("il_settle=0", "il_settle=0.0")
    call_on = server._call_on
    taken: list[Any] = []

    def losing(node: Any, keys: Any, args: Any, *rest: Any) -> Any:
        answer = call_on(node, keys, args, *rest)
        if args[0] == b"break" and not taken:
            taken.append(Lock(other).acquire(timeout=10))
            raise redis.ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(server, "_call_on", losing)
    assert engine.break_stale(resolve(url), force=True) == "forced"
    monkeypatch.undo()
    (hold,) = taken
    return hold


def test_a_break_that_is_repeated_ends_no_other_hold(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy broke the lock of the one who came next, who had done nothing wrong."""
    first = Lock(url).acquire()
    second = broken_with_a_copy(url, monkeypatch)
    second.renew()
    second.assert_held()
    assert Lock(url.replace("il_settle=0", "il_settle=0.00")).try_acquire() is None
    second.release()
    first.release()


def test_breaking_again_and_again(url: str) -> None:
    """Each time the one who holds then; and where nobody holds, nothing."""
    engine: Any = resolve(url).engine
    for number in range(5):
        hold = Lock(url.replace("il_settle=0", f"il_settle=0.{number}")).acquire(timeout=10)
        assert engine.break_stale(resolve(url), force=True) == "forced"
        assert engine.break_stale(resolve(url), force=True) == ""
        hold.release()
    Lock(url).acquire(timeout=10).release()


def test_all_permits_are_broken(url: str) -> None:
    engine: Any = resolve(url).engine
    holds = [Semaphore(url, 3).acquire(timeout=10) for _ in range(3)]
    assert engine.break_stale(resolve(url), force=True) == "forced"
    again = [Semaphore(url, 3).acquire(timeout=10) for _ in range(3)]
    assert sorted(each.slot for each in again) == [0, 1, 2]
    for each in (*again, *holds):
        each.release()
