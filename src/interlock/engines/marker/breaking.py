"""Breaking a marker by hand: what `Breakable` asks for, of the markers of filelock's soft and lease locks.

With proof it is an acquisition that breaks by the engine's own rules (`MarkerEngine.attempt`), and a release. By force
the same exchange of names is made without the judgement: so it takes away the very marker that was looked at, never
one that came meanwhile.
"""

from __future__ import annotations

import stat

from ..._errors import ProtocolError, UnprovenError, UnsafePathError
from . import MarkerEngine, identity, records, takeover
from .ops import READ, kind
from .stake import MarkerClaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from ..._core.arbiter import Line

_NO_PROOF = {
    "torn": "it is torn, and may be in the middle of being written",
    "empty": "it is empty, and names no owner",
}
_NEVER = {
    "sentinel": "the sentinel of a strict lock, whose claims only StrictSoftFileLock.force_break removes",
    "foreign": "no marker that we know",
}


def stands(line: Line) -> bool:
    """Is there a marker at this path? A kernel lock's file is empty, or has a user's own content."""
    try:
        what, _, _ = _look(line)
    except (OSError, UnsafePathError):
        return False
    return what in ("owner", "released", "sentinel")


def is_strict(line: Line) -> bool:
    """Is it the sentinel of a strict lock, which says nothing about who holds it?"""
    try:
        return _look(line)[0] == "sentinel"
    except (OSError, UnsafePathError):
        return False


def refuse_remains(line: Line) -> None:
    """Raise `ProtocolError` if what stands at this path was a marker of ours, and is damaged."""
    what, _, _ = _look(line)
    if what == "torn" and (line.engine.read(line.key) or b"").startswith(b"filelock/"):  # type: ignore[attr-defined]
        raise ProtocolError(
            f"{line.resource} is a damaged marker: nobody can tell whose. A contender removes it once it has stood "
            "still for some seconds; or remove it when nobody uses the lock"
        )


def stale(line: Line) -> str:
    """The proof that the marker is nobody's any more; "" while there is none."""
    what, owner, _ = _look(line)
    if what == "released":
        return "its owner has let go of it"
    if owner is not None and identity.proven_dead(owner.pid, owner.hostname, owner.start):
        return f"its owner, pid {owner.pid} of this host, is dead"
    return ""


def break_stale(line: Line, force: bool = False) -> str:
    """Remove the marker, if `stale`, or with `force`. Returns why, or "" if there is none.

    Raises `UnprovenError` without proof and force, and `ProtocolError` whatever the force for what is no owner's
    marker: nothing is changed then.
    """
    try:
        what, owner, status = _look(line)
    except FileNotFoundError:
        return ""
    if what in _NEVER:
        raise ProtocolError(f"{line.resource} is {_NEVER[what]}; nothing was changed")
    engine = line.engine
    assert isinstance(engine, MarkerEngine)
    why = stale(line)
    claim = MarkerClaim(line)
    try:
        if why and engine.attempt(claim):
            return why
        if not force:
            whose = (
                _NO_PROOF.get(what, "") if owner is None else f"its owner is pid {owner.pid} of host {owner.hostname}"
            )
            raise UnprovenError(
                f"{line.resource} is held by a marker, and nothing proves that it is left over: {whose}"
            )
        judged = engine.ops.open(line.key, READ)
        try:
            pid = owner.pid if owner is not None and owner.hostname == identity.host() else None
            if takeover.take_over(engine.ops, claim, judged, status, pid):
                return "forced"
        finally:
            engine.ops.shut(judged)
        raise ProtocolError(f"{line.resource}: its marker changed while it was to be broken; look again")
    finally:
        engine.drop(claim)


def _look(line: Line) -> tuple[str, records.OwnerRecord | None, os.stat_result]:
    engine = line.engine
    assert isinstance(engine, MarkerEngine)
    ops = engine.ops
    status = ops.lstat(line.key)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{line.key} is {kind(status.st_mode)}, not a marker file")
    fd = ops.open(line.key, READ)
    try:
        status = ops.fstat(fd)
        what, owner = records.parse(ops.read(fd, records.MAX_SIZE + 1))
    finally:
        ops.shut(fd)
    return what, owner, status
