"""Read-write locks: the modes as engines of their own, on the main key, which `Lock` takes too.

Readers have it shared. Updaters and writers have the key of updates first, one at a time: so at most one session that
has the main key shared ever asks for all of it, and upgrades cannot wait for each other. A writer takes both, that it
can be downgraded to an updater. Both have a connection of their own, since an upgrade waits on the session that holds.
PostgreSQL lets a session that asks for more go before those who wait for what it has, so an upgrade waits for readers
only.
"""

from __future__ import annotations

from ..._address import name_of
from ..._errors import EngineError, UnsupportedError
from . import keys
from .engine import LockEngine, SessionClaim, main_key, update_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._core.arbiter import Line
    from ..._model import IO, Mode
    from .engine import Step
    from .pool import Pool


class WriteClaim(SessionClaim):
    """`upgrading`: an attempt to get more has begun and is not given up."""

    upgrading = False


class ReadClaim(WriteClaim):
    mode: Mode = "read"


class UpdateClaim(WriteClaim):
    mode: Mode = "update"


class ModeEngine(LockEngine):
    """The engine of one mode."""

    def __init__(self, pool: Pool, mode: Mode) -> None:
        super().__init__(pool)
        self._mode = mode
        self._home = not self._xact and mode == "read"
        self.claim_type: type[SessionClaim] = {"read": ReadClaim, "update": UpdateClaim, "write": WriteClaim}[mode]

    def claim(self, line: Line, owner: object, fair: bool) -> SessionClaim:
        if self._xact and self._mode == "update":
            raise UnsupportedError(
                f"{line.resource}: an update cannot be had with il_scope=xact, as a transaction gives no part of its "
                "locks back: use il_scope=session, or write()"
            )
        return super().claim(line, owner, fair)

    def _steps(self, claim: SessionClaim) -> list[Step]:
        name = name_of(claim.line.key)
        main = main_key(name)
        if self._mode == "read":
            return [(main, True, False)]
        if self._xact:
            return [(main, False, True)]
        return [(update_key(name), False, False), (main, self._mode == "update", self._mode == "write")]

    async def upgrade(self, io: IO, claim: WriteClaim) -> bool:
        if claim.untold:
            await io.work(self.downgrade, claim, claim.mode)
        if not claim.upgrading:
            main = main_key(name_of(claim.line.key))
            claim.todo = [(main, False, True)]
            claim.upgrading = True
        if not await io.work(self._guarded, claim, self._take_own):
            return False
        claim.upgrading = False
        claim.parker = None
        claim.mode = "write"
        return True

    async def stay(self, io: IO, claim: WriteClaim) -> None:
        if claim.upgrading:
            claim.upgrading = False
            claim.parker = None
            await io.work(self._guarded, claim, self._give_up_more)

    def _give_up_more(self, claim: WriteClaim) -> bool:
        session = claim.session
        if session is None or not session.enter():
            return False
        try:
            session.parker = None
            if session.waiting:
                session.cancel()
                session.settle()
        finally:
            session.leave()
        return True

    def downgrade(self, claim: WriteClaim, mode: Mode) -> None:
        def less(_: SessionClaim) -> bool:
            self._downgrade(claim, mode)
            return True

        self._guarded(claim, less)

    def _downgrade(self, claim: WriteClaim, mode: Mode) -> None:
        if self._xact:
            raise UnsupportedError(
                f"{claim.line.resource}: with il_scope=xact a hold cannot be downgraded, as a transaction gives no "
                "part of its locks back"
            )
        name = name_of(claim.line.key)
        main, update = main_key(name), update_key(name)
        session = claim.session
        if session is None or not session.enter():
            raise EngineError(f"{claim.line.resource}: its connection is in use")
        claim.mode, claim.untold = mode, True  # if the answer is lost, others may be in already
        try:
            if session.torn:
                session.settle()
            if (main, True) not in session.held:
                # Granted at once, also before those who wait: the session has more of it.
                session.ask(self._sql[True, False, True], main)
                session.held[main, True] = 1
            for key, gone in (((main, False), True), ((update, False), mode == "read")):
                if gone and key in session.held:
                    del session.held[key]
                    session.ask(keys.unlock_sql(shared=False), key[0])
            claim.untold = False
        finally:
            session.leave()
