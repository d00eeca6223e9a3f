"""Strict claims: an existence lock that nobody ever breaks by inference. For places where a second holder is worse
than a lock that a person has to free.

Theory of operation
-------------------
Beside the lock's path there is a directory `<path>.filelock/claims`. A contender that finds it empty publishes an
*intent* there (a complete record, written under a private name and hard-linked to its public one, so nobody ever sees
half of it), and looks again. If it sees a *held* claim, or an intent with a smaller token, it removes its own and
tries later; else it links its intent to a held claim, looks a last time, and holds if its token is the smallest of
all that it sees. The intent stays for the whole hold: a directory scan may miss an entry that is created
while it runs, but not one that was there before.

The path itself carries a *sentinel*, a file that contenders of the plain marker protocol take for the marker of a
holder on another host: they wait. A plain marker found there is a holder in turn.

Names and records are those of filelock's strict locks, whose processes take part.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..._errors import ProtocolError
from . import identity, records
from .ops import READ, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ClaimRecord", "ClaimsError", "StrictClaims"]

_MAGIC = "filelock-strict-v1"
_NAME = re.compile(r"(intent|held)-v1-([0-9a-f]{32})\.claim")
_PRIVATE = re.compile(r"\.(?:(?:intent|held)-v1-[0-9a-f]{32}\.claim\.private-v1-|probe-v1-)[0-9a-f]{32}\.tmp")
_MAX_SIZE = 1024
_ABANDONED = 3600.0
_GRACE = 0.5
_NO_LINKS = {errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class ClaimsError(ProtocolError):
    """What is found cannot be read without a risk that two hold. `claim` is the one it is about, if any."""

    def __init__(self, claim: str | None, reason: str) -> None:
        super().__init__(reason if claim is None else f"claim {claim!r}: {reason}")
        self.claim = claim
        self.reason = reason


class ClaimRecord(NamedTuple):
    """One published claim."""

    name: str
    state: Literal["intent", "held"]
    token: str
    pid: int
    hostname: str
    start: int | None


class _File:
    """An open file that is closed once, whatever interrupts its user. Not in a forked child: there the descriptor may
    be closed already, and its number mean something else."""

    fd = pid = -1

    def __init__(self, path: str, flags: int, mode: int = 0o777) -> None:
        self.pid = os.getpid()
        for self.fd in map(os.open, (path,), (flags,), (mode,)):  # see the kernel engine
            break

    def close(self) -> None:
        if self.pid != os.getpid():
            return
        fd, self.fd = self.fd, -1  # no signal comes before the call, and what it raises comes after the close
        if fd >= 0:
            os.close(fd)

    __del__ = close

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        self.close()


class StrictClaims:
    """One contender's view of the claims on a path, and what it has published itself."""

    def __init__(self, path: str, mode: int) -> None:
        self.path = path
        self.mode = mode
        self.directory = os.path.join(path + ".filelock", "claims")
        self.published: list[str] = []
        """Full names of our own claims that may exist."""
        self.sentinel: _File | None = None
        """Open while held or being tried."""

    # ---- acquire and release

    def attempt(self, unchanged_for: object) -> bool:
        """One attempt. `unchanged_for(status)` tells for how many seconds the file in the way has stood still."""
        self.withdraw()
        self._make_directories()
        self.sentinel = self._sentinel(unchanged_for)
        if self.sentinel is None:
            return False
        won = False
        try:
            won = self._doorway()
        finally:
            if not won:
                self.withdraw()
        return won

    def _doorway(self) -> bool:
        if self.read():
            return False
        token = secrets.token_hex(16)
        intent, held = f"intent-v1-{token}.claim", f"held-v1-{token}.claim"
        full = os.path.join(self.directory, intent)
        self.published.append(full)
        if not self._publish(full, _record(token)):
            return False
        names = [claim.name for claim in self.read()]
        if intent not in names or any(name.startswith("held-") for name in names) or min(names) != intent:
            return False
        self.published.insert(0, os.path.join(self.directory, held))
        self._link(full, self.published[0])
        claims = self.read()
        names = [claim.name for claim in claims]
        return intent in names and held in names and min(claim.token for claim in claims) == token

    def withdraw(self) -> None:
        """Remove our claims, then close the sentinel. What could not be removed is tried again the next time."""
        while self.published:
            try:
                os.unlink(self.published[0])
            except OSError:
                if os.path.lexists(self.published[0]):  # else it is done, and the answer was lost
                    raise
            del self.published[0]
        sentinel, self.sentinel = self.sentinel, None
        if sentinel is not None:
            sentinel.close()

    # ---- what others published

    def read(self) -> list[ClaimRecord]:
        """All claims, by name. Raises `ClaimsError` for what no version of the protocol writes."""
        found = []
        for name in self._names():
            parts = _NAME.fullmatch(name)
            if parts is None:
                raise ClaimsError(name, "unknown claim name or protocol version")
            data = self._content(name)
            if data is not None:
                found.append(_parse(name, parts, data))
        return found

    def _names(self) -> list[str]:
        try:
            self._require_real(os.path.dirname(self.directory))
            self._require_real(self.directory)
            with os.scandir(self.directory) as entries:
                return sorted(self._public(entries))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ClaimsError(None, f"cannot list claim directory: {error.strerror}") from error

    def _public(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[str]:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry.name
            elif _PRIVATE.fullmatch(entry.name):
                _collect(entry)

    def _content(self, name: str) -> bytes | None:
        path = os.path.join(self.directory, name)
        deadline = time.monotonic() + _GRACE
        while True:
            try:
                return _read(path)
            except FileNotFoundError:
                return None
            except OSError as error:
                # Windows denies the open of a file that is being removed; NFS has a stale handle of one that was.
                passing = error.errno == errno.ESTALE or (sys.platform == "win32" and error.errno == errno.EACCES)
                if not passing or time.monotonic() >= deadline:
                    if error.errno == errno.ESTALE:
                        return None
                    raise ClaimsError(name, f"cannot read claim: {error.strerror or error}") from error
                time.sleep(0.002)

    def remove(self, name: str) -> None:
        """Take one claim away, whoever made it: an operator's decision."""
        if not name or name.startswith(".") or any(char in name for char in "/\\\0"):
            raise ValueError("claim_name must be one public claim basename")
        if name not in self._names():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        os.unlink(os.path.join(self.directory, name))

    # ---- the directories and the sentinel

    def _make_directories(self) -> None:
        mode = self.mode | (self.mode & 0o444) >> 2
        for directory in (os.path.dirname(self.directory), self.directory):
            try:
                os.mkdir(directory, mode)
            except FileExistsError:
                pass
            self._require_real(directory)
            if sys.platform != "win32":
                _settle(directory, mode)

    def _require_real(self, directory: str) -> None:
        """Not a link, and not under the control of another user who could swap it (in a sticky directory)."""
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode):
            raise ClaimsError(None, f"{directory} is not a real directory")
        above = os.stat(os.path.dirname(directory) or os.curdir)
        if (
            sys.platform != "win32"
            and above.st_mode & stat.S_ISVTX
            and found.st_uid not in (os.geteuid(), above.st_uid)
        ):
            raise ClaimsError(None, f"{directory} belongs to uid {found.st_uid}, who could take its claims away")

    def _sentinel(self, unchanged_for: object) -> _File | None:
        """The sentinel; None while a plain marker holds the path."""
        deadline = time.monotonic() + _GRACE
        while True:
            try:
                sentinel, state, what = self.occupant()
            except FileNotFoundError:
                if not self._publish(self.path, records.SENTINEL):
                    return None
                continue
            if sentinel is not None or state == "held":
                return sentinel
            reason = f"expected the strict sentinel at the lock path, found {what}"
            if state == "unparsable":
                assert callable(unchanged_for)
                if unchanged_for(os.lstat(self.path)) < 2.0:
                    return None
                raise ClaimsError(None, f"{reason}, unchanged for 2 seconds")
            if state in ("exited", "damaged") or time.monotonic() >= deadline:
                raise ClaimsError(None, reason)
            time.sleep(0.002)

    def occupant(self) -> tuple[_File | None, str, str]:
        """What is at the path: (the sentinel, how it is held, words for it)."""
        status = os.lstat(self.path)
        if not stat.S_ISREG(status.st_mode):
            return None, "damaged", kind(status.st_mode)
        try:
            file = _File(self.path, READ)
        except PermissionError as error:
            return None, "held", f"a file it cannot read ({error.strerror})"
        data = os.read(file.fd, _MAX_SIZE + 1)
        if data == records.SENTINEL:
            return file, "sentinel", "the strict sentinel"
        file.close()
        owner = records.parse(data)[1]
        if owner is None:
            return None, "unparsable", "a file that is neither the sentinel nor a soft-lock marker"
        if identity.proven_dead(owner.pid, owner.hostname, owner.start):
            return None, "exited", f"a soft-lock marker left by pid {owner.pid} on {owner.hostname}, which has exited"
        return None, "held", f"a soft-lock marker held by pid {owner.pid} on {owner.hostname}"

    # ---- publication

    def _publish(self, public: str, data: bytes) -> bool:
        """Let `data` appear at `public` in one step, if nothing is there. False: something is, or somebody took our
        private file for an abandoned one."""
        directory, name = os.path.split(public)
        private = os.path.join(directory, f".{name}.private-v1-{secrets.token_hex(16)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with _File(private, flags, self.mode) as fd:
                if os.write(fd, data) != len(data):
                    raise OSError(errno.EIO, "a claim was written in part only", private)
                try:
                    self._link(private, public, os.fstat(fd))
                except (FileExistsError, FileNotFoundError):
                    return False
                return True
        finally:
            # Nothing is called before the unlink, after which a signal might interrupt.
            try:
                os.unlink(private)
            except FileNotFoundError:
                pass
            except OSError:  # once more: beside the lock file nobody would collect it
                try:
                    os.unlink(private)
                except OSError:
                    pass

    def _link(self, source: str, target: str, mine: os.stat_result | None = None) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            # NFS repeats a request whose answer was lost, and then finds the result of the first one.
            there = os.lstat(target)
            mine = mine or os.lstat(source)
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                raise
        except OSError as error:
            if error.errno in _NO_LINKS or getattr(error, "winerror", None) in (1, 17, 50):
                raise ClaimsError(
                    None, "filesystem does not support atomic no-replace hard-link publication"
                ) from error
            raise


def _record(token: str) -> bytes:
    pid, host, start = identity.me()
    return f"{_MAGIC}\n{token}\n{pid}\n{host.encode().hex()}\n{'' if start is None else start}\n".encode("ascii")


def _parse(name: str, parts: re.Match[str], data: bytes) -> ClaimRecord:
    try:
        magic, token, pid_text, host_hex, start_text, rest = data.decode("ascii").split("\n")
        pid, start = int(pid_text), int(start_text) if start_text else None
        host = bytes.fromhex(host_hex).decode()
    except ValueError as error:
        raise ClaimsError(name, "malformed claim record") from error
    right = (
        magic == _MAGIC
        and token == parts[2]
        and not rest
        and 1 <= pid <= 2**31 - 1
        and pid_text == str(pid)
        and (start is None or (start >= 0 and start_text == str(start)))
        and host.encode().hex() == host_hex
        and host.isprintable()
        and not any(char.isspace() for char in host)
    )
    if not right:
        raise ClaimsError(name, "malformed claim record")
    state: Literal["intent", "held"] = "held" if parts[1] == "held" else "intent"
    return ClaimRecord(name, state, token, pid, host, start)


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    with _File(path, READ) as fd:
        data = os.read(fd, _MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise OSError(errno.EFBIG, f"exceeds {_MAX_SIZE} bytes", path)
    return data


def _collect(entry: os.DirEntry[str]) -> None:
    """Remove a private file that has its public name already, or that nobody has touched for an hour."""
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and (status.st_nlink > 1 or time.time() - status.st_mtime > _ABANDONED):
            os.unlink(entry.path)
    except OSError:
        pass


def _settle(directory: str, mode: int) -> None:
    """Only we and root may take away what is ours: the sticky bit, and no more permissions than were asked for."""
    if sys.platform == "win32":
        return
    with _File(directory, _DIRECTORY) as fd:
        found = os.fstat(fd)
        settled = (found.st_mode & 0o7000) | (found.st_mode & mode & 0o777) | stat.S_ISVTX
        if found.st_uid == os.geteuid() and settled != stat.S_IMODE(found.st_mode):
            os.fchmod(fd, settled)
