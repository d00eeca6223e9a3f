"""What is inconsistent in a build cache: root against stacks, indexes against blobs, hashes against content.

Spack's hash of a build is the SHA-1, in base 32, of the record's JSON in stored order. That is checked where it can be:
not for builds that were spliced or read from an older format, whose hash was made of something else. And an index in
which most hashes come out otherwise does not follow this rule at all; then that is one note, and no finding.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import zlib
from dataclasses import dataclass, field
from typing import Any

from .model import ROOT, Catalogue, CatalogueError, Node
from .reading import add_source
from .records import Builder
from .scan import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .sources import Blob, Source

__all__ = ["KINDS", "CheckReport", "Finding", "check"]

KINDS = {
    "unreadable": "a source that cannot be read",
    "damaged": "a record that cannot be read",
    "key": "a record that stands under another hash than its own",
    "content": "a hash that is not the hash of the record",
    "disagree": "one hash, described differently by two sources",
    "not-in-root": "a stack has a build that root has not",
    "in-no-stack": "root has a build that no stack has",
    "dangling": "a dependency that no source describes",
    "manifest": "a build without a manifest or package, or with a damaged one",
    "blob": "a blob that is missing or has another length or content than its manifest says",
    "unlisted": "a build in the mirror that its index does not list",
}
"""The kinds of findings."""

LARGEST_SPEC = 64 << 20
_NOT_HASHED = frozenset({"hash", "full_hash", "build_hash", "annotations"})


@dataclass(frozen=True)
class Finding:
    """One inconsistency: its kind, the source it is in, the hash it is about (or empty), what is wrong."""

    kind: str
    source: str
    hash: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.source}: {self.hash + ': ' if self.hash else ''}{self.text}"


@dataclass
class CheckReport:
    """What `check` found."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and is no inconsistency."""
    records: int = 0
    blobs: int = 0
    """How many blobs were looked at."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "consistent": not self.findings,
            "records": self.records,
            "blobs": self.blobs,
            "findings": [vars(finding) for finding in self.findings],
            "notes": self.notes,
        }


def check(
    sources: Iterable[Source],
    *,
    contents: bool = True,
    ignore: Iterable[str] = (),
    progress: Callable[[str, int], None] | None = None,
) -> CheckReport:
    """Check labelled sources against each other and mirrors against their blobs.

    With `contents=False` blobs are not read: only that they are there, and how long they are. `ignore` names kinds
    of findings to leave out. What is wrong with a source is a finding and no exception.
    """
    checker = _Checker(contents, progress)
    listed = list(sources)
    for source in listed:
        checker.source(source)
    checker.together()
    for source in listed:
        if source.label in checker.catalogue.indexes:
            checker.mirror(source)
    report = checker.report
    report.findings = [finding for finding in report.findings if finding.kind not in set(ignore)]
    return report


def spec_hash(spec: dict[str, Any]) -> str:
    """The hash that Spack gives to a record's spec."""
    text = json.dumps({key: value for key, value in spec.items() if key not in _NOT_HASHED}, separators=(",", ":"))
    return base64.b32encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode().lower()


class _Checker:
    def __init__(self, contents: bool, progress: Callable[[str, int], None] | None) -> None:
        self.report = CheckReport()
        self.catalogue = Catalogue()
        self._contents = contents
        self._progress = progress
        self._builder = Builder()
        self._first: dict[str, str] = {}
        self._blobs: dict[str, str] = {}
        self._specs: list[tuple[str, str]] = []

    def _find(self, kind: str, source: Source | str, key: str, text: str) -> None:
        title = source if isinstance(source, str) else source.title
        self.report.findings.append(Finding(kind, title, key, text))

    # ---- one index

    def source(self, source: Source) -> None:
        """Read one source, looking at each of its records."""
        right, wrong = 0, list[tuple[str, str]]()

        def look(_: Source, key: str, record: Any, node: Node) -> None:
            nonlocal right
            self.report.records += 1
            spec = record["spec"]
            if spec.get("hash") != key:
                self._find("key", source, key, f"its spec says {str(spec.get('hash'))[:80]!r}")
            elif _hashable(spec):
                found = spec_hash(spec)
                if found == key:
                    right += 1
                else:
                    wrong.append((key, found))
            self._compare(source, key, node)

        warnings = self.catalogue.warnings
        before = len(warnings)
        try:
            add_source(self.catalogue, source, self._builder, True, look, self._progress)
        except CatalogueError as error:
            self._find("unreadable", source, "", str(error).removeprefix(f"{source.title}: "))
            return
        for warning in warnings[before:]:
            if ": record " in warning:
                self._find("damaged", source, "", warning.removeprefix(f"{source.title}: "))
            else:
                self.report.notes.append(warning)
        self._judge(source, "record", right, wrong)

    def _judge(self, source: Source, what: str, right: int, wrong: list[tuple[str, str]]) -> None:
        """Hashes that came out otherwise: faults, unless most did."""
        if len(wrong) <= right:
            for key, found in wrong:
                self._find("content", source, key, f"the hash of its {what} is {found}")
        elif wrong:
            self.report.notes.append(
                f"{source.title}: {len(wrong)} of {len(wrong) + right} hashes are not made of the {what}s by "
                "Spack's rule, so that hashes were not checked against them"
            )

    def _compare(self, source: Source, key: str, node: Node) -> None:
        known = self.catalogue.nodes.get(key)
        if known is None:
            self._first[key] = source.label
            return
        for what, mine, theirs in _facts(known, node):
            if mine != theirs:
                text = f"its {what} is {_shown(theirs)}, and {_shown(mine)} in {self._first[key]}"
                self._find("disagree", source, key, text)

    # ---- the indexes together

    def together(self) -> None:
        """Root against stacks, and dependencies against records."""
        indexes, nodes = self.catalogue.indexes, self.catalogue.nodes
        root = indexes.get(ROOT)
        stacks = [index for label, index in sorted(indexes.items()) if label != ROOT]
        if root is None:
            self.report.notes.append(f"no readable source is labelled {ROOT!r}: stacks were not checked against it")
        elif stacks:
            for index in stacks:
                for key in sorted(index.builds - root.builds):
                    where = "only a dependency there" if key in root.hashes else "not there"
                    text = f"{nodes[key].name} is in {index.label}, and {where}"
                    self._find("not-in-root", f"{ROOT}={root.place}", key, text)
            everywhere = frozenset[str]().union(*(index.hashes for index in stacks))
            for key in sorted(root.builds - everywhere):
                self._find("in-no-stack", f"{ROOT}={root.place}", key, f"{nodes[key].name} is in no stack's index")
        missing: dict[tuple[str, str], list[str]] = {}
        for node in nodes.values():
            for edge in node.dependencies:
                there = nodes.get(edge.hash)
                if there is None:
                    missing.setdefault((edge.name, edge.hash), []).append(node.hash)
                elif there.name != edge.name:
                    text = f"{node.name} {node.hash} depends on it as {edge.name!r}, and it is {there.name!r}"
                    self._find("disagree", self._first[node.hash], edge.hash, text)
        for (name, key), users in sorted(missing.items()):
            users.sort()
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            self._find("dangling", self._first[users[0]], key, f"{name}, which {users[0]}{more} depends on, is nowhere")

    # ---- a mirror

    def mirror(self, source: Source) -> None:
        """An index against the blobs of its mirror."""
        index = self.catalogue.indexes[source.label]
        builds = {key: self.catalogue.nodes[key] for key in sorted(index.builds)}
        if source.layout in {"v3", "store"}:
            listed = set()
            self._specs = []
            for key, node in builds.items():
                listed.add(key)
                self._step(source)
                self._manifest(source, key, node)
            wrong = [(key, found) for key, found in self._specs if key != found]
            self._judge(source, "description", len(self._specs) - len(wrong), wrong)
            if not source.is_view:
                for key, path in source.manifests():
                    if key not in listed:
                        self._find("unlisted", source, key, f"{path} is not in the index")
            if source.snapshot is not None and not source.view:
                self._behind(source, source.snapshot.generation)
        elif source.layout == "v2":
            self._old_mirror(source, builds)

    def _behind(self, source: Source, generation: int) -> None:
        path = os.path.join(source.mirror, "v3", "manifests", "index", "index.manifest.json")
        try:
            with open(path, "rb") as file:
                written = document(file.read(LARGEST_SPEC), path).get("generation")
        except (OSError, CatalogueError):
            written = None
        if written != generation:
            self.report.notes.append(
                f"{source.title}: the index that Spack reads is of generation {written or 'none'}, the store has "
                f"{generation}: interlock store index brings it up to date"
            )

    def _step(self, source: Source) -> None:
        if self._progress is not None:
            self._progress(source.label, 1)

    def _manifest(self, source: Source, key: str, node: Node) -> None:
        try:
            blobs = source.blobs_of(node)
        except OSError as error:
            self._find("manifest", source, key, f"{error.filename}: {error.strerror}")
            return
        except CatalogueError as error:
            self._find("manifest", source, key, str(error).removeprefix(f"{source.title}: "))
            return
        if not any(blob.is_package for blob in blobs):
            self._find("manifest", source, key, f"{source.manifest_of(node)} names no package")
        for blob in blobs:
            fault = self._blobs.get(blob.path)
            if fault is None:
                fault = self._blobs[blob.path] = _fault(blob.path, blob.length, blob.digest if self._contents else "")
                self.report.blobs += 1
            if not fault and self._contents and blob.is_spec:
                fault = self._spec(blob, key)
            if fault:
                self._find("blob", source, key, f"{blob.path}: {fault}")

    def _spec(self, blob: Blob, key: str) -> str:
        """Whether a build's description, whose bytes are as they should be, describes another build."""
        try:
            with open(blob.path, "rb") as file:
                start = file.read(2)
                file.seek(0)
                packed = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
                data = packed.read(LARGEST_SPEC)
            node = document(data, blob.path)["spec"]["nodes"][0]
            found = node["hash"]
            if found == key and _hashable(node):
                self._specs.append((key, spec_hash(node)))
        except (OSError, EOFError, zlib.error, CatalogueError, KeyError, IndexError, TypeError, AttributeError):
            return "it is no description of a build"
        return "" if found == key else f"it describes {str(found)[:80]}"

    def _old_mirror(self, source: Source, builds: dict[str, Node]) -> None:
        tarballs, specs = source.old_files()
        for key, node in builds.items():
            self._step(source)
            spec = specs.get(key)
            if key not in tarballs:
                self._find("blob", source, key, f"there is no package of {node.name} in {source.mirror}")
                continue
            self.report.blobs += 1
            if spec is None:
                self._find("manifest", source, key, f"there is no .spec.json beside {tarballs[key]}")
                continue
            try:
                with open(spec, "rb") as file:
                    checksum = document(file.read(LARGEST_SPEC), spec).get("binary_cache_checksum")
            except (OSError, CatalogueError) as error:
                self._find("manifest", source, key, str(error))
                continue
            checksum = checksum if isinstance(checksum, dict) else {}
            digest = checksum.get("hash")
            if not isinstance(digest, str) or checksum.get("hash_algorithm") != "sha256":
                self._find("manifest", source, key, f"{spec} has no sha256 checksum of the package")
                continue
            fault = _fault(tarballs[key], None, digest if self._contents else "")
            if fault:
                self._find("blob", source, key, f"{tarballs[key]}: {fault}")
        for key in sorted(tarballs.keys() - builds.keys()):
            self._find("unlisted", source, key, f"{tarballs[key]} is not in the index")


def _hashable(spec: dict[str, Any]) -> bool:
    notes = spec.get("annotations")
    origin = notes.get("original_specfile_version", 5) if isinstance(notes, dict) else 5
    return "build_spec" not in spec and not (isinstance(origin, int) and origin < 5)


def _facts(one: Node, other: Node) -> Iterator[tuple[str, Any, Any]]:
    """What two descriptions of a build must have in common, whatever versions of the database they are from."""
    for what in ("name", "version", "platform", "os", "target"):
        yield what, getattr(one, what), getattr(other, what)
    yield "parameters", dict(one.parameters), dict(other.parameters)
    if one.package_hash and other.package_hash:
        yield "package_hash", one.package_hash, other.package_hash
    if one.compiler and other.compiler:
        yield "compiler", "@".join(one.compiler), "@".join(other.compiler)
    mine, theirs = ({(edge.name, edge.hash) for edge in node.dependencies} for node in (one, other))
    yield "dependencies", sorted(mine - theirs), sorted(theirs - mine)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{name}/{key[:7]}" for name, key in value) or "nothing else"
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _fault(path: str, length: int | None, digest: str) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if length is not None and size != length:
                return f"it has {size} bytes, not {length}"
            if digest and hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return "its sha256 is another: it is damaged"
    except OSError as error:
        return str(error.strerror)
    return ""
