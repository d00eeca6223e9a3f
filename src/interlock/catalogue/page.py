"""The page of one package in the catalogue of Spack's build cache: front matter for a static site. Both ways.

Seven lines and six line feeds: there is none after the last `---`. JSON values have sorted keys, the default
separators and ASCII only, so that the same rows always give the same bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .model import Catalogue, CatalogueError
from .rows import NEWEST, Row, rows

__all__ = ["Page", "page", "parse_page"]

_NUMBER = re.compile(
    r"""[-+]?(?:
        0b[01_]+ | 0o?[0-7_]+ | 0x[0-9a-fA-F_]+
        | [0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
        | \.[0-9_]+(?:[eE][-+]?[0-9]+)?
        | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?
        | \.(?:inf|Inf|INF)
    )\Z | \.(?:nan|NaN|NAN)\Z | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?\Z""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z0-9_./+][A-Za-z0-9_./+-]*\Z")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"})


class Page(NamedTuple):
    """What a page says: all its other fields follow from these."""

    title: str
    ref: str
    rows: tuple[Row, ...]

    def render(self) -> str:
        """The page's text. Raises `CatalogueError` where the title cannot stand in front matter."""
        bad = next((char for char in self.title if char in '"\\' or not char.isprintable()), "")
        if bad or not self.title:
            why = f"has {bad!r}" if bad else "is empty"
            raise CatalogueError(f"the package name {self.title!r} cannot be the title of a page: it {why}")
        return "\n".join(
            (
                "---",
                f'title: "{self.title}"',
                "layout: cache",
                f"categories: [package, {_scalar(self.ref)}]",
                f"meta: {json.dumps(self.meta(), sort_keys=True)}",
                f"spec_details: {json.dumps([row._asdict() for row in self.rows], sort_keys=True)}",
                "---",
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """The page's fields, for JSON."""
        return {
            "title": self.title,
            "layout": "cache",
            "categories": ["package", self.ref],
            "meta": self.meta(),
            "spec_details": [row._asdict() for row in self.rows],
        }

    def meta(self) -> dict[str, Any]:
        """The unions and the counts over the rows."""
        stacks = [stack for row in self.rows for stack in row.stacks]
        return {
            "compilers": sorted({row.compiler for row in self.rows}),
            "num_specs": len(self.rows),
            "num_specs_by_stack": {stack: stacks.count(stack) for stack in set(stacks)},
            "oss": sorted({row.os for row in self.rows}),
            "platforms": sorted({row.platform for row in self.rows}),
            "stacks": sorted(set(stacks)),
            "targets": sorted({row.target for row in self.rows}),
            "versions": sorted({version for row in self.rows for version in row.versions}),
        }


def page(catalogue: Catalogue, name: str, ref: str, profile: str = NEWEST) -> str:
    """The page of a package. Raises `NotFoundError`, or `CatalogueError` where it cannot be written as a page."""
    return Page(name, ref, tuple(rows(catalogue, name, profile))).render()


def parse_page(text: str, place: str = "page") -> Page:
    """Read a page back. Raises `CatalogueError` unless rendering the result again gives the same text."""
    lines = text.split("\n")
    starts = ("---", 'title: "', "layout: cache", "categories: [package, ", "meta: ", "spec_details: ", "---")
    if len(lines) != len(starts):
        raise CatalogueError(f"{place}: it has {len(lines)} lines, and a page has {len(starts)}")
    for number, (line, start) in enumerate(zip(lines, starts, strict=True), 1):
        if not line.startswith(start):
            raise CatalogueError(f"{place}: line {number} does not begin with {start!r}")
    ref = lines[3].removeprefix(starts[3]).removesuffix("]")
    if ref.startswith('"'):
        ref = str(_load(ref, place, 4))
    details = _load(lines[5].removeprefix(starts[5]), place, 6)
    if not isinstance(details, list):
        raise CatalogueError(f"{place}: spec_details is no list")
    found = Page(lines[1].removeprefix(starts[1]).removesuffix('"'), ref, tuple(_row(item, place) for item in details))
    again = found.render()
    if again != text:
        where = [one != other for one, other in zip(lines, again.split("\n"), strict=True)].index(True)
        raise CatalogueError(f"{place}: line {where + 1} is not what its rows give: it was changed, or made otherwise")
    return found


def _row(item: Any, place: str) -> Row:
    if not isinstance(item, dict) or set(item) != set(Row._fields):
        raise CatalogueError(f"{place}: a row has not the fields {', '.join(Row._fields)}")
    for name, value in item.items():
        words = value if name in {"stacks", "variants", "versions"} else [value]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CatalogueError(f"{place}: a row's {name} is no {'list' if words is value else 'string'} of text")
    values: list[Any] = [tuple(item[name]) if isinstance(item[name], list) else item[name] for name in Row._fields]
    return Row(*values)


def _load(text: str, place: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{place}: line {line} is no JSON: {error}") from None


def _scalar(ref: str) -> str:
    if not ref or not ref.isprintable():
        raise CatalogueError(f"the ref {ref!r} cannot stand in a page: it is {'no line of text' if ref else 'empty'}")
    if _NUMBER.match(ref) or ref.lower() in _WORDS or not _PLAIN.match(ref):
        return json.dumps(ref)
    return ref
