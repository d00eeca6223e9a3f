"""`interlock trace`: who held what when, in all processes of a command."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time

import click

from .._address import command_line
from .._record import VARIABLE
from ._common import CANNOT_LOCK, complain, refuse_empty
from ._sampler import Sampler
from ._text import plain
from ._timeline import Builder, chrome_trace, page
from ._waiting import start_deaf

if sys.platform == "win32":
    from ._windows import end_like, run_alone
else:
    from ._posix import end_like, run_alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._timeline import Timeline


@click.command(options_metavar="[OPTIONS]", context_settings={"allow_interspersed_args": False})
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--output",
    "-o",
    metavar="NAME",
    default="interlock-trace",
    show_default=True,
    help="Write NAME.html and NAME.json.",
)
@click.option("--quiet", is_flag=True, help="Say nothing about what was written.")
def trace(command: tuple[str, ...], output: str, quiet: bool) -> None:
    """Run CMD and record who holds and who waits for which lock, in all its processes.

    Writes a timeline as one HTML page, which opens from disk, and as a trace file, which Perfetto opens
    (ui.perfetto.dev, or chrome://tracing).

    Programs that use interlock, or filelock's API from interlock.filelock, record every event, exact to microseconds,
    children included; a kill -9 loses nothing. Of other programs (flock(1), filelock, databases) the kernel's table of
    flock(2) and fcntl(2) locks is read every few milliseconds (Linux): what is shorter is mostly missed.

    \b
    Exit status:
      that of CMD; if a signal killed CMD, this program dies of the same signal
      2    the command line is wrong
      125  NAME.html or NAME.json cannot be written; CMD was not run, or has run if it says so
      126  CMD was found but cannot be run
      127  CMD was not found
    """
    if not os.path.basename(output):
        what = f"{plain(output)!r} ends in no name: NAME.html and NAME.json are made"
        raise click.BadParameter(what, param_hint="--output")
    refuse_empty(command)
    paths = (f"{output}.html", f"{output}.json")
    try:
        for path in paths:
            with open(path, "a", encoding="utf-8"):
                pass
        directory = tempfile.mkdtemp(prefix="interlock-trace-")
    except OSError as error:
        complain(f"{error.filename or output}: {error.strerror}; the command was not run")
        sys.exit(CANNOT_LOCK)
    try:
        status, timeline = _record(command, directory)
        _write(timeline, paths)
    except OSError as error:
        complain(f"{error.filename or output}: {error.strerror}; the command has run, its timeline is lost")
        sys.exit(CANNOT_LOCK)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not quiet:
        complain(_words(timeline, paths[0], paths[1]))
    sys.exit(end_like(status))


def _record(command: tuple[str, ...], directory: str) -> tuple[int, Timeline]:
    os.environ[VARIABLE] = directory
    builder = Builder(command_line(command), time.monotonic(), time.time())
    sampler = Sampler(directory)
    sampler.start(start_deaf)
    status = run_alone(command)
    sampler.stop()
    end = time.monotonic()
    builder.read(directory, sampler.ended, end)
    builder.sampled(sampler.closed, sampler.commands, sampler.period if sampler.samples else 0.0, end)
    return status, builder.finish(end)


def _write(timeline: Timeline, paths: tuple[str, str]) -> None:
    for path, text in zip(paths, (page(timeline), json.dumps(chrome_trace(timeline))), strict=True):
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def _words(timeline: Timeline, html: str, trace_file: str) -> str:
    recorded = sum(process.how == "recorded" for process in timeline.processes)
    sampled = len(timeline.processes) - recorded
    parts = [f"{len(timeline.locks)} locks, {recorded} processes recorded"]
    if sampled:
        parts.append(f"{sampled} seen from outside every {timeline.period * 1000:.0f} ms")
    if timeline.left_out:
        parts.append(f"{timeline.left_out} intervals left out: too many")
    if any(process.full for process in timeline.processes):
        parts.append("a process recorded more than its limit and stopped recording")
    return f"{'; '.join(parts)}; see {html} and {trace_file}"
