"""`interlock break`: end a hold whose owner is gone, or is declared so."""

from __future__ import annotations

import os
import sys
import time

import click

from .._core.arbiter import line_for
from .._errors import LockError, UnprovenError
from .._inspect import inspect
from .._target import resolve
from ..engines.marker import breaking
from ..engines.marker import engine as marker_engine
from ..engines.marker.claims import StrictClaims
from ._common import CANNOT_LOCK, Number, complain, line_of, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._core.arbiter import Line
    from .._model import Breakable


@click.command("break")
@click.argument("target")
@click.option("--force", is_flag=True, help="Break without proof. Whoever still works under the lock is not stopped.")
@click.option(
    "--watch",
    metavar="SECONDS",
    type=Number("a time in seconds", 0, 1e6),
    default=0.0,
    help="Wait this long for proof: a lease has to stand still for its ttl.  [default: 0]",
)
def break_(target: str, force: bool, watch: float) -> None:
    """End the hold on TARGET, with proof that its owner is gone, or with --force.

    TARGET is the path of a lock (or a file:// or marker:// URL). Only locks that are kept by files can be left over:
    leases (marker://, primitive="marker") and the markers of SoftFileLock and its kin. Proof is that the owner, a
    process of this host, is dead; that it wrote that it let go; or, of a lease, that it stood still for its ttl.

    A lock on a server (redis://host/0#name) ends by itself when its owner is gone, so only --force breaks it.

    A strict lock (StrictSoftFileLock) is never broken, not even by --force; what its operator can do is told.

    A lock of the kernel (what a path means otherwise) dies with its last holder: there is never one to break. If it
    is held, a process lives that keeps it, perhaps one that inherited it from the process that died; it is named.
    Ending that process frees the lock; --force does not do it for you.

    \b
    Exit status:
      0    nobody holds TARGET now: it was broken, or was free
      1    TARGET is held, and was not broken: a process lives, or nothing proves that the owner is gone
      2    the command line is wrong
      125  TARGET cannot be looked at or broken: no permission, not a lock, damaged
    """
    line = line_of(target)
    try:
        said, held = _break(line, target, force, time.monotonic() + watch)
    except (LockError, OSError) as error:
        complain(reason(error, target))
        sys.exit(CANNOT_LOCK)
    (complain if held else click.echo)(said)
    sys.exit(1 if held else 0)


def _break(line: Line, target: str, force: bool, until: float) -> tuple[str, bool]:
    """What to say, and whether it is held still."""
    breakable, where = _breakable(line, target)
    if breakable is breaking and breaking.is_strict(where):
        return _of_strict(where)
    if breakable is None:
        return _of_the_kernel(line)
    while not force and not breakable.stale(where) and time.monotonic() < until:
        time.sleep(0.05)
    try:
        why = breakable.break_stale(where, force)
    except UnprovenError as error:
        if force:
            raise
        return f"{error}. --force breaks it all the same", True
    if not why:
        return f"{line.resource}: nobody holds it", False
    return f"{line.resource}: broken ({why})", False


def _breakable(line: Line, target: str) -> tuple[Breakable | None, Line]:
    own: Any = line.engine
    if hasattr(own, "break_stale"):
        return own, line
    if os.path.isdir(f"{line.key}.interlock"):
        lease = resolve(target, primitive="marker")
        own = lease.engine
        return own, lease
    marker = line_for(marker_engine(), line.key, line.resource)
    if breaking.stands(marker):
        return breaking, marker
    if os.path.lexists(line.key):
        breaking.refuse_remains(marker)
    return None, line


def _of_strict(line: Line) -> tuple[str, bool]:
    claims = StrictClaims(line.key, 0).read()
    if not claims:
        return f"{line.resource}: nobody holds it (its sentinel stays, and keeps out a SoftFileLock)", False
    owners = "; ".join(dict.fromkeys(f"pid {claim.pid} of host {claim.hostname}" for claim in claims))
    names = ", ".join(repr(claim.name) for claim in claims)
    return (
        f"{line.resource} is claimed by {owners}. It is a strict lock, which this command never breaks: nothing was"
        " changed. If you know that the owner is gone, remove its claims by interlock.filelock.StrictSoftFileLock("
        f"{line.key!r}).force_break(NAME); there are {names}",
        True,
    )


def _of_the_kernel(line: Line) -> tuple[str, bool]:
    report = inspect(line.resource if "://" in line.resource else line.key)
    if not report.holders:
        unseen = "" if report.complete else " that can be seen"
        return f"{line.resource}: nobody{unseen} holds it; a lock of the kernel dies with its holder", False
    who = "; ".join(str(party) for party in report.holders)
    return (
        f"{line.resource} is held by {who}. It is a lock of the kernel, which lives as long as a process that has it: "
        "there is nothing to break, end that process",
        True,
    )
