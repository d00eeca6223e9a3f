"""What is in a build cache: readers, rows, renderers. Pure functions; nothing here locks or changes a source.

    from interlock.catalogue import page, read

    catalogue = read(["root=index.json", "e4s=e4s.json"])
    print(page(catalogue, "py-filelock", "develop"), end="")
"""

from __future__ import annotations

from .check import KINDS, CheckReport, Finding, check
from .differing import Difference, difference
from .export import as_dict, package_dict, packages_list
from .groups import Group, groups
from .model import Catalogue, CatalogueError, Dependency, Index, Node, NotFoundError
from .page import Page, page, parse_page
from .reading import add_sizes, read
from .rows import NEWEST, PROFILES, Row, rows
from .site import human, write_site
from .sources import Source, parse_sources

__all__ = [
    "KINDS",
    "NEWEST",
    "PROFILES",
    "Catalogue",
    "CatalogueError",
    "CheckReport",
    "Dependency",
    "Difference",
    "Finding",
    "Group",
    "Index",
    "Node",
    "NotFoundError",
    "Page",
    "Row",
    "Source",
    "add_sizes",
    "as_dict",
    "check",
    "difference",
    "groups",
    "human",
    "package_dict",
    "packages_list",
    "page",
    "parse_page",
    "parse_sources",
    "read",
    "rows",
    "write_site",
]
