"""What is in a build cache: readers, rows, renderers. Pure functions; nothing here locks or changes a source.

    from interlock.catalogue import page, read

    catalogue = read(["root=index.json", "e4s=e4s.json"])
    print(page(catalogue, "py-filelock", "develop"), end="")
"""

from __future__ import annotations

from .model import Catalogue, CatalogueError, Dependency, Index, Node, NotFoundError
from .page import Page, page, parse_page
from .reading import add_sizes, read
from .rows import NEWEST, PROFILES, Row, rows
from .sources import Source, parse_sources

__all__ = [
    "NEWEST",
    "PROFILES",
    "Catalogue",
    "CatalogueError",
    "Dependency",
    "Index",
    "Node",
    "NotFoundError",
    "Page",
    "Row",
    "Source",
    "add_sizes",
    "page",
    "parse_page",
    "parse_sources",
    "read",
    "rows",
]
