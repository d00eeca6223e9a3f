"""`transform`: change a file under a lock, so that no change is lost and no reader sees half of one."""

from __future__ import annotations

import errno
import os
import stat
import sys
from time import monotonic, sleep

from .. import Lock, LostError, UnsafePathError
from .staging import READ, fsync_directory, make_directory, naming, ops, refuse_uncallable, resolved, stage, sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeVar

    from .. import AsyncHold, Hold
    from .staging import Staged

    T = TypeVar("T")

_ACL = "system.posix_acl_access"


class Again(Exception):
    """Somebody else was at work: what was read may be old. Nothing was changed."""


def transform(
    path: str | os.PathLike[str],
    fn: Callable[[bytes | None], bytes | str],
    *,
    timeout: float | None = None,
    hold: Hold | AsyncHold | None = None,
    owner: Literal["keep", "mine"] = "keep",
) -> bytes:
    """Replace the content of the file at `path` with `fn(content)`, and return that.

    `fn` gets the bytes (`None`: there is no file) and returns bytes, or a str (stored as UTF-8). Callers take turns,
    across threads, processes and hosts as far as locks reach there; readers take no lock, never wait, and see the old
    file or the new one. The new file is written beside the old one, synced, and renamed over it. If `fn` returns what
    it got, nothing is written.

    The lock is `PATH.lock`, beside the file and never the file itself, which is another one after each change.
    `timeout`: seconds to wait for it; `None` for ever. With `hold`, the caller's own lock protects the file instead,
    and nothing is acquired: for several files under one lock, and for its `token`.

    Mode, group and owner are kept; on Linux the access control list and extended attributes, too (elsewhere not: the
    new file gets what its directory gives it). So are symbolic links: the file that they lead to is changed. Hard links
    are not: other names keep the old content. `owner="mine"` lets the file become the caller's where the caller may not
    give it to its owner, in place of `PermissionError`.

    A crash at any point leaves the old file or the new. What a killed caller left beside it, the next one removes.
    Should the lock be lost on the way (its file deleted, say), the change is made anew from what is there then, so
    `fn` may be called more than once; with `hold`, `LostError` is raised instead.

    Raises what `fn` raises, `Timeout`, `TypeError` for a result that is no content, `UnsafePathError` for what is not
    a regular file, and the kernel's `OSError`. Then nothing was changed, unless the error is of the last step, the
    sync of the directory.
    """
    refuse_uncallable("fn", fn, "a function that gets the old content and returns the new one")
    if owner not in ("keep", "mine"):
        raise ValueError(f"owner {owner!r} is neither 'keep' nor 'mine'")
    if hold is not None:
        if not hasattr(hold, "assert_held"):
            raise TypeError(f"hold is what a lock's acquire returned, not {type(hold).__name__}; nothing was changed")
        hold.assert_held()
        try:
            return change(resolved(path, follow=True), fn, hold, owner=owner)
        except Again:
            hold.assert_held()
            raise LostError(f"{path}: another writer was at work although {hold.resource} is held") from None
    Lock(resolved(path, follow=True) + ".lock", timeout=timeout)  # refuses a timeout that makes no sense
    limit = None if timeout is None else monotonic() + float(timeout)

    def attempt() -> bytes:
        target = resolved(path, follow=True)
        make_directory(os.path.dirname(target))
        with Lock(target + ".lock", timeout=None if limit is None else max(limit - monotonic(), 0.0)) as own:
            if resolved(path, follow=True) != target:
                raise Again
            return change(target, fn, own, owner=owner)

    return repeated(attempt)


def repeated(attempt: Callable[[], T]) -> T:
    """Its result, however often it takes."""
    pause = 0.001
    while True:
        try:
            return attempt()
        except Again:  # the lock is lost, or worth nothing here: it is the files beside the target that count
            pass
        # Those who disturb each other must not do so in step.
        sleep(pause * int.from_bytes(os.urandom(2), "big") / 0x10000)
        pause = min(2 * pause, 0.1)


def change(
    target: str,
    fn: Callable[[bytes | None], bytes | str],
    hold: Hold | AsyncHold,
    *,
    owner: Literal["keep", "mine"] = "keep",
    before_read: Callable[[], object] = int,
    before_rename: Callable[[], object] = int,
    most: int | None = None,
) -> bytes:
    """One attempt, by who has the lock of the target. Raises `Again`; else as `transform`.

    What the two others raise ends it too. `before_read` is called between stage and sweep: whoever is found there has
    staged its file before this call, or comes after it. `most`: bytes of the old content that are read; one more
    tells that it is longer.
    """
    existed = os.path.lexists(target)
    staged = stage(target, mode=0o600 if existed else 0o666)
    try:
        before_read()
        sweep(target, keep=staged.name)  # between stage and read: see `staging`
        with naming(target):
            old = _Old.read(target, most)
        new = as_bytes("the new content", fn(None if old is None else old.data))
        if old is not None and new == old.data:
            return new
        if existed != (old is not None):
            raise Again
        with naming(target):
            staged.write(new)
            if old is not None:
                old.hand_down(staged, owner, target)
            ops.fsync(staged.fd)
        before_rename()
        try:
            hold.assert_held()
            with naming(target):
                staged.replace(target)
        except (LostError, FileNotFoundError):
            raise Again from None
    finally:
        staged.discard()
    fsync_directory(os.path.dirname(target))
    return new


def as_bytes(name: str, content: bytes | str) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if not isinstance(content, bytes):
        raise TypeError(f"{name} is bytes or str, not {type(content).__name__}; nothing was changed")
    return content


def content_of(path: str, most: int) -> bytes | None:
    """What is in a regular file, at most one byte more than `most`; None: it is not there."""
    with naming(path):
        old = _Old.read(path, most)
    return None if old is None else old.data


class _Old:
    """The file that is to be replaced, and what the new one inherits."""

    def __init__(self, data: bytes, status: os.stat_result, attributes: dict[str, bytes]) -> None:
        self.data = data
        self.status = status
        self.attributes = attributes

    @classmethod
    def read(cls, path: str, most: int | None = None) -> _Old | None:
        try:
            fd = ops.open(path, READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                what = "a symbolic link" if error.errno == errno.ELOOP else "a socket"
                raise UnsafePathError(f"{path} is {what}; nothing was read or changed") from error
            raise
        try:
            status = ops.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(status.st_mode):
                raise UnsafePathError(f"{path} is not a regular file; nothing was read or changed")
            parts = []
            while part := ops.read(fd, 1 << 20 if most is None else most + 1):
                parts.append(part)
                if most is not None:
                    break
            return cls(b"".join(parts), status, _attributes(fd))
        finally:
            ops.close(fd)

    def hand_down(self, staged: Staged, owner: Literal["keep", "mine"], path: str) -> None:
        if sys.platform == "win32":
            return
        mine = ops.fstat(staged.fd)
        if mine.st_gid != self.status.st_gid:
            self._chown(staged, -1, self.status.st_gid, owner, path)
        if mine.st_uid != self.status.st_uid:
            self._chown(staged, self.status.st_uid, -1, owner, path)
        if sys.platform == "linux":
            self._hand_down_attributes(staged)
        mode = stat.S_IMODE(self.status.st_mode)
        if ops.fstat(staged.fd).st_uid != self.status.st_uid:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        ops.fchmod(staged.fd, mode)  # last: a change of owner takes bits away

    def _chown(self, staged: Staged, uid: int, gid: int, owner: Literal["keep", "mine"], path: str) -> None:
        if sys.platform == "win32":
            return
        try:
            ops.fchown(staged.fd, uid, gid)
        except PermissionError as error:
            if owner == "mine":
                return
            what = f"owner {uid}" if uid >= 0 else f"group {gid}"
            raise PermissionError(
                error.errno, f"a new file cannot keep the {what} of the old one; owner='mine' does without", path
            ) from error

    def _hand_down_attributes(self, staged: Staged) -> None:
        if sys.platform != "linux":
            return
        if _ACL not in self.attributes:  # it may have inherited the directory's default
            try:
                os.removexattr(staged.fd, _ACL)
            except OSError:
                pass
        for name, value in self.attributes.items():
            try:
                os.setxattr(staged.fd, name, value)
            except OSError:
                if name == _ACL:
                    raise
                # trusted.*, security.*: not everybody may; the kernel gives new files their own


def _attributes(fd: int) -> dict[str, bytes]:
    if sys.platform != "linux":
        return {}
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError:  # none here
        return {}
