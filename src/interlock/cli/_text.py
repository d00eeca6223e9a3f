"""The sentences and the table that people read."""

from __future__ import annotations

import time

from .._report import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._errors import Timeout
    from .._report import Party, Report


def plain(text: str) -> str:
    """Nothing that a terminal obeys: file names may contain anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


def waiting(resource: str, holder: Party | None, others: int, limit: float | None) -> str:
    """`others` wait as well. `limit`: seconds until we give up, `inf` for never, None when that was said."""
    text = f"waiting for {resource}: "
    text += f"held by {holder}" if holder is not None else "its holder cannot be seen"
    if others > 0:
        text += f"; {others} {'others wait' if others > 1 else 'other waits'}"
    if limit == float("inf"):
        text += "; --timeout would limit this"
    elif limit is not None:
        text += f"; giving up after {duration(limit)}"
    return text


def conflict(error: Timeout, limit: float) -> str:
    """Why the command was not run. `limit` is 0 where nobody waited."""
    if limit:
        return str(error)
    if error.holder is None:
        return f"{error.resource} is held by somebody else"
    return f"{error.resource} is held by {error.holder}"


_COLUMNS = ("STATE", "POS", "SLOT", "PID", "USER", "HOST", "THREAD", "SINCE", "FOR", "WAITED", "COMMAND")


def table(report: Report) -> str:
    """One line per process; no spaces in the columns but the last, so that awk(1) can read it, too."""
    rows = [_row("inherits" if party.inherited else "holds", party) for party in report.holders]
    rows += [_row("waits", party) for party in report.waiters]
    if not rows:
        hint = f" ({report.hint})" if report.hint else ""
        if not report.complete:
            hint = hint or " (not all processes may be seen)"
            return plain(f"{report.resource}: no holder and no waiter is known{hint}")
        return plain(f"{report.resource}: nobody holds it, nobody waits{hint}")
    rows.insert(0, _COLUMNS)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    lines += [report.facts["cycle"]] if "cycle" in report.facts else []
    lines += [f"({report.hint})"] if report.hint and report.engine != "kernel" else []
    return "\n".join(plain(line) for line in lines)


def _row(state: str, party: Party) -> tuple[str, ...]:
    waits = state == "waits"
    return (
        f"{state}:{party.mode}" if party.mode in ("read", "update", "permit") else state,
        str(party.position or "?") if waits else "-",
        "-" if party.slot is None else str(party.slot),
        str(party.pid or "?"),
        party.user or "?",
        party.host or "?",
        thread(party),
        clock(party),
        age(party),
        "?" if party.waited is None else duration(party.waited).replace(" ", ""),
        party.command or "?",
    )


def thread(party: Party) -> str:
    """The thread, and the task if there is one, as one word."""
    name = party.thread.replace(" (tid ", "/").rstrip(")")
    return "_".join(f"{name}:{party.task}".strip(":").split()) or "?"


def clock(party: Party) -> str:
    """Since when, in local time; ">" in front where it is not earlier than that."""
    if party.since is None:
        return "?"
    then, today = time.localtime(party.since), time.localtime(time.time())
    text = time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%dT%H:%M:%S", then)
    return text if party.since_exact else f">{text}"


def age(party: Party) -> str:
    """For how long; "<" in front where it is no longer than that."""
    if party.since is None:
        return "?"
    return ("" if party.since_exact else "<") + duration(time.time() - party.since).replace(" ", "")
