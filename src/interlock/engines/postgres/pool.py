"""The connections of this process to one database: how many there are, what each is for, and whether it lives.

Locks that are free when they are asked for are all held on one connection, `home`: a thousand of them cost no more. A
statement that waits for a lock blocks its session, so each wait has a connection of its own; a lock that was waited for
stays there until it is released, since the server moves no lock from one session to another. So do locks of which
more may be wanted while they are held (an updater's). `il_connections` bounds them all together. Who finds none left
waits until one is free, and looks for the lock itself once a second.
"""

from __future__ import annotations

import logging
import time
from _thread import allocate_lock, start_new_thread
from collections import deque

from ..._core import fork
from ..._errors import EngineError
from ..._wait.keeping import now as clock
from ..._wait.workers import workers
from .connecting import connect, prepare_fence
from .polling import closed
from .session import REQUEST, Gone, Late, ServerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import Parker
    from .session import Session
    from .settings import Settings

_pop: Any = deque.pop
IDLE = 60.0
"""Seconds after which a connection that nobody used is closed."""


class Pool:
    """Shared by the engines of one URL."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kin: dict[str, Any] = {}
        """The engines of read-write locks and semaphores here."""
        fork.in_child(self._forget)
        self._begin()

    def _begin(self) -> None:
        self._home: Session | None = None
        self._idle: deque[tuple[Session, float]] = deque()
        self._free = deque([True] * (self.settings.connections - 1))
        """One entry for each connection that may still be opened."""
        self._opening = allocate_lock()
        self._ready = False
        self._watching = False
        self.sessions: dict[Session, None] = {}
        self.hungry: deque[Parker] = deque()
        """Who waits for a connection."""

    def _forget(self) -> None:
        sessions = list(self.sessions)
        self._begin()
        for session in sessions:
            session.forget()

    # ---- getting one

    def home(self) -> Session:
        """The connection for what need not be waited for, entered by the caller. Raises `EngineError`."""
        while True:
            session = self._home
            if session is None or session.gone:
                session = self._open_home()
            if not session.enter(of=1):
                raise EngineError(
                    f"{self.settings.where}: the connection has been in use for {2 * REQUEST:g} s, or by what this "
                    "call interrupted: PostgreSQL does not answer, or a signal handler locks in the middle of a lock"
                )
            if not session.gone:
                return session
            session.leave()

    def _open_home(self) -> Session:
        if not self._opening.acquire(True, 3 * self.settings.connect):
            raise EngineError(f"{self.settings.where}: another thread could not connect for too long")
        try:
            session = self._home
            if session is None or session.gone:
                if session is not None:
                    self.sessions.pop(session, None)
                session = self._open(self, "_home")
            return session
        finally:
            self._opening.release()

    def take(self, claim: Any, slot: str) -> Session | None:
        """A connection of the claim's own, which is then noted as its attribute `slot`, or None if all are in use.
        Raises `EngineError`.

        What is taken off a queue is in somebody's hands at once, also if an interrupt strikes behind any of the calls.
        """
        while True:
            entry: tuple[Session, float] | None = None
            try:
                for entry in map(_pop, (self._idle,)):  # noqa: B007
                    break
                assert entry is not None
                session = entry[0]
                if not session.lost():
                    setattr(claim, slot, session)
                    return session
                self._put_away(session)
            except IndexError:
                break
            except BaseException:
                if entry is not None and getattr(claim, slot) is not entry[0]:
                    self._idle.append(entry)
                raise
        mine = False
        try:
            for mine in map(_pop, (self._free,)):  # noqa: B007
                break
            return self._open(claim, slot)
        except IndexError:
            return None
        except BaseException:
            if mine and getattr(claim, slot) is None:
                self._free.append(True)
            raise

    def give(self, session: Session, claim: Any, slot: str) -> None:
        """It has nothing any more. The claim forgets it before others may have it, and not sooner."""
        entry, has = (session, time.monotonic()), vars(claim)
        if session.gone:
            self.sessions.pop(session, None)
            has[slot] = None  # no call from here to the end of the next one
            self._free.append(True)
        else:
            has[slot] = None
            self._idle.append(entry)
        while self.hungry:
            try:
                parker = self.hungry.popleft()
            except IndexError:
                break
            if parker.unpark() is not False:
                break

    def _open(self, owner: Any, slot: str) -> Session:
        session = connect(self.settings)
        try:
            if not self._ready:
                session.enter()
                try:
                    prepare_fence(session)
                finally:
                    session.leave()
                self._ready = True
            if not self._watching:
                self._watching = True
                start_new_thread(self._watch, (self.sessions,))
        except (Gone, Late, ServerError) as error:
            session.finish()
            raise EngineError(f"{self.settings.where}: PostgreSQL cannot be used: {error}") from None
        except BaseException:
            session.finish()
            raise
        self.sessions[session] = None
        setattr(owner, slot, session)
        return session

    def _put_away(self, session: Session) -> None:
        self.sessions.pop(session, None)
        self._free.append(True)

    def close(self) -> None:
        """End the connections on which nothing is held."""
        while self._idle:
            try:
                session, _ = self._idle.pop()
            except IndexError:
                break
            session.finish()
            self._put_away(session)
        home = self._home
        if home is not None and not home.claims:
            home.finish()

    def mend(self, session: Session) -> None:
        """Have it settled soon: it may hold what nobody knows of."""
        workers().submit(lambda: self._mend(session))

    def _mend(self, session: Session) -> None:
        if not session.gone and session.enter():
            try:
                if session.torn and not session.waiting:
                    session.settle()
            except (Gone, Late, ServerError):
                pass  # whoever uses it next has to settle it first
            finally:
                session.leave()

    # ---- the thread that asks whether they live

    def _watch(self, sessions: dict[Session, None]) -> None:
        """Hears at once that the server ends a session, and asks for a sign of life six times per ttl."""
        pause = min(1.0, self.settings.ttl / 12)
        while self.sessions is sessions:  # else this is a forked child
            try:
                self._look([each for each in list(sessions) if each.claims and not each.gone], pause)
                self._close_idle(time.monotonic() - IDLE)
            except Exception:  # the next look may do better, and without one nobody is told
                logging.getLogger("interlock").exception("watching the connections to %s", self.settings.where)
                time.sleep(pause)

    def _look(self, watched: list[Session], pause: float) -> None:
        if not watched:
            time.sleep(pause)
        elif closed([each.fd for each in watched], pause):
            time.sleep(0.001)  # somebody else may be about to find it out
        for each in watched:
            if each.lost() or each.waiting:
                continue
            if clock() > each.confirmed + self.settings.ttl / 6:
                each.beat()

    def _close_idle(self, since: float) -> None:
        while self._idle:
            try:
                entry = self._idle.popleft()
            except IndexError:
                return
            if entry[1] > since:
                self._idle.appendleft(entry)
                return
            entry[0].finish()
            self._put_away(entry[0])
