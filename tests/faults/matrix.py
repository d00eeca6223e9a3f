"""Every system call fails, before it is made and after: python -m tests.faults.matrix [--every N] [--json] [NAME...]

The sites are those that a run without faults has passed (`gate`). Then one run per site, errno, moment and occurrence,
each on a new lock, with one fault in it; and after each run the invariants:

1. no false grant: what calls itself held, the referee (another process) cannot get
2. no descriptor and no thread is left
3. `.held` is what the referee finds
4. no file stays in the directory that an undisturbed run would not leave
5. nothing but documented exceptions, that name the path, and the errno that was injected
6. the next acquire, in this process and in another one, succeeds
7. the deadline is kept, as far as a busy machine lets one tell
8. one release releases, and the second says that there is nothing to release

Linux. `--every N` runs each N-th case, `--only CALL` the sites of that call. The whole takes some minutes; it prints a
table.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections import Counter
from errno import (
    EACCES,
    EBADF,
    EDQUOT,
    EINTR,
    EINVAL,
    EIO,
    EMFILE,
    ENFILE,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESTALE,
    ETIMEDOUT,
    errorcode,
)
from typing import TYPE_CHECKING, Any, NamedTuple

from . import files
from .gate import Fault, Gate, Site, gate, install
from .plants import PLANTS
from .subjects import SUBJECTS, TTL, Referee, watch_renewals
from .words import parser, positive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ERRNOS = (
    EIO, ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM, EINTR, ESTALE, ETIMEDOUT, ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, EACCES,
    EPERM, EROFS,
)  # fmt: skip
WAITS = (ENOMEM,)
"""What a wait can say. EINTR never gets out of Python; any other error would be one of a signal's handler."""
OCCURRENCES = 3
SLACK = 30.0
"""Seconds that an acquire may take longer than it was given, before that is called late: the machine may be busy."""
PATIENCE = float(os.environ.get("MATRIX_PATIENCE", "20"))
"""Seconds for what should be had at once; a lease that could not be given back takes its ttl."""
AGAIN = 5
"""How often a case is tried whose lease the machine was too busy to renew. What the fault does, it does each time."""
_HEX = re.compile(r"[0-9a-f]{6,}|\d+")


class Failure(NamedTuple):
    subject: str
    scenario: str
    fault: Fault
    problems: list[str]

    def __str__(self) -> str:
        site, number, done, nth = self.fault
        when = "after" if done else "before"
        return (
            f"{self.subject}, {self.scenario}: {errorcode[number]} {when} {site.call} no. {nth} in {site.where}:"
            f"{site.line}: {'; '.join(self.problems)}"
        )


class World:
    """One lock's directory, and what happens there when the lock waits."""

    def __init__(self, referee: Referee) -> None:
        self.referee = referee
        self.directory = os.path.realpath(tempfile.mkdtemp(prefix="matrix"))
        self.path = os.path.join(self.directory, "x.lock")
        self.on_wait: Callable[[], None] | None = None

    def waited(self) -> None:
        act, self.on_wait = self.on_wait, None
        if act is not None:
            act()

    def names(self) -> set[str]:
        found = set()
        for where, directories, others in os.walk(self.directory):
            inside = os.path.relpath(where, self.directory)
            found |= {_HEX.sub("#", os.path.join(inside, name)) for name in (*directories, *others)}
        return found

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


current: list[World] = []


def hook_waits() -> None:
    """Have `World.waited` called when a thread is about to sleep."""
    from interlock._io import blocking

    def hooked(real: Callable[..., bool]) -> Callable[..., bool]:
        def sleep(self: Any, seconds: float) -> bool:
            if current:
                current[-1].waited()
            return real(self, seconds)

        return sleep

    for kind in (blocking._LockParker, blocking._PollParker):
        kind.sleep = hooked(kind.sleep)  # type: ignore[method-assign]


# ---- scenarios: what is there before, and how long may it take


class Scenario(NamedTuple):
    name: str
    prepare: Callable[[str, World], None]
    timeout: float
    clear: Callable[[str, World], None]
    renewal: bool = False
    """Calls fail while the keeper's thread renews, and no others."""


def _nothing(kind: str, world: World) -> None: ...


def _used(kind: str, world: World) -> None:
    world.referee.ask("try", kind, world.path, 5.0)


def _held(kind: str, world: World) -> None:
    world.referee.ask("grab", kind, world.path, 5.0)


def _freed_at_a_wait(kind: str, world: World) -> None:
    _held(kind, world)
    world.on_wait = lambda: _free(kind, world)


def _free(kind: str, world: World) -> None:
    world.on_wait = None
    on, gate.on = gate.on, False
    try:
        world.referee.ask("free", kind, world.path)
    finally:
        gate.on = on


def _free_if_held(kind: str, world: World) -> None:
    if world.on_wait is not None:
        _free(kind, world)


def _in_new_directory(kind: str, world: World) -> None:
    world.path = os.path.join(world.directory, "new", "x.lock")


SCENARIOS = (
    Scenario("new", _nothing, 5.0, _nothing),
    Scenario("new directory", _in_new_directory, 5.0, _nothing),
    Scenario("again", _used, 5.0, _nothing),
    Scenario("waits", _freed_at_a_wait, 20.0, _free_if_held),
    Scenario("times out", _held, 0.02, _free),
)
RENEWAL = Scenario("renewal", _nothing, 5.0, _nothing, renewal=True)


def scenarios(kind: str) -> tuple[Scenario, ...]:
    return (*SCENARIOS, RENEWAL) if SUBJECTS[kind].renews else SCENARIOS


# ---- one run


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return found


def leaked(before: dict[str, str], world: World) -> list[str]:
    """Those of the lock's own files; and of the rest more than a pool keeps."""
    now = descriptors()
    ours = [what for what in now.values() if what.startswith(world.directory)]
    if ours:
        gc.collect()
        now = descriptors()
        ours = [what for what in now.values() if what.startswith(world.directory)]
    counts = Counter(now.values())
    ours += [what for what in ("anon_inode:[eventfd]", "anon_inode:inotify") if counts[what] > 9]
    return ours


def chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def undocumented(error: BaseException, fault: Fault | None, path: str) -> str:
    """Invariant 5; "" if all is well."""
    from interlock import LockError, LostError, UnsupportedError

    shown = f"{type(error).__name__}: {error}"
    if not isinstance(error, LockError | OSError):
        return f"undocumented {shown}"
    if isinstance(error, TimeoutError) and getattr(error, "errno", None) is None:
        return ""
    answers = (ESTALE,) if isinstance(error, LostError) else (EACCES, EPERM, EROFS, EBADF)
    if isinstance(error, LostError | UnsupportedError) and fault is not None and fault.number in answers:
        return ""  # what these say of a path is no surprise: it is gone, or may not be written
    if fault is not None and not any(getattr(each, "errno", None) == fault.number for each in chain(error)):
        return f"without the errno: {shown}"
    if os.path.dirname(path) not in shown and os.path.dirname(path) not in str(getattr(error, "filename", "")):
        return f"without the path: {shown}"
    return ""


class Run:
    def __init__(self, kind: str, scenario: Scenario, referee: Referee) -> None:
        self.kind, self.subject, self.scenario = kind, SUBJECTS[kind], scenario
        self.world = World(referee)
        self.problems: list[str] = []
        self.fault: Fault | None = None
        self.lateness = 0.0
        self.stalled = False
        """A lease ran out while the machine was busy: nothing is learnt of the fault."""

    def go(self, begin: Callable[[Gate], None], fault: Fault | None) -> None:
        self.fault = fault
        world, scenario = self.world, self.scenario
        scenario.prepare(self.kind, world)
        before, threads = descriptors(), set(threading.enumerate())
        current.append(world)
        try:
            lock = self.subject.make(world.path)
            if not scenario.renewal:
                begin(gate)
            hold = self._take(lock)
            if hold is not None:
                if scenario.renewal:
                    self._renew(hold, begin)
                self._use(hold)
                gate.heal()
                self._released(hold)
            del hold
        finally:
            gate.heal()
            current.pop()
        if scenario.clear is _free and not self.lateness:
            scenario.clear(self.kind, world)
        else:
            _free_if_held(self.kind, world)
        self._afterwards(lock)
        del lock
        left = leaked(before, world)
        if left:
            self.problems.append(f"2: descriptors leak: {left}")
        new = [each.name for each in threading.enumerate() if each not in threads and not each.daemon]
        if new:
            self.problems.append(f"2: threads: {new}")

    def _take(self, lock: Any) -> Any:
        self.began = began = time.monotonic()
        try:
            hold = self.subject.take(lock, self.scenario.timeout)
        except Exception as error:  # noqa: BLE001 - judged
            gate.heal()
            self._judge(error)
            return None
        finally:
            took = time.monotonic() - began
            if took > self.scenario.timeout + SLACK:
                self.problems.append(f"7: an acquire with {self.scenario.timeout} s took {took:.1f} s")
        on, gate.on = gate.on, False
        if not self.subject.held(hold):
            self.problems.append("3: granted, and not held")
        if self.world.referee.could_take(self.kind, self.world.path):
            self.problems.append("1: granted, and another process gets it too")
        gate.on = on
        return hold

    def _use(self, hold: Any) -> None:
        for step in (self.subject.check, self.subject.release):
            try:
                step(hold)
            except Exception as error:  # noqa: BLE001 - judged
                on, gate.on = gate.on, False
                self._judge(error)
                gate.on = on

    def _renew(self, hold: Any, begin: Callable[[Gate], None]) -> None:
        """What fails in a renewal passes: the next one keeps the lease. Else the hold says that it is lost."""
        begin(gate)
        gate.all_threads = True
        for _ in range(3):  # one of the keeper's own may have been under way, and ended meanwhile
            self.subject.renew(hold)
            if gate.hit or self.fault is None:
                break
        gate.heal()
        gate.all_threads = False
        renewed = self.subject.renew(hold)
        if hold.lost:  # which may be true, and is judged by what `assert_held` says; `held` says nothing of it
            self.stalled = time.monotonic() - self.began > TTL
        elif self.world.referee.could_take(self.kind, self.world.path):
            self.problems.append("1: held after a renewal that failed, and another process gets it too")
        elif not renewed and not self.subject.renew(hold) and not hold.lost:
            self.problems.append("6: held, and not renewed any more")

    def _judge(self, error: BaseException) -> None:
        from interlock import LostError

        if isinstance(error, LostError) and time.monotonic() - self.began > TTL:
            self.stalled = True
        problem = undocumented(error, self.fault if gate.hit else None, self.world.path)
        if problem:
            self.problems.append(f"5: {problem}")

    def _released(self, hold: Any) -> None:
        """After the release, which may have raised."""
        if self.subject.held(hold):
            if self.world.referee.could_take(self.kind, self.world.path):
                self.problems.append("3: held after its release, and another process gets it")
            try:
                self.subject.release(hold)
            except Exception as error:  # noqa: BLE001 - noted
                self.problems.append(f"8: the second release: {type(error).__name__}: {error}")
            if self.subject.held(hold):
                self.problems.append("8: held after a release without faults")
        elif not self.subject.again(hold):
            self.problems.append("8: released twice")

    def _afterwards(self, lock: Any) -> None:
        world = self.world
        # A lease that could not be given back ends by itself.
        try:
            if not world.referee.could_take(self.kind, world.path, PATIENCE):
                self.problems.append("6: another process does not get it")
        except RuntimeError as error:
            self.problems.append(f"6: {error}")
        try:
            self.subject.release(self.subject.take(lock, PATIENCE))
        except Exception as error:  # noqa: BLE001 - noted
            self.problems.append(f"6: the next acquire: {type(error).__name__}: {error}")


def recorded(kind: str, scenario: Scenario, referee: Referee) -> tuple[dict[Site, int], set[str]]:
    """The sites of an undisturbed run, how often each was passed, and the files that stay."""
    sites: dict[Site, int] = {}
    names: set[str] = set()
    for _ in range(3):  # the first one loads and makes what later ones find
        run = Run(kind, scenario, referee)
        run.go(Gate.record, None)
        assert not run.problems, (kind, scenario.name, run.problems)
        for site, count in gate.counts.items():
            sites[site] = max(count, sites.get(site, 0))
        names |= run.world.names()
        run.world.close()
    return sites, names


only: list[str] = []
"""If there is something in it: the calls that shall fail."""


def cases(sites: dict[Site, int]) -> Iterator[Fault]:
    for site, count in sorted(sites.items()):
        if only and site.call not in only:
            continue
        for nth in range(1, min(count, OCCURRENCES) + 1):
            for number in WAITS if site.call in ("poll", "select") else ERRNOS:
                for done in (False, True):
                    if done or site.call not in ("close", "close()"):  # closed is closed
                        yield Fault(site, number, done, nth)


class Row(NamedTuple):
    subject: str
    sites: int
    cases: int
    violations: int


def measure(kind: str, referee: Referee, every: int = 1) -> tuple[Row, list[Failure]]:
    failures: list[Failure] = []
    sites: set[Site] = set()
    done = turn = 0
    for scenario in scenarios(kind):
        found, names = recorded(kind, scenario, referee)
        sites |= set(found)
        for fault in cases(found):
            turn += 1
            if turn % every:
                continue
            for _ in range(AGAIN):
                run = Run(kind, scenario, referee)
                run.go(lambda each: each.inject(fault), fault)  # noqa: B023 - called at once
                if not run.stalled or not run.problems:
                    break
                run.world.close()
            done += gate.hit
            extra = run.world.names() - names
            if extra:
                run.problems.append(f"4: files stay: {sorted(extra)}")
            if run.problems:
                failures.append(Failure(kind, scenario.name, fault, run.problems))
            run.world.close()
    return Row(kind, len(sites), done, len(failures)), failures


def main() -> None:
    words = parser(__doc__, "NAME", [*SUBJECTS, *files.VERBS])
    words.add_argument("--every", type=positive, default=1, help="run every N-th case only (1)", metavar="N")
    words.add_argument("--only", metavar="TEXT", help="run only cases whose site has this in its name")
    words.add_argument("--plant", choices=list(PLANTS), action="append", default=[], help="a bug, which must be found")
    words.add_argument("--json", action="store_true", help="print JSON")
    options = words.parse_args()
    if options.only:
        only.append(options.only)
    warnings.simplefilter("ignore")
    referee = Referee()
    install()
    hook_waits()
    watch_renewals()
    for name in options.plant:
        PLANTS[name]()
    rows, failures = [], []
    if not options.json:
        print("| engine | sites | cases | violations |\n|---|---:|---:|---:|")
    for name in options.names:
        row, wrong = (files.measure if name in files.VERBS else measure)(name, referee, options.every)
        rows.append(row)
        failures += wrong
        if not options.json:
            print(f"| {row.subject} | {row.sites} | {row.cases:,} | {row.violations} |", flush=True)
    referee.close()
    if options.json:
        print(json.dumps({"rows": [row._asdict() for row in rows], "failures": [str(each) for each in failures]}))
        return
    print(f"| together | {sum(row.sites for row in rows)} | {sum(row.cases for row in rows):,} | {len(failures)} |")
    for each in failures:
        print(each)


if __name__ == "__main__":
    main()
