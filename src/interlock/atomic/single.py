"""`once`: one builds, the others wait and take what was built."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from pathlib import Path

from .. import Lock, LockError, LostError
from .staging import (
    READ,
    Staged,
    fsync_directory,
    make_directory,
    naming,
    ops,
    refuse_uncallable,
    remove,
    resolved,
    stage,
    sweep,
    temporary,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NOTE_MAX = 4096
_MANY = 100
"""Files from which on one sync(2) of everything is cheaper than one fsync(2) each."""

_EXISTS = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


class BuildError(LockError):
    """The builder that this call waited for has failed: `kind` and `message` of its exception, and its `pid`.

    The next call builds again.
    """

    def __init__(self, resource: str, kind: str, message: str, pid: int | None = None) -> None:
        super().__init__(resource, kind, message, pid)
        self.resource = resource
        self.kind = kind
        self.message = message
        self.pid = pid

    def __str__(self) -> str:
        who = "" if self.pid is None else f" (pid {self.pid})"
        return f"{self.resource}: the builder that was waited for{who} failed: {self.kind}: {self.message}"


def once(
    path: str | os.PathLike[str], build: Callable[[Path], object], *, timeout: float | None = None
) -> bool:
    """Have `path`, built by at most one caller at a time: single flight across processes. Returns whether this call
    built it.

    If something is at `path`, that is the result, and `build` is not called. Else one caller gets the lock
    `PATH.lock`, and its `build` is called with a temporary path beside `path`, where it makes a file or a directory.
    What it made is synced and renamed to `path`, whole. The others wait meanwhile, and take what is at `path` then.
    `timeout`: seconds to wait for another builder; `None` for ever.

    A builder that dies leaves the lock free at once: one who waits builds, and removes what was left. A builder that
    fails raises its exception in its own caller; those who waited for it get a `BuildError` that tells it, and do not
    try again. Callers that come later do.

    Raises also `Timeout`, `DeadlockError` where `build` calls `once` for its own path, `FileNotFoundError` if `build`
    made nothing, `LostError` if the lock was taken away and another one builds.
    """
    refuse_uncallable("build", build, "a function that makes what is at the path it is given")
    target = resolved(path, follow=False)
    lock = Lock(target + ".lock", timeout=timeout)  # refuses a timeout that makes no sense
    if os.path.lexists(target):
        return False
    directory = os.path.dirname(target)
    make_directory(directory)
    before = _Note.read(target)
    with lock as hold:
        if os.path.lexists(target):
            fsync_directory(directory)
            return False
        note = _Note.read(target)
        if note is not None and (before is None or note.id != before.id):  # it is of a builder that was at work since
            raise BuildError(target, note.kind, note.message, note.pid)
        sweep(target)
        staged = temporary(target, "new")
        try:
            build(Path(staged))
            with naming(target):
                _sync(staged)
            hold.assert_held()
            with naming(target):
                won = _place(staged, target)
        except Exception as error:
            remove(staged)
            if hold.lost:
                raise LostError(f"{target}: its lock was taken away during the build: {hold.lost.reason}") from error
            _Note.write(target, error)
            raise
        except BaseException:
            remove(staged)  # interrupted, as if it had died: the next one builds
            raise
        fsync_directory(directory)
        _forget(_Note.path(target))
        return won


def _place(staged: str, target: str) -> bool:
    """False: something is there already, although we had the lock. Then that is the result."""
    if stat.S_ISDIR(ops.lstat(staged).st_mode):
        try:
            ops.rename(staged, target)
        except OSError as error:
            if not os.path.lexists(staged) and os.path.isdir(target):  # done, and the reply was lost
                return True
            if error.errno not in _EXISTS:
                raise
            remove(staged)
            return False
        return True
    file = Staged()
    file.name = staged
    file.fd = ops.open(staged, READ)
    try:
        return file.move(target)
    finally:
        file.discard()


def _forget(note: str) -> None:
    """A note, and not whatever else may have that name."""
    try:
        ops.unlink(note)
    except OSError:  # none, or none of ours
        pass


def _sync(staged: str) -> None:
    """Make what was built durable."""
    try:
        ops.lstat(staged)
    except FileNotFoundError as error:
        what = "the builder has made nothing at the path that it was given"
        raise FileNotFoundError(errno.ENOENT, what, staged) from error
    paths = [staged]
    for directory, names, files in os.walk(staged):
        paths += [os.path.join(directory, name) for name in (*names, *files)]
    if len(paths) > _MANY and sys.platform == "linux":  # elsewhere sync(2) does not wait
        ops.sync()
        return
    for path in paths:
        mode = ops.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            fsync_directory(path)
        elif stat.S_ISREG(mode):
            _sync_file(path)


def _sync_file(path: str) -> None:
    if sys.platform == "win32":
        fd = ops.open(path, os.O_RDWR | os.O_BINARY)
    else:
        fd = ops.open(path, READ)
    try:
        ops.fsync(fd)
    finally:
        ops.close(fd)


class _Note:
    """What a failed builder leaves for those who wait: `.NAME.failed`, until a build succeeds."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.id = str(fields.get("id", ""))
        self.kind = _shown(fields.get("type", "an exception"), 100)
        self.message = _shown(fields.get("message", ""), 1000)
        pid = fields.get("pid")
        self.pid = pid if isinstance(pid, int) else None

    @staticmethod
    def path(target: str) -> str:
        directory, name = os.path.split(target)
        return os.path.join(directory, f".{name}.failed")

    @classmethod
    def read(cls, target: str) -> _Note | None:
        """`None` also for what nobody understands: it only ever costs one more attempt."""
        try:
            fd = ops.open(cls.path(target), READ)
        except OSError:
            return None
        try:
            fields = json.loads(ops.read(fd, _NOTE_MAX)) if stat.S_ISREG(ops.fstat(fd).st_mode) else None
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            ops.close(fd)
        return cls(fields) if isinstance(fields, dict) else None

    @classmethod
    def write(cls, target: str, error: Exception) -> None:
        """Best effort: without it those who wait try for themselves."""
        fields = {
            "id": os.urandom(8).hex(),
            "type": type(error).__name__[:100],
            "message": str(error)[:500],
            "pid": os.getpid(),
        }
        try:
            staged = stage(target, mode=0o666)
            try:
                staged.write(json.dumps(fields).encode())
                staged.replace(cls.path(target))
            finally:
                staged.discard()
        except OSError:
            pass


def _shown(text: object, most: int) -> str:
    """Anybody may have written it: no line breaks, no terminal sequences."""
    return "".join(char if char.isprintable() else "?" for char in str(text)[:most])
