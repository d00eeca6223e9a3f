"""What the store knows of its builds at one generation: rows, as lines of text, and how they add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import DamagedError, HostileError
from .layout import safe_hash, safe_name, safe_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .spec import Node

ADD, NEED, DROP = "+", "=", "-"
"""A build; a spec that is known only because a build depends on it; a build that is gone."""


class Row(NamedTuple):
    """One spec. The texts contain neither tabs nor line breaks: names are checked, the rest is JSON."""

    kind: str
    hash: str
    name: str
    version: str
    spec_version: int
    size: int
    """Bytes of the archive."""
    signed: bool
    views: tuple[str, ...]
    dependencies: tuple[str, ...]
    provenance: str
    node: str

    def line(self) -> str:
        return "\t".join(
            (
                self.kind,
                self.hash,
                self.name,
                self.version,
                str(self.spec_version),
                str(self.size),
                "s" if self.signed else "",
                ",".join(self.views),
                " ".join(self.dependencies),
                self.provenance,
                self.node,
            )
        )


def parse_row(line: str, origin: str) -> Row:
    try:
        kind, hash_, name, version, spec_version, size, signed, views, needs, provenance, node = line.split("\t")
        # Names become paths, of files that `gc` deletes among others; a checksum is easily made.
        safe_hash(hash_, origin)
        if kind != DROP:
            safe_name(name, "package name", origin)
            safe_version(version, origin)
        for view in views.split(",") if views else ():
            safe_name(view, "view", origin)
        return Row(
            kind,
            hash_,
            name,
            version,
            int(spec_version),
            int(size),
            signed == "s",
            tuple(views.split(",")) if views else (),
            tuple(needs.split(" ")) if needs else (),
            provenance,
            node,
        )
    except HostileError as error:
        raise DamagedError(str(error)) from None
    except ValueError:
        raise DamagedError(f"{origin}: a line that is no row: {line[:80]!r}") from None


def need(node: Node, spec_version: int) -> Row:
    return Row(
        NEED, node.hash, node.name, node.version, spec_version, 0, False, (), node.dependencies, "", node.text
    )


def drop(hash_: str) -> Row:
    return Row(DROP, hash_, "", "", 0, 0, False, (), (), "", "")


class State:
    """All rows at one generation. Not changed once made: `after` makes the next one."""

    def __init__(self, generation: int, rows: dict[str, Row]) -> None:
        self.generation = generation
        self._rows = rows

    def after(self, generation: int, changes: Iterable[Row]) -> State:
        rows = dict(self._rows)
        for change in changes:
            add(rows, change)
        return State(generation, rows)

    def get(self, hash_: str) -> Row | None:
        """The build of that hash."""
        row = self._rows.get(hash_)
        return row if row is not None and row.kind == ADD else None

    def builds(self, view: str | None = None) -> list[Row]:
        """Sorted by hash; `None`: all of them."""
        found = (row for row in self._rows.values() if row.kind == ADD and (view is None or view in row.views))
        return sorted(found, key=lambda row: row.hash)

    def views(self) -> list[str]:
        return sorted({view for row in self._rows.values() if row.kind == ADD for view in row.views})

    def closure(self, hashes: Iterable[str]) -> dict[str, Row]:
        """These and all that they depend on, as far as known."""
        found: dict[str, Row] = {}
        todo = list(hashes)
        while todo:
            hash_ = todo.pop()
            row = self._rows.get(hash_)
            if hash_ not in found and row is not None:
                found[hash_] = row
                todo.extend(row.dependencies)
        return found

    def lines(self) -> Iterator[str]:
        """What a snapshot keeps, sorted: the builds, and what they depend on."""
        kept = self.closure(row.hash for row in self._rows.values() if row.kind == ADD)
        return (kept[hash_].line() for hash_ in sorted(kept))

    def __len__(self) -> int:
        return len(self._rows)


def add(rows: dict[str, Row], change: Row) -> None:
    """Apply one row. Applying it twice is as good as once, and additions may come in any order."""
    old = rows.get(change.hash)
    if change.kind == DROP:
        if old is not None and old.kind == ADD:
            rows[change.hash] = old._replace(kind=NEED, size=0, signed=False, views=(), provenance="")
    elif change.kind == NEED:
        if old is None or (old.kind == NEED and change.node < old.node):
            rows[change.hash] = change
    elif old is not None and old.kind == ADD:
        views = tuple(sorted({*old.views, *change.views}))
        rows[change.hash] = change._replace(views=views, provenance=old.provenance)
    else:
        rows[change.hash] = change
