"""Who holds a lock file, on systems that do not tell: this process if it does, else "unknown". Never a guess.

macOS and the BSDs have no table of flock(2) holders; lsof lists who has the file *open*, and every waiter
has. Windows has no table of LockFileEx holders; its Restart Manager, too, names all who have the file open:
not used.
"""

from __future__ import annotations

from ..._core.arbiter import turns
from ..._parties import own
from ..._report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._core.arbiter import Line
    from ..._model import Traits
    from ..._report import Party


def report(traits: Traits, line: Line) -> Report:
    """What this process knows of the lock; `complete` is always false."""
    mine = _mine(line)
    return Report(
        line.resource,
        traits.name,
        holders=() if mine is None else (mine,),
        enforced=None if mine is None else True,
        complete=False,
        hint="this system does not tell who holds a lock file",
    )


def blame(line: Line) -> tuple[Party | None, str]:
    """The holder for an error message, if it is this process."""
    mine = _mine(line)
    return mine, "" if mine is None else "in this process"


def _mine(line: Line) -> Party | None:
    claim = turns.get(line)
    if claim is None or not claim.since:
        return None
    return own(claim)
