"""Builds that look the same, and what their dependencies do not have in common."""

from __future__ import annotations

from dataclasses import dataclass

from .rows import NEWEST, compiler_text, variant_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .model import Catalogue, Dependency, Node

    _Key = tuple[str, str, str, str, str, tuple[str, ...], tuple[str, ...]]

__all__ = ["Group", "groups"]


@dataclass(frozen=True)
class Group:
    """Builds of one package that are equal in all that a page shows, except the hash."""

    version: str
    compiler: str
    platform: str
    os: str
    target: str
    variants: tuple[str, ...]
    stacks: tuple[str, ...]
    nodes: tuple[Node, ...]
    varying: dict[str, tuple[Dependency, ...]]
    """By hash: the direct dependencies in which the builds of the group are not all equal, by name."""


def groups(catalogue: Catalogue, name: str, profile: str = NEWEST) -> list[Group]:
    """The builds of a package by what is equal, the largest group first. Raises `NotFoundError` if there is none."""
    found: dict[_Key, list[Node]] = {}
    for node in catalogue.builds(name):
        key = (
            node.version,
            compiler_text(catalogue.compiler(node), profile),
            node.platform,
            node.os,
            node.target,
            variant_texts(node, profile),
            catalogue.stacks(node.hash),
        )
        found.setdefault(key, []).append(node)
    made = [Group(*key, tuple(nodes), _varying(nodes)) for key, nodes in found.items()]
    return sorted(made, key=lambda group: (-len(group.nodes), group.version, group.stacks, group.nodes[0].hash))


def _varying(nodes: list[Node]) -> dict[str, tuple[Dependency, ...]]:
    if len(nodes) == 1:
        return {nodes[0].hash: ()}
    common = set(nodes[0].dependencies).intersection(*(node.dependencies for node in nodes[1:]))
    return {
        node.hash: tuple(sorted(dependency for dependency in node.dependencies if dependency not in common))
        for node in nodes
    }
