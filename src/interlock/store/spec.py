"""Spec documents: what the store must know of a build (name, version, hash, dependencies), and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import DamagedError, HostileError
from .layout import SPEC_MAX, parse_json, read_file, safe_hash, safe_name, safe_version, unsign

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Spec", "simple_spec"]

_NODES_MAX = 100_000


class Node(NamedTuple):
    """One node of a concrete spec."""

    hash: str
    name: str
    version: str
    dependencies: tuple[str, ...]
    text: str
    """The node as JSON, without line breaks."""


class Spec(NamedTuple):
    """A concrete spec: its root, and the nodes that it depends on."""

    root: Node
    others: tuple[Node, ...]
    version: int
    """Of the spec format: 5 belongs to database version 8."""
    document: dict[str, Any]

    @property
    def hash(self) -> str:
        return self.root.hash


def simple_spec(name: str, version: str, **parameters: str | bool | list[str]) -> dict[str, Any]:
    """A spec document for a build that Spack does not know: the hash is made from name, version and parameters, so
    that equal inputs have the same key. Spack can list such an entry, not install it."""
    node: dict[str, Any] = {
        "name": name,
        "version": version,
        "arch": {"platform": "any", "platform_os": "any", "target": "any"},
        "namespace": "interlock",
        "parameters": parameters,
    }
    digest = hashlib.sha256(json.dumps(node, sort_keys=True).encode()).digest()
    node["hash"] = base64.b32encode(digest)[:32].decode().lower()
    return {"spec": {"_meta": {"version": 5}, "nodes": [node]}}


def read_spec(source: Mapping[str, Any] | str | os.PathLike[str]) -> Spec:
    """From a document or from the path of a `.spec.json` (signed ones are read, their signature is not checked).

    Raises `HostileError` or `DamagedError`, which name the file.
    """
    if isinstance(source, (str, os.PathLike)):
        origin = os.fspath(source)
        return parse_spec(read_file(origin, SPEC_MAX), origin)
    return _spec(dict(source), "the spec")


def parse_spec(text: bytes, origin: str) -> Spec:
    return _spec(parse_json(unsign(text, origin)[0], origin), origin)


def _spec(document: object, origin: str) -> Spec:
    inner = document.get("spec") if isinstance(document, dict) else None
    nodes = inner.get("nodes") if isinstance(inner, dict) else None
    if not isinstance(document, dict) or not isinstance(inner, dict) or not isinstance(nodes, list) or not nodes:
        raise DamagedError(f"{origin} is not a spec document: it has no list spec.nodes")
    if len(nodes) > _NODES_MAX:
        raise HostileError(f"{origin} has {len(nodes)} nodes; at most {_NODES_MAX} are read")
    meta = inner.get("_meta")
    version = meta.get("version") if isinstance(meta, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= 999:
        raise DamagedError(f"{origin}: spec._meta.version {version!r} is not a version of the spec format")
    root, *others = (_node(node, origin) for node in nodes)
    return Spec(root, tuple(others), version, document)


def _node(node: object, origin: str) -> Node:
    if not isinstance(node, dict):
        raise DamagedError(f"{origin}: a node of the spec is no object")
    name = safe_name(node.get("name"), "package name", origin)
    version = safe_version(node.get("version"), origin)
    hash_ = safe_hash(node.get("hash"), origin)
    listed = node.get("dependencies", [])
    if not isinstance(listed, list):
        raise DamagedError(f"{origin}: the dependencies of {name} are no list")
    needs = []
    for item in listed:
        if not isinstance(item, dict):
            raise DamagedError(f"{origin}: a dependency of {name} is no object")
        needs.append(safe_hash(item.get("hash"), origin))
    try:
        text = json.dumps(node)  # in the order given: Spack's hash is made of it
    except RecursionError:
        raise HostileError(f"{origin}: the node {name} is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{origin}: the node {name} is not JSON: {error}") from None
    return Node(hash_, name, version, tuple(dict.fromkeys(needs)), text)
