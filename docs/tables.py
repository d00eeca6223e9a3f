"""Write the tables of concepts/filesystems.md that are the code's own: python docs/tables.py"""

from __future__ import annotations

import re
from pathlib import Path

from interlock._fs import facts
from interlock.engines.kernel import answers

PAGE = Path(__file__).parent / "concepts" / "filesystems.md"


def _link(source: str) -> str:
    if not source.startswith("http"):
        return source
    thread = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/(?:issues|pull)/(\d+)", source)
    name = f"{thread[1]}#{thread[2]}" if thread else source.partition("://")[2].split("/")[0]
    return f"[{name}]({source})"


def filesystems() -> str:
    """The facts, one row per kind of filesystem."""
    rows = ["| filesystem | flock | ranges | names | `auto` | why we believe so |", "|---|---|---|---|---|---|"]
    for fact in (*facts.FACTS, facts.ANY_OTHER):
        sources = ", ".join(_link(source) for source in fact.sources)
        types = ", ".join(f"`{name}`" for name in fact.types[:4]) + (", …" if len(fact.types) > 4 else "")
        rows.append(
            f"| {fact.title} ({types}) | {fact.flock} | {fact.ranges} | {fact.creation}"
            f" | {fact.auto or 'refused'} | {fact.why}{f' ({sources})' if sources else ''} |"
        )
    return "\n".join(rows)


def errors() -> str:
    """What each error leads to."""
    rows = ["| error | of | meaning | then |", "|---|---|---|---|"]
    for name, _, call, meaning, outcome in answers.ANSWERS:
        rows.append(f"| {name} | {call} | {meaning} | {answers.OUTCOMES[outcome]} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page, with its tables as the code has them now."""
    for name, table in (("filesystems", filesystems()), ("errors", errors())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
