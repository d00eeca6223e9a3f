"""Turns a record of a database index into a `Node`, and says exactly what is wrong with one that cannot be.

Two shapes are read by what is there, not by the version that the file claims: dependencies with `type` (before
database version 7) or with `parameters`, a target that is a word or an object, a compiler that is a field (before
version 8) or a dependency.
"""

from __future__ import annotations

from typing import Any

from .model import Dependency, Node, Value

__all__ = ["Builder", "RecordError"]

_LONGEST_WORD = 65536


class RecordError(ValueError):
    """What is wrong with a record."""


class Builder:
    """Makes nodes that share their words, tuples and edges: an index repeats nearly everything many times."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._parameters: dict[tuple[tuple[str, Value], ...], tuple[tuple[str, Value], ...]] = {}
        self._lists: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._edges: dict[Dependency, Dependency] = {}
        self._compilers: dict[tuple[str, str], tuple[str, str]] = {}

    def node(self, key: str, record: Any) -> Node:
        """The node of one record; `RecordError` if it is none."""
        if type(record) is not dict:
            raise RecordError(f"the record is {_kind(record)}, not an object")
        spec = record.get("spec")
        if type(spec) is not dict:
            raise RecordError(f"spec is {_kind(spec)}, not an object")
        in_buildcache = record.get("in_buildcache", False)
        if type(in_buildcache) is not bool:
            raise RecordError(f"in_buildcache is {_kind(in_buildcache)}, not true or false")
        key = self._word(key, "the key")
        arch = spec.get("arch")
        if type(arch) is not dict:
            raise RecordError(f"spec.arch is {_kind(arch)}, not an object")
        target = arch.get("target")
        if type(target) is dict:
            target = target.get("name")
        word = self._word
        return Node(
            key,
            word(spec.get("name"), "spec.name"),
            word(spec.get("version"), "spec.version"),
            word(arch.get("platform"), "spec.arch.platform"),
            word(arch.get("platform_os"), "spec.arch.platform_os"),
            word(target, "spec.arch.target"),
            self._pairs(spec.get("parameters", {})),
            self._compiler(spec.get("compiler")),
            self._dependencies(spec.get("dependencies", [])),
            word(spec.get("package_hash", ""), "spec.package_hash", may_be_empty=True),
            word(spec.get("namespace") or "", "spec.namespace", may_be_empty=True),
            bool(spec.get("external")),
            in_buildcache,
        )

    def _word(self, value: Any, what: str, *, may_be_empty: bool = False) -> str:
        if type(value) is not str:
            raise RecordError(f"{what} is {_kind(value)}, not a string")
        known = self._words.get(value)
        if known is not None and (known or may_be_empty):
            return known
        if not value and not may_be_empty:
            raise RecordError(f"{what} is empty")
        if len(value) > _LONGEST_WORD:
            raise RecordError(f"{what} has {len(value)} characters")
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise RecordError(f"{what} has a lone surrogate, which is no character")
        return self._words.setdefault(value, value)

    def _words_of(self, value: Any, what: str) -> tuple[str, ...]:
        if type(value) is not list:
            raise RecordError(f"{what} is {_kind(value)}, not a list")
        found = tuple([self._word(item, f"an item of {what}", may_be_empty=True) for item in value])
        return self._lists.setdefault(found, found)

    def _pairs(self, parameters: Any) -> tuple[tuple[str, Value], ...]:
        if type(parameters) is not dict:
            raise RecordError(f"spec.parameters is {_kind(parameters)}, not an object")
        # What was seen before is right, and hardly anything is new. Lists become tuples; numbers, which could equal
        # a switch, never get into the table.
        raw = tuple([(name, tuple(value) if type(value) is list else value) for name, value in parameters.items()])
        try:
            known = self._parameters.get(raw)
        except TypeError:  # not hashable
            known = None
        if known is not None and not any(type(value) in (int, float) for _, value in raw):
            return known
        pairs: list[tuple[str, Value]] = []
        for name, value in parameters.items():
            name = self._word(name, "a parameter's name")
            if type(value) is bool:
                pairs.append((name, value))
            elif type(value) is str:
                pairs.append((name, self._word(value, f"parameter {name}", may_be_empty=True)))
            elif type(value) is list:
                words = [str(item) if type(item) in (bool, int, float) else item for item in value]
                pairs.append((name, self._words_of(words, f"parameter {name}")))
            elif type(value) in (int, float):
                pairs.append((name, str(value)))
            else:
                raise RecordError(f"parameter {name} is {_kind(value)}")
        found = tuple(pairs)
        return self._parameters.setdefault(found, found)

    def _compiler(self, compiler: Any) -> tuple[str, str] | None:
        if compiler is None:
            return None
        if type(compiler) is not dict:
            raise RecordError(f"spec.compiler is {_kind(compiler)}, not an object")
        found = (
            self._word(compiler.get("name"), "spec.compiler.name"),
            self._word(compiler.get("version"), "spec.compiler.version"),
        )
        return self._compilers.setdefault(found, found)

    def _dependencies(self, dependencies: Any) -> tuple[Dependency, ...]:
        if type(dependencies) is not list:
            raise RecordError(f"spec.dependencies is {_kind(dependencies)}, not a list")
        return tuple([self._edge(edge) for edge in dependencies])

    def _edge(self, edge: Any) -> Dependency:
        if type(edge) is not dict:
            raise RecordError(f"a dependency is {_kind(edge)}, not an object")
        parameters: Any = edge.get("parameters")
        try:  # seen before, as most are: a named tuple equals a plain one
            raw = (edge["name"], edge["hash"], tuple(parameters["deptypes"]), tuple(parameters["virtuals"]))
            known = self._edges.get(Dependency(*raw))
        except (KeyError, TypeError):
            known = None
        if known is not None:
            return known
        if parameters is None:
            types, virtuals = edge.get("type", []), []
        elif type(parameters) is dict:
            types, virtuals = parameters.get("deptypes", []), parameters.get("virtuals", [])
        else:
            raise RecordError(f"a dependency's parameters are {_kind(parameters)}, not an object")
        found = Dependency(
            self._word(edge.get("name"), "a dependency's name"),
            self._word(edge.get("hash"), "a dependency's hash"),
            self._words_of(types, "a dependency's types"),
            self._words_of(virtuals, "a dependency's virtuals"),
        )
        return self._edges.setdefault(found, found)


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
