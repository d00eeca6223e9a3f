"""Connections to a server, a master that Sentinels know, or the nodes of a cluster; and one call of the script.

A call is made on one connection, taken from a few that are kept; it is bounded by the timeouts for connecting and
reading. One that fails on a connection is repeated once on a new one, since an idle connection may have been closed by
anybody. All calls of the script can be repeated, also when the first one was carried out and only its answer was lost.

On each new connection the server is asked how long it has been up. One that has just started may have forgotten who
holds (nothing is kept on disk by default), so for the time of one lease nobody acquires there: see `Young`.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Lock as Mutex

import redis
from redis import exceptions as errors
from redis.crc import key_slot
from redis.sentinel import MasterNotFoundError

from ..._errors import EngineError
from ..._wait.keeping import now as clock
from . import script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..._address import Address

    Node = tuple[str, int] | None

__all__ = ["MOST", "TROUBLE", "Server", "Young", "unreachable"]

MOST = 8
"""Connections per server at most, besides the one that listens."""
_AGAIN = 0.05
_PATIENCE = 3.0
"""Seconds for a failover or a resharding that the server itself speaks of."""

TROUBLE: tuple[type[Exception], ...] = (errors.ConnectionError, errors.TimeoutError, OSError)
_TROUBLE: tuple[type[Exception], ...] = (*TROUBLE, errors.RedisClusterException, errors.ClusterError)
_REFUSED = (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError)
_PASSING = (
    errors.ReadOnlyError, errors.BusyLoadingError, errors.ClusterDownError, errors.MasterDownError,
    errors.TryAgainError, MasterNotFoundError,
)  # fmt: skip


_RIGHTS = (
    "Check the user and password of the URL, and the user's rights: keys ~il1:*, channels &il1:*, commands eval, "
    "evalsha, publish, subscribe, info"
)


def unreachable(error: EngineError) -> bool:
    """Was there no answer? Then what was asked for may have been done or not, and the server may come back."""
    return getattr(error, "unreachable", False)


class Young(Exception):
    """The server has not been up for the time of a lease. `until`: on `clock`, when it will have been."""

    def __init__(self, until: float) -> None:
        super().__init__(until)
        self.until = until


class _Line:
    """A connection, perhaps not open; given back to its pool also when whoever took it was interrupted."""

    __slots__ = ("connection", "pool", "settled")

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.connection: Any = None
        self.settled = 0.0

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            self.pool.open.discard(connection)
            connection.disconnect()

    def __del__(self) -> None:
        if self.pool.usable:
            self.pool.free.append(_Line(self.pool))


class _Pool:
    """The lines to one node, the last one used first. Takes no mutex that an interrupted call could hold."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.usable = True
        self.open: set[Any] = set()
        self.free: deque[_Line] = deque()
        self.free.extend([_Line(self) for _ in range(MOST)])

    def take(self) -> _Line:
        pause = 0.0002
        while True:
            try:
                return self.free.pop()
            except IndexError:  # all are in calls, which last long only where the server hangs
                time.sleep(pause)
                pause = min(2 * pause, 0.02)


class Server:
    """What an address leads to."""

    def __init__(self, address: Address, kwargs: dict[str, Any], *, timeout: float, settle: float) -> None:
        self.address = address
        self._class = kwargs.pop("connection_class")
        self._kwargs = kwargs
        self._sentinel = address.scheme.endswith("+sentinel")
        self._clustered = address.scheme.endswith("+cluster")
        self._settle = settle
        self.timeout = timeout
        self._pools: dict[Node, _Pool] = {}
        self._mutex = Mutex()
        self._cluster: Any = None

    # ---- where

    def _node_of(self, key: bytes) -> Node:
        if not self._clustered:
            return None
        cluster = self._cluster or self._look()
        node = cluster.nodes_manager.get_node_from_slot(key_slot(key))
        return node.host, node.port

    def _look(self) -> Any:
        """Learn which node of the cluster has which slots."""
        from redis.cluster import ClusterNode, RedisCluster

        with self._mutex:
            if self._cluster is None:
                made: Any = RedisCluster
                node: Any = ClusterNode
                extra = {} if self._class is redis.Connection else {"ssl": True}
                own = ("host", "port", "db", "retry")
                kwargs = {key: value for key, value in self._kwargs.items() if key not in own}
                nodes = [node(host, port or 6379) for host, port in self.address.hosts]
                self._cluster = made(startup_nodes=nodes, **kwargs, **extra)
            return self._cluster

    def _forget_nodes(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def _pool(self, node: Node) -> _Pool:
        found = self._pools.get(node)
        if found is None:
            found = self._pools.setdefault(node, _Pool(lambda: self.connect(node)))
        return found

    def connect(self, node: Node = None) -> Any:
        """A new connection, open; to any node where there are several and none is named."""
        kwargs = self._kwargs
        if self._sentinel:
            kwargs = {**kwargs, **self._master()}
        elif self._clustered:
            host, port = node or self._node_of(b"")  # type: ignore[misc]
            kwargs = {**kwargs, "host": host, "port": port}
        try:
            connection = self._class(**kwargs)
            connection.connect()
        except (TypeError, ValueError) as error:  # a key without a certificate, say: nothing that time will mend
            said = self.address.hide(str(error), user=True)
            raise EngineError(f"{self.address.public}: no connection can be made as this URL says: {said}") from None
        return connection

    def _master(self) -> dict[str, Any]:
        """What the first Sentinel that answers says. Not redis-py's `discover_master`, which reads the list of masters:
        that names the old one until a failover is over to the last step."""
        service = self.address.path.split("/")[1]
        kept = {key: value for key, value in self._kwargs.items() if key.startswith(("socket_", "ssl_", "retry"))}
        if self._class is not redis.Connection:
            kept["ssl"] = True
        trouble: Exception = MasterNotFoundError(f"no Sentinel knows {service!r}")
        for host, port in self.address.hosts:
            try:
                with redis.Redis(host=host, port=port or 26379, **kept) as sentinel:
                    found: Any = sentinel.sentinel_get_master_addr_by_name(service)
            except TROUBLE as error:
                trouble = error
                continue
            if found is not None:
                return {"host": found[0], "port": found[1]}
        raise trouble

    # ---- calls

    def call(
        self, keys: tuple[bytes, bytes], *args: bytes, settled: bool = False, replicas: int = 0, claim: Any = None
    ) -> tuple[Any, int]:
        """The script's answer, and how many replicas have acknowledged it. `settled`: raise `Young` if need be.
        `claim`: who is to know (`repeated`) that the call was made twice."""
        until = time.monotonic() + _PATIENCE
        node, asking, failures = None, False, 0
        while True:
            try:
                if not asking and node is None:
                    node = self._node_of(keys[0])
                return self._call_on(node, keys, args, settled, replicas, asking)
            except errors.AskError as error:  # and MovedError
                node, asking = (error.host, error.port), not isinstance(error, errors.MovedError)
                if not asking:
                    self._forget_nodes()
                if time.monotonic() > until:
                    raise self._unreachable(error) from None
            except _PASSING as error:
                self._lose(node)
                if time.monotonic() > until:
                    raise self._unreachable(error) from None
                node, asking = None, False
                time.sleep(_AGAIN)
            except _REFUSED as error:
                raise self.translated(error) from None
            except _TROUBLE as error:
                failures += 1
                if failures == 2:
                    raise self._unreachable(error) from None
                if claim is not None:
                    claim.repeated = True
                self._lose(node)
                node, asking = None, False
            except errors.RedisError as error:
                said = self.address.hide(str(error), user=True)
                raise EngineError(f"{self.address.public}: the server answers {said}") from None

    def call_all(self, calls: list[tuple[tuple[bytes, bytes], tuple[bytes, ...]]]) -> list[Any]:
        """The script's answers to calls that go over one connection together; what the server refused is an exception
        among them. In a cluster one after the other."""
        if self._clustered:
            return [self.call(keys, *args)[0] for keys, args in calls]
        pool = self._pool(None)
        line = pool.take()
        try:
            connection = line.connection or self._open(line)
            commands = [(b"EVALSHA", script.SHA, b"2", *keys, *args) for keys, args in calls]
            answers = _exchange(connection, commands)
            if any(isinstance(answer, errors.NoScriptError) for answer in answers):
                commands[0] = (b"EVAL", script.SOURCE, *commands[0][2:])
                answers = _exchange(connection, commands)
        except _TROUBLE as error:
            line.close()
            raise self._unreachable(error) from None
        except BaseException:
            line.close()
            raise
        finally:
            pool.free.append(line)
        return answers

    def _call_on(
        self, node: Node, keys: tuple[bytes, bytes], args: tuple[bytes, ...], settled: bool, replicas: int, asking: bool
    ) -> tuple[Any, int]:
        pool = self._pool(node)
        line = pool.take()
        try:
            connection = line.connection or self._open(line)
            if settled and line.settled and clock() < line.settled:
                pool.free.append(line)
                raise Young(line.settled)
            commands = [(b"EVALSHA", script.SHA, b"2", *keys, *args)]
            if asking:
                commands.insert(0, (b"ASKING",))
            if replicas:
                commands.append((b"WAIT", b"%d" % replicas, b"%d" % int(self.timeout * 500)))
            answers = _exchange(connection, commands)
            first = answers[asking]
            if isinstance(first, errors.NoScriptError):
                commands[asking] = (b"EVAL", script.SOURCE, b"2", *keys, *args)
                answers = _exchange(connection, commands)
                first = answers[asking]
        except Young:
            raise
        except BaseException:  # an answer may be under way on it
            line.close()
            pool.free.append(line)
            raise
        pool.free.append(line)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return first, answers[-1] if replicas else 0

    def _open(self, line: _Line) -> Any:
        connection = line.pool.make()
        line.connection = connection
        line.pool.open.add(connection)
        line.settled = 0.0
        if self._settle:
            began = clock()
            info = _exchange(connection, [(b"INFO", b"server")])[0]
            if isinstance(info, Exception):
                raise info
            # The difference of two whole seconds, each rounded down: up for 0.1 s, it may say 1.
            up = max(0.0, float(info.partition(b"uptime_in_seconds:")[2].partition(b"\r")[0] or 0) - 1.0)
            line.settled = began + self._settle - up if up < self._settle else 0.0
        return connection

    def _lose(self, node: Node) -> None:
        """Connections of a node that does not answer, or is not the right one, are closed, so that a repetition gets a
        new one."""
        self._forget_nodes()
        pool = self._pools.get(node)
        for line in list(pool.free) if pool is not None else ():
            try:
                pool.free.remove(line)  # type: ignore[union-attr]
            except ValueError:  # somebody takes it just now
                continue
            line.close()
            pool.free.append(line)  # type: ignore[union-attr]

    def youth(self) -> str:
        """Why nobody gets in, if the server has just started; else empty."""
        lines = [line for pool in list(self._pools.values()) for line in list(pool.free)]
        left = max((line.settled for line in lines), default=0.0) - clock()
        if left <= 0:
            return ""
        return (
            f"the server has just started and may have forgotten who holds, so it is waited for {left:.1f} s more; "
            "il_settle=0 in the URL trusts it at once"
        )

    def translated(self, error: Exception) -> EngineError:
        """What a listener met."""
        if isinstance(error, _REFUSED):
            return EngineError(f"{self.address.public} refuses: {self.address.hide(str(error), user=True)}. {_RIGHTS}")
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> EngineError:
        text = (self.address.hide(str(error), user=True) or type(error).__name__).rstrip(".") + "."
        text += " Is it running, and is the URL right?"
        made = EngineError(f"{self.address.public} (redis) gives no answer: {text}")
        made.unreachable = True  # type: ignore[attr-defined]
        return made

    # ---- the end

    def close(self) -> None:
        self._forget_nodes()
        for pool in list(self._pools.values()):
            self._close(pool)

    @staticmethod
    def _close(pool: _Pool) -> None:
        for _ in range(MOST):
            try:
                line = pool.free.popleft()
            except IndexError:
                return
            line.close()
            pool.free.append(line)

    def forked(self) -> None:
        """In a child: close the copies of the sockets, without a word to the server."""
        for pool in self._pools.values():
            pool.usable = False
            for connection in tuple(pool.open):
                sock = getattr(connection, "_sock", None)
                if sock is not None:
                    sock.close()
                    connection._sock = None
        self._pools = {}
        self._cluster = None
        self._mutex = Mutex()


def _exchange(connection: Any, commands: list[tuple[bytes, ...]]) -> list[Any]:
    """Send all, then read the answers; what the server says to be an error is one of them."""
    # Nothing but bytes: hiredis' packer (3.4) takes the text of other objects without asking whether that failed, and
    # an interrupt that comes just then makes it fail; the process died of it.
    packed: list[bytes] = []
    for command in commands:
        packed += connection.pack_command(*command)
    connection.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)], check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response(disable_decoding=True))
        except errors.ResponseError as error:
            answers.append(error)
    return answers
