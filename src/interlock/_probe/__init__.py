"""`probe`: what the locks of a directory are worth, from the mount table, from what is known, and from a trial.

Everything that the filesystem could block is done by children (`bounded`), each question with a limit and all of them
within one; so there is an answer also from a filesystem that gives none. The trial takes place in a directory
that a child makes and removes, also if the caller is killed meanwhile.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from .._fs import facts
from .._fs.choice import Choice, choose
from .._wait import mounts
from .bounded import CallError, Child, HungError
from .trials import STEP, Team, Trial, run

__all__ = ["Probe", "Trial", "Verdict", "probe"]

_TOTAL = 8.0
"""Seconds for everything."""


@dataclass(frozen=True)
class Verdict:
    """`answer` is "yes", "no" or "unknown"."""

    answer: str
    why: str


@dataclass(frozen=True)
class Probe:
    """What was found out about one directory.

    `filesystem`, `options`, `source`, `mount_point`: from the mount table, empty where there is none. `second`: the
    same place through another mount, which took part in the trial. `known`: the row of the table of facts. `primitive`:
    what a lock with `primitive="auto"` takes here, `""` where it refuses; `reason`: why. `threads`, `processes`,
    `hosts`: does that exclude them? `trouble`: why nothing, or not everything, was tried. `left`: what is not removed
    yet, since the filesystem hangs; a child waits ten minutes for a chance to do so.
    """

    directory: str
    filesystem: str
    mount_point: str
    source: str
    options: tuple[str, ...]
    second: str
    trials: tuple[Trial, ...]
    known: dict[str, Any]
    primitive: str
    reason: str
    threads: Verdict
    processes: Verdict
    hosts: Verdict
    trouble: str = ""
    left: str = ""
    seconds: float = 0.0

    def trial(self, name: str) -> Trial | None:
        """The trial of one primitive."""
        return next((trial for trial in self.trials if trial.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def probe(directory: str | os.PathLike[str], *, second: str | os.PathLike[str] | None = None) -> Probe:
    """Find out what excludes in `directory`. Takes a second or so, ten at the very most, whatever the filesystem does.

    `second` is the same directory through another mount; without it the mount table is searched for one. Needs
    the right to make a directory there; without it, the verdict rests on what is known alone (`Probe.trouble`). Raises
    `NotADirectoryError` and `FileNotFoundError` where there is no such directory.
    """
    began = time.monotonic()
    path = os.fspath(directory)
    real, trouble = _look(path)
    mount = mounts.mount_of(real)
    choice = choose(real)
    trials: tuple[Trial, ...] = ()
    other, left = "", ""
    if not trouble:
        wanted = [os.path.abspath(second)] if second is not None else []
        trials, other, trouble, left = _try(real, mount, wanted, began + _TOTAL)
    threads, processes, hosts = verdicts(choice, trials, trouble)
    return Probe(
        directory=real,
        filesystem=mount.fstype if mount else "",
        mount_point=mount.point if mount else "",
        source=mount.source if mount else "",
        options=mount.options if mount else (),
        second=other,
        trials=trials,
        known=choice.fact.as_dict(),
        primitive="" if choice.refusal else choice.primitive,
        reason=choice.refusal or choice.why,
        threads=threads,
        processes=processes,
        hosts=hosts,
        trouble=trouble,
        left=left,
        seconds=time.monotonic() - began,
    )


def _look(path: str) -> tuple[str, str]:
    """The canonical path, and why nothing can be tried."""
    if sys.platform == "win32":
        if not os.path.isdir(path):
            raise NotADirectoryError(20, os.strerror(20), path)
        return os.path.realpath(path), "nothing is tried on Windows"
    child = Child()
    try:
        found = child.ask(STEP * 2, "look", path=os.path.abspath(path))
    except HungError:
        # No look at the links in it: that is what hung.
        return os.path.abspath(path), f"the filesystem did not answer within {STEP * 2:.1f} s"
    except CallError as error:
        raise OSError(error.errno, error.text, path) from None
    finally:
        child.close()
    if not found["directory"]:
        raise NotADirectoryError(20, os.strerror(20), path)
    return str(found["real"]), ""


def _try(
    real: str, mount: mounts.Mount | None, wanted: list[str], until: float
) -> tuple[tuple[Trial, ...], str, str, str]:
    """The trials, the second path that took part, the trouble, and what is left behind."""
    name = f".interlock-probe-{os.urandom(6).hex()}"
    base = os.path.join(real, name)
    keeper = Child(patient=True)
    made = False
    try:
        try:
            keeper.ask(STEP * 2, "scratch", path=real, name=name)
            made = True
        except HungError:
            return (), "", f"the filesystem did not answer within {STEP * 2:.1f} s", base
        except CallError as error:
            return (), "", f"no directory can be made for a trial: {error.text}", ""
        second, trouble = _second(name, real, mount, wanted)
        team = Team(base, os.path.join(second, name) if second else "", until)
        try:
            trials = tuple(run(team, sys.platform == "linux"))
        finally:
            team.close()
    finally:
        clean = keeper.close(STEP * 2)
    return trials, second, trouble, "" if clean or not made else _left(base)


def _left(base: str) -> str:
    """One more attempt to remove it, by a child that may hang as well."""
    child = Child()
    try:
        child.ask(STEP, "clean", path=base)
    except (HungError, CallError):
        return base
    finally:
        child.close()
    return ""


def _second(name: str, real: str, mount: mounts.Mount | None, wanted: list[str]) -> tuple[str, str]:
    """The same directory through another mount: it is the same if the scratch directory is in it."""
    for path in wanted or others(real, mount)[:3]:
        child = Child()
        try:
            if child.ask(STEP, "use", path=os.path.join(path, name)):
                return path, ""
        except (HungError, CallError):
            pass
        finally:
            child.close()
    return "", f"{wanted[0]} is not the same directory" if wanted else ""


def others(real: str, mount: mounts.Mount | None) -> list[str]:
    """Where the mount table promises the same directory once more; a filesystem of its own, another client of the same
    server, before a mere second name."""
    if mount is None or mount.source in ("none", ""):
        return []
    inside = os.path.normpath(os.path.join(mount.root, os.path.relpath(real, mount.point)))
    found: list[tuple[bool, str]] = []
    for other in mounts.table():
        same = other.device == mount.device
        if other.point == mount.point or other.fstype != mount.fstype or not (same or other.source == mount.source):
            continue
        root = other.root.rstrip(os.sep)
        if inside == other.root or inside.startswith(root + os.sep):
            path = os.path.normpath(other.point + os.sep + inside[len(root) :])
            there = mounts.mount_of(path)
            seen = there is not None and (there.point, there.device) == (other.point, other.device)
            if seen and path != real:  # else it is mounted over
                found.append((same, path))
    return [path for _, path in sorted(found)]


def verdicts(choice: Choice, trials: tuple[Trial, ...], trouble: str) -> tuple[Verdict, Verdict, Verdict]:
    """Whom the chosen primitive excludes (flock where none is chosen): threads, processes, hosts."""
    kind = {"dual": "dual", "range": "ofd"}.get(choice.primitive, "flock")
    trial = next((trial for trial in trials if trial.name == kind), None)
    tried = f"tried here with {kind}"
    if choice.primitive == "marker":
        trial = next((trial for trial in trials if trial.name == "excl"), None)
        tried = "tried here with O_EXCL"
    if trial is None or trial.works is None:
        nothing = Verdict("unknown", trouble or (trial.detail if trial else "") or "not tried")
        return nothing, nothing, _between_hosts(choice, None)
    if not trial.works:
        failed = Verdict("no", f"{kind}: {trial.detail}")
        return failed, failed, failed
    threads = trial.threads if choice.primitive != "marker" else trial.processes
    return (
        _tried(threads, tried, "granted to two descriptors at once"),
        _tried(trial.processes, tried, trial.detail),
        _between_hosts(choice, trial),
    )


def _tried(outcome: bool | None, tried: str, detail: str) -> Verdict:
    return Verdict("yes", tried) if outcome else Verdict("no", f"{tried}: {detail}")


def _between_hosts(choice: Choice, trial: Trial | None) -> Verdict:
    if trial is not None and (trial.processes is False or trial.mounts is False):
        return Verdict("no", trial.detail)
    fact = choice.fact
    known = f"{fact.title}: {fact.why}"
    if choice.primitive == "local":
        return Verdict("yes", f"{choice.why}: this host is the only one that uses the place")
    answer = {facts.YES: "yes", facts.ALONE: "yes", facts.NO: "no"}.get(choice.hosts, "unknown")
    if choice.hosts == facts.ALONE:
        known += "; no other host can lock here"
    return Verdict(answer, known)
