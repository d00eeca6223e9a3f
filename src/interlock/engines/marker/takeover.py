"""Breaking a marker whose owner is gone, without ever letting two owners in.

Theory of operation
-------------------
There is no system call "replace the file at this path if it is still that file". What there is: the exchange
of two names in one step. A breaker writes its own, complete marker beside the path, exchanges the two names
and looks what it got. If that is the very file that it judged, it holds the lock: nobody else can have got
it. If not, somebody else's live marker was taken, and a second exchange puts it back; meanwhile the path held
the breaker's marker, so nobody could enter.

Between our processes there is a guard besides: flock(2) on the marker that is being judged (on the inode, so
that it ends with the marker). Others do not know it, so the exchange must be right without it. They follow
the same steps with the same names, which is what makes a mixed fleet safe:

    <path>.break.<pid>.<32 hex>      a breaker's own marker before the exchange, what it took afterwards
    <path>.restore.<pid>.<32 hex>    such a file, claimed by one who repairs after a breaker's death

A breaker that is killed between its two exchanges leaves its own dead marker at the path and a live one under
its break name. So whoever is about to break a marker of a dead process looks first whether that process left
something under its break name, and puts that back instead. Only one can win the rename to its restore name.

Where names cannot be exchanged (NFS, SMB, some FUSE) a dead owner's marker stays until a person removes it:
moving it aside would empty the path beside a possibly live owner.
"""

from __future__ import annotations

import os
import re
import secrets
from time import monotonic

from . import identity, records
from .ops import READ, same, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import MarkerClaim
    from .ops import Ops

PUT_BACK = 2.0
"""How long a put-back waits for others to unwind theirs. They need microseconds; one that is dead or stopped
must not keep us for ever."""


def take_over(ops: Ops, claim: MarkerClaim, judged: int, status: os.stat_result, owner: int | None) -> bool:
    """Replace the marker open at `judged`, which was found breakable in this `status`, by ours. True: we
    hold.

    `owner` is the pid that the marker names, if it names one of this host.
    """
    path = claim.line.key
    if not ops.guard(judged):
        return False
    try:
        if not _still(ops, path, judged, status):
            return False
        if owner is not None and _restored(ops, path, owner, judged, status):
            return False
        claim.aside = f"{path}.break.{os.getpid()}.{secrets.token_hex(16)}"
        try:
            return _exchange(ops, claim, judged, status)
        finally:
            if claim.aside:
                settle(ops, claim)
    finally:
        ops.unguard(judged)


def _exchange(ops: Ops, claim: MarkerClaim, judged: int, status: os.stat_result) -> bool:
    path, terms = claim.line.key, claim.terms
    ops.create(claim, claim.aside, terms.mode)
    assert claim.fd is not None
    if terms.explicit:
        ops.chmod(claim.fd, terms.mode)
    ops.write(claim.fd, terms.record)
    if not _still(ops, path, judged, status) or not ops.exchange(claim.aside, path):
        return False
    if not same(ops.lstat(claim.aside), status):
        return False
    ops.unlink(claim.aside)
    claim.aside = ""
    return True


def _still(ops: Ops, path: str, judged: int, status: os.stat_result) -> bool:
    """Is the judged marker still at the path, and as it was judged?"""
    try:
        return same(ops.lstat(path), status) and state(ops.fstat(judged)) == state(status)
    except FileNotFoundError:
        return False


def settle(ops: Ops, claim: MarkerClaim) -> None:
    """End a take-over that was not won, wherever it stopped: put back what was taken, remove what is ours.

    Decides by what the filesystem shows, not by what we remember, so that it may follow an interrupt. Several
    breakers may be nested, each holding the marker of the one before: each waits until its own marker is at
    the path again before it exchanges.
    """
    path, aside = claim.line.key, claim.aside
    try:
        if claim.fd is not None:
            _put_back(ops, path, aside, claim.fd)
    except FileNotFoundError:
        pass
    finally:
        if claim.fd is not None:
            own = ops.fstat(claim.fd)
            if not _holds_anothers(ops, aside, own):  # else ours must keep the path shut until that one is back
                _unlink_if(ops, path, own)
                _unlink_if(ops, aside, own)
            ops.close_claim(claim)
        claim.aside = ""


def _holds_anothers(ops: Ops, aside: str, own: os.stat_result) -> bool:
    try:
        return not same(ops.lstat(aside), own)
    except FileNotFoundError:
        return False


def _put_back(ops: Ops, path: str, aside: str, fd: int) -> None:
    deadline = monotonic() + PUT_BACK
    while True:
        own = ops.fstat(fd)
        taken = ops.lstat(aside)
        if same(taken, own):
            return
        try:
            there = ops.lstat(path)
        except FileNotFoundError:
            there = None
        if there is not None and same(there, own):
            ops.exchange(aside, path)
        elif own.st_nlink == 0 or there is None:
            # The owner of the marker that we hold came to release it, and removed what it found in its place.
            ops.unlink(aside)
            return
        elif monotonic() >= deadline:
            return
        else:
            ops.sleep(0.0002)


def _unlink_if(ops: Ops, name: str, own: os.stat_result) -> None:
    try:
        if same(ops.lstat(name), own):
            ops.unlink(name)
    except OSError:
        pass


# ---- after a breaker's death


def _restored(ops: Ops, path: str, pid: int, judged: int, status: os.stat_result) -> bool:
    """Did the dead process `pid` leave a live marker aside? Then that is put back (True), or counts as held
    (True)."""
    left = _left_behind(ops, path, pid)
    if left is None:
        return True
    return any(_restore(ops, path, pid, name, judged, status) for name in left)


def _left_behind(ops: Ops, path: str, pid: int) -> list[str] | None:
    """The files under the break name of `pid`, and those whose repairer died. None: somebody repairs right
    now."""
    directory, name = os.path.split(path)
    found = []
    with ops.scandir(directory or os.curdir) as entries:
        for entry in entries:
            if not entry.name.startswith(name) or not entry.is_file(follow_symlinks=False):
                continue
            left = re.fullmatch(r"\.(break|restore)\.([0-9]{1,10})\.[0-9a-f]{32}", entry.name[len(name) :], re.ASCII)
            if left is None:
                continue
            by = int(left[2])
            if left[1] == "break":
                if by == pid:
                    found.append(os.path.join(directory, entry.name))
            elif by == os.getpid() or identity.proven_dead(by, identity.host(), None):
                # What has our own pid is not being worked on: the guard says so.
                found.append(os.path.join(directory, entry.name))
            else:
                return None
    return sorted(found)


def _restore(ops: Ops, path: str, pid: int, name: str, judged: int, status: os.stat_result) -> bool:
    claimed = f"{path}.restore.{os.getpid()}.{secrets.token_hex(16)}"
    try:
        ops.rename(name, claimed)
    except OSError:  # somebody else repairs
        return True
    try:
        if not _alive(ops, claimed, pid):
            ops.unlink(claimed)
            return False
        if _still(ops, path, judged, status) and ops.exchange(claimed, path):
            if same(ops.lstat(claimed), status):
                ops.unlink(claimed)
                return True
            ops.exchange(claimed, path)  # a peer was faster: its marker goes back
    except OSError:
        pass
    try:
        ops.rename(claimed, f"{path}.break.{pid}.{secrets.token_hex(16)}")
    except OSError:  # stays under our restore name: we, or our heirs, take it up at the next attempt
        pass
    return True


def _alive(ops: Ops, name: str, pid: int) -> bool:
    """May the owner of a marker that was found aside live? The dead breaker's own marker does not."""
    fd = ops.open(name, READ)
    try:
        kind, owner = records.parse(ops.read(fd, records.MAX_SIZE + 1))
    finally:
        ops.shut(fd)
    if owner is None:
        return kind in ("empty", "sentinel", "foreign")
    if owner.mode == "unknown":
        return True
    if (owner.pid, owner.hostname) == (pid, identity.host()):
        return False
    return not identity.proven_dead(owner.pid, owner.hostname, owner.start)
