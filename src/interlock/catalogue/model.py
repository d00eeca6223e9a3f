"""The nouns of the catalogue: what one index says about one build, and what all of them say together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ROOT", "Catalogue", "CatalogueError", "Dependency", "Index", "Node", "NotFoundError", "Value"]

ROOT = "root"
"""The label of the unified index. Every other label is a stack with an index of its own."""

Value = bool | str | tuple[str, ...]
"""A parameter's value: a switch, one word, or several (also when a multi-valued variant has only one)."""

LANGUAGES = ("c", "cxx", "fortran")
FLAGS = frozenset({"cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs"})


class CatalogueError(Exception):
    """A source cannot be read, or what it says cannot be shown. The message names the file and the way out."""


class NotFoundError(CatalogueError):
    """No build of this name, or with this hash, is in the catalogue."""


class Dependency(NamedTuple):
    """An edge of a spec: what the build depends on, and as what."""

    name: str
    hash: str
    types: tuple[str, ...]
    virtuals: tuple[str, ...]


class Node(NamedTuple):
    """What an index records about one build, or about a dependency of builds that is not in the cache itself."""

    hash: str
    name: str
    version: str
    platform: str
    os: str
    target: str
    parameters: tuple[tuple[str, Value], ...]
    compiler: tuple[str, str] | None
    """Name and version, from records before database version 8. Since then the compiler is a dependency."""
    dependencies: tuple[Dependency, ...]
    package_hash: str
    """Identifies the recipe that was built from; empty where it is not recorded."""
    namespace: str
    external: bool
    in_buildcache: bool

    @property
    def variants(self) -> tuple[tuple[str, Value], ...]:
        """The parameters without compiler flags, in stored order."""
        return tuple(pair for pair in self.parameters if pair[0] not in FLAGS)

    @property
    def flags(self) -> tuple[tuple[str, Value], ...]:
        """The compiler flags that are set."""
        return tuple(pair for pair in self.parameters if pair[0] in FLAGS and pair[1] not in ((), "", False))


@dataclass(frozen=True)
class Index:
    """What was read from one source."""

    label: str
    place: str
    """The source as the user wrote it."""
    version: str
    """The database version; a string."""
    hashes: frozenset[str]
    """All records, those of mere dependencies too."""
    builds: frozenset[str]
    """The records of what is in the cache."""
    generation: int | None = None


@dataclass
class Catalogue:
    """Everything that the sources say, by hash. Made by `interlock.catalogue.read`; do not change it."""

    indexes: dict[str, Index] = field(default_factory=dict)
    """By label."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """By hash. Of sources that disagree about a hash, the first one's: `root` is read first."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the binary package, where a source knows them (mirrors do, index files do not)."""
    warnings: list[str] = field(default_factory=list)
    _names: dict[str, list[Node]] | None = None
    _stacks: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    @property
    def root(self) -> Index:
        """The unified index; `CatalogueError` if no source was labelled so."""
        try:
            return self.indexes[ROOT]
        except KeyError:
            known = ", ".join(sorted(self.indexes)) or "none"
            raise CatalogueError(
                f"no source is labelled {ROOT!r} (labels: {known}): give the unified index as --source {ROOT}=PLACE"
            ) from None

    def packages(self) -> dict[str, list[Node]]:
        """The builds in the root index by package name, both sorted."""
        if self._names is None:
            names: dict[str, list[Node]] = {}
            for key in sorted(self.root.builds):
                node = self.nodes[key]
                names.setdefault(node.name, []).append(node)
            self._names = dict(sorted(names.items()))
        return self._names

    def builds(self, name: str) -> list[Node]:
        """The builds of one package, sorted by hash; `NotFoundError` if there are none."""
        found = self.packages().get(name)
        if not found:
            close = _close(name, self.packages())
            hint = f"; did you mean {close}?" if close else ""
            raise NotFoundError(f"{self.root.place}: no build of {name!r} among {len(self.packages())} packages{hint}")
        return found

    def stacks(self, key: str) -> tuple[str, ...]:
        """The labels of all indexes that contain the hash, sorted."""
        found = tuple(sorted(label for label, index in self.indexes.items() if key in index.hashes))
        return self._stacks.setdefault(found, found)

    def find(self, prefix: str) -> Node:
        """The one record whose hash begins so; `NotFoundError` if there is none, or more than one."""
        prefix = prefix.lstrip("/").lower()
        if prefix in self.nodes:
            return self.nodes[prefix]
        found = sorted(key for key in self.nodes if key.startswith(prefix)) if prefix else []
        if len(found) == 1:
            return self.nodes[found[0]]
        if not found:
            raise NotFoundError(f"no record has a hash that begins with {prefix!r}")
        raise NotFoundError(f"{prefix!r} begins {len(found)} hashes ({', '.join(found[:3])}, ...): give more of it")

    def compiler(self, node: Node) -> tuple[str, str] | None:
        """Name and version of what compiled the build (version empty if its record is in no index), or None."""
        if node.compiler is not None:
            return node.compiler
        for language in LANGUAGES:
            for dependency in node.dependencies:
                if language in dependency.virtuals:
                    there = self.nodes.get(dependency.hash)
                    return dependency.name, there.version if there is not None else ""
        return None

    def size(self, nodes: Iterable[Node]) -> int | None:
        """The sum of the sizes that are known; None if none is."""
        known = [self.sizes[node.hash] for node in nodes if node.hash in self.sizes]
        return sum(known) if known else None


def _close(name: str, names: Iterable[str]) -> str:
    import difflib

    return ", ".join(difflib.get_close_matches(name[:100], list(names), 3))
