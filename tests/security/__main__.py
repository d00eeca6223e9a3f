"""The table of the attacks, with filelock beside it.

    python -m tests.security                 # prints the table; exit status 1 if a verdict is wrong
    python -m tests.security --write         # and makes docs/attacks-measured.md of it
    python -m tests.security --only lease
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version

from .attacks import Attack, attacks, expected, wrong
from .entries import ENTRIES, FILELOCK
from .plants import PLANTS
from .worker import Team, Verdict

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "attacks-measured.md"

INTRODUCTION = """# Attacks on paths, measured

What comes of it if somebody leaves something at the path of a lock, or of a file that a lock keeps beside it, before it
is used. Made by `python -m tests.security --write`, {system}, as root, {date}; filelock is {filelock}.

- refused: at once, by an error that names the path and what is there; nothing was written, nothing was locked.
- granted: right where a note says why, e.g. a kernel lock on a file with content neither reads nor writes it.
- Timeout: it was taken for the lock of somebody, and waited for.
- *other*: an error that does not say what stands there.

`place` is a file beside the path: of the path `a`, say, `a.token`. After each attack the victim (what a link leads to)
and what was planted are compared with what they were: content, mode, owner, inode. {summary}
"""


def cell(attack: Attack, verdict: Verdict) -> str:
    if verdict.robbed and "symlink" not in attack.plant.name:
        return "**harm**"
    if verdict.kind == "refused":
        words = (*attack.plant.said, "marker", "mark of", "is not", "not a dir", "no such", "claim", "special file")
        named = any(word.lower() in verdict.text.lower() for word in words)
        return "refused" if named else "*other*"
    if verdict.kind == "hangs":
        return "**hangs**"
    return {"timeout": "Timeout"}.get(verdict.kind, verdict.kind)


def table(found: dict[Attack, Verdict]) -> list[str]:
    names = [plant.name for plant in PLANTS]
    lines = ["| entry | place | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    rows: dict[tuple[str, str], list[str]] = {}
    for attack, verdict in found.items():
        rows.setdefault((attack.entry.name, attack.beside.format("a")), []).append(cell(attack, verdict))
    return lines + [f"| {entry} | {place} | " + " | ".join(cells) + " |" for (entry, place), cells in rows.items()]


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--write", action="store_true")
    words.add_argument("--only", default="", help="entries with this in their names")
    asked = words.parse_args()
    if not any(asked.only in entry.name for entry in ENTRIES):
        words.error(f"no entry has {asked.only!r} in its name: {', '.join(sorted({each.name for each in ENTRIES}))}")
    if os.geteuid():
        print("only root can plant devices and other users' files", file=sys.stderr)
        return 2
    ours: dict[Attack, Verdict] = {}
    theirs: dict[Attack, Verdict] = {}
    faults = 0
    with Team(tempfile.mkdtemp(prefix="attacks-")) as team:
        for where, entries in ((ours, ENTRIES), (theirs, FILELOCK)):
            for attack in attacks(entries):
                if asked.only not in attack.entry.name:
                    continue
                where[attack] = verdict = team.ask(attack.entry.name, attack.plant.name, attack.beside)
                fault = wrong(attack, verdict) if where is ours else ""
                if fault:
                    faults += 1
                    print(f"WRONG {attack.name}: {fault}", file=sys.stderr)
    called = [(a, v) for a, v in ours.items() if not a.entry.name.startswith(("interlock ", "probe"))]
    times = sorted(verdict.seconds for _, verdict in called if verdict.kind == "refused")
    summary = (
        f"{len(ours)} attacks: {sum(v.kind == 'refused' for v in ours.values())} refused, "
        f"{sum(bool(expected(a)) for a in ours)} where something else is right as well, {faults} wrong. In the "
        "process itself a refusal took "
        f"{statistics.median(times) * 1e3:.2f} ms (median), {times[-1] * 1e3:.0f} ms at most"
    )
    reasons = sorted({(reason, verdict) for attack in ours for verdict, reason in expected(attack)})
    lines = [
        INTRODUCTION.format(
            system=f"Linux {platform.release().split('-')[0]}", date=time.strftime("%Y-%m-%d"),
            filelock=version("filelock"), summary=summary,
        ),
        *table(ours), "", "## What is right besides a refusal", "",
        *(f"- {verdict}: {reason}" for reason, verdict in reasons),
        "", f"## filelock {version('filelock')}", "", *table(theirs), "",
    ]  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if asked.write and not asked.only and not faults:
        PAGE.write_text(text, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
