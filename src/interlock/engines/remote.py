"""What all engines of servers have in common: see `interlock._model.Remote`."""

from __future__ import annotations

# What getaddrinfo(3) is called with needs it. If Ctrl-C meets its first import while another thread asks for it too,
# CPython remembers for good that there is no such encoding, and this process connects to nothing any more.
import encodings.idna  # noqa: F401

from .._core.acquire import run
from .._io.blocking import io as blocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from .._address import Address

__all__ = ["RemoteEngine"]


class RemoteEngine:
    """To be derived from. `release` is then one or a few requests, `drop` hands that to `_wait.workers`."""

    remote: Literal[True] = True

    def __init__(self, address: Address) -> None:
        self.address = address
        self.options: dict[str, Any] = {}
        """What a pickled lock must say besides its URL to come to this engine."""

    def let_go(self, claim: Any) -> None:
        run(self.release(blocking, claim))  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the connections that are not needed now. The engine can be used again, and opens new ones then."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address.public}>"
