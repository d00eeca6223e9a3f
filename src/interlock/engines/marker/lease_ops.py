"""Every outside effect of the lease engine, in one table that tests and the simulator replace.

Which of them can be trusted where: creating a name (O_EXCL, link, the rename of a directory) is decided by the server,
so what it says is the truth. A listing, and the look for a name, may come from this host's cache, and be of yesterday.
What a file holds is read by opening it, which makes network filesystems ask (close-to-open).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time

from ..._errors import UnsafePathError, UnsupportedError
from ..._wait.keeping import keeping, now
from . import identity
from .lease_records import GIVEN_UP, MAX_SIZE, NEW, NOTHING, RELEASED, Party, Record, encode, tail
from .ops import CREATE, PIN, READ, UPDATE, kind
from .people import old_notes  # not when it is needed first: on 3.11 a Ctrl-C inside an import becomes a RuntimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ..kernel import Instance
    from .lease import LeaseClaim

__all__ = ["LeaseOps", "NoLinks"]

_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
_NO_LINKS = {
    errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP), errno.EPERM, errno.EMLINK,
    524,
}  # fmt: skip
_UNANSWERED = (errno.EEXIST, errno.EIO, errno.ETIMEDOUT)
"""Of a name that nobody else knows: it may be done. A repeated request finds what the first one made (EEXIST)."""
_MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)
_TOUCH = 15.0
"""Seconds between two touches of a note."""


class NoLinks(Exception):
    """This filesystem makes no hard links."""


class LeaseOps:
    """The calls, by name. Paths are canonical."""

    def clock(self) -> float:
        """Seconds; counts the time for which the machine was suspended; nobody sets it."""
        return now()

    def wall(self) -> float:
        """Seconds of the Unix epoch: for people, and to begin numbers with. Nothing is decided by it."""
        return time.time()

    def nonce(self) -> str:
        return os.urandom(16).hex()

    # ---- reading

    def names(self, directory: str) -> list[str] | None:
        """What is in a directory; None: there is none."""
        try:
            return os.listdir(directory)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def read(self, path: str, between_hosts: bool = False) -> bytes | None:
        """What is in a file, at most MAX_SIZE; None: it is not there.

        `between_hosts`: open it for writing too. Who opens a file on NFSv4 only to read may be given a delegation, and
        if that host dies, all who would give the file one more name wait until the server forgets it (90 s by default).
        """
        try:
            try:  # `for`: no signal comes before it has its name
                for fd in map(os.open, (path,), (UPDATE if between_hosts else READ,)):  # noqa: B007
                    break
            except OSError as error:  # another user's
                if not between_hosts or error.errno not in _MAY_NOT_WRITE:
                    raise
                for fd in map(os.open, (path,), (READ,)):  # noqa: B007
                    break
        except OSError as error:
            if error.errno in _GONE:
                return None
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise UnsafePathError(f"{path} is not a regular file; nothing was locked") from error
            if error.errno == errno.EINVAL:
                # The SMB client of Linux, of a file that it has open under another of its names: both have one lease.
                raise UnsupportedError(
                    f"{path} cannot be opened under its second name, which a lease on files needs. On SMB, mount with "
                    "the option nolease, or lock with primitive='flock'"
                ) from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnsafePathError(f"{path} is {kind(os.fstat(fd).st_mode)}, not a record; nothing was locked")
            data = os.read(fd, MAX_SIZE)
            return data
        except OSError as error:
            if error.errno == errno.ESTALE:
                return None
            raise
        finally:
            try:
                os.close(fd)  # not by a function of ours: a signal is looked for as one is entered
            except OSError:
                pass

    def exists(self, path: str) -> bool:
        try:
            os.lstat(path)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def current(self, claim: LeaseClaim, path: str) -> bool:
        """Is the file of this name the one that the claim made?

        fstat(2) is not asked for that one: on SMB it goes by the name of the open, which a lease removes.
        """
        try:
            there = os.lstat(path)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return (there.st_dev, there.st_ino) == claim.made

    # ---- deciding: the server says who was first

    def create(self, claim: LeaseClaim, path: str) -> None:
        """A new, empty file. The claim owns its descriptor from the instant that it exists."""
        claim.made = None
        for claim.fd in map(os.open, (path,), (CREATE,), (0o644,)):  # see the kernel engine
            break
        status = os.fstat(claim.fd)
        claim.made = (status.st_dev, status.st_ino)

    def create_private(self, claim: LeaseClaim, path: str) -> None:
        """`create` under a name that nobody else knows: if the file is there, we made it, whatever the answer was."""
        try:
            self.create(claim, path)
        except OSError as error:
            if error.errno not in _UNANSWERED:
                raise
            self.close(claim)  # it may be fstat(2) that failed
            for claim.fd in map(os.open, (path,), (CREATE & ~(os.O_CREAT | os.O_EXCL),)):
                break
            status = os.fstat(claim.fd)
            claim.made = (status.st_dev, status.st_ino)

    def ours(self, claim: LeaseClaim) -> bool:
        """Is the descriptor still that of the file we made? Who closes all descriptors (a daemon at its start) closes
        this one too, and then its number may be a file of the user's, which must not get our record."""
        if claim.made is None:
            return True
        try:
            status = os.fstat(claim.fd)
        except OSError as error:  # any other says that it is open
            return error.errno != errno.EBADF
        return (status.st_dev, status.st_ino) == claim.made

    def link(self, source: str, target: str) -> bool:
        """Give a file one more name, unless that is taken, or the source is gone (False). Raises `NoLinks`."""
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in _NO_LINKS or getattr(error, "winerror", None) in (1, 17, 50):
                raise NoLinks from error
            if error.errno in (*_GONE, errno.EEXIST):
                return False
            raise
        return True

    def begin(self, directory: str, name: str, data: bytes, nonce: str) -> None:
        """Make the log with its first file inside, in one step, unless it is there."""
        private = f"{directory}.{nonce}"
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        try:
            try:
                os.mkdir(private)
            except OSError as error:
                if error.errno not in _UNANSWERED or not os.path.isdir(private):
                    raise
            try:
                fd = os.open(os.path.join(private, name), CREATE, 0o644)
            except OSError as error:
                if error.errno not in _UNANSWERED:
                    raise
                fd = os.open(os.path.join(private, name), CREATE & ~os.O_EXCL, 0o644)
            try:
                self.write(fd, data, settle=True)
            finally:
                _shut(fd)
            try:
                os.rename(private, directory)
            except OSError:  # somebody was faster, or it is done and the answer was lost
                if not os.path.isdir(directory):
                    raise
        finally:
            self._discard(private, name)

    def put_whole(self, private: str, path: str, data: bytes) -> bool:
        """Make a file that has its content from the first moment on, unless the name is taken (False), by way of a name
        that nobody else knows. Raises `NoLinks`, and `OSError` after which it may be there."""
        try:
            fd = os.open(private, CREATE, 0o644)
            try:
                self.write(fd, data, settle=True)
            finally:
                _shut(fd)
            return self.link(private, path)
        finally:
            self.unlink(private)

    def _discard(self, private: str, name: str) -> None:
        try:
            os.unlink(os.path.join(private, name))
        except OSError:
            pass
        try:
            os.rmdir(private)
        except OSError:
            pass

    # ---- what is only ours

    def write(self, fd: int, data: bytes, *, settle: bool) -> None:
        """Make `data` the content. `settle`: other hosts see it when this returns."""
        if sys.platform == "win32":
            os.lseek(fd, 0, os.SEEK_SET)
            written = os.write(fd, data)
        else:
            written = os.pwrite(fd, data, 0)
        if written != len(data):
            raise OSError(errno.ENOSPC, "a record was written in part only")
        if settle:
            os.fsync(fd)

    def unlink(self, path: str) -> None:
        """Nothing depends on it."""
        for _ in range(2):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            except OSError:
                continue
            return

    def close(self, claim: LeaseClaim) -> None:
        """The descriptor is gone, whatever close(2) says."""
        if claim.fd is None:
            return
        try:
            for claim.fd in map(os.close, (claim.fd,)):  # noqa: B020
                break
        except OSError:
            claim.fd = None

    def abandon(self, claim: LeaseClaim) -> None:
        """End what was, or is being, made for this claim: released, whatever name it has by now. Idempotent."""
        if claim.fd is not None and not self.ours(claim):
            claim.fd = None
        if claim.fd is not None:
            try:
                if claim.head:
                    state = RELEASED if claim.follows else GIVEN_UP
                    self.write(claim.fd, claim.head + tail(state, claim.version + 1), settle=False)
            except OSError:  # nobody renews it
                pass
            self.close(claim)
        if claim.private:
            self.unlink(claim.private)
            claim.private = ""

    def watch(self, instance: Instance, path: str, what: int, key: object, tell: Callable[[], object]) -> int:
        """Have `tell` called at events of the file at the path."""
        fd = os.open(path, PIN)
        try:
            return instance.watch(fd, instance.REPLACED | what, key, tell)
        finally:
            _shut(fd)

    def safe(self, directory: str) -> None:
        """Refuse a log that is no real directory, or another user's who could swap it (in a sticky directory)."""
        try:
            found = os.lstat(directory)
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafePathError(f"{directory} is {kind(found.st_mode)}, not a directory; nothing was locked")
        if sys.platform != "win32":
            above = os.stat(os.path.dirname(directory))
            if above.st_mode & stat.S_ISVTX and found.st_uid not in (os.geteuid(), above.st_uid):
                raise UnsafePathError(f"{directory} belongs to user {found.st_uid}, who could replace it")

    # ---- for people: who waits

    def note(self, claim: LeaseClaim, directory: str) -> None:
        """Let others see that this claim waits; see `people`. Trouble is ignored."""
        if claim.note and self.clock() < claim.noted + _TOUCH:
            return
        claim.noted = self.clock()
        try:
            if claim.note:
                os.utime(claim.note)
                return
            nonce = self.nonce()
            claim.note = os.path.join(directory, f"waits-{nonce}")
            record = Record(0, nonce, NOTHING, claim.ttl, self.me(), self.wall())
            fd = os.open(claim.note, CREATE, 0o644)
            try:
                self.write(fd, encode(record) + tail(NEW, 0), settle=False)
            finally:
                os.close(fd)
        except OSError:
            pass

    def take_note_away(self, claim: LeaseClaim) -> None:
        note, claim.note = claim.note, ""
        if note:
            self.unlink(note)

    def sweep_notes(self, directory: str, names: list[str]) -> None:
        """Remove those of the dead. `names`: what was in the directory."""
        if any(name.startswith("waits-") for name in names):
            for path in old_notes(self, directory, names):
                self.unlink(path)

    # ---- this process

    def mutex(self) -> AbstractContextManager[object]:
        return threading.RLock()

    def keep(self, claim: LeaseClaim) -> None:
        keeping().keep(claim)

    def forget(self, claim: LeaseClaim) -> None:
        keeping().forget(claim)

    # ---- who we are, and who has died

    def me(self) -> Party:
        return identity.party()

    def dead(self, party: Party) -> bool:
        return identity.party_is_dead(party)


def _shut(fd: int) -> None:
    """close(2) of what was only looked at, or is on the server by fsync(2): the descriptor is gone in any case."""
    try:
        os.close(fd)
    except OSError:
        pass
