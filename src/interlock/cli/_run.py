"""`interlock run`: a command under a lock. The work is done next door."""

from __future__ import annotations

import signal
import sys

import click

from .._deadline import FOREVER
from .._errors import LockError, Timeout
from ..lock import Lock
from ._common import CANNOT_LOCK, TIMEOUT, Number, complain, line_of, reason, refuse_empty
from ._text import conflict
from ._waiting import saying_so

if sys.platform == "win32":
    from ._windows import die_of, run_under
else:
    from ._posix import die_of, run_under


class _RunCommand(click.Command):
    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        # Without it, `run LOCK cmd --quiet` would take the command's option for its own.
        if args and "--" not in args and not set(args) & set(context.help_option_names):
            hint = "write '--' before the command: interlock run [OPTIONS] TARGET -- CMD..."
            raise click.UsageError(hint, context)
        return super().parse_args(context, args)


@click.command(cls=_RunCommand, options_metavar="[OPTIONS]")
@click.argument("target")
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--timeout", metavar="SECONDS", type=TIMEOUT, help="Give up after this time.  [default: never]")
@click.option("--no-wait", is_flag=True, help="Give up at once if the lock is held.")
@click.option(
    "--conflict-exit-code",
    metavar="N",
    type=Number("an exit status", 0, 255, whole=True),
    default=1,
    show_default=True,
    help="The exit status for having given up.",
)
@click.option("--quiet", is_flag=True, help="Say nothing about waiting and giving up.")
@click.option("--fair", is_flag=True, help="Wait strictly in order of arrival (Linux, local filesystems).")
def run(
    target: str,
    command: tuple[str, ...],
    timeout: float | None,
    no_wait: bool,
    conflict_exit_code: int,
    quiet: bool,
    fair: bool,
) -> None:
    """Run CMD while holding the lock TARGET.

    TARGET is the path of a lock file, which is made if it is missing, never written and never deleted; a
    file:///directory#name URL; or that of a lock server (redis://host/0#name), see below. Everybody who uses
    flock(2) on the file takes turns with CMD: this program, flock(1), the Python packages interlock and filelock.

    CMD inherits the lock: should this program be killed, the lock is held until CMD ends. When CMD has ended
    the lock is free, also if CMD left processes behind in the background. Signals sent to this program reach
    CMD.

    A lock on a server belongs to this program alone: should it be killed, CMD goes on and the lock is free after its
    ttl. If the lock is lost while CMD runs, CMD gets SIGTERM, and the reason is told.

    \b
    Exit status:
      that of CMD; if a signal killed CMD, this program dies of the same signal
      1    the lock was not acquired in time (--timeout, --no-wait); see --conflict-exit-code
      2    the command line is wrong
      125  TARGET cannot be locked: not a lock file, no permission, a filesystem without locks,
           a setting (INTERLOCK_PRIMITIVE, interlock.conf) that makes no sense
      126  CMD was found but cannot be run
      127  CMD was not found
    """
    if no_wait and timeout is not None:
        raise click.UsageError("--no-wait and --timeout exclude each other")
    limit = 0.0 if no_wait else FOREVER if timeout is None else timeout
    line = line_of(target)
    refuse_empty(command)
    try:
        lock = Lock(target, fair=fair)
        with saying_so(line, limit, quiet or not limit):
            hold = lock.acquire(limit)
        status = run_under(hold, command)
    except Timeout as error:
        if not quiet:
            complain(conflict(error, limit))
        status = conflict_exit_code
    except (LockError, OSError) as error:
        complain(reason(error, target))
        status = CANNOT_LOCK
    except KeyboardInterrupt:  # while waiting: CMD was never started
        die_of(signal.SIGINT)
    sys.exit(status)
