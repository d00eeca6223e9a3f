"""The command as a child of this process, which is to be invisible: its signals, job control, end. POSIX.

Theory of operation
-------------------
The child stays in this process's group, as if it ran alone: so whatever shells, terminals and runners do to
the group (Ctrl-C, Ctrl-Z, `fg`, kill -9) reaches it without our help, and pipelines keep their terminal. All
that is left to do is to pass on what was sent to this process only.

From the child's start on, all signals are blocked here and taken one by one with sigwaitinfo(2), which tells
where they come from. The terminal's (sent by the kernel) have reached the child already. Those that a
process sent are passed on, unless that process is the child or a descendant (`kill 0` in a script, say). A
signal that somebody sends to the whole group with kill(2) looks exactly like one that is for us alone; it is
passed on as well, and so the child may get it twice: that is better than never.

When the child stops, this process stops by the same signal, so that the shell sees its job stopped; when
only this process is continued, it continues the child. When the child ends, the lock is freed, and then this
process ends likewise: with its status, or by its signal.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys

from ..engines.kernel import KernelClaim, lend
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from .._hold import Hold

assert sys.platform != "win32"

_OURS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP,
    signal.SIGSYS, signal.SIGPIPE, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGKILL, signal.SIGSTOP,
}  # fmt: skip
"""Faults and limits of this very process, and what cannot be caught or stops both of us anyhow."""

_TAKEN = signal.valid_signals() - _OURS
_KEYBOARD = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH}


def run_under(hold: Hold, command: Sequence[str]) -> int:
    """Run the command and release the hold. Returns the exit status, or dies of the command's signal."""
    mask = _take_signals()
    loan = lend.Loan(hold) if isinstance(hold._claim, KernelClaim) else _Lease(hold)
    try:
        status = _run(command, mask)
    finally:
        loan.release()
    return end_like(status)


class _Lease:
    """A hold on a server, or a lease on files, which no child can inherit. When it is lost, others may enter: then the
    command is to end."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        hold.on_lost(self._end)

    def _end(self, reason: str) -> None:
        print(f"interlock: {plain(f'{self._hold.resource} is lost: {reason}')}; CMD is told to end", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)  # taken by `_accompany`, which passes it on

    def release(self) -> None:
        self._hold.release()


def run_alone(command: Sequence[str]) -> int:
    """Run the command; returns its wait status, for `end_like`. Signals stay blocked: what follows is soon done."""
    return _run(command, _take_signals())


def end_like(status: int) -> int:
    """The exit status in a wait status; or dies of the same signal."""
    if os.WIFSIGNALED(status):
        die_of(os.WTERMSIG(status))
    return os.WEXITSTATUS(status)


def _take_signals() -> set[int]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored there is no status to wait for
    return signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)


def _run(command: Sequence[str], mask: set[int]) -> int:
    try:
        child = _start(command, mask)
    except OSError as error:
        print(f"interlock: {plain(command[0])}: {error.strerror}", file=sys.stderr)
        return (127 if error.errno == errno.ENOENT else 126) << 8
    return _accompany(child)


def die_of(number: int) -> NoReturn:
    """End this process by a signal, without a core file: the command may have written one."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError):  # SIGKILL has no other disposition
        pass
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os._exit(128 + number)  # the first process of a container does not die of its own signals


def _start(command: Sequence[str], mask: set[int]) -> int:
    def spawn(program: str, arguments: list[str]) -> int:
        # SIGPIPE and SIGXFSZ are the ones that Python ignores.
        return os.posix_spawnp(
            program, arguments, os.environ, setsigmask=mask, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
        )

    try:
        return spawn(command[0], [*command])
    except OSError as error:
        script = shutil.which(command[0])
        if error.errno != errno.ENOEXEC or script is None:
            raise
        # A script without "#!": what execvp(3) and shells do.
        return spawn("/bin/sh", ["sh", script, *command[1:]])


def _accompany(child: int) -> int:
    """Until the child has ended; returns its wait status."""
    stopped = False
    while True:
        number, ours_alone = _next_signal(child)
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                break
            if os.WIFCONTINUED(status):
                stopped = False
            elif os.WIFSTOPPED(status):
                stopped = True
                _stop(os.WSTOPSIG(status))
            else:
                return status
        if number == signal.SIGCONT:
            if stopped:
                os.kill(child, signal.SIGCONT)
        elif ours_alone and number != signal.SIGCHLD:
            os.kill(child, number)


def _stop(number: int) -> None:
    # Sent before it is let in: with a Ctrl-Z that is pending already it is one signal, and one stop.
    os.kill(os.getpid(), number)
    was = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_SETMASK, was)


if sys.platform == "linux":

    def _next_signal(child: int) -> tuple[int, bool]:
        """Wait for a signal. True: the child did not get it, and should."""
        news = signal.sigwaitinfo(_TAKEN)
        if news.si_code > 0:
            # A terminal that hangs up tells the session's leader alone; without us that were the command.
            return news.si_signo, news.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
        return news.si_signo, not _descends(news.si_pid, child)

    def _descends(pid: int, ancestor: int) -> bool:
        while pid > 1:
            if pid == ancestor:
                return True
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    pid = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                return False
        return False

else:

    def _next_signal(_child: int) -> tuple[int, bool]:
        """Wait for a signal. True: the child did not get it, and should. Who sent it is not told here: what a
        keyboard can send comes from there if this is the terminal's foreground."""
        number = signal.sigwait(_TAKEN)
        return number, not (number in _KEYBOARD and _in_foreground())

    def _in_foreground() -> bool:
        try:
            terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        except OSError:
            return False
        finally:
            os.close(terminal)
