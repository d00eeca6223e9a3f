"""Read-write locks and semaphores on a Redis server: the same script, in other modes."""

from __future__ import annotations

from ..._wait.keeping import now as clock
from .engine import ReadClaim, RedisClaim, RedisCore, RedisEngine, UpdateClaim, nap
from .promises import traits
from .server import Young

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._model import IO, Mode

__all__ = ["RedisModes", "RedisPermits"]


class RedisModes(RedisEngine):
    """One mode of the read-write locks. Beside a `Lock` of the same name it is what a writer or a reader is to it."""

    def __init__(self, core: RedisCore, letter: bytes) -> None:
        super().__init__(core)
        self.traits = traits(sibling=True)
        self.letter = letter
        self.claim_type = {b"r": ReadClaim, b"u": UpdateClaim, b"w": RedisClaim}[letter]

    def _take(self, claim: RedisClaim, answer: Any) -> None:
        if answer[1]:
            claim.token = int(answer[1])

    async def upgrade(self, io: IO, claim: RedisClaim) -> bool:
        return await io.work(self._upgrade, claim)

    def _upgrade(self, claim: RedisClaim) -> bool:
        if claim.untold:
            self.downgrade(claim, claim.mode)
        if not claim.upgrading:
            claim.step += 1
            claim.upgrading = True
        try:
            answer, _ = self.core.server.call(
                self.core.keys(claim.line), b"upgrade", claim.id, b"%d" % claim.step, settled=True
            )
        except Young as young:  # whoever it has forgotten may still read
            claim.nap = max(young.until - clock(), 0.0) + 0.01
            return False
        if answer[0] < 0:
            claim.gone = claim.gone or "the server does not know of it any more"
            raise self._lost_error(claim)
        if not answer[0]:
            claim.nap = nap(answer[1])
            return False
        if self.lost(claim):
            raise self._lost_error(claim)
        claim.upgrading = False
        claim.wrote = claim.step
        claim.mode = "write"
        self._take(claim, answer)
        self._stop_waiting(claim)
        return True

    async def stay(self, io: IO, claim: RedisClaim) -> None:
        if claim.upgrading:
            claim.upgrading = False
            self._stop_waiting(claim)
            if claim.active and not claim.gone:
                await io.work(self._change, claim, "update")

    def downgrade(self, claim: RedisClaim, mode: Mode) -> None:
        claim.mode, claim.untold = mode, True  # if the answer is lost, others may be in already
        self._change(claim, mode)
        claim.untold = False


class RedisPermits(RedisEngine):
    """Semaphores."""

    kind = b"sem"
    letter = b"p"

    def __init__(self, core: RedisCore) -> None:
        super().__init__(core)
        self.traits = traits(sibling=True)

    def _take(self, claim: RedisClaim, answer: Any) -> None:
        claim.slot = answer[2]
