"""The live table of `interlock top`: a terminal, its keys, its size."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ._text import plain
from ._top import COLUMNS, LOOK_SHARE, notes, rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ._top import Look, Watch

SHARES = {"LOCK": 3, "COMMAND": 3, "WAITERS": 3}
"""The columns that share what width there is; the others are as wide as they need to be."""

WIDTHS = {"SINCE": 110, "USER": 90}
"""These columns are left out of a terminal that is narrower."""


def show(watch: Watch, interval: float) -> None:
    """Until "q", Ctrl-C, or the end of the terminal."""
    console = Console()
    try:
        with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                look = watch.look()
                pause = max(interval, (time.monotonic() - began) / LOOK_SHARE)
                until = began + pause
                again = True
                while again:  # a new size is drawn at once, from the same look
                    live.update(picture(look, console.width, console.height, pause), refresh=True)
                    pressed = keys.wait(until)
                    if pressed == "end":
                        return
                    again = pressed == "size"
    except KeyboardInterrupt:
        return


def picture(look: Look, width: int, height: int, pause: float) -> Group:
    """A head line, the table, and how much of it does not fit. Each row is one line: `height` is kept."""
    cells = list(rows(look))
    waiting = sum(len(report.waiters) for report in look.reports)
    head = f"locks: {len(look.reports)}, waiting: {waiting}, below {plain(look.directory)}"
    tail = f"{time.strftime('%H:%M:%S', time.localtime(look.at))}, every {pause:.3g} s; q ends"
    room = max(height - 4, 1)
    if len(cells) > room:
        tail = f"{len(cells) - room} more lines; {tail}"
    shown = [name for name in COLUMNS if width >= WIDTHS.get(name, 0)]
    table = Table(box=None, expand=True, pad_edge=False, header_style="reverse")
    for name in shown:
        number = name in ("PID", "WAIT", "LONGEST")
        table.add_column(
            name, ratio=SHARES.get(name), no_wrap=True, overflow="ellipsis", justify="right" if number else "left"
        )
    for row in cells[:room]:  # as Text: a file's name is no markup
        table.add_row(*(_line(cell) for name, cell in zip(COLUMNS, row, strict=True) if name in shown))
    foot = "; ".join(filter(None, (tail, notes(look))))
    return Group(_line(head), table, _line(foot))


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


class Keys:
    """What comes from the keyboard (`source`, -1 for none) and from signals (`bell`)."""

    def __init__(self, source: int, bell: int) -> None:
        self._source = source
        self._bell = bell

    def wait(self, until: float) -> str:
        """What came: "end", "size", or "" when it is time."""
        watched = [descriptor for descriptor in (self._source, self._bell) if descriptor >= 0]
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(watched, [], [], left)
            if self._source in ready:
                pressed = os.read(self._source, 64)
                if not pressed or any(key in b"qQ\x03\x04" for key in pressed):  # keys typed fast come together
                    return "end"
            if self._bell in ready:
                os.read(self._bell, 64)
                return "size"
        return ""


if sys.platform != "win32":
    import termios

    @contextmanager
    def _keys() -> Iterator[Keys]:
        """Keys come one by one, unseen. SIGTERM and SIGHUP end it as a signal ends a program, but leave the terminal
        as it was."""
        bell, ringer = os.pipe()
        os.set_blocking(bell, False)
        os.set_blocking(ringer, False)
        handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
        handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
        wakeup = signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        source = sys.stdin.fileno() if sys.stdin.isatty() else -1
        before = termios.tcgetattr(source) if source >= 0 else []
        try:
            if source >= 0:
                mode = termios.tcgetattr(source)
                mode[3] &= ~(termios.ECHO | termios.ICANON)
                mode[6][termios.VSUSP] = b"\0"  # stopped, it would leave the terminal in this state
                termios.tcsetattr(source, termios.TCSADRAIN, mode)
            yield Keys(source, bell)
        finally:
            if source >= 0:
                termios.tcsetattr(source, termios.TCSADRAIN, before)
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(bell)
            os.close(ringer)

    def _end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

else:

    @contextmanager
    def _keys() -> Iterator[Keys]:
        yield Keys(-1, -1)
