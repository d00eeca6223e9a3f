"""The file at the lock's path, which keeps contenders with filelock's markers out.

They take it for the marker of an owner on a host that is none, and wait. It is put there before the first lease of the
path, and it stays: to remove it between holds would be to remove by name, and whoever was stopped just before that
would open the path beside a later holder. So the move from markers to leases goes one way. As long as an owner of a
marker of theirs holds the path, a lease waits; a marker of a dead one is replaced with proof (`takeover`).

It is touched at each acquisition and renewal, for peers that go by the age of a marker (filelock's `lifetime`).
"""

from __future__ import annotations

import os
import stat
from os.path import join

from ..._errors import ProtocolError, UnsafePathError
from . import MarkerClaim, Terms, engine, records
from .lease_log import TORN
from .lease_ops import NoLinks
from .ops import kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .lease import LeaseClaim

FENCE = records.plain((1, "interlock-lease?see-the-directory-beside-it", None))

_empty: dict[str, tuple[int, float]] = {}


class MarkerFence:
    """The fences of all paths."""

    def __init__(self) -> None:
        self._markers = engine()

    def stands(self, claim: LeaseClaim) -> bool:
        path = claim.line.key
        if self._markers.content(path) != FENCE:
            return False
        try:
            os.utime(path)
        except OSError:
            pass
        return True

    def put(self, claim: LeaseClaim) -> bool:
        try:
            if self.stands(claim):
                return True
        except OSError:  # what cannot be read is judged below
            pass
        path, markers = claim.line.key, self._markers
        if not os.path.lexists(path) and self._made(claim):
            return True
        _refuse(claim, path, markers.read(path))
        its = MarkerClaim(claim.line, claim.owner, Terms(FENCE))
        try:
            if not markers.attempt(its):
                return False
            if its.fd is not None:
                markers.ops.settle(its.fd)  # after a loss of power an empty file would be in everybody's way
            markers.ops.close_claim(its)  # it stays
        except BaseException:
            markers.drop(its)
            raise
        markers.keep_no_more(its)
        return True

    def _made(self, claim: LeaseClaim) -> bool:
        """In one step: an empty file, left by who is killed while making it, would be in everybody's way for ever."""
        engine: Any = claim.line.engine
        private = join(engine.log(claim.line.key).directory, f".{0:020d}-{engine.ops.nonce()}")  # an owner sweeps it
        try:
            made: bool = engine.ops.put_whole(private, claim.line.key, FENCE)
        except (NoLinks, OSError):
            made = False
        return made or self.stands(claim)


def _refuse(claim: LeaseClaim, path: str, data: bytes | None) -> None:
    """What will never go away by itself is an error, not an owner to wait for."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{path} is {kind(status.st_mode)}, not a marker file; nothing was locked")
    if data == records.SENTINEL:
        raise ProtocolError(
            f"{path} is used by strict locks of filelock, which do not see leases: use another path, or remove it and "
            f"{path}.filelock when nobody uses them"
        )
    if data or data is None:
        _empty.pop(path, None)
        if data and records.parse(data)[0] == "foreign":
            if status.st_nlink > 1:
                raise UnsafePathError(f"{path} is a hard link to a file that is no marker; nothing was locked")
            raise ProtocolError(
                f"{path} is a file of {status.st_size} bytes that no lock has written; nothing was locked. Use another"
                " path, or remove it"
            )
        return
    now = claim.line.engine.ops.clock()  # type: ignore[attr-defined]
    inode, since = _empty.get(path, (0, 0.0))
    if inode != status.st_ino:
        _empty[path] = (status.st_ino, now)
        claim.due = now + TORN
    elif now - since >= TORN:
        raise ProtocolError(
            f"{path} is empty: the lock file of kernel locks, which do not see leases, or the marker of an owner that "
            "says nothing. Use another path, or remove it when nobody uses it"
        )
