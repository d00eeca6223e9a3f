"""Rows: what a page shows of a build. The string forms are those of the Spack release that renders."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from .model import Catalogue, CatalogueError, Node, Value

__all__ = ["NEWEST", "PROFILES", "Row", "compiler_text", "rows", "variant_text", "variant_texts"]

PROFILES = ("pre-1.0", "1.x")
NEWEST = PROFILES[-1]

_NO_QUOTES = re.compile(r"[a-zA-Z0-9,/_.\-\[\]]+\Z")


class Row(NamedTuple):
    """One build on a page, with the page's names for the fields."""

    compiler: str
    hash: str
    os: str
    platform: str
    size: str
    stacks: tuple[str, ...]
    target: str
    variants: tuple[str, ...]
    versions: tuple[str, ...]


def rows(catalogue: Catalogue, name: str, profile: str = NEWEST) -> list[Row]:
    """The rows of a package, sorted by hash. Raises `NotFoundError` if the root index has no build of it."""
    profile = checked(profile)
    texts: dict[tuple[tuple[str, Value], ...], tuple[str, ...]] = {}
    found = []
    for node in catalogue.builds(name):
        variants = texts.get(node.parameters)
        if variants is None:
            variants = texts[node.parameters] = variant_texts(node, profile)
        found.append(
            Row(
                compiler_text(catalogue.compiler(node), profile),
                node.hash,
                node.os,
                node.platform,
                "-",
                catalogue.stacks(node.hash),
                node.target,
                variants,
                (node.version,),
            )
        )
    return found


def checked(profile: str) -> str:
    """The profile, if there is such a one."""
    if profile not in PROFILES:
        raise CatalogueError(f"no profile {profile!r}: there are {' and '.join(PROFILES)}")
    return profile


def compiler_text(compiler: tuple[str, str] | None, profile: str = NEWEST) -> str:
    """`gcc@=11.4.0` before Spack 1.0, `gcc@11.4.0` since; the name alone where the version is in no index."""
    if compiler is None:
        return "none"
    name, version = compiler
    if not version:
        return name
    return f"{name}@={version}" if profile == "pre-1.0" else f"{name}@{version}"


def variant_texts(node: Node, profile: str = NEWEST) -> tuple[str, ...]:
    """All variants of a build, in stored order, without compiler flags."""
    return tuple(variant_text(name, value, profile) for name, value in node.variants)


def variant_text(name: str, value: Value, profile: str = NEWEST) -> str:
    """`+x`, `~x`, `k=v`; with several values `k=a,b` before Spack 1.0, `k:=a,b` since. Patches are shortened."""
    if isinstance(value, str) and value.upper() in {"TRUE", "FALSE"}:
        value = value.upper() == "TRUE"
    if isinstance(value, bool):
        return f"{'+' if value else '~'}{name}"
    if isinstance(value, str):
        return f"{name}={_quoted(value)}"
    words = [word[:7] for word in value] if name == "patches" else value
    text = ",".join(words)
    if profile == "pre-1.0":
        return f"{name}={_quoted(text)}"
    return f"{name}:={_quoted(text) if value else '*'}"


def _quoted(text: str) -> str:
    if _NO_QUOTES.match(text):
        return text
    return json.dumps(text) if "'" in text else f"'{text}'"
