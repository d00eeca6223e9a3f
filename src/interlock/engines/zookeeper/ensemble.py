"""This process's one session with the servers of a URL, and the nodes above the queues."""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic

from ..._core import fork
from ..._errors import EngineError
from .entries import LAYOUT
from .session import PATIENCE, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .server import Server

__all__ = ["Ensemble"]

_CONTAINER = 4


class Ensemble:
    """The servers of one URL, and this process's session with them. All engines of the URL share it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session: Session | None = None
        self._opening = allocate_lock()
        self._containers = True
        fork.in_child(self._forget)

    def session(self, until: float) -> Session:
        """A living one. `until`: monotonic. Raises `EngineError` if no server answers in time."""
        session = self._session
        if session is not None and not session.dead:
            return session
        if not self._opening.acquire(timeout=max(until - monotonic(), 0.0) + PATIENCE):
            raise EngineError(f"{self.server.public}: another thread is still trying to connect to zookeeper")
        try:
            session = self._session
            if session is None or session.dead:
                session = Session(self.server)
                session.open(max(until - monotonic(), 0.0))
                self._session = session
            return session
        finally:
            self._opening.release()

    def close(self) -> None:
        """End the session, unless it is in use."""
        session = self._session
        if session is not None and not session.claims:
            self._session = None
            session.close(PATIENCE)

    def _forget(self) -> None:
        session, self._session = self._session, None
        self._opening = allocate_lock()
        if session is not None:
            session.disown()

    # ---- parents

    def container(self, path: str, data: bytes = b"") -> Any:
        """The request that makes a container node."""
        if self._containers:
            return self.server.kazoo.CreateContainer(path, data, self.server.acl, _CONTAINER)
        return self.server.kazoo.Create2(path, data, self.server.acl, 0)

    def make_parents(self, session: Session, path: str) -> None:
        """All nodes above this one."""
        kazoo = self.server.kazoo
        nodes = path.lstrip("/").split("/")[:-1]
        ours = len(nodes) - len(LAYOUT.split("/"))
        paths = ["/" + "/".join(nodes[: number + 1]) for number in range(len(nodes))]
        requests = [
            self.server.kazoo.Create2(each, b"", self.server.acl, 0) if number < ours else self.container(each)
            for number, each in enumerate(paths)
        ]
        for each, answer in zip(paths, session.ask(*requests), strict=True):
            if isinstance(answer, kazoo.UnimplementedError):
                self._containers = False
                return self.make_parents(session, path)
            if isinstance(answer, Exception) and not isinstance(answer, kazoo.NodeExistsError):
                raise self.failed(f"{each} cannot be created", answer)
        return None

    def failed(self, what: str, error: Exception) -> EngineError:
        return EngineError(f"{self.server.public}: {what}: {_name(error)}")


def _name(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
