"""The catalogue as plain values, for JSON."""

from __future__ import annotations

from typing import Any

from .groups import groups
from .rows import NEWEST, compiler_text, variant_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .model import Catalogue, Node

__all__ = ["as_dict", "package_dict", "packages_list"]


def packages_list(catalogue: Catalogue) -> list[dict[str, Any]]:
    """One line per package: name, versions, how many builds, their size."""
    return [
        {
            "name": name,
            "builds": len(nodes),
            "versions": sorted({node.version for node in nodes}),
            "size": catalogue.size(nodes),
        }
        for name, nodes in catalogue.packages().items()
    ]


def package_dict(catalogue: Catalogue, name: str, profile: str = NEWEST) -> dict[str, Any]:
    """All that is known of one package: its builds by hash, with sizes and dependencies, and its groups."""
    return {
        "name": name,
        "builds": [_build(catalogue, node, profile) for node in catalogue.builds(name)],
        "groups": [[node.hash for node in group.nodes] for group in groups(catalogue, name, profile)],
    }


def as_dict(catalogue: Catalogue, names: list[str], profile: str = NEWEST) -> dict[str, Any]:
    """The sources, and all that is known of some packages."""
    return {
        "sources": [
            {
                "label": index.label,
                "place": index.place,
                "database": index.version,
                "generation": index.generation,
                "records": len(index.hashes),
                "builds": len(index.builds),
            }
            for index in catalogue.indexes.values()
        ],
        "warnings": catalogue.warnings,
        "packages": [package_dict(catalogue, name, profile) for name in names],
    }


def _build(catalogue: Catalogue, node: Node, profile: str) -> dict[str, Any]:
    return {
        "hash": node.hash,
        "version": node.version,
        "compiler": compiler_text(catalogue.compiler(node), profile),
        "platform": node.platform,
        "os": node.os,
        "target": node.target,
        "variants": list(variant_texts(node, profile)),
        "stacks": list(catalogue.stacks(node.hash)),
        "size": catalogue.sizes.get(node.hash),
        "package_hash": node.package_hash,
        "dependencies": [
            {"name": edge.name, "hash": edge.hash, "types": list(edge.types), "virtuals": list(edge.virtuals)}
            for edge in node.dependencies
        ],
    }
