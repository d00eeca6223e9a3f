"""Why two builds have different hashes: the difference of their dependencies, down to where it begins.

A hash covers a build's own description and the hashes of what it depends on. So two builds are walked together,
dependency by dependency of the same name, and only where the hashes differ. Each pair met is either a *cause*: it
differs in something of its own (version, variants, compiler, recipe, which dependencies it has); or it is only
*carried*: it differs because something below it does. The site's script does the same walk in the browser, and a
test compares the two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .model import FLAGS, Catalogue, Dependency, Node, NotFoundError, Value
from .rows import NEWEST, compiler_text, variant_text

__all__ = ["Change", "Difference", "difference", "parameter_text"]


@dataclass(frozen=True)
class Change:
    """A pair of builds of one name that differ in something of their own."""

    name: str
    path: tuple[str, ...]
    """Names from the two builds compared down to this pair."""
    left: str
    right: str
    """Their hashes."""
    own: tuple[tuple[str, str, str], ...]
    """What differs, and how on either side; an empty text is none."""
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    """Dependencies (name and hash) that only one of them has."""


@dataclass
class Difference:
    """What `difference` found."""

    left: Node
    right: Node
    causes: list[Change] = field(default_factory=list)
    carried: list[tuple[str, ...]] = field(default_factory=list)
    """Paths of pairs that differ only because something below them does."""
    unknown: list[tuple[tuple[str, ...], str, str]] = field(default_factory=list)
    """Path and hashes of pairs of which a record is in no index, so that nothing can be told."""
    same: int = 0
    """How many dependencies of the pairs walked are equal."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "left": {"hash": self.left.hash, "name": self.left.name, "version": self.left.version},
            "right": {"hash": self.right.hash, "name": self.right.name, "version": self.right.version},
            "causes": [
                {
                    "name": change.name,
                    "path": list(change.path),
                    "left": change.left,
                    "right": change.right,
                    "changes": [list(item) for item in change.own],
                    "only_left": list(change.only_left),
                    "only_right": list(change.only_right),
                }
                for change in self.causes
            ],
            "carried": [list(path) for path in self.carried],
            "unknown": [{"path": list(path), "left": left, "right": right} for path, left, right in self.unknown],
            "same": self.same,
        }


def difference(catalogue: Catalogue, left: Node, right: Node, profile: str = NEWEST) -> Difference:
    """The difference of two builds of one package. Raises `NotFoundError` if they are of different packages."""
    if left.name != right.name:
        raise NotFoundError(f"{left.hash} is a build of {left.name!r}, {right.hash} one of {right.name!r}")
    found = Difference(left, right)
    same: set[str] = set()
    waiting: deque[tuple[str, str, tuple[str, ...]]] = deque()
    seen = {(left.hash, right.hash)}
    if left.hash != right.hash:
        waiting.append((left.hash, right.hash, (left.name,)))
    while waiting:
        one, other, path = waiting.popleft()
        mine, theirs = catalogue.nodes.get(one), catalogue.nodes.get(other)
        if mine is None or theirs is None:
            found.unknown.append((path, one, other))
            continue
        pairs, only_left, only_right, edges = _pair(mine, theirs)
        own = _own(mine, theirs, profile) + edges
        same.update(dependency.hash for dependency in set(mine.dependencies) & set(theirs.dependencies))
        below = [pair for pair in pairs if pair[0].hash != pair[1].hash]
        if not own and not only_left and not only_right and not below:
            own = (("something that the index does not record", "", ""),)
        if own or only_left or only_right:
            found.causes.append(Change(mine.name, path, one, other, own, only_left, only_right))
        elif len(path) > 1:
            found.carried.append(path)
        for here, there in below:
            if (here.hash, there.hash) not in seen:
                seen.add((here.hash, there.hash))
                waiting.append((here.hash, there.hash, (*path, here.name)))
    found.same = len(same)
    return found


def _pair(
    left: Node, right: Node
) -> tuple[
    list[tuple[Dependency, Dependency]], tuple[str, ...], tuple[str, ...], tuple[tuple[str, str, str], ...]
]:
    """Pairs of unequal dependencies of one name, what has no partner on either side, and edges that differ."""
    mine = sorted(set(left.dependencies) - set(right.dependencies))
    theirs = sorted(set(right.dependencies) - set(left.dependencies))
    pairs: list[tuple[Dependency, Dependency]] = []
    alone: list[str] = []
    edges: list[tuple[str, str, str]] = []
    for dependency in mine:
        same_name = [other for other in theirs if other.name == dependency.name]
        partner = next((other for other in same_name if other.hash == dependency.hash), None)
        partner = partner or next((other for other in same_name if other.types == dependency.types), None)
        partner = partner or next(iter(same_name), None)
        if partner is None:
            alone.append(f"{dependency.name}/{dependency.hash}")
            continue
        theirs.remove(partner)
        pairs.append((dependency, partner))
        if (dependency.types, dependency.virtuals) != (partner.types, partner.virtuals):
            edges.append((f"use of {dependency.name}", _use(dependency), _use(partner)))
    return pairs, tuple(alone), tuple(f"{other.name}/{other.hash}" for other in theirs), tuple(edges)


def _use(dependency: Dependency) -> str:
    virtuals = f" as {', '.join(dependency.virtuals)}" if dependency.virtuals else ""
    return ", ".join(dependency.types) + virtuals


def _own(left: Node, right: Node, profile: str) -> tuple[tuple[str, str, str], ...]:
    found = [
        (what, one, other)
        for what, one, other in (
            ("version", left.version, right.version),
            ("compiler", _compiler(left, profile), _compiler(right, profile)),
            ("platform", left.platform, right.platform),
            ("os", left.os, right.os),
            ("target", left.target, right.target),
        )
        if one != other
    ]
    mine, theirs = dict(left.parameters), dict(right.parameters)
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        one = parameter_text(name, mine[name], profile) if name in mine else ""
        other = parameter_text(name, theirs[name], profile) if name in theirs else ""
        if one != other:
            found.append(("flags" if name in FLAGS else "variant", one, other))
    if left.package_hash != right.package_hash:
        found.append(("recipe", left.package_hash[:12], right.package_hash[:12]))
    if left.namespace != right.namespace:
        found.append(("namespace", left.namespace, right.namespace))
    if left.external != right.external:
        found.append(("external", _yes(left.external), _yes(right.external)))
    return tuple(found)


def _compiler(node: Node, profile: str) -> str:
    """The recorded one only: where it is a dependency, it is compared as one."""
    return compiler_text(node.compiler, profile) if node.compiler is not None else ""


def parameter_text(name: str, value: Value, profile: str) -> str:
    """A variant's text; of compiler flags the flags, empty if there are none."""
    if name not in FLAGS:
        return variant_text(name, value, profile)
    words = " ".join(value) if isinstance(value, tuple) else str(value or "")
    return f"{name}={words}" if words else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"
