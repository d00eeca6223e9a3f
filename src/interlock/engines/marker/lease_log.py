"""The log of a lease: who may make its next generation, and who has made it.

Theory of operation
-------------------
Beside the path there is a directory `<path>.interlock` with files named by numbers. The newest says how things stand;
a file that exists never gets another owner. To acquire is to create the file of the next number, which the filesystem
lets only one do (link(2), or O_EXCL where there are no links). To release is to write "released" into one's own file;
to take over is to create the next one, as ever. So:

- The number is the fencing token.
- Nobody ever removes, replaces or rewrites by name what might be another's. A contender or an owner that was stopped
  for an hour, and goes on in the middle of what it did, finds that the next number is taken, or writes into a file
  that nobody reads any more.

When may the next number be made? If the newest is released; or its owner, a process of this kernel and pid namespace,
has died; or it has stood still before this contender's eyes for its ttl and a bit (WATCHED), by the contender's own
clock, from after the first look to before the last. An owner counts on its lease for a bit less than the ttl (COUNTED)
from *before* the look at the log, or before the write that renewed it; and a renewal that did not come to its end
before the old deadline came too late, and is none. Hence: if the renewal was in time, the contender's last look saw
it. Between the two shares, 15 % of the ttl, must fit what caches hold back and clocks differ in rate.

Old files must go some time, and with that a number could be made a second time, by a contender that looked at the log
long ago, or whose host shows it the directory as it was. Therefore (1) only the owner sweeps, upwards, and leaves
KEEP behind itself; (2) its lease counts from before its look; (3) it believes to have won only if then its
predecessor, the very file that it had judged, is still there: since files are swept in order, its own number had
never been there before. Whether that file is there is asked by giving it one more name (link), as caches cannot
answer that. Where there are no links, a fresh listing and a look at it must do.

So a record is *new* until that is known. One that stayed so (its maker gave up, or died) may be a stray, made with a
number of long ago. Whoever builds on such a one asks for its predecessor besides, which it names, and so on down to
one that is known to follow: as long as that is there, none above it was ever swept.

A log is born with its first file in it, by the rename of a directory, so it is never seen empty, and by one contender
only. Its first number is the time of day in microseconds, so a log that somebody removed is not begun with numbers
that were used before.

What can be read but not understood (a newer version, foreign or damaged content, a record that its writer left
unfinished for TORN seconds) is an error: nothing is known then, so nobody enters.
"""

from __future__ import annotations

import re
from os.path import join

from ..._errors import ProtocolError
from . import lease_records as records
from .lease_ops import NoLinks
from .lease_records import GIVEN_UP, HELD, NEW, NOTHING, RELEASED, Party, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .lease import LeaseClaim
    from .lease_ops import LeaseOps

__all__ = ["COUNTED", "FOREVER", "TORN", "WATCHED", "Log", "Newest"]

FOREVER = float("inf")
COUNTED = 0.9
"""The share of its ttl for which an owner believes in its lease."""
WATCHED = 1.05
"""How many ttls a contender must see it stand still."""
TORN = 5.0
"""Seconds that the writing of a record may take."""
KEEP = 4
"""Generations that stay behind the newest."""
_GENERATION = re.compile(r"[0-9]{20}", re.ASCII)
_PRIVATE = re.compile(r"\.([0-9]{20})-[0-9a-f]{32}p?", re.ASCII)


class Newest:
    """The newest generation, as it was read. `record` None: it is being written, or cannot be understood."""

    __slots__ = ("data", "follows", "kind", "number", "record", "released")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.kind, self.record, tail = records.parse(data)
        state = tail[:1].decode()
        self.released = state in (RELEASED, GIVEN_UP)
        self.follows = state in (HELD, RELEASED)  # it is known to
        if self.record is not None and self.record.token != number:
            self.kind, self.record = "damaged", None


class Log:
    """One log, as this process sees it. `trusted`: all its users are processes of this kernel."""

    def __init__(self, ops: LeaseOps, path: str, trusted: bool) -> None:
        self.ops = ops
        self.path = path
        self.directory = path + ".interlock"
        self.trusted = trusted
        self._links = True
        self._known = 0  # a generation that exists, whatever the listing says
        self._listed: list[str] = []
        self._seen: tuple[int, bytes, float] | None = None  # the newest, and when it was first seen to be so

    def file(self, number: int) -> str:
        return join(self.directory, f"{number:020d}")

    def _read(self, path: str) -> bytes | None:
        return self.ops.read(path, between_hosts=not self.trusted)

    # ---- how things stand

    def newest(self) -> Newest | None:
        """None: there is no log, or it went on while we looked."""
        self._listed = self.ops.names(self.directory) or []
        numbers = [int(name) for name in self._listed if _GENERATION.fullmatch(name)]
        listed = max(numbers, default=0)
        for number in (self._known, listed) if self._known > listed > 0 else (listed,):
            data = self._read(self.file(number)) if number else None
            if data is not None:
                return Newest(number, data)
        self._known = 0
        return None

    def begin(self, ttl: float, suspicious: bool) -> None:
        """Make the log, unless it is there. `suspicious`: there was one, so somebody may hold without knowing that it
        is gone; then it begins with a lease of nobody, which runs out."""
        number = max(int(self.ops.wall() * 1e6), 1)
        nonce = self.ops.nonce()
        head = records.encode(Record(number, nonce, NOTHING, ttl, Party(0, 0, 0, 0, "", ""), 0.0))
        state = records.tail(HELD if suspicious else RELEASED, 0)
        self.ops.begin(self.directory, f"{number:020d}", head + state, nonce)
        self._known = 0

    def empty(self) -> bool:
        """Is it not there, or without a generation?"""
        return not any(map(_GENERATION.fullmatch, self.ops.names(self.directory) or ()))

    def require_generations(self) -> None:
        """After `begin`, a log that is there has some."""
        if self.empty() and self.ops.names(self.directory) is not None:
            raise ProtocolError(
                f"{self.directory} has no generation in it, so nobody can tell who holds {self.path}: something "
                "removed them. When nobody uses the lock, remove the directory"
            )

    def free(self, now: Newest, asked: float) -> tuple[str, float]:
        """(Why the next generation may be made, or ""; when that may change by standing still).

        `asked`: the time before the newest was read, so that a pause in between counts for nobody's death.
        """
        if now.record is None:
            return "", self._unreadable(now, asked)
        if now.released:
            return "released", FOREVER
        if self.ops.dead(now.record.party):
            return f"its owner, pid {now.record.party.pid}, has died", FOREVER
        still, since = self._stands_still(now, asked)
        if still >= now.record.ttl * WATCHED:
            return f"not renewed for {still:.1f} s, with a ttl of {now.record.ttl:g} s", FOREVER
        return "", since + now.record.ttl * WATCHED

    def _stands_still(self, now: Newest, asked: float) -> tuple[float, float]:
        """For how long it has been seen unchanged, and since when."""
        seen = self._seen
        if seen is None or seen[:2] != (now.number, now.data):
            self._seen = seen = (now.number, now.data, self.ops.clock())
            return 0.0, seen[2]
        return asked - seen[2], seen[2]

    def _unreadable(self, now: Newest, asked: float) -> float:
        """It may be in the middle of being written. If not, that is an error."""
        still, since = self._stands_still(now, asked)
        if now.kind == "torn" and still < TORN:
            return since + TORN
        raise ProtocolError(f"{self.file(now.number)} {_WHY[now.kind]}: nobody can tell who holds {self.path}. {_OUT}")

    # ---- the next generation

    def publish(self, claim: LeaseClaim, before: Newest, ttl: float) -> bool:
        """Make a generation that is ours. False: somebody was faster, or it cannot be told; `claim` has nothing."""
        ops = self.ops
        nonce = ops.nonce()
        claim.number = number = before.number + 1
        claim.follows = False
        after = NOTHING if before.record is None else before.record.nonce
        claim.head = records.encode(Record(number, nonce, after, ttl, ops.me(), ops.wall()))
        if not (self._linked(claim, nonce) if self._links else self._created(claim)):
            ops.abandon(claim)
            self._known = number  # by the answer that it exists; the listing may not show it yet
            return False
        return True

    def _linked(self, claim: LeaseClaim, nonce: str) -> bool:
        ops = self.ops
        target = self.file(claim.number)
        claim.private = join(self.directory, f".{claim.number:020d}-{nonce}")
        ops.create_private(claim, claim.private)
        ops.write(claim.fd, claim.head + records.tail(NEW, 0), settle=not self.trusted)
        try:
            won = ops.link(claim.private, target) or self._is_ours(target, nonce)
        except NoLinks:
            self._links = False
            ops.abandon(claim)
            return self._created(claim)
        except OSError:  # done all the same, if its answer was lost
            if not self._is_ours(target, nonce):
                raise
            won = True
        ops.unlink(claim.private)
        claim.private = ""
        return won

    def _is_ours(self, target: str, nonce: str) -> bool:
        data = self._read(target)
        record = None if data is None else records.parse(data)[1]
        return record is not None and record.nonce == nonce

    def _created(self, claim: LeaseClaim) -> bool:
        """Without links: for a moment others see an empty record."""
        ops = self.ops
        target = self.file(claim.number)
        try:
            ops.create(claim, target)
        except FileExistsError:
            return False
        try:
            ops.write(claim.fd, claim.head + records.tail(NEW, 0), settle=True)
        except OSError:
            if ops.current(claim, target):  # nobody has believed in it, and no successor can have this number
                ops.unlink(target)
            raise
        return True

    def follows(self, claim: LeaseClaim, before: Newest) -> bool:
        """Is the generation that was judged still there, now that its successor is made? Then the successor says so."""
        assert before.record is not None
        if not self._links and not self.trusted:
            names = self.ops.names(self.directory) or []
            if any(_GENERATION.fullmatch(name) and int(name) > claim.number for name in names):
                return False
        number, nonce = before.number, before.record.nonce
        while True:
            its = self._ask(claim, number, nonce)
            if its is None or its.record is None:
                return False
            if its.follows:
                break
            number, nonce = number - 1, its.record.after
        claim.follows = True
        self.ops.write(claim.fd, claim.head + records.tail(HELD, 0), settle=not self.trusted)
        return True

    def _ask(self, claim: LeaseClaim, number: int, nonce: str) -> Newest | None:
        """The generation of this number, if it is there and the one of this nonce."""
        file = self.file(number)
        if self.trusted or not self._links:
            data = self._read(file)
        else:
            probe = join(self.directory, f".{claim.number:020d}-{self.ops.nonce()}p")
            failed: OSError | None = None
            try:
                try:
                    self.ops.link(file, probe)
                except OSError as error:
                    failed = error
                data = self._read(probe)  # only we know its name: if it is there, we made it
            finally:
                self.ops.unlink(probe)
            if data is None and failed is not None:
                raise failed
        found = None if data is None else Newest(number, data)
        return found if found is not None and found.record is not None and found.record.nonce == nonce else None

    def sweep(self, number: int) -> None:
        """Remove what is far behind our generation, upwards: see (1) and (3) above."""
        for name in sorted(self._listed):
            private = _PRIVATE.fullmatch(name)
            old = private[1] if private else name if _GENERATION.fullmatch(name) else number
            if int(old) < number - KEEP:
                self.ops.unlink(join(self.directory, name))
        self.ops.sweep_notes(self.directory, self._listed)

    def taken(self, claim: LeaseClaim) -> str:
        """Why our generation does not count any more, or ""."""
        file = self.file(claim.number)
        if self.ops.exists(self.file(claim.number + 1)):
            return f"another owner has made generation {claim.number + 1} of {self.directory}"
        if not self.ops.current(claim, file):
            return f"{file} was removed"
        return ""

    def overrule(self, claim: LeaseClaim, now: Newest, ttl: float) -> bool:
        """Make the next generation, released: whoever owned the newest is lost. False: somebody was faster."""
        if not self.publish(claim, now, ttl):
            return False
        done = now.record is None or self.follows(claim, now)  # what nobody can read is settled by this very decision
        claim.follows = done
        self.ops.abandon(claim)
        return done


_WHY = {
    "torn": f"was left unfinished for {TORN:g} s",
    "future": "was written by a newer version of interlock",
    "foreign": "is no record of a lease",
    "damaged": "is damaged",
}
_OUT = (
    "`interlock break --force` ends this lease once you know that nobody works under it; or, when nobody uses the "
    "lock, remove the directory"
)
