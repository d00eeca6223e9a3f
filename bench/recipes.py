"""The raw recipe of each kind of server: what a careful programmer writes by hand with the server's client.

Each is a pair of functions, acquire (returns a token) and release. They exclude, queue in order and give a fencing
token; they have no timeouts, no renewal, no answer to a lost connection, and nobody can see who holds.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import threading
from typing import Any

TTL = 30

# ---- redis: three keys and two scripts; a waiter is handed the lock, and blocks in BLPOP until then

_ACQUIRE = """
local owner = redis.call('GET', KEYS[1])
local head = redis.call('LINDEX', KEYS[2], 0)
while head and head ~= ARGV[1] and redis.call('EXISTS', KEYS[4] .. head) == 0 do
  redis.call('LPOP', KEYS[2])
  head = redis.call('LINDEX', KEYS[2], 0)
end
if not owner and (not head or head == ARGV[1]) then
  if head then redis.call('LPOP', KEYS[2]) end
  local time = redis.call('TIME')
  local token = math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[3], string.format('%.0f', token))
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {1, string.format('%.0f', token)}
end
if not redis.call('LPOS', KEYS[2], ARGV[1]) then redis.call('RPUSH', KEYS[2], ARGV[1]) end
redis.call('SET', KEYS[4] .. ARGV[1], '1', 'PX', ARGV[2])
return {0, redis.call('PTTL', KEYS[1])}
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local next = redis.call('LPOP', KEYS[2])
while next and redis.call('EXISTS', KEYS[4] .. next) == 0 do next = redis.call('LPOP', KEYS[2]) end
if not next then return redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local token = math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[3], string.format('%.0f', token))
redis.call('SET', KEYS[1], next, 'PX', ARGV[2])
redis.call('RPUSH', KEYS[5] .. next, string.format('%.0f', token))
redis.call('PEXPIRE', KEYS[5] .. next, ARGV[2])
return 1
"""


def redis_client(port: int) -> Any:
    import redis

    return redis.Redis("127.0.0.1", port)


def redis(port: int, name: str) -> tuple[Any, Any]:
    client = redis_client(port)
    take, give = client.register_script(_ACQUIRE), client.register_script(_RELEASE)
    keys = [f"{{{name}}}:{part}" for part in ("owner", "queue", "fence", "alive:", "wait:")]
    me = os.urandom(8).hex()

    def acquire() -> int:
        while True:
            got, value = take(keys, (me, TTL * 1000))
            if got:
                return int(value)
            handed = client.blpop(keys[4] + me, TTL / 2)
            if handed:
                return int(handed[1])

    def release(_: object) -> None:
        give(keys, (me, TTL * 1000))

    return acquire, release


# ---- postgresql: a session's advisory lock, and the token in the same statement


def postgres(port: int, name: str) -> tuple[Any, Any]:
    import psycopg

    connection = psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", autocommit=True)
    connection.execute("create sequence if not exists raw_fence")
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
    take = "with l as materialized (select pg_advisory_lock(%s)) select nextval('raw_fence') from l"

    def acquire() -> int:
        row = connection.execute(take, (key,), prepare=True).fetchone()
        assert row is not None
        return int(row[0])

    def release(_: object) -> None:
        connection.execute("select pg_advisory_unlock(%s)", (key,), prepare=True)

    return acquire, release


# ---- etcd: a queue of keys by creation, a watch on the one before from the next revision on


class Etcd:
    """The JSON gateway, over one kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        # Nobody keeps it alive, as a client would in the background: so it lasts for the whole run.
        self.lease = self.ask("lease/grant", {"TTL": 3600})["ID"]

    def ask(self, method: str, words: dict[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", f"/v3/{method}", json.dumps(words))
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def until_deleted(self, key: str, revision: int) -> None:
        watch = http.client.HTTPConnection("127.0.0.1", self._port)
        request = {"create_request": {"key": key, "start_revision": revision, "filters": ["NOPUT"]}}
        watch.request("POST", "/v3/watch", json.dumps(request))
        answer = watch.getresponse()
        while not json.loads(answer.readline())["result"].get("events"):
            pass
        watch.close()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def etcd(port: int, name: str) -> tuple[Any, Any]:
    server = Etcd(port)
    prefix = f"raw/{name}/"
    key, end = b64(prefix + server.lease), b64(prefix[:-1] + "0")
    queue = {"key": b64(prefix), "range_end": end, "sort_order": "ASCEND", "sort_target": "CREATE", "keys_only": True}
    put = {"key": key, "value": b64(str(os.getpid())), "lease": server.lease}
    take = {
        "compare": [{"key": key, "target": "VERSION", "version": 0}],
        "success": [{"request_put": put}, {"request_range": queue}],
        "failure": [{"request_range": queue}],
    }

    def acquire() -> int:
        said = server.ask("kv/txn", take)
        while True:
            entries = said["responses"][-1]["response_range"]["kvs"]
            at = next(number for number, entry in enumerate(entries) if entry["key"] == key)
            if at == 0:
                return int(entries[0]["create_revision"])
            server.until_deleted(entries[at - 1]["key"], int(said["header"]["revision"]) + 1)
            said = server.ask("kv/txn", take)

    def release(_: object) -> None:
        server.ask("kv/deleterange", {"key": key})

    return acquire, release


def etcd_lock_api(port: int, name: str) -> tuple[Any, Any]:
    """The lock service of the server itself: one request, which waits there."""
    server = Etcd(port)
    words = {"name": b64(name), "lease": server.lease}
    return lambda: server.ask("lock/lock", words)["key"], lambda key: server.ask("lock/unlock", {"key": key})


# ---- zookeeper: sequential ephemerals, created and listed in one trip, a watch on the one before


def zookeeper_client(port: int) -> Any:
    from kazoo.client import KazooClient

    client = KazooClient(f"127.0.0.1:{port}", timeout=TTL)
    client.start()
    return client


def zookeeper(port: int, name: str) -> tuple[Any, Any]:
    client = zookeeper_client(port)
    parent, mine = f"/raw/{name}", os.urandom(8).hex()
    client.ensure_path(parent)

    def acquire() -> tuple[str, int]:
        made = client.create_async(f"{parent}/{mine}-", b"", ephemeral=True, sequence=True, include_data=True)
        listed = client.get_children_async(parent)
        path, stat = made.get()
        node, children = path.rpartition("/")[2], listed.get()
        while True:
            children.sort(key=lambda child: child[-10:])
            at = children.index(node)
            if at == 0:
                return path, stat.czxid
            gone = threading.Event()
            if client.exists(f"{parent}/{children[at - 1]}", watch=lambda _event, gone=gone: gone.set()) is not None:
                gone.wait()
            children = client.get_children(parent)

    def release(held: tuple[str, int]) -> None:
        client.delete(held[0])

    return acquire, release
