"""A marker: the lock is held while a file exists. For filesystems without locks, and for peers that use
markers.

Theory of operation
-------------------
Who creates the file (O_CREAT | O_EXCL) holds the lock, until it removes it. The file's content says who that
is, in the words of filelock (`records`), so a contender can find out whether the holder still lives. The
holder keeps the file open: an inode number is not given away while somebody has it, so "the file at the path
is mine" is a comparison of numbers, and the end of the holder's process raises a close event for those who
wait.

Release is compare-and-delete: unlink only what is ours. If something else stands at the path while our file
still exists somewhere, a breaker has it aside for a moment; then "released" is written into it, for whoever
finds it.

A contender may break a marker only with proof, and only in the way of `takeover`:
- its owner, a process of this host, is dead (`identity`: pid, start time, boot);
- its owner wrote that it let go;
- it is a lease, and this contender has watched it stand still for its duration, on its own monotonic clock;
- it is torn (a crash in the middle of writing) and has stood still for TORN seconds;
- it is empty, was made by this engine, has stood still for TORN seconds, and no process has it open for writing.
  Between the creation of the file and the writing of its record a kill leaves an empty marker. Others make empty
  markers too (filelock before 3.22 never writes), which mean a holder for as long as they are there. Ours are born
  with the sticky bit, which means nothing on a file; and as we remove the file before we close it, an empty sticky
  one that nobody has open is a dead owner's;
- the contender was told that age is proof (`lifetime`).

Waiting: watch the marker's inode for its removal (IN_ATTRIB: the link count), and for the close of whoever
had it open for writing (IN_CLOSE_WRITE: the holder ended, tidily or not). Contenders open it for reading
only, so they do not wake each other. A process closes its files shortly before it can be seen to be dead, so
a look after such an event that finds it alive is repeated a few times.

Of the claims of one process that wait for one marker (filelock has no queue, so each thread comes with a claim of its
own) only the first watches and looks; whoever stops being the first wakes the next. A hundred threads that all looked
after each release spent 5 ms on every handoff. The others look for themselves once in a nap, which is the net under a
first one that never came back.
"""

from __future__ import annotations

import stat
import sys
from collections import deque
from errno import EACCES, EIO, EISDIR, ELOOP, ENXIO, EPERM
from os.path import dirname
from random import random
from time import monotonic
from weakref import WeakKeyDictionary

from ..._core import fork
from ..._errors import ProtocolError, UnsafePathError, named
from ..._model import Traits
from ..._wait.mounts import fstype
from . import identity, records, takeover
from .ops import PIN, READ, Ops, kind, same, state
from .stake import BORN, FOREVER, MarkerClaim, Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from ..._core.arbiter import Line
    from ..._model import IO
    from ..._report import Party, Report
    from ...engines.kernel import Events

__all__ = ["LeaseMismatch", "MarkerClaim", "MarkerEngine", "Terms", "engine"]

TORN = 2.0
NAP = 1.0
BLIND_NAP = 0.05
_ECHOES = (0.0001, 0.0005, 0.002, 0.01, 0.05)
_CLOSE_WRITE = 0x8  # IN_CLOSE_WRITE alone: readers of the marker come and go


class LeaseMismatch(ProtocolError):
    """Two contenders of one lease go by different durations."""


class MarkerEngine:
    """The engine of markers. One instance serves all of a process."""

    claim_type = MarkerClaim

    def __init__(self, ops: Ops, events: Events | None) -> None:
        self.ops = ops
        self._events = events
        self._seen: dict[str, tuple[object, float]] = {}
        self._live: set[MarkerClaim] = set()
        self._waiting: WeakKeyDictionary[Line, deque[MarkerClaim]] = WeakKeyDictionary()
        self.traits = Traits(
            name="marker",
            family="session",
            excludes="hosts",
            fair="no starvation",
            fences=False,
            survives_crash=True,
            wait="events" if events else "naps",
        )
        fork.in_child(self._forget)

    # ---- acquire

    def attempt(self, claim: MarkerClaim) -> bool:
        """One attempt. True: held, and `claim.fd` is the marker. Whatever is raised, nothing is held."""
        terms = claim.terms
        path = claim.line.key
        self._live.add(claim)
        try:
            for _ in range(3):
                try:
                    self.ops.create(claim, path, terms.born)
                except FileExistsError:
                    if self._in_the_way(claim):
                        break
                except FileNotFoundError:
                    self.ops.makedirs(dirname(path), exist_ok=True)
                else:
                    self._inscribe(claim)
                    return True
                if claim.fd is not None:
                    return True
        except BaseException as error:
            self.drop(claim)
            if isinstance(error, OSError):
                named(error, path)
            raise
        self._live.discard(claim)
        return False

    def _inscribe(self, claim: MarkerClaim) -> None:
        fd, terms = claim.fd, claim.terms
        assert fd is not None
        if self.ops.write(fd, terms.record) != len(terms.record):
            raise OSError(EIO, "the marker was written in part only", claim.line.key)
        if terms.explicit:
            self.ops.chmod(fd, terms.mode)

    def _in_the_way(self, claim: MarkerClaim) -> bool:
        """Look at the marker that stands there; break it if that is proven right (then `claim.fd` is ours).
        False: it went away, or was broken."""
        path, ops = claim.line.key, self.ops
        claim.due = FOREVER
        try:
            status = ops.lstat(path)
            claim.found = (status.st_dev, status.st_ino)
            self._refuse(path, status)
            for judged in map(ops.open, (path,), (READ,)):  # noqa: B007 - no signal comes before it has its name
                break
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (ELOOP, ENXIO):
                raise UnsafePathError(f"{path} is not a marker file; nothing was locked") from error
            if error.errno in (EACCES, EPERM) and not isinstance(error, _Unwritable):
                return True  # a holder whose record we may not read
            raise
        try:
            status = ops.fstat(judged)
            claim.found = (status.st_dev, status.st_ino)
            data = ops.read(judged, records.MAX_SIZE + 1)
            breakable, owner = self._judge(claim, judged, status, data)
            if breakable and takeover.take_over(ops, claim, judged, status, owner):
                self._seen.pop(path, None)
                return False
        finally:
            try:
                ops.close(judged)  # not by a function of ours: a signal is looked for as one is entered
            except OSError:
                pass
        if sys.platform == "win32" and records.parse(data)[0] in ("owner", "empty", "released", "torn"):
            # A holder keeps its marker open, and what is open cannot be removed there: that it can is the proof.
            return not ops.unlink_closed(path, status, 1)
        return True

    def _refuse(self, path: str, status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(EISDIR, "Is a directory", path)
        if not stat.S_ISREG(mode):
            raise UnsafePathError(f"{path} is {kind(mode)}, not a marker file; nothing was locked")
        if not mode & stat.S_IWUSR:  # no owner of a marker makes it so: it will never go away by itself
            raise _Unwritable(EACCES, "Permission denied", path)

    def _judge(self, claim: MarkerClaim, fd: int, status: os.stat_result, data: bytes) -> tuple[bool, int | None]:
        """May this marker be broken, and which process of this host does it name?"""
        what, owner = records.parse(data)
        terms = claim.terms
        pid = owner.pid if owner is not None and owner.hostname == identity.host() else None
        if what == "sentinel":
            return False, None
        if terms.lifetime is not None and self.ops.wall() - status.st_mtime >= terms.lifetime:
            return True, pid
        if what == "released":
            return True, None
        if what == "torn":
            return self._stood_still(claim, status, TORN), records.breaker(data)
        if what == "empty":
            born = bool(BORN and status.st_mode & BORN)
            if not born or not self._sees_all_writers(claim.line.key):
                return False, None
            return self._stood_still(claim, status, TORN) and self.ops.nobody_writes(fd), None
        if owner is None or owner.mode == "unknown":
            return False, None
        if identity.proven_dead(owner.pid, owner.hostname, owner.start):
            return True, pid
        if owner.mode != "lease":
            return False, None
        duration = owner.lease_duration
        assert duration is not None
        if terms.duration is not None and terms.duration != duration:
            raise LeaseMismatch(
                f"{claim.line.resource} holds a lease of {duration!r} s, this contender goes by"
                f" {terms.duration!r} s; all contenders of a path must agree on lease_duration"
            )
        return self._stood_still(claim, status, duration), None

    def _stood_still(self, claim: MarkerClaim, status: os.stat_result, long_enough: float) -> bool:
        """Has this process seen the marker unchanged for so long? Compares no clocks but its own monotonic
        one."""
        now, key = monotonic(), state(status)
        seen = self._seen.get(claim.line.key)
        if seen is None or seen[0] != key:
            self._seen[claim.line.key] = (key, now)
            claim.due = now + long_enough
            return False
        claim.due = seen[1] + long_enough
        return now >= claim.due

    # ---- release

    def drop(self, claim: MarkerClaim) -> None:
        """Release or withdraw; removes nothing but our own. Idempotent."""
        self.let_go(claim)

    def let_go(self, claim: MarkerClaim) -> OSError | None:
        """`drop`; returns what close(2) complained of."""
        error = None
        if claim.waiting is not None:
            self.stop_waiting(claim)
        if claim.aside:
            takeover.settle(self.ops, claim)
        fd = claim.fd
        if fd is not None:
            mine = self.ops.fstat(fd) if sys.platform == "win32" else None
            try:
                self._remove(claim.line.key, fd)
            except BaseException:  # an interrupt, maybe before the file was gone; without its descriptor it would stay
                self._remove(claim.line.key, fd)
                raise
            finally:
                error = self.ops.close_claim(claim)
                if mine is not None:
                    self.ops.unlink_closed(claim.line.key, mine)
        self._live.discard(claim)
        return error

    def _remove(self, path: str, fd: int) -> None:
        ops = self.ops
        if sys.platform == "win32":  # an open file cannot be removed there: say that it is free, remove it after
            ops.rewrite(fd, records.RELEASED)
            return
        try:
            mine = ops.fstat(fd)
        except OSError:  # what cannot be compared is not removed; who finds it reads that it is free
            ops.rewrite(fd, records.RELEASED)
            return
        try:
            if same(ops.lstat(path), mine):
                ops.unlink(path)
                return
        except FileNotFoundError:
            if mine.st_nlink:  # a directory above was renamed
                path = ops.name_of(fd)
                try:
                    if path and same(ops.lstat(path), mine):
                        ops.unlink(path)
                        return
                except OSError:
                    pass
        except OSError:
            pass
        if mine.st_nlink:
            ops.rewrite(fd, records.RELEASED)

    def keep_no_more(self, claim: MarkerClaim) -> None:
        """Of a marker that shall stay, with its descriptor closed."""
        self._live.discard(claim)

    def disown(self, claim: MarkerClaim) -> None:
        """In a forked child: the marker is the parent's; only the copy of its descriptor goes."""
        claim.parker = claim.instance = claim.waiting = None
        claim.aside = ""
        self.ops.close_claim(claim)

    def _forget(self) -> None:
        for claim in list(self._live):
            self.disown(claim)
        self._live.clear()
        self._seen.clear()
        self._waiting = WeakKeyDictionary()

    def lost(self, claim: MarkerClaim) -> str:
        path = claim.line.key
        if claim.fd is None:
            return f"{path} is not held"
        try:
            if same(self.ops.lstat(path), self.ops.fstat(claim.fd)):
                return ""
        except FileNotFoundError:
            pass
        return f"{path} was removed, or taken over by another owner, while it was held"

    # ---- waiting

    def trusts(self, path: str) -> bool:
        return self._events is not None and self._events.trusts(dirname(path))

    def _sees_all_writers(self, path: str) -> bool:
        """Is there one inode for a file here, whoever opens it? An overlay has one of its own above the real one."""
        return self.trusts(path) and fstype(dirname(path)) != "overlay"

    async def wait(self, io: IO, claim: MarkerClaim, until: float) -> None:
        """Until the marker in the way may be gone, at most until `until`. The first call only subscribes: try
        again."""
        if claim.waiting is None:
            await io.call(self._queue_up, claim)
        first = claim.is_first()
        if (
            claim.parker is None
            or (first and not claim.looks)
            or (claim.instance is not None and claim.watched != claim.found)
        ):
            claim.looks = first
            await io.call(self._subscribe, io, claim)
            return
        if claim.instance is not None:
            claim.instance.drain()
        nap = self._nap(claim)
        if await io.park(claim.parker, min(until, claim.due, io.now() + nap)):
            claim.echo = 0
        else:
            claim.echo += 1

    def _nap(self, claim: MarkerClaim) -> float:
        if not claim.looks:
            return NAP * (0.75 + random() / 2)
        if claim.instance is None:
            return random() * min(BLIND_NAP, 0.001 * float(2 ** min(claim.echo, 10)))
        if claim.echo < len(_ECHOES):
            return _ECHOES[claim.echo]
        return NAP * (0.75 + random() / 2)

    def _queue_up(self, claim: MarkerClaim) -> None:
        claim.waiting = waiting = self._waiting.setdefault(claim.line, deque())
        waiting.append(claim)

    def _subscribe(self, io: IO, claim: MarkerClaim) -> None:
        path = claim.line.key
        if claim.instance is not None:
            self._unwatch(claim)
        if not claim.looks:
            claim.parker = io.parker()
            return
        instance = self._events.shared() if self._events and self.trusts(path) else None
        claim.parker = io.parker(instance)
        claim.echo = 0
        if instance is None:
            return
        try:
            for fd in map(self.ops.open, (path,), (PIN,)):  # noqa: B007
                break
        except OSError:  # it went: the next attempt will tell
            return
        try:
            status = self.ops.fstat(fd)
            claim.watched = claim.found = (status.st_dev, status.st_ino)
            claim.wd, claim.instance = 0, instance  # first: an interrupt may lose the handle
            claim.wd = instance.watch(fd, instance.REPLACED | _CLOSE_WRITE, claim, claim.parker.unpark)
        except OSError:  # no watches left, or a marker that we may not read: nap
            claim.instance = None
        finally:
            try:
                self.ops.close(fd)
            except OSError:
                pass

    def _unwatch(self, claim: MarkerClaim) -> None:
        instance = claim.instance
        claim.watched = None
        if instance is not None:
            try:
                instance.unwatch(claim.wd, claim)
            except BaseException:  # an interrupt: who gives up does not come back to it
                instance.unwatch(claim.wd, claim)
                raise
            finally:
                claim.instance = None

    def stop_waiting(self, claim: MarkerClaim) -> None:
        """Idempotent. Whoever was the first wakes the next, which looks at once: the first may have seen news."""
        if claim.instance is not None:
            self._unwatch(claim)
        claim.parker = None
        claim.looks = False
        waiting = claim.waiting
        if waiting is None:
            return
        try:
            waiting.remove(claim)
        except ValueError:  # an interrupted call had got so far
            pass
        claim.waiting = None
        while waiting:
            try:
                first = waiting[0]
                parker = first.parker
                # Without a parker it has yet to subscribe, and will find that it is the first.
                if parker is None or parker.unpark() is not False:
                    return
                waiting.remove(first)  # its event loop was closed over it
            except (IndexError, ValueError):
                continue

    # ---- the rest of what an engine is

    def require_fair(self, key: str) -> None:
        """Markers have no queue."""
        from ..._errors import UnsupportedError

        raise UnsupportedError(f"{key}: a marker has no queue of waiters; leave fair out")

    def claim(self, line: Line, owner: object, fair: bool) -> MarkerClaim:
        return MarkerClaim(line, owner)

    def try_now(self, claim: MarkerClaim, timeout: float) -> bool:
        if not self.attempt(claim):
            return False
        claim.since = monotonic()
        return True

    async def try_acquire(self, io: IO, claim: MarkerClaim, deadline: float) -> bool:
        if not await io.call(self.attempt, claim):
            return False
        claim.since = io.now()
        return True

    async def release(self, io: IO, claim: MarkerClaim) -> None:
        await io.call(self.drop, claim)

    async def withdraw(self, io: IO, claim: MarkerClaim) -> None:
        await io.call(self.drop, claim)

    def read(self, path: str) -> bytes | None:
        """The content of the marker at `path`; None where there is none to be read."""
        try:
            return self.content(path)
        except OSError:
            return None

    def content(self, path: str) -> bytes | None:
        """The same; None only where there is none. Raises the `OSError` of one that cannot be read."""
        try:
            if not stat.S_ISREG(self.ops.lstat(path).st_mode):
                return None
            for fd in map(self.ops.open, (path,), (READ,)):  # noqa: B007
                break
        except FileNotFoundError:
            return None
        try:
            data = self.ops.read(fd, records.MAX_SIZE + 1)
            return data
        finally:
            try:
                self.ops.close(fd)
            except OSError:
                pass

    def inspect(self, line: Line) -> Report:
        from ..._report import Report

        holder, hint = self.blame(line)
        return Report(line.resource, "marker", holders=(holder,) if holder else (), enforced=True, hint=hint)

    def blame(self, line: Line) -> tuple[Party | None, str]:
        from .people import holder_of_marker

        data = self.read(line.key)
        what, owner = records.parse(data or b"")
        if owner is None:
            return None, "" if what == "empty" else f"the marker is {what}"
        try:
            since = self.ops.lstat(line.key).st_mtime
        except OSError:  # it went meanwhile
            return None, ""
        return holder_of_marker((owner.pid, owner.hostname, owner.start), since, owner.mode != "lease")


class _Unwritable(PermissionError):
    """A marker without write permission for its owner."""


_engine: MarkerEngine | None = None


def engine() -> MarkerEngine:
    """The process's engine for markers, made at the first use."""
    global _engine
    if _engine is None:
        from ..kernel import engine as kernel_engine

        # It registers what happens in a forked child, and knows the platform's events.
        kernel = kernel_engine()
        _engine = MarkerEngine(Ops(), kernel._events if sys.platform == "linux" else None)
    return _engine
