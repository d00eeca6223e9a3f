"""Fencing tokens of lock files: numbers that only grow, kept in `NAME.token` beside each lock file. POSIX only.

Theory of operation
-------------------
A token is given when a holder first asks for it: who never asks pays nothing and makes no file. It is

    max(last + 1, microseconds of the wall clock)

`last` comes from the token file, so tokens grow over processes, restarts and kills, whatever the clock does. The
clock is the floor should the file be gone (a cleaner; a directory restored from yesterday): only then does the order
rest on it.

Not in the lock file: it may be a file of the user's (`flock(1) script.sh`), and somebody's marker; it is never written.
Not in an extended attribute: that would go with a lock file that is deleted, and half of the filesystems have none.

The token file is read and written under its own kernel lock. One lock would do if holds could not be lost; but a
holder that lost its lock file must not get a token *after* its successor got one. So, under the token file's lock, the
holder looks whether it still holds: if it does, then all who come after it ask later, and get more.

The file has two records, each with a checksum, written in turns: a write that is torn by a kill or a full disk leaves
the other one. Nothing is synced. After a power loss the file may be an old one, or empty, or zeros; then the clock is
the floor, and the tokens grow unless it went back. What was never written by this protocol is an error: nothing is
changed.

Who is stopped in the middle holds the token file's lock; others give up after `PATIENCE` with a `Timeout`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import zlib

from ..._core.lost import tell
from ..._errors import LostError, NotHeldError, ProtocolError, Timeout, UnsafePathError, UnsupportedError, named

assert sys.platform != "win32"

from .ops import UNLOCK  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import KernelClaim
    from .ops import Ops

PATIENCE = 10.0
_NAP = 0.0005
_LONGEST_NAP = 0.05

_MAGIC = b"interlock token 1 "
_SIZE = len(_MAGIC) + 20 + 1 + 8 + 1  # the number, a blank, its checksum, a line break
_LARGEST = (1 << 63) - 1


class _File:
    fd: int | None = None


def assign(claim: KernelClaim) -> int:
    """Give a claim that is held its token. Idempotent.

    Raises `LostError` and `NotHeldError`; `UnsupportedError` where this user may not write the token file;
    `UnsafePathError` where a stranger made it;
    `ProtocolError` for what is no token file; `Timeout`; and the kernel's `OSError`. Then there is no token.
    """
    line = claim.line
    ops: Ops = line.engine.ops  # type: ignore[attr-defined]
    path = line.key + ".token"
    file = _File()
    try:
        try:
            return _give(ops, file, path, claim)
        except OSError as error:
            named(error, path)
            raise
        finally:
            _end(ops, file)
    except BaseException:
        _end(ops, file)  # if an interrupt came into the first
        raise


def _give(ops: Ops, file: _File, path: str, claim: KernelClaim) -> int:
    line = claim.line
    _lock(ops, file, path)
    assert file.fd is not None
    if claim.token is None:  # else another thread was faster
        reason = line.engine.lost(claim)
        if not claim.depth:
            raise NotHeldError(f"{line.resource} is not held any more: it gets no token")
        if reason:
            tell(claim, reason)
            raise LostError(f"{line.resource} is lost: {reason}")
        claim.token = _next(file.fd, path, claim)
    return claim.token


def _end(ops: Ops, file: _File) -> None:
    """Unlock, as a copy in a child must not keep it, and close. Interrupted, it goes on when it is called again."""
    fd = file.fd
    if fd is None:
        return
    try:
        ops.flock(fd, UNLOCK)
    except OSError:
        pass
    close = ops.close
    file.fd = None
    try:
        close(fd)
    except OSError:
        pass


def _lock(ops: Ops, file: _File, path: str) -> None:
    began = time.monotonic()
    nap = _NAP
    while True:
        if file.fd is None:
            try:
                ops.open_lock_file(file, path)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise _unwritable(path) from error
                raise
        fd = file.fd
        assert fd is not None
        if not ops.try_lock(fd, path):
            waited = time.monotonic() - began
            if waited > PATIENCE:
                hint = "another process is giving out a token and does not come to an end; is it stopped?"
                raise Timeout(path, waited, None, hint)
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)
        elif ops.current(fd, path):
            _require_trust(ops, fd, path)
            return
        else:  # unlinked or replaced in between
            file.fd = None
            ops.close(fd)


def _require_trust(ops: Ops, fd: int, path: str) -> None:
    """Whose file it is may choose the tokens, so in a directory like /tmp it must not be any stranger's."""
    uid = ops.fstat(fd).st_uid
    if uid in (0, os.geteuid()):
        return
    above = ops.stat(os.path.dirname(path))
    if above.st_mode & stat.S_IWOTH and uid != above.st_uid:
        raise UnsafePathError(
            f"{path} belongs to user {uid}, in a directory where everybody may write: its numbers may be anything, so"
            " there is no fencing token. Keep the lock file in a directory of those who share it"
        )


def _next(fd: int, path: str, claim: KernelClaim) -> int:
    content = os.pread(fd, 4096, 0)
    records = [_parse(content[at : at + _SIZE]) for at in (0, _SIZE)]
    if len(content) > 2 * _SIZE or (max(records) == 0 and not _blank(content)):
        raise ProtocolError(
            f"{path} is not a token file, or damaged; nothing was changed. If nothing else needs it, delete it: the"
            " tokens then go on from the clock"
        )
    token = max(max(records) + 1, time.time_ns() // 1000)
    if token > _LARGEST:
        raise ProtocolError(f"{path}: the last token, {max(records)}, is the largest there can be; delete the file")
    number = _MAGIC + b"%020d" % token
    record = number + b" %08x\n" % zlib.crc32(number)
    at = 0 if records[0] < records[1] or not content else _SIZE
    if not content:
        _as_open_as(fd, claim)
    try:
        written = os.pwrite(fd, record, at)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise _unwritable(path) from error
        error.filename = path
        raise
    if written != len(record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    return token


def _parse(record: bytes) -> int:
    """0: none."""
    number = record[: len(_MAGIC) + 20]
    if record.startswith(_MAGIC) and record == number + b" %08x\n" % zlib.crc32(number):
        digits = number[len(_MAGIC) :]
        return int(digits) if digits.isdigit() else 0
    return 0


def _blank(content: bytes) -> bool:
    """Can this be what a crash left of a new file? Empty, zeros, or the beginning of its first record."""
    return not content.strip(b"\0") or (len(content) < _SIZE and content[: len(_MAGIC)] == _MAGIC[: len(content)])


def _as_open_as(fd: int, claim: KernelClaim) -> None:
    """Whoever may write the lock file may write the new token file."""
    try:
        if claim.fd is not None:
            os.fchmod(fd, stat.S_IMODE(os.fstat(claim.fd).st_mode) & 0o666)
    except OSError:
        pass


def _unwritable(path: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path} may not be written by this user: there is no fencing token. Let all who take the lock write that file,"
        " or use the lock without hold.token"
    )
