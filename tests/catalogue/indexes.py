"""Database indexes as Spack writes them, made without the code under test, always the same for the same arguments.

`seed_indexes` puts the 108 builds of the page next door into nine indexes, in scrambled order, among other packages
and dependency-only records. `big_index` makes one of any size, record by record, for measurements.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED_PAGE = Path(__file__).with_name("py-filelock.specs.md")
SEED_SHA256 = "8e20bdeb7c8f1629f0b10d62bdf3ea2c2db30ebe9122ca003630283c5dc18c3d"
STACKS = (
    "e4s", "ml-darwin-aarch64-mps", "ml-linux-aarch64-cpu", "ml-linux-aarch64-cuda", "ml-linux-x86_64-cpu",
    "ml-linux-x86_64-cuda", "ml-linux-x86_64-rocm", "radiuss",
)  # fmt: skip
VERSIONS = dict(zip(("root", *STACKS), (8, 8, 9, 8, 7, 9, 6, 8, 7), strict=True))
"""Database version of each label's index: all that are read, mixed."""

FLAGS: dict[str, Any] = {
    "cflags": [], "cppflags": [], "cxxflags": [], "fflags": [], "ldflags": [], "ldlibs": [],
}  # fmt: skip
ALIKE = ("build", "link", "run")


class Arch(NamedTuple):
    platform: str
    os: str
    target: str


class Dep(NamedTuple):
    spec: Spec
    types: tuple[str, ...]
    virtuals: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Spec:
    """One node; `forced` is a hash that is given instead of made from the content."""

    name: str
    version: str
    arch: Arch
    parameters: tuple[tuple[str, Any], ...] = ()
    deps: tuple[Dep, ...] = ()
    compiler: tuple[str, str] | None = None
    recipe: str = "1"
    forced: str = ""

    @cached_property
    def hash(self) -> str:
        return self.forced or dag_hash(self.node(8))

    def node(self, version: int) -> dict[str, Any]:
        """Everything but the hash, in the order and with the fields that a database of that version has."""
        target: Any = self.arch.target
        if version < 8 and "_v" in self.arch.target:
            target = {
                "name": self.arch.target, "vendor": "generic", "features": [], "generation": 0,
                "parents": ["x86_64_v2"], "cpupart": "",
            }  # fmt: skip
        node: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "arch": {"platform": self.arch.platform, "platform_os": self.arch.os, "target": target},
        }
        if version < 8 and self.compiler is not None:
            node["compiler"] = {"name": self.compiler[0], "version": self.compiler[1]}
        node["namespace"] = "builtin"
        node["parameters"] = {**{k: list(v) if isinstance(v, tuple) else v for k, v in self.parameters}, **FLAGS}
        recipe = hashlib.sha256(f"{self.name} {self.recipe}".encode()).digest()
        node["package_hash"] = base64.b32encode(recipe).decode().lower()
        if self.deps:
            node["dependencies"] = [edge(dep, version) for dep in self.deps]
        if version >= 8:
            node["annotations"] = {"original_specfile_version": version - 3}
        return node


def edge(dep: Dep, version: int) -> dict[str, Any]:
    if version < 7:
        return {"name": dep.spec.name, "hash": dep.spec.hash, "type": list(dep.types)}
    parameters = {"deptypes": list(dep.types), "virtuals": list(dep.virtuals)}
    return {"name": dep.spec.name, "hash": dep.spec.hash, "parameters": parameters}


def dag_hash(node: dict[str, Any]) -> str:
    """Spack's hash of a node: SHA-1 of its compact JSON in stored order, in base 32. Notes that are not part of
    the build are left out."""
    text = json.dumps({k: v for k, v in node.items() if k not in {"hash", "annotations"}}, separators=(",", ":"))
    return base64.b32encode(hashlib.sha1(text.encode()).digest()).decode().lower()


def record(spec: Spec, version: int, *, in_buildcache: bool = True) -> dict[str, Any]:
    return {"spec": {**spec.node(version), "hash": spec.hash}, "ref_count": 0, "in_buildcache": in_buildcache}


def seed_rows() -> list[dict[str, Any]]:
    text = SEED_PAGE.read_text(encoding="ascii")
    assert hashlib.sha256(text.encode()).hexdigest() == SEED_SHA256
    rows: list[dict[str, Any]] = json.loads(text.split("\n")[5].partition(": ")[2])
    return rows


# ---- a small world of packages around the seed's


def toolchain(arch: Arch, number: int) -> Spec:
    versions = {"ubuntu18.04": "7.5.0", "ubuntu22.04": "11.4.0", "ubuntu24.04": "13.2.0"}
    name = "apple-clang" if arch.platform == "darwin" else "gcc"
    version = "16.0.0" if name == "apple-clang" else versions[arch.os]
    if number and name == "gcc":
        version = {"7.5.0": "9.4.0", "11.4.0": "12.3.0", "13.2.0": "14.1.0"}[version]
    return Spec(name, version, arch, (("build_system", "compiler"), ("languages", ("c", "c++", "fortran"))))


def world(arch: Arch, number: int) -> list[Spec]:
    """Packages of one stack at one of its states: the number tells which of them were changed since the first."""
    cc = toolchain(arch, number // 8 % 2)
    compiler = (cc.name, cc.version)
    uses = (Dep(cc, ("build",), ("c", "cxx")),)

    def make(name: str, version: str, *deps: Spec, recipe: str = "1", **parameters: Any) -> Spec:
        edges = tuple(Dep(dep, ("link",) if dep.name in {"zlib-ng", "openssl", "sqlite"} else ALIKE) for dep in deps)
        pairs = (("build_system", "autotools"), *parameters.items())
        return Spec(name, version, arch, pairs, uses + edges, compiler, recipe)

    zlib = make("zlib-ng", "2.2.1" if number % 2 else "2.0.7", compat=True, opt=True, shared=True)
    openssl = make("openssl", "3.4.0" if number // 2 % 2 else "3.3.1", zlib, certs="mozilla", shared=True, docs=False)
    sqlite = make("sqlite", "3.46.0", zlib, column_metadata=True, fts=bool(number // 16 % 2))
    patches = ("13fa8bfb0f3b6f2dcd0d0ff8a0c0a6f5", "f2fd060afc4b4618fe8104c4c5d771f3")
    python = make(
        "python", "3.11.9" if number // 4 % 2 else "3.11.7", zlib, openssl, sqlite,
        ssl=True, optimizations=False, patches=patches, tkinter=False,
    )  # fmt: skip
    venv = Spec("python-venv", "1.0", arch, (("build_system", "generic"),), (Dep(python, ("build", "run")),))
    pip = Spec("py-pip", "24.0", arch, (("build_system", "generic"),), (Dep(python, ("build", "run")),))
    hatch = Spec(
        "py-hatchling", "1.21.0", arch, (("build_system", "python_pip"),),
        (Dep(python, ("build", "run")), Dep(pip, ("build",))), recipe=str(1 + number // 32 % 2),
    )  # fmt: skip
    return [cc, zlib, openssl, sqlite, python, venv, pip, hatch]


def seed_specs() -> list[tuple[Spec, list[Spec], tuple[str, ...]]]:
    """Each of the 108 builds, with what it depends on and the labels that have it."""
    found = []
    counts: dict[Arch, int] = {}
    for row in seed_rows():
        arch = Arch(row["platform"], row["os"], row["target"])
        number = counts[arch] = counts.get(arch, -1) + 1
        around = world(arch, number)
        by_name = {spec.name: spec for spec in around}
        edges = (
            Dep(by_name["py-hatchling"], ("build",)),
            Dep(by_name["py-pip"], ("build",)),
            Dep(by_name["python"], ("build", "run")),
            Dep(by_name["python-venv"], ("build", "run")),
        )
        [version] = row["versions"]
        parameters = (("build_system", "python_pip"),)
        spec = Spec("py-filelock", version, arch, parameters, edges, forced=row["hash"])
        found.append((spec, around, tuple(row["stacks"])))
    return found


def seed_databases() -> dict[str, dict[str, Any]]:
    """The nine databases by label."""
    installs: dict[str, dict[str, Any]] = {label: {} for label in VERSIONS}
    for spec, around, labels in seed_specs():
        for label in labels:
            version = VERSIONS[label]
            installs[label][spec.hash] = record(spec, version)
            for other in around:
                built = other.name not in {"gcc", "apple-clang", "python-venv"}
                installs[label].setdefault(other.hash, record(other, version, in_buildcache=built))
    databases = {}
    for label, found in installs.items():
        keys = sorted(found)
        random.Random(label).shuffle(keys)
        database = {"version": str(VERSIONS[label]), "installs": {key: found[key] for key in keys}}
        databases[label] = {"database": database}
    return databases


def seed_indexes(directory: Path) -> dict[str, Path]:
    """The nine index files by label."""
    paths = {}
    for label, database in seed_databases().items():
        paths[label] = directory / f"{label}.json"
        paths[label].write_text(json.dumps(database, separators=(",", ":")), encoding="ascii")
    return paths


def sources(paths: dict[str, Path]) -> list[str]:
    return [f"{label}={path}" for label, path in paths.items()]


# ---- size


def big_index(packages: int, entries: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a database of version 8: `entries` builds of `packages` packages that depend on each other, each
    with some ten dependencies and a dozen variants, some 2 kB of JSON each, as in a large cache."""
    dice = random.Random(7)
    arches = [Arch("linux", os, target) for os in ("ubuntu22.04", "ubuntu24.04", "rhel8")
              for target in ("x86_64_v3", "x86_64_v4", "neoverse_v1")]  # fmt: skip
    compilers = [toolchain(Arch("linux", os, "x86_64"), n) for os in ("ubuntu22.04", "ubuntu24.04") for n in (0, 1)]
    for spec in compilers:
        yield spec.hash, record(spec, 8, in_buildcache=False)
    made: list[list[tuple[str, str]]] = []
    words = ("build_type", "cuda", "doc", "fortran", "generator", "ipo", "mpi", "openmp", "pic", "shared", "static")
    for number in range(packages):
        name = f"package-{number:04d}"
        made.append([])
        share = entries // packages + (number < entries % packages)
        below = sorted(dice.sample(range(number), min(number, dice.randrange(4, 12))))
        for build in range(share):
            cc = dice.choice(compilers)
            edges = [edge(Dep(cc, ("build",), ("c", "cxx")), 8)]
            for other in below:
                there, key = made[other][build % len(made[other])]
                parameters = {"deptypes": ["build", "link"], "virtuals": []}
                edges.append({"name": there, "hash": key, "parameters": parameters})
            arch = dice.choice(arches)
            values: dict[str, Any] = {word: dice.random() < 0.8 for word in words}
            values["build_type"], values["generator"] = "Release", "make"
            node = {
                "name": name,
                "version": f"{1 + number % 4}.{build % 3}.{number % 7}",
                "arch": {"platform": arch.platform, "platform_os": arch.os, "target": arch.target},
                "namespace": "builtin",
                "parameters": {"build_system": "cmake", **values, "targets": ["a", "b"], **FLAGS},
                "package_hash": hashlib.sha256(name.encode()).hexdigest()[:52] + "====",
                "dependencies": edges,
                "annotations": {"original_specfile_version": 5, "note": build},
            }
            key = base64.b32encode(hashlib.sha1(f"{number} {build}".encode()).digest()).decode().lower()
            made[-1].append((name, key))
            yield key, {"spec": {**node, "hash": key}, "ref_count": 1, "in_buildcache": True}


def write_big_index(path: Path, packages: int, entries: int) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write('{"database":{"version":"8","installs":{')
        for number, (key, item) in enumerate(big_index(packages, entries)):
            file.write(f'{"," if number else ""}{json.dumps(key)}:{json.dumps(item, separators=(",", ":"))}')
        file.write("}}}")
