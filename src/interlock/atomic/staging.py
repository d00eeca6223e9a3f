"""A new file on its way to its name: made beside the target, filled, synced, then put in place by one system call.

Theory of operation ------------------- A staged file is on the target's filesystem, in its directory, so that
rename(2) and link(2) can reach the name. It has a *temporary name* `.NAME.<16 random hex digits>.KIND` that nobody
had before, so nobody ever puts another's half-written file in place. There are two kinds.

`new`: for those who work under the target's lock (`transform`, `once`). Whoever has the lock is alone, so every other
`new` file of this target is a dead writer's, or of one that lost its lock and does not know; `sweep` removes all of
them. So a late writer's rename fails, whenever it comes: with the order *stage, sweep, read, rename* no update is
ever lost, whatever the lock is worth. (Let A and B both succeed, A first. A's file was not swept by B: so B swept
before A staged, or after A renamed. If after, B has read what A wrote. If before: B's file was staged before B's sweep,
so before A staged, so before A's sweep, which has removed it; but B succeeded.) A lock that lies costs repetitions.

`pub`: for `publish`, which has no lock. Made without a name (O_TMPFILE) where the filesystem can, and named by
linkat(2): a writer that is killed leaves nothing. Elsewhere the writer keeps flock(2) on its staged file until it is in
place, so that `sweep_dead` removes only what it can lock. A writer that was swept between making and locking sees that
its file has no name any more, and begins again.

Order on stable storage: content, metadata, fsync, name, fsync of the directory. An error after the name was given
(the directory's fsync) is raised, although readers see the new file: it may not survive a power loss.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys

from .. import UnsupportedError
from ..paths import real

CLOEXEC = getattr(os, "O_CLOEXEC", 0)
READ = (
    os.O_RDONLY
    | CLOEXEC
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
_FLAGS = os.O_RDWR | CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_TMPFILE = getattr(os, "O_TMPFILE", 0)
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EACCES}
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EACCES, errno.EISDIR}
_NAME_MAX = 200


class naming:  # noqa: N801 - a verb
    """`with naming(path)`: errors that come out name the path, if they name nothing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = self._path


class Ops:
    """The system calls, by name: tests replace them to fail, or to end the process before any one of them."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    read = staticmethod(os.read)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    fstat = staticmethod(os.fstat)
    lstat = staticmethod(os.lstat)
    link = staticmethod(os.link)
    replace = staticmethod(os.replace)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    listdir = staticmethod(os.listdir)
    if sys.platform != "win32":
        fchown = staticmethod(os.fchown)
        fchmod = staticmethod(os.fchmod)
    sync = staticmethod(getattr(os, "sync", lambda: None))

    def lock(self, fd: int) -> bool:
        """Try to lock an open file; True also where there is no flock(2) and the file is new and ours."""
        if sys.platform == "win32":
            return True
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def rename_noreplace(self, old: str, new: str) -> None:
        """Raises `FileExistsError` where there is something at `new`, ENOSYS or EINVAL where this cannot be had."""
        if sys.platform == "win32":
            os.rename(old, new)  # never replaces there
            return
        import ctypes

        function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        number = errno.ENOSYS
        if function is not None:
            if function(-100, os.fsencode(old), -100, os.fsencode(new), 1) == 0:
                return
            number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


ops = Ops()


class Staged:
    """An open file that is not in place yet. `name` is its temporary path, `None` while it has none."""

    def __init__(self) -> None:
        self.fd = -1
        self.name: str | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """All of it."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += ops.write(self.fd, view[done:])
        return done

    def discard(self) -> None:
        """Close it, and take its temporary name away if it still has one. Idempotent. Raises nothing: what was to be
        kept was synced before, and what stays is swept."""
        name, self.name = self.name, None
        fd, self.fd = self.fd, -1
        try:
            if name is not None:
                ops.unlink(name)
        except OSError:
            pass
        try:
            if fd >= 0:
                ops.close(fd)
        except OSError:
            pass

    def is_at(self, path: str) -> bool:
        """Is this the file at `path`? What counts after an error whose effect is unknown (a lost reply)."""
        try:
            there = ops.lstat(path)
        except OSError:
            return False
        mine = ops.fstat(self.fd)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    # ---- the two ways to its name

    def replace(self, path: str) -> None:
        """Put it at `path`, instead of what is there."""
        assert self.name is not None
        try:
            ops.replace(self.name, path)
        except OSError:
            if not self.is_at(path):
                raise
        self.name = None

    def place(self, path: str) -> bool:
        """Put it at `path` if nothing is there. False: something is."""
        try:
            if self.name is None:
                ops.link(f"/proc/self/fd/{self.fd}", path, src_dir_fd=0, follow_symlinks=True)
            else:
                ops.link(self.name, path)
        except OSError as error:
            if self.is_at(path):  # done, and the reply was lost; NFS then says EEXIST to the repeated request
                return True
            if error.errno == errno.EEXIST:
                return False
            if self.name is None or error.errno not in _NO_LINKS:
                raise
            moved = self._rename(path)
            if moved is None:
                raise UnsupportedError(
                    f"{path}: this filesystem has neither hard links ({error.strerror}) nor a rename that does not"
                    " replace: nothing can be published here without the danger of overwriting; choose another place"
                ) from error
            return moved
        return True

    def move(self, path: str) -> bool:
        """The same by a rename that does not replace, where there is one: so that no second name can stay behind."""
        moved = self._rename(path)
        return self.place(path) if moved is None else moved

    def _rename(self, path: str) -> bool | None:
        """`None`: there is no such rename here."""
        assert self.name is not None
        try:
            ops.rename_noreplace(self.name, path)
        except OSError as error:
            if not self.is_at(path):
                if error.errno == errno.EEXIST:
                    return False
                if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                    return None
                raise
        self.name = None
        return True


def stage(path: str, *, mode: int) -> Staged:
    """A new empty file with a temporary name of the kind `new`. The caller has the lock of `path`."""
    staged = Staged()
    try:
        staged.name = temporary(path, "new")
        staged.fd = ops.open(staged.name, _FLAGS | os.O_CREAT | os.O_EXCL, mode)
    except BaseException:
        staged.discard()
        raise
    return staged


def stage_alone(path: str) -> Staged:
    """A new empty file for `Staged.place`, by one who has no lock."""
    staged = Staged()
    try:
        if _TMPFILE and _nameless(staged, path):
            return staged
        sweep_dead(os.path.dirname(path))
        for _ in range(100):
            staged.name = temporary(path, "pub")
            staged.fd = ops.open(staged.name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
            ops.lock(staged.fd)
            if sys.platform == "win32" or ops.fstat(staged.fd).st_nlink:
                return staged
            staged.discard()  # swept before it was locked
    except BaseException:
        staged.discard()
        raise
    raise OSError(errno.EAGAIN, "new files are removed faster than they can be locked", path)


def _nameless(staged: Staged, path: str) -> bool:
    try:
        staged.fd = ops.open(os.path.dirname(path), os.O_WRONLY | _TMPFILE | CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS, errno.ENOENT):
            return False
        raise
    if os.path.exists(f"/proc/self/fd/{staged.fd}"):
        return True
    staged.discard()  # it could not be named without /proc
    return False


def sweep(path: str, *, keep: str | None = None) -> None:
    """Remove every `new` file and directory of `path` but `keep`. The caller has the lock of `path`."""
    directory, name = os.path.split(path)
    pattern = re.compile(r"\." + re.escape(_short(name)) + r"\.[0-9a-f]{16}\.new", re.DOTALL)
    for entry in ops.listdir(directory):
        if pattern.fullmatch(entry):
            left = os.path.join(directory, entry)
            if left != keep:
                remove(left)


def remove(left: str) -> None:
    """A file, or a directory with all that is in it. Nothing there is fine."""
    try:
        if stat.S_ISDIR(ops.lstat(left).st_mode):
            from shutil import rmtree

            rmtree(left, ignore_errors=True)
        else:
            ops.unlink(left)
    except FileNotFoundError:
        pass


_swept: set[str] = set()
_PUB = re.compile(r"\..+\.[0-9a-f]{16}\.pub", re.DOTALL)


def sweep_dead(directory: str) -> None:
    """Remove what killed publishers left in a directory; once per process, since it reads the whole directory."""
    if directory in _swept or sys.platform == "win32":
        return
    _swept.add(directory)
    for entry in ops.listdir(directory):
        if not _PUB.fullmatch(entry):
            continue
        left = os.path.join(directory, entry)
        try:
            fd = ops.open(left, READ)
        except OSError:  # gone by now, or not ours to judge
            continue
        try:
            if stat.S_ISREG(ops.fstat(fd).st_mode) and ops.lock(fd):
                ops.unlink(left)
        except OSError:
            pass
        finally:
            ops.close(fd)


def temporary(path: str, kind: str) -> str:
    """A path beside `path` that nobody had before."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{_short(name)}.{os.urandom(8).hex()}.{kind}")


def _short(name: str) -> str:
    if len(os.fsencode(name)) <= _NAME_MAX:
        return name
    import hashlib

    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


# ---- what else the three verbs share


def resolved(path: str | os.PathLike[str], *, follow: bool) -> str:
    """The absolute path, links in the directories followed; `follow`: a link at the path itself as well."""
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"a path is a str or a path of str, not {type(given).__name__}")
    directory, name = os.path.split(given)
    if not given or "\0" in given or name in ("", os.curdir, os.pardir):
        raise ValueError(f"{given!r} is not the path of a file")
    if follow:
        return real(given)
    return os.path.join(real(directory or os.curdir), name)


def refuse_uncallable(name: str, value: object, what: str) -> None:
    """Before anything is made, not when it is called at last."""
    if not callable(value):
        raise TypeError(f"{name} is {what}, not {type(value).__name__}; nothing was changed")


def fsync_directory(directory: str) -> None:
    """Make the names in a directory durable, where the system can do that."""
    if sys.platform == "win32":
        return
    fd = ops.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with naming(directory):
        try:
            ops.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
        finally:
            ops.close(fd)


def make_directory(directory: str) -> None:
    """With its parents, durably."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    make_directory(parent)
    try:
        ops.mkdir(directory)
    except FileExistsError:
        return
    fsync_directory(parent)
