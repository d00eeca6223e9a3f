"""`interlock doctor`: what the locks of a directory are worth, on this host and between two."""

from __future__ import annotations

import json
import sys

import click

from .._errors import SettingError
from .._probe import Probe, Trial, Verdict, probe
from .._probe.trials import TITLES
from ._common import SECONDS, complain, reason
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._probe.peer import Meeting

YES, NO, USAGE, UNKNOWN, SILENT = 0, 1, 2, 3, 4


@click.command()
@click.argument("directory")
@click.argument("second", required=False)
@click.option("--peer", is_flag=True, help="Then test it between this host and another one.")
@click.option("--join", metavar="TOKEN", help="Be the other host. The one with --peer prints the command.")
@click.option("--wait", metavar="SECONDS", type=SECONDS, default=600.0, help="How long --peer waits.  [default: 600]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for programs.")
def doctor(directory: str, second: str | None, peer: bool, join: str | None, wait: float, as_json: bool) -> None:
    """Find out whom locks in DIRECTORY exclude: threads, processes, hosts.

    Tells the filesystem and its mount options, what is known of it, which primitives work here and exclude two
    processes, how long each takes, and what a lock with primitive="auto" does. SECOND is the same directory
    through another mount; without it the mount table is searched for one. Leaves nothing behind, and answers within
    ten seconds from a filesystem that hangs.

    With --peer it prints a command to run on a second host that mounts the same place, waits for it, and tests both
    against each other through files in DIRECTORY alone. Run both as the same user.

    \b
    Exit status, for scripts:
      0  locks exclude, between all hosts that can use the place
      1  they do not, or are refused here
      2  the command line is wrong, there is no such directory, SECOND is another one, or a setting makes no sense
      3  they exclude processes; whether other hosts, is not known
      4  the filesystem did not answer, or the peer did not
    """
    if peer and join:
        raise click.UsageError("--peer and --join exclude each other: each side has one of them")
    if second and (peer or join):
        raise click.UsageError("SECOND and a peer exclude each other")
    if join:
        sys.exit(_join(directory, join, as_json))
    try:
        found = probe(directory, second=second)
    except (OSError, ValueError) as error:
        complain(_why(error, directory))
        sys.exit(USAGE)
    if second and not found.second and not _hangs(found):
        complain(found.trouble)
        sys.exit(USAGE)
    if not peer:
        _print(found.as_dict() if as_json else _text(found), as_json)
        sys.exit(_status(found))
    if not as_json:
        click.echo(_text(found) + "\n")
    if _hangs(found):
        sys.exit(SILENT)
    sys.exit(_invite(found, wait, as_json))


def _why(error: Exception, directory: str) -> str:
    text = reason(error, directory)
    return text if isinstance(error, OSError | SettingError) else f"{directory}: {text}"


def _print(what: Any, as_json: bool) -> None:
    click.echo(json.dumps(what, indent=2) if as_json else what)


# ---- one host


def _hangs(found: Probe) -> bool:
    return "did not answer" in found.trouble


def _status(found: Probe) -> int:
    if _hangs(found):
        return SILENT
    answers = {found.processes.answer, found.hosts.answer}
    if "no" in answers or not found.primitive:
        return NO
    return UNKNOWN if "unknown" in answers else YES


def _text(found: Probe) -> str:
    lines = [
        f"directory   {found.directory}",
        f"filesystem  {found.filesystem or 'unknown'}"
        + (f" on {found.mount_point}, from {found.source}" if found.mount_point else ""),
        f"options     {','.join(found.options) or '-'}",
        f"known       {found.known['title']}: {found.known['why']}",
    ]
    lines += [f"            {source}" for source in found.known["sources"]]
    if found.second:
        lines.append(f"second      {found.second}")
    if found.trouble:
        lines.append(f"trouble     {found.trouble}")
    if found.trials:
        lines += ["", *_table(found.trials, bool(found.second)), ""]
    lines.append(f"auto takes  {found.primitive or 'nothing: it refuses'}: {found.reason}")
    lines += [_verdict(name, getattr(found, name)) for name in ("threads", "processes", "hosts")]
    if found.left:
        lines.append(f"left behind {found.left} (removed should the filesystem answer within ten minutes)")
    return "\n".join(plain(line) for line in lines)


def _verdict(name: str, verdict: Verdict) -> str:
    return f"excludes {name:10} {verdict.answer:7}  {verdict.why}"


def _table(trials: tuple[Trial, ...], mounts: bool) -> list[str]:
    head = ["PRIMITIVE", "WORKS", "THREADS", "PROCESSES", *(["MOUNTS"] if mounts else []), "FREED", "TAKES", "REMARK"]
    rows = [head]
    for trial in trials:
        flags = [trial.works, trial.threads, trial.processes, *([trial.mounts] if mounts else []), trial.freed]
        rows.append([TITLES[trial.name], *map(_flag, flags), _duration(trial.latency), trial.detail])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _flag(flag: bool | None) -> str:
    return "-" if flag is None else "yes" if flag else "NO"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.0f} us" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


# ---- two hosts


def _invite(found: Probe, wait: float, as_json: bool) -> int:
    from .._probe.bounded import CallError, HungError
    from .._probe.peer import PeerError, invite

    def announce(token: str) -> None:
        click.echo(
            "On the second host, in its path of the same directory, as the same user, run:\n\n"
            f"    interlock doctor {_quoted(found.directory)} --join {token}\n",
            err=as_json,
        )

    try:
        meeting = invite(found.directory, announce, wait)
    except (PeerError, HungError, CallError) as error:
        complain(f"{found.directory}: {error or 'the filesystem did not answer'}")
        return SILENT
    if as_json:
        _print({"probe": found.as_dict(), "meeting": meeting.as_dict()}, as_json)
    else:
        click.echo(_meeting(meeting))
    return _between(meeting)


def _join(directory: str, token: str, as_json: bool) -> int:
    from .._probe.bounded import CallError, HungError
    from .._probe.peer import PeerError, accept

    try:
        meeting = accept(directory, token)
    except (PeerError, HungError, CallError) as error:
        complain(f"{directory}: {error or 'the filesystem did not answer'}")
        return SILENT
    except (OSError, ValueError) as error:
        complain(_why(error, directory))
        return USAGE
    _print(meeting.as_dict() if as_json else _meeting(meeting), as_json)
    return _between(meeting)


def _between(meeting: Meeting) -> int:
    mine, theirs = meeting.here["primitive"], meeting.there.get("primitive", "")
    if mine != theirs or not mine:
        return NO
    trial = meeting.far("link" if mine == "marker" else "flock" if mine == "local" else mine)
    if trial is None or trial.excludes is None:
        return UNKNOWN
    if not trial.excludes:
        return NO
    return UNKNOWN if meeting.same_machine else YES


def _meeting(meeting: Meeting) -> str:
    here, there = meeting.here, meeting.there
    lines = [
        f"{side['host']}: {side['filesystem'] or 'unknown'} ({side['options']}), auto takes "
        f"{side['primitive'] or 'nothing: it refuses'}"
        for side in (here, there)
    ]
    if meeting.same_machine:
        lines.append("both run on one machine: this tests two mounts, not two hosts")
    if here["primitive"] != there.get("primitive"):
        lines.append("THE TWO SIDES LOCK IN DIFFERENT WAYS, and do not exclude each other: give both the same setting")
    lines.append("")
    for trial in meeting.trials:
        storm = ""
        if trial.holds:
            storm = f"{trial.holds} holds in a storm, {trial.overlaps} overlaps"
            storm += "" if trial.met else " (but the two sides never met in it)"
        detail = "; ".join(filter(None, [storm, trial.detail if not trial.holds else ""]))
        lines.append(f"{TITLES[trial.name]:22} excludes the other side: {_flag(trial.excludes):4} {detail}".rstrip())
    return "\n".join(plain(line) for line in lines)


def _quoted(path: str) -> str:
    from shlex import quote

    return quote(path)
