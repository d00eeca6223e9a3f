"""A network with one server on it, which can be partitioned: a network namespace, or where that cannot be, a proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from interlock.testing.proxy import Proxy

from ..servers import place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .backends import Backend


class Partition:
    """`drop` until `heal`."""

    kind = ""
    port = 0
    """Where clients connect; 0: to the server's own port."""

    def drop(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError


class _Namespace(Partition):
    kind = "network namespace"

    def __init__(self, number: int) -> None:
        self.name = f"interlock{number}"
        self.address = f"10.213.{number >> 6 & 255}.{(number & 63) * 4 + 2}"
        self.gateway = f"10.213.{number >> 6 & 255}.{(number & 63) * 4 + 1}"
        self.inside = ["ip", "netns", "exec", self.name]

    def make(self) -> None:
        ours, theirs = f"il{self.name[9:]}", f"ilp{self.name[9:]}"
        for words in (
            f"ip netns add {self.name}",
            f"ip link add {ours} type veth peer name {theirs} netns {self.name}",
            f"ip addr add {self.gateway}/30 dev {ours}",
            f"ip link set {ours} up",
            f"ip -n {self.name} addr add {self.address}/30 dev {theirs}",
            f"ip -n {self.name} link set {theirs} up",
            f"ip -n {self.name} link set lo up",
        ):
            subprocess.run(words.split(), check=True, capture_output=True)

    def remove(self) -> None:
        # its end of the pair goes with the namespace once its last process has ended
        subprocess.run(["ip", "link", "del", f"il{self.name[9:]}"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def drop(self) -> None:
        rules = "table inet cut { chain in { type filter hook input priority 0; policy drop; }; "
        rules += "chain out { type filter hook output priority 0; policy drop; }; }"
        subprocess.run([*self.inside, "nft", "-f", "-"], input=rules, text=True, check=True)

    def heal(self) -> None:
        subprocess.run([*self.inside, "nft", "delete", "table", "inet", "cut"], check=True)


class _Proxied(Partition):
    kind = "proxy"

    def __init__(self, host: str, port: int) -> None:
        self._proxy = Proxy(host, port)
        self.port = self._proxy.port

    def drop(self) -> None:
        self._proxy.drop()

    def heal(self) -> None:
        self._proxy.heal()

    def close(self) -> None:
        self._proxy.close()


@contextmanager
def partitionable(kind: type[Backend], network: str = "auto") -> Iterator[tuple[Backend, Partition]]:
    """A server of this kind behind something that can be cut. `network`: "namespace", "proxy", or the first if it can
    be had."""
    with ExitStack() as stack:
        if network != "proxy":
            namespace = _Namespace(os.getpid() % 16384)
            stack.callback(namespace.remove)
            try:
                if shutil.which("nft") is None:
                    raise FileNotFoundError("nft")
                namespace.make()
            except (OSError, subprocess.CalledProcessError):
                if network == "namespace":
                    raise
            else:
                token = place.set((namespace.address, namespace.inside))
                try:
                    backend = kind()
                finally:
                    place.reset(token)
                yield stack.enter_context(backend), namespace
                return
        backend = stack.enter_context(kind())
        proxied = _Proxied(backend.host, backend.port)
        stack.callback(proxied.close)
        yield backend, proxied
