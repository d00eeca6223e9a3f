"""One static web site of a catalogue. It works from disk: browsers forbid pages from file:// to fetch, but not to load
scripts. So each page is complete as HTML, and what only a script needs lies beside it as scripts that hand over JSON:

    index.html                    all packages
    packages/NAME.html            one package: its builds, grouped by what is equal
    data/names.js                 all names, for the search
    data/packages/NAME.js         all records of that name with their dependencies, for differences
    data/hashes/PREFIX.js         the package of each hash, in pieces of some thousand, for the search as one types
    assets/catalogue.{css,js}

The site is written beside its place and then renamed: a reader of the old one sees the old one until then.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from functools import lru_cache
from importlib import resources
from typing import Any

from .differing import parameter_text
from .groups import Group, groups
from .model import ROOT, Catalogue, CatalogueError, Dependency, Node
from .rows import NEWEST, checked, compiler_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import jinja2
    from markupsafe import Markup

__all__ = ["file_name", "human", "visible", "write_site"]

MARK = "catalogue-site.json"
"""Stands in every site; a directory that has other things and not this one is not overwritten."""
LARGEST_SHARD = 4000
OPEN_ROWS = 400
"""Packages with more builds have their groups closed at first."""

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._-]{0,99}\Z")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)")


def write_site(
    catalogue: Catalogue,
    directory: str | os.PathLike[str],
    *,
    title: str = "Build cache",
    profile: str = NEWEST,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the site into `directory`, in place of an older one; returns how many packages it has.

    Raises `CatalogueError` if the directory holds something else, `OSError` if it cannot be written. Needs Jinja2
    (the extra `catalogue`). `progress` is called with the number of packages just written.
    """
    checked(profile)
    path = os.path.abspath(os.fspath(directory))
    if os.path.lexists(path) and not os.path.isfile(os.path.join(path, MARK)) and (
        not os.path.isdir(path) or os.listdir(path)
    ):
        raise CatalogueError(f"{path}: it holds something else than a catalogue's site: give another directory")
    catalogue.packages()  # before anything is written: no root, no site
    above = os.path.dirname(path)
    os.makedirs(above, exist_ok=True)
    staging = os.path.join(above, f".{os.path.basename(path)}-{secrets.token_hex(6)}")
    os.mkdir(staging)
    try:
        count = _Site(catalogue, staging, title, profile).write(progress)
        if os.path.lexists(path):
            os.rename(path, f"{staging}-old")
        os.rename(staging, path)
        shutil.rmtree(f"{staging}-old", ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return count


def visible(text: str) -> str:
    """The text with characters that cannot be seen, or that change how others are seen, written as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def human(size: int | None) -> str:
    """A number of bytes in three digits."""
    if size is None:
        return "-"
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.3g} {unit}"


def file_name(name: str) -> str:
    """A file's name for any package name, on any filesystem; different names get different ones."""
    if _PLAIN.match(name) and not _DEVICES.match(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower())[:40].strip('-')}~{digest}"


class _Facet:
    """One thing to filter by: numbers for its values, and how many builds each has."""

    def __init__(self, title: str, numbers: dict[tuple[str, str], int]) -> None:
        self.title = title
        self._numbers = numbers
        self._counts: dict[str, int] = {}

    def add(self, values: Iterable[str], builds: int) -> list[int]:
        found = []
        for value in values:
            self._counts[value] = self._counts.get(value, 0) + builds
            found.append(self._numbers.setdefault((self.title, value), len(self._numbers)))
        return found

    @property
    def values(self) -> list[tuple[int, str, int]]:
        return [(self._numbers[self.title, value], value, self._counts[value]) for value in sorted(self._counts)]


class _Facets:
    TITLES = ("Stack", "Version", "Compiler", "OS", "Platform", "Target", "Variant")

    def __init__(self) -> None:
        numbers: dict[tuple[str, str], int] = {}
        self._all = {title: _Facet(title, numbers) for title in self.TITLES}

    def add(self, builds: int, **values: Iterable[str]) -> set[int]:
        """The numbers of the values, for the element that has them."""
        return {number for title, some in values.items() for number in self._all[title].add(some, builds)}

    def useful(self) -> list[_Facet]:
        """Those that tell elements apart."""
        return [facet for facet in self._all.values() if len(facet.values) > 1]


class _Site:
    def __init__(self, catalogue: Catalogue, directory: str, title: str, profile: str) -> None:
        self._catalogue = catalogue
        self._directory = directory
        self._title = title
        self._profile = profile
        self._templates = _environment()
        self._records: dict[str, list[Node]] = {}
        for node in catalogue.nodes.values():
            self._records.setdefault(node.name, []).append(node)
        self._names = sorted(self._records)
        self._number = {name: number for number, name in enumerate(self._names)}
        self._parameters = lru_cache(maxsize=None)(self._parameter_texts)
        self._code = lru_cache(maxsize=None)(self._templates.from_string("<code>{{ text }}</code>").render)

    def write(self, progress: Callable[[int], None] | None) -> int:
        packages = self._catalogue.packages()
        for folder in ("packages", "assets", os.path.join("data", "packages"), os.path.join("data", "hashes")):
            os.makedirs(os.path.join(self._directory, folder))
        for name in self._names:
            self._script(f"data/packages/{file_name(name)}.js", "records", file_name(name), self._data(name))
        lines, facets = [], _Facets()
        for name in packages:
            lines.append(self._package(name, facets))
            if progress is not None:
                progress(1)
        self._hashes(packages)
        self._script("data/names.js", "names", [
            [visible(name), file_name(name), len(packages.get(name, ()))] for name in self._names
        ], self._depth)  # fmt: skip
        self._render(
            "index.html",
            "index.html",
            base="",
            packages=lines,
            facets=facets.useful(),
            builds=len(self._catalogue.root.builds),
            size=human(self._catalogue.size(self._catalogue.nodes[key] for key in self._catalogue.root.builds)),
            indexes=sorted(self._catalogue.indexes.values(), key=lambda index: (index.label != ROOT, index.label)),
            warnings=self._catalogue.warnings,
        )
        assets = resources.files(__package__) / "assets"
        for asset in ("catalogue.css", "catalogue.js"):
            self._write(f"assets/{asset}", (assets / asset).read_text(encoding="utf-8"))
        self._write(MARK, json.dumps({"packages": len(packages), "builds": len(self._catalogue.root.builds)}) + "\n")
        return len(packages)

    # ---- pages

    def _package(self, name: str, overall: _Facets) -> dict[str, Any]:
        found = groups(self._catalogue, name, self._profile)
        facets = _Facets()
        nodes = [node for group in found for node in group.nodes]
        shown = [(group, self._facets_of(group, facets)) for group in found]
        size = self._catalogue.size(nodes)
        common = [text for text in found[0].variants if all(text in group.variants for group in found)]
        summary: dict[str, Any] = {
            "name": name,
            "file": file_name(name),
            "builds": len(nodes),
            "groups": len(found),
            "versions": sorted({group.version for group in found}, key=_natural, reverse=True),
            "compilers": sorted({group.compiler for group in found}),
            "systems": sorted({group.os for group in found}),
            "stacks": sorted({stack for group in found for stack in group.stacks if stack != ROOT}),
            "size": human(size),
            "bytes": size or 0,
        }
        numbers: set[int] = set()
        for group in found:
            numbers |= overall.add(len(group.nodes), **_values(group))
        summary["facets"] = " ".join(map(str, sorted(numbers)))
        self._render(
            "package.html",
            f"packages/{file_name(name)}.html",
            base="../",
            package=summary,
            groups=shown,
            facets=facets.useful(),
            common=common,
            special=lambda group: self._codes([text for text in group.variants if text not in common]),
            opened=len(nodes) <= OPEN_ROWS,
            size_of=lambda node: human(self._catalogue.sizes.get(node.hash)),
            bytes_of=lambda node: self._catalogue.sizes.get(node.hash, 0),
            version_of=self._version_of,
        )
        return summary

    def _facets_of(self, group: Group, facets: _Facets) -> str:
        numbers = facets.add(len(group.nodes), Version=[group.version], Variant=group.variants, **_values(group))
        return " ".join(map(str, sorted(numbers)))

    def _codes(self, texts: list[str]) -> Markup:
        """Texts as HTML: a million times the same few."""
        from markupsafe import Markup

        return Markup(" ".join([self._code(text=text) for text in texts]))  # noqa: S704 - the template escaped them

    def _version_of(self, dependency: Dependency) -> str:
        node = self._catalogue.nodes.get(dependency.hash)
        return node.version if node is not None else ""

    def _render(self, template: str, path: str, **values: Any) -> None:
        text = self._templates.get_template(template).render(title=self._title, **values)
        self._write(path, text)

    # ---- scripts

    def _data(self, name: str) -> dict[str, Any]:
        """All records of a name. Texts and lists that repeat are numbers into the tables `t` and `p`."""
        texts: dict[str, int] = {}
        parameters: dict[tuple[tuple[str, str], ...], int] = {}

        def number(text: str) -> int:
            return texts.setdefault(visible(text), len(texts))

        rows = []
        for node in sorted(self._records[name]):
            compiler = compiler_text(node.compiler, self._profile) if node.compiler is not None else ""
            edges = [
                [self._number.get(edge.name, -1), visible(edge.hash), number(",".join(edge.types)),
                 number(",".join(edge.virtuals)), *([] if edge.name in self._number else [visible(edge.name)])]
                for edge in node.dependencies
            ]  # fmt: skip
            rows.append([
                visible(node.hash), number(node.version), number(compiler), number(node.platform), number(node.os),
                number(node.target), parameters.setdefault(self._parameters(node.parameters), len(parameters)),
                number(node.package_hash[:12]), number(node.namespace), int(node.external), edges,
            ])  # fmt: skip
        return {"name": visible(name), "t": list(texts), "p": list(parameters), "r": rows}

    def _parameter_texts(self, parameters: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (visible(name), visible(parameter_text(name, value, self._profile))) for name, value in parameters
        )

    @property
    def _depth(self) -> int:
        """How many characters of a hash name its piece."""
        depth, pieces = 0, 1
        while len(self._catalogue.root.builds) / pieces > LARGEST_SHARD:
            depth, pieces = depth + 1, pieces * 32
        return depth

    def _hashes(self, packages: dict[str, list[Node]]) -> None:
        shards: dict[str, list[str]] = {}
        for key in sorted(self._catalogue.root.builds):
            prefix = key[: self._depth]
            shard = prefix if re.fullmatch("[a-z0-9]*", prefix) else "other"
            node = self._catalogue.nodes[key]
            shards.setdefault(shard or "all", []).append(f"{visible(key)} {self._number[node.name]}")
        for shard, lines in shards.items():
            self._script(f"data/hashes/{shard}.js", "hashes", shard, "\n".join(lines))

    def _script(self, path: str, function: str, *arguments: Any) -> None:
        texts = (json.dumps(argument, separators=(",", ":")).replace("<", "\\u003c") for argument in arguments)
        self._write(path, f"catalogue.{function}({','.join(texts)});\n")

    def _write(self, path: str, text: str) -> None:
        with open(os.path.join(self._directory, path), "w", encoding="utf-8", newline="\n") as file:
            file.write(text)


def _values(group: Group) -> dict[str, list[str]]:
    """What both a package's page and the overview are filtered by."""
    return {
        "Stack": [stack for stack in group.stacks if stack != ROOT],
        "Compiler": [group.compiler],
        "OS": [group.os],
        "Platform": [group.platform],
        "Target": [group.target],
    }


def _natural(version: str) -> list[tuple[int, int, str]]:
    """Sorts 1.10 after 1.9."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [(1, int(part[:18]), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        raise CatalogueError("the site needs Jinja2: pip install 'interlock[catalogue]'") from None
    from markupsafe import Markup

    def finalize(value: object) -> object:
        # Before it is escaped: no character of an index may hide, or move, its neighbours.
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interlock.catalogue"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    environment.filters["human"] = human
    return environment
