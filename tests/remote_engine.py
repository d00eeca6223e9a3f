"""An engine of a server that does not exist: what a package of somebody else's would bring. It keeps its locks in
memory, and notes in which thread each request was made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from interlock._address import Address, name_of
from interlock._errors import UnsupportedError
from interlock._wait.workers import workers
from interlock.engines.memory import MemoryClaim, MemoryEngine
from interlock.engines.remote import RemoteEngine

if TYPE_CHECKING:
    from interlock._core.arbiter import Line
    from interlock._model import IO, Mode
    from interlock._report import Party, Report

OPTIONS = frozenset({"il_ttl", "il_colour"})
SCHEME = "nowhere"


class NowhereEngine(RemoteEngine, MemoryEngine):
    """Everything that `MemoryEngine` does, as requests."""

    def __init__(self, address: Address, ttl: float | None) -> None:
        MemoryEngine.__init__(self)
        RemoteEngine.__init__(self, address)
        self.ttl = ttl
        self.traits.name = SCHEME
        self.traits.abilities = ()
        self.requests: list[tuple[str, int]] = []
        self.closed = 0

    def sharing(self, mode: Mode, key: str) -> Any:
        raise UnsupportedError("nowhere has no read-write locks")

    def counting(self, key: str) -> Any:
        raise UnsupportedError("nowhere has no semaphores")

    def _request(self, what: str) -> None:
        self.requests.append((what, threading.get_ident()))

    def try_now(self, claim: MemoryClaim, timeout: float) -> bool:
        self._request("try now")
        return super().try_now(claim, timeout)

    def _try(self, claim: MemoryClaim) -> bool:
        self._request("try")
        return MemoryEngine.try_now(self, claim, 0.0)

    async def try_acquire(self, io: IO, claim: MemoryClaim, deadline: float) -> bool:
        if io.now() < deadline and self._first(claim.line.key) not in (None, claim):
            return False
        return await io.work(self._try, claim)

    async def release(self, io: IO, claim: MemoryClaim) -> None:
        await io.work(self._drop, claim)

    async def withdraw(self, io: IO, claim: MemoryClaim) -> None:
        await io.work(self._drop, claim)

    def _drop(self, claim: MemoryClaim) -> None:
        self._request("release")
        super().drop(claim)

    def drop(self, claim: MemoryClaim) -> None:
        if self._grants.get(claim.line.key) is claim:
            workers().submit(lambda: self._drop(claim))
        else:
            self._leave(claim)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        self._request("blame")
        return super().blame(line)

    def inspect(self, line: Line) -> Report:
        from interlock._report import Report

        holder, _ = self.blame(line)
        facts = {"name": name_of(line.key)}
        return Report(line.resource, SCHEME, holders=(holder,) if holder else (), enforced=True, facts=facts)

    def close(self) -> None:
        self.closed += 1


def open_engine(address: Address, ttl: float | None) -> Any:
    if not address.hosts:
        raise ValueError(f"{address.public} names no host")
    return NowhereEngine(address, ttl)
