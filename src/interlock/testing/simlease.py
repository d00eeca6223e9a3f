"""A shared directory made of data: what the lease engine's contenders do to it, and what their hosts show them of it.

What is simulated, and what a protocol may count on in it:

- Creating a name (O_EXCL, link, the rename of a directory) is decided by the server, at once and for all.
- A listing, or the look for a name, may come from a host's cache. An explorer's `stale` budget lets that many views
  *freeze*, each at any moment, until any later one: reads of that host show the directory as it was then, whatever it
  changed itself since. What an open file holds is not cached: it is read by opening it.
- A reply may get lost (`lost_replies`): done, and reported as an input/output error.
- A process may be killed at any moment (`crashes`), stopped for ever (`stops`), or stand still while others sleep for
  longer than its ttl (`jumps`). With `one_kernel` its death is seen by the others; else they only see it stand still.
- Records under private names are nobody's business: making them is no step of the schedule.

The property: whoever enters finds nobody inside whose lease has not run out by its own account, and has a fencing
token above all before. So an owner that lost its lease knows it before the next one is in.
"""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .._core.acquire import run
from ..engines.marker import lease
from ..engines.marker import lease_records as records
from ..engines.marker.lease import LeaseClaim, LeaseEngine
from ..engines.marker.lease_ops import LeaseOps, NoLinks
from ..engines.marker.lease_records import Party
from .simprocess import Bare, Memory, SimLine, patched
from .simscript import Raised, Script, SimIO
from .simworld import Broken, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._model import Claim
    from .simprocess import Patch
    from .simscript import Request
    from .simworld import Choice, How, Parts

__all__ = ["TTL", "SimDisk", "SimLeaseEngine", "SimLeaseOps", "lease_program"]

TTL = 10.0
FIRST = 1
_NOBODY = "0" * 32


class SimDisk(World):
    """The directory that all simulated hosts share.

    Cells: `name` -> number of a file, `data` of a file -> its content, `fd` (process, descriptor) -> file, `view` of a
    process -> the names as its host shows them, `lease` of a contender -> until when it believes to hold.
    """

    __slots__ = ()
    LASTING = World.LASTING | {"name", "data", "files", "there", "lease", "links", "kernel", "killed"}

    def __init__(
        self,
        *,
        exists: bool = True,
        links: bool = True,
        one_kernel: bool = False,
        stale: int = 0,
        lost_replies: int = 0,
    ) -> None:
        """`exists`: there is a log, released, from the beginning. `links`: the filesystem makes hard links."""
        super().__init__()
        self.put(("links",), links or None)
        self.put(("kernel",), one_kernel or None)
        self.put(("left", "stale"), stale or None)
        self.put(("left", "lost replies"), lost_replies or None)
        if exists:
            record = records.Record(FIRST, _NOBODY, _NOBODY, TTL, Party(0, 0, 0, 0, "", ""), 0.0)
            self._make(f"{FIRST:020d}", records.encode(record) + records.tail(records.RELEASED, 0))
            self.put(("there",), True)

    def parts(self, cell: tuple[Any, ...], value: Any) -> Parts:
        # Records name their owners, so contenders cannot change places unnoticed: no two have the same program.
        return ((-1, (cell, value)),)

    def _make(self, name: str, data: bytes) -> int:
        number: int = (self.get("files") or 0) + 1
        self.put(("files",), number)
        self.put(("name", name), number)
        self.put(("data", number), data)
        return number

    # ---- reading, as this host shows it

    def _file(self, who: int, name: str) -> Any:
        view = self.get("view", self.setup.process[who])
        return self.get("name", name) if view is None else dict(view).get(name)

    def _names(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((cell[1], number) for cell, number in self.cells.items() if cell[0] == "name"))

    def on_names(self, who: int) -> Any:
        if self.get("there") is None:
            return None
        names = self.get("view", self.setup.process[who]) or self._names()
        return tuple(name for name, _ in names if not name.startswith("."))

    def on_read(self, who: int, name: str) -> Any:
        number = self._file(who, name)
        return None if number is None else self.get("data", number)

    def on_exists(self, who: int, name: str) -> bool:
        return self._file(who, name) is not None

    def on_current(self, who: int, fd: int, name: str) -> bool:
        return bool(self._file(who, name) == self.get("fd", self.setup.process[who], fd))

    # ---- deciding

    def on_create(self, who: int, name: str) -> Any:
        if ("name", name) in self.cells:
            return Raised(FileExistsError, (errno.EEXIST, "File exists"))
        process = self.setup.process[who]
        fd = 3
        while ("fd", process, fd) in self.cells:
            fd += 1
        self.put(("fd", process, fd), self._make(name, b""))
        return fd

    def on_link(self, who: int, source: str, target: str) -> Any:
        if self.get("links") is None:
            return Raised(NoLinks)
        number = self.get("name", source)
        done = number is not None and ("name", target) not in self.cells
        if done:
            self.put(("name", target), number)
        if ("losing", who) in self.cells:
            self.put(("losing", who), None)
            return Raised(OSError, (errno.EIO, os.strerror(errno.EIO)))
        return done

    def on_begin(self, who: int, *new: Any) -> None:
        if not new:
            super().on_begin(who)
        elif self.get("there") is None:
            self.put(("there",), True)
            self._make(*new)

    # ---- one's own

    def on_write(self, who: int, fd: int, data: bytes) -> None:
        self.put(("data", self.cells["fd", self.setup.process[who], fd]), data)

    def on_unlink(self, who: int, name: str) -> None:
        number = self.get("name", name)
        self.put(("name", name), None)
        self._collect(number)

    def on_close(self, who: int, fd: int) -> None:
        cell = "fd", self.setup.process[who], fd
        number = self.cells[cell]
        self.put(cell, None)
        self._collect(number)

    def _collect(self, number: int | None) -> None:
        """A file that has neither a name nor a descriptor, and that no cache shows, is gone."""
        if number is None:
            return
        for cell, value in self.cells.items():
            if cell[0] in ("name", "fd") and value == number:
                return
            if cell[0] == "view" and any(its == number for _, its in value):
                return
        self.put(("data", number), None)

    def on_dead(self, who: int, process: int) -> bool:
        return ("kernel",) in self.cells and ("killed", process) in self.cells

    # ---- the schedule

    def local(self, who: int, request: Request) -> bool:
        verb = request[0]
        if verb in ("create", "unlink"):
            return bool(request[1].startswith("."))
        if verb in ("write", "close"):
            number = self.cells["fd", self.setup.process[who], request[1]]
            return verb == "close" or not any(
                cell[0] == "name" and its == number and not cell[1].startswith(".") for cell, its in self.cells.items()
            )
        if verb == "begin":
            return len(request) == 1
        if verb == "dead":
            return self.get("kernel") is None
        return verb in ("enter", "lease")

    def background(self) -> list[Choice]:
        return [("thaw", cell[1]) for cell in self.cells if cell[0] == "view"]

    def troubles(self) -> list[Choice]:
        found: list[Choice] = []
        if ("left", "stale") in self.cells and self.get("there"):
            found += [("freeze", its) for its in self.setup.processes if ("view", its) not in self.cells]
        if ("left", "lost replies") in self.cells:
            found += [("lose", who) for who in range(len(self.setup.contenders)) if ("acquiring", who) in self.cells]
        return found

    def nobody(self, choice: Choice) -> None:
        what, which = choice
        if what == "freeze":
            self.spend("stale")
            self.put(("view", which), self._names())
        elif what == "thaw":
            view = self.get("view", which)
            self.put(("view", which), None)
            for _, number in view:
                self._collect(number)
        elif what == "lose":
            self.spend("lost replies")
            self.put(("losing", which), True)

    def bury(self, process: int) -> None:
        self.put(("killed", process), True)
        for cell in [cell for cell in self.cells if cell[:2] == ("fd", process)]:
            number = self.cells[cell]
            self.put(cell, None)
            self._collect(number)

    def finish(self, who: int, how: str) -> bool:
        self.put(("losing", who), None)
        return super().finish(who, how)

    def settled(self) -> None:
        private = [cell[1] for cell in self.cells if cell[0] == "name" and cell[1].startswith(".")]
        troubled = any(cell[0] in ("killed", "stopped") for cell in self.cells)
        if private and not troubled:
            raise Broken(f"all have ended, and this is left: {private}")
        super().settled()

    # ---- the critical section

    def on_lease(self, who: int, until: float) -> None:
        """Until when a contender believes to hold, from now on."""
        self.put(("lease", who), until)

    def _over(self, who: int) -> bool:
        return bool(self.get("lease", who) <= self.cells[("now",)])

    def excused(self, one: int, other: int) -> bool:
        return self._over(one) or self._over(other)

    def on_enter(self, who: int, token: int | None = None, how: How = "write") -> None:
        super().on_enter(who, how=how)
        if token is not None and not self._over(who):
            if token <= (self.get("tokens") or 0):
                raise Broken(f"fencing token {token} came after {self.get('tokens')}")
            self.put(("tokens",), token)


class SimLeaseOps(LeaseOps):
    """The lease engine's table of effects, each a question to the simulated directory."""

    def __init__(self, script: Script, who: int) -> None:
        self.script = script
        self.who = who
        self._nonces = script.first

    def clock(self) -> float:
        return self.script.now

    def wall(self) -> float:
        return 1e-6 * FIRST

    def nonce(self) -> str:
        """The same again until a record has got its public name with it: tries in vain shall leave no trace."""
        return f"{self.who:016x}{self._nonces:016x}"

    def names(self, directory: str) -> list[str] | None:
        names = self.script.ask("names")
        return None if names is None else list(names)

    def read(self, path: str, between_hosts: bool = False) -> bytes | None:
        data: bytes | None = self.script.ask("read", _name(path))
        return data

    def exists(self, path: str) -> bool:
        there: bool = self.script.ask("exists", _name(path))
        return there

    def current(self, claim: LeaseClaim, path: str) -> bool:
        it_is: bool = self.script.ask("current", claim.fd, _name(path))
        return it_is

    def create(self, claim: LeaseClaim, path: str) -> None:
        claim.fd = self.script.ask("create", _name(path))
        self._nonces += not _name(path).startswith(".")

    create_private = create

    def link(self, source: str, target: str) -> bool:
        public = not _name(target).startswith(".")
        try:
            done: bool = self.script.ask("link", _name(source), _name(target))
        except OSError:
            self._nonces += public
            raise
        self._nonces += public and done
        return done

    def begin(self, directory: str, name: str, data: bytes, nonce: str) -> None:
        self.script.tell("begin", name, data)

    def write(self, fd: int, data: bytes, *, settle: bool) -> None:
        self.script.tell("write", fd, data)

    def unlink(self, path: str) -> None:
        self.script.tell("unlink", _name(path))

    def close(self, claim: LeaseClaim) -> None:
        fd, claim.fd = claim.fd, None
        if fd is not None and not self.script.dead:
            self.script.tell("close", fd)

    def safe(self, directory: str) -> None:
        """It is."""

    def note(self, claim: LeaseClaim, directory: str) -> None:
        """What is for people decides nothing."""

    def take_note_away(self, claim: LeaseClaim) -> None:
        pass

    def mutex(self) -> Any:
        return nullcontext()

    def keep(self, claim: LeaseClaim) -> None:
        self.script.tell("lease", claim.deadline)

    def forget(self, claim: LeaseClaim) -> None:
        """Programs renew by themselves."""

    def me(self) -> Party:
        return Party(self.who, 1, 1, 1, "", "")

    def dead(self, party: Party) -> bool:
        is_dead: bool = bool(party.boot) and self.script.ask("dead", party.pid)
        return is_dead


class NoFence:
    """There are no contenders of other protocols in the simulation."""

    def stands(self, claim: LeaseClaim) -> bool:
        return True

    def put(self, claim: LeaseClaim) -> bool:
        return True


class SimLeaseEngine(LeaseEngine):
    """The shipped engine; naps end when something may be over, not before."""

    def __init__(self, ops: SimLeaseOps, trusted: bool) -> None:
        super().__init__(ops, None, TTL, NoFence())
        self._trusting = trusted

    def _trusts(self, path: str) -> bool:
        return self._trusting

    def _nap(self, claim: LeaseClaim) -> float:
        return 100 * TTL


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def lease_program(
    who: int,
    *,
    engine: type[SimLeaseEngine] = SimLeaseEngine,
    ops: type[SimLeaseOps] = SimLeaseOps,
    trusted: bool = False,
    renewals: int = 0,
    patches: Iterable[Patch] = (),
) -> Callable[[Script], None]:
    """A program: acquire, be inside, renew so often, release. Process `who` must live it, and nobody else.

    `trusted`: as on a local filesystem; then there may be no stale views.
    """
    patches = tuple(patches)

    async def live(script: Script, io: SimIO, its: SimLeaseEngine, line: SimLine) -> None:
        from .._core.acquire import acquire

        claim: Claim = its.claim(line, script, False)
        if not await acquire(io, Bare(its, claim), float("inf")):
            raise TimeoutError
        assert isinstance(claim, LeaseClaim)
        script.tell("enter", claim.token)
        for _ in range(renewals):
            if its.renew(claim):
                break
            script.tell("lease", claim.deadline)
        script.tell("leave")
        await its.release(io, claim)

    def program(script: Script) -> None:
        memory = Memory(script)
        io = SimIO(script)
        with patched([(lease, "_TRIES", 1), *patches]):  # it comes again after a nap, which here takes no time
            its = engine(ops(script, who), trusted)
            script.tell("begin")
            run(live(script, io, its, SimLine(its, memory)))

    return program


def contenders(number: int, rounds: int | Sequence[int] = 1, **options: Any) -> list[Any]:
    """So many, each in a process of its own, on a host of its own unless the world is of one kernel."""
    from .simworld import Contender

    each = [rounds] * number if isinstance(rounds, int) else rounds
    return [Contender(lease_program(who, **options), who, each[who]) for who in range(number)]
