"""Slots of semaphores on etcd, where a request comes late or somebody removes an entry."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Semaphore, Timeout
from interlock._target import resolve
from interlock.engines.etcd.client import plain, text

from ..conformance.test_etcd import keys

if TYPE_CHECKING:
    from ..servers import Etcd


@pytest.fixture
def prefix() -> str:
    return f"slots-{uuid.uuid4().hex}"


def slots(server: Etcd, prefix: str) -> list[str]:
    return [each.rpartition("/")[2] for each in keys(server.port, prefix + "/") if "/s/" in each]


def test_a_late_copy_takes_no_second_slot(etcd_server: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did, and the slot stayed taken by one that did not know of it, as long as its process lived."""
    target = f"{etcd_server.url}/{prefix}#pool"
    client = resolve(target).engine.counting(resolve(target).key).server.client  # type: ignore[attr-defined]
    first = Semaphore(target, 2).acquire(timeout=30)
    assert first.slot == 0
    taking: list[dict[str, Any]] = []
    call = client.call

    def noting(path: str, body: dict[str, Any], **more: Any) -> Any:
        if any(plain(each["key"]).endswith(b"/s/1") for each in body.get("compare", ())):
            taking.append(body)
        return call(path, body, **more)

    monkeypatch.setattr(client, "call", noting)
    second = Semaphore(f"{etcd_server.url}/{prefix}#pool", 2).acquire(timeout=30)
    monkeypatch.undo()
    assert second.slot == 1
    first.release()
    (body,) = taking
    # as if it had asked for slot 0 before, by an endpoint that was suspended until now
    late = json.dumps(body)
    for compare in body["compare"]:
        key = plain(compare["key"])
        if key.endswith(b"/s/1"):
            late = late.replace(compare["key"], text(key[:-1] + b"0"))
    call("/v3/kv/txn", json.loads(late))
    assert slots(etcd_server, prefix) == ["1"]
    again = Semaphore(target, 2).acquire(timeout=30)
    assert again.slot == 0
    again.release()
    second.release()
    assert slots(etcd_server, prefix) == []


def test_a_slot_whose_entry_was_removed_is_nobody_elses_before_its_release(etcd_server: Etcd, prefix: str) -> None:
    """The entry is gone, so the next one is in front; but the slot is still in use."""
    target = f"{etcd_server.url}/{prefix}?il_ttl=60#pool"
    hold = Semaphore(target, 1).acquire(timeout=30)
    (entry,) = [each for each in keys(etcd_server.port, prefix + "/") if "/e/" in each]
    body = json.dumps({"key": text(entry.encode())}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{etcd_server.port}/v3/kv/deleterange", data=body)
    urllib.request.urlopen(request, timeout=10.0).close()
    other = f"{etcd_server.url}/{prefix}#pool"  # another client of this process
    with pytest.raises(Timeout):
        Semaphore(other, 1).acquire(timeout=0.5)
    got: list[float] = []

    def wait() -> None:
        with Semaphore(other, 1).acquire(timeout=60):
            got.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    limit = time.monotonic() + 60
    while not any("/e/" in each for each in keys(etcd_server.port, prefix + "/")):
        assert time.monotonic() < limit, "the waiter does not come"
        time.sleep(0.01)
    assert Semaphore(other, 1).try_acquire() is None
    assert not got
    hold.release()
    thread.join(60)
    assert got
    assert slots(etcd_server, prefix) == []
