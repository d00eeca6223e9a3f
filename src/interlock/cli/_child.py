"""A command as a child that is not left behind: what asks this process to end is passed on to it."""

from __future__ import annotations

import signal
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_ASKING = ("SIGTERM", "SIGHUP")
_GRACE = 2.0
"""Seconds to end after Ctrl-C."""


def call(command: Sequence[str], **options: Any) -> int:
    """As `subprocess.call`. SIGTERM and SIGHUP go to the command, which decides what they mean; Ctrl-C reaches it by
    the terminal. Only for the main thread. Should this process be killed (SIGKILL), the command goes on."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    before: dict[int, Any] = {}
    if sys.platform != "win32":
        for name in _ASKING:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, pass_on)
    try:
        with subprocess.Popen(command, **options) as child:
            for number in early:
                child.send_signal(number)
            try:
                return child.wait()
            except KeyboardInterrupt:  # which the command has got, too
                try:
                    child.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    child.kill()
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
