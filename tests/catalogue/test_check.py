"""What `check` names, each planted once into what is consistent; and that it finds nothing there before."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from interlock.catalogue import KINDS, check, parse_sources
from interlock.catalogue.check import spec_hash
from interlock.store import Store

from ..support import need_module
from .indexes import Arch, Dep, Spec, record, seed_indexes, sources
from .putter import archive, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X86 = Arch("linux", "ubuntu22.04", "x86_64_v3")
ZLIB = Spec("zlib", "1.3", X86, (("pic", True),))
PNG = Spec("libpng", "1.6", X86, (), (Dep(ZLIB, ("link",)),))
USER = Spec("user", "2.0", X86, (), (Dep(PNG, ("link",)), Dep(ZLIB, ("link",))))
SPECS = (ZLIB, PNG, USER)

# From the test data of Spack itself: a database of version 7, whose hashes Spack made.
SPACKS = (
    '{"name":"libelf","version":"0.8.13","arch":{"platform":"test","platform_os":"debian6","target":{"name":"core2",'
    '"vendor":"GenuineIntel","features":["mmx","sse","sse2","ssse3"],"generation":0,"parents":["nocona"],"cpupart":""}},'
    '"compiler":{"name":"gcc","version":"10.2.1"},"namespace":"builtin.mock","parameters":{"build_system":"generic",'
    '"cflags":[],"cppflags":[],"cxxflags":[],"fflags":[],"ldflags":[],"ldlibs":[]},"package_hash":'
    '"ejr32l7tkp6uhdrlunqv4adkuxqwyac7vbqcjvg6dh72mll4cpiq====","hash":"rqh2vuf6fqwkmipzgi2wjx352mq7y7ez"}'
)


def test_the_hash_is_spacks() -> None:
    spec = json.loads(SPACKS)
    assert spec_hash(spec) == spec["hash"] == "rqh2vuf6fqwkmipzgi2wjx352mq7y7ez"
    assert spec_hash({**spec, "version": "0.8.14"}) != spec["hash"]


def write(path: Path, installs: dict[str, Any]) -> None:
    path.write_text(json.dumps({"database": {"version": "8", "installs": installs}}))


@pytest.fixture
def root() -> dict[str, Any]:
    return {spec.hash: record(spec, 8) for spec in SPECS}


@pytest.fixture
def stack(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(root))
    return found


def found(tmp_path: Path, root: dict[str, Any], stack: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    write(tmp_path / "root.json", root)
    words = [f"root={tmp_path / 'root.json'}"]
    if stack is not None:
        write(tmp_path / "e4s.json", stack)
        words.append(f"e4s={tmp_path / 'e4s.json'}")
    report = check(parse_sources(words))
    assert all(finding.kind in KINDS for finding in report.findings)
    return [(finding.kind, finding.hash, finding.text) for finding in report.findings]


def test_nothing_is_found_where_all_is_well(tmp_path: Path, root: dict[str, Any], stack: dict[str, Any]) -> None:
    assert found(tmp_path, root, stack) == []
    assert found(tmp_path, root, None) == []


def test_content_that_is_not_the_hashs(tmp_path: Path, root: dict[str, Any]) -> None:
    root[PNG.hash]["spec"]["version"] = "1.7"
    [(kind, key, text)] = found(tmp_path, root, None)
    assert (kind, key) == ("content", PNG.hash)
    assert text == f"the hash of its record is {spec_hash(root[PNG.hash]['spec'])}"


def test_an_index_with_other_hashes_is_a_note(tmp_path: Path) -> None:
    specs = [Spec("p", str(number), X86, forced=f"{number}" * 32) for number in range(9)]
    write(tmp_path / "x.json", {spec.hash: record(spec, 8) for spec in specs})
    report = check(parse_sources([f"root={tmp_path / 'x.json'}"]))
    assert report.findings == []
    assert "9 of 9 hashes" in report.notes[0]


def test_spliced_and_converted_builds_are_not_judged(tmp_path: Path, root: dict[str, Any]) -> None:
    root[PNG.hash]["spec"]["build_spec"] = {"name": "libpng", "hash": "x"}
    root[USER.hash]["spec"]["annotations"]["original_specfile_version"] = 4
    root[USER.hash]["spec"]["version"] = "3"
    assert found(tmp_path, root, None) == []


def test_root_against_stacks(tmp_path: Path, root: dict[str, Any], stack: dict[str, Any]) -> None:
    other = Spec("other", "1", X86)
    stack[other.hash] = record(other, 8)
    root[PNG.hash]["in_buildcache"] = False
    del stack[USER.hash]
    assert found(tmp_path, root, stack) == [
        ("not-in-root", *sorted_pair((PNG.hash, "libpng is in e4s, and only a dependency there"),
                                     (other.hash, "other is in e4s, and not there"))[0]),
        ("not-in-root", *sorted_pair((PNG.hash, "libpng is in e4s, and only a dependency there"),
                                     (other.hash, "other is in e4s, and not there"))[1]),
        ("in-no-stack", USER.hash, "user is in no stack's index"),
    ]  # fmt: skip


def sorted_pair(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    return sorted(pairs)


def test_sources_that_disagree(tmp_path: Path, root: dict[str, Any], stack: dict[str, Any]) -> None:
    stack[PNG.hash]["spec"]["arch"]["target"] = "zen4"
    stack[PNG.hash]["spec"]["dependencies"] = []
    kinds = found(tmp_path, root, stack)
    assert ("disagree", PNG.hash, 'its target is "zen4", and "x86_64_v3" in root') in kinds
    assert ("disagree", PNG.hash, f"its dependencies is nothing else, and zlib/{ZLIB.hash[:7]} in root") in kinds
    assert {kind for kind, _, _ in kinds} == {"disagree", "content"}


@pytest.mark.parametrize("version", [6, 7, 9])
def test_versions_of_the_database_do_not_disagree(tmp_path: Path, root: dict[str, Any], version: int) -> None:
    stack = {spec.hash: record(spec, version) for spec in SPECS}
    assert [item for item in found(tmp_path, root, stack) if item[0] != "content"] == []


def test_keys_and_dependencies(tmp_path: Path, root: dict[str, Any]) -> None:
    root["b" * 32] = root.pop(ZLIB.hash)
    assert found(tmp_path, root, None) == [
        ("key", "b" * 32, f"its spec says '{ZLIB.hash}'"),
        ("dangling", ZLIB.hash, f"zlib, which {min(PNG.hash, USER.hash)} and 1 more depends on, is nowhere"),
    ]


def test_damage_is_found_and_the_rest_is_checked(tmp_path: Path, root: dict[str, Any]) -> None:
    root["a" * 32] = {"spec": {"name": 1}}
    root[PNG.hash]["spec"]["version"] = "1.7"
    assert [kind for kind, _, _ in found(tmp_path, root, None)] == ["damaged", "content"]
    (tmp_path / "e4s.json").write_text("{")
    report = check(parse_sources([f"root={tmp_path / 'root.json'}", f"e4s={tmp_path / 'e4s.json'}"]))
    assert [finding.kind for finding in report.findings] == ["damaged", "content", "unreadable"]


# ---- mirrors


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = Store(tmp_path / "store", durable=False)
    for spec in SPECS:
        place.put(document(spec), archive(spec), views=["e4s"])
    place.index()
    return tmp_path / "store"


def blob_of(store: Path, spec: Spec, kind: str) -> Path:
    manifest = json.loads(manifest_of(store, spec).read_bytes())
    [digest] = [item["checksum"] for item in manifest["data"] if kind in item["mediaType"]]
    return store.joinpath("blobs", "sha256", digest[:2], digest)


def manifest_of(store: Path, spec: Spec) -> Path:
    name = f"{spec.name}-{spec.version}-{spec.hash}.spec.manifest.json"
    return store / "v3" / "manifests" / "spec" / spec.name / name


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def describe_another(store: Path) -> None:
    """The description of libpng becomes that of zlib, with checksums that fit."""
    manifest = json.loads(manifest_of(store, PNG).read_bytes())
    data = blob_of(store, ZLIB, ".spec.").read_bytes()
    for item in manifest["data"]:
        if ".spec." in item["mediaType"]:
            item["checksum"], item["contentLength"] = hashlib.sha256(data).hexdigest(), len(data)
    rewrite(manifest_of(store, PNG), json.dumps(manifest))


def tamper(store: Path) -> None:
    """The description of libpng names another version, with checksums that fit."""
    manifest = json.loads(manifest_of(store, PNG).read_bytes())
    data = blob_of(store, PNG, ".spec.").read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    text = (gzip.decompress(data) if packed else data).replace(b'"1.6"', b'"6.6"')
    data = gzip.compress(text) if packed else text
    digest = hashlib.sha256(data).hexdigest()
    path = store / "blobs" / "sha256" / digest[:2] / digest
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    for item in manifest["data"]:
        if ".spec." in item["mediaType"]:
            item["checksum"], item["contentLength"] = digest, len(data)
    rewrite(manifest_of(store, PNG), json.dumps(manifest))


def rewrite(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)


def unlist(store: Path) -> None:
    shutil.copy(manifest_of(store, PNG), manifest_of(store, PNG).with_name(f"libpng-9-{'c' * 32}.spec.manifest.json"))


@pytest.mark.parametrize(
    ("plant", "kind", "says"),
    [
        (lambda store: manifest_of(store, PNG).unlink(), "manifest", "No such file"),
        (lambda store: rewrite(manifest_of(store, PNG), "{"), "manifest", "it is damaged"),
        (lambda store: rewrite(manifest_of(store, PNG), '{"version": 3, "data": []}'), "manifest", "names no package"),
        (lambda store: rewrite(manifest_of(store, PNG), '{"version": 4, "data": []}'), "manifest", "version 4"),
        (lambda store: blob_of(store, PNG, ".install.").unlink(), "blob", "No such file"),
        (lambda store: rewrite(blob_of(store, PNG, ".install."), "short"), "blob", "it has 5 bytes, not"),
        (lambda store: flip(blob_of(store, PNG, ".install.")), "blob", "its sha256 is another"),
        (describe_another, "blob", f"it describes {ZLIB.hash}"),
        (tamper, "content", "the hash of its description is"),
        (unlist, "unlisted", "is not in the index"),
    ],
)
@pytest.mark.parametrize("as_spack_sees_it", [False, True])
def test_an_index_against_its_blobs(
    store: Path, plant: Callable[[Path], object], kind: str, says: str, as_spack_sees_it: bool
) -> None:
    if as_spack_sees_it:
        shutil.rmtree(store / ".interlock")
    words = [f"root={store}"]
    assert check(parse_sources(words)).findings == []
    plant(store)
    [finding] = check(parse_sources(words)).findings
    assert (finding.kind, finding.hash) == (kind, "c" * 32 if kind == "unlisted" else PNG.hash)
    assert says in finding.text
    if says == "its sha256 is another":
        assert check(parse_sources(words), contents=False).findings == []
    assert check(parse_sources(words), ignore=[kind]).findings == []


def test_a_damaged_index_blob_is_named(store: Path) -> None:
    shutil.rmtree(store / ".interlock")
    [source] = parse_sources([f"root={store}"])
    flip(store / source.path)
    [finding] = check([source]).findings
    assert finding.kind == "unreadable"
    assert source.path in finding.text
    assert "interlock store index" in finding.text


# ---- the older layout


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    place = tmp_path / "mirror" / "build_cache"
    place.mkdir(parents=True)
    for spec in SPECS:
        stem = f"linux-ubuntu22.04-x86_64_v3-none-none-{spec.name}-{spec.version}-{spec.hash}"
        folder = place / "linux-ubuntu22.04-x86_64_v3" / "none-none" / f"{spec.name}-{spec.version}"
        folder.mkdir(parents=True)
        (folder / f"{stem}.spack").write_bytes(archive(spec))
        digest = hashlib.sha256(archive(spec)).hexdigest()
        checksum = {"hash_algorithm": "sha256", "hash": digest}
        text = json.dumps({**document(spec), "binary_cache_checksum": checksum})
        if spec is USER:
            signed = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}\n-----BEGIN PGP SIGNATURE-----\n\nx\n"
            (place / f"{stem}.spec.json.sig").write_text(signed)
        else:
            (place / f"{stem}.spec.json").write_text(text)
    write(place / "index.json", {spec.hash: record(spec, 8) for spec in SPECS})
    return tmp_path / "mirror"


def test_the_older_layout(mirror: Path) -> None:
    words = [f"root={mirror}"]
    report = check(parse_sources(words))
    assert (report.findings, report.blobs) == ([], 3)
    [package] = mirror.rglob(f"*{USER.hash}.spack")
    flip(package)
    assert [(f.kind, f.hash) for f in check(parse_sources(words)).findings] == [("blob", USER.hash)]
    package.unlink()
    next(mirror.rglob(f"*{PNG.hash}.spec.json")).unlink()
    package.with_name(package.name.replace(USER.hash, "d" * 32)).write_bytes(b"")
    found = {(f.kind, f.hash) for f in check(parse_sources(words)).findings}
    assert found == {("blob", USER.hash), ("manifest", PNG.hash), ("unlisted", "d" * 32)}


# ---- the command


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interlock", "catalogue", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command(tmp_path: Path, root: dict[str, Any]) -> None:
    need_module("click")
    path = tmp_path / "root.json"
    write(path, root)
    done = tool("check", "--source", f"root={path}")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "interlock: 3 records and 0 blobs looked at: consistent\n"
    root[PNG.hash]["spec"]["version"] = "1.7"
    write(path, root)
    done = tool("check", "--source", f"root={path}")
    assert done.returncode == 1
    assert done.stdout.startswith(f"content: root={path}: {PNG.hash}: ")
    done = tool("check", "--json", "--source", f"root={path}")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["consistent"] is False
    assert report["findings"][0]["hash"] == PNG.hash
    assert tool("check", "--ignore", "content", "--source", f"root={path}").returncode == 0
    done = tool("check", "--source", "root=/no/where")
    assert (done.returncode, done.stderr) == (3, "interlock: root=/no/where: there is no such file or directory\n")
    assert tool("check").returncode == 2


def test_the_other_commands(tmp_path: Path) -> None:
    need_module("click")
    words = [word for source in sources(seed_indexes(tmp_path)) for word in ("--source", source)]
    done = tool("list", *words)
    assert done.returncode == 0
    assert "py-filelock      108  3.12.4\n" in done.stdout
    packages = json.loads(tool("list", "--json", *words).stdout)
    assert {"name": "py-filelock", "builds": 108, "versions": ["3.12.4"], "size": None} in packages
    whole = json.loads(tool("json", "py-filelock", *words).stdout)
    [package] = whole["packages"]
    assert len(package["builds"]) == 108
    assert sorted(map(len, package["groups"])) == [1, 1, 3, 10, 13, 14, 18, 19, 29]
    left, right = package["groups"][0][0], package["groups"][0][7]
    done = tool("diff", left[:6], right[:6], *words)
    assert done.returncode == 0
    assert "py-filelock > python" in done.stdout
    result = json.loads(tool("diff", left, right, "--json", *words).stdout)
    assert (result["left"]["hash"], result["right"]["hash"]) == (left, right)
    assert result["causes"]
    assert tool("diff", left, "zzzz", *words).returncode == 1
    assert tool("diff", "", right, *words).returncode == 1
    assert tool("page", "nothing", "--ref", "x", *words).returncode == 1
    fields = json.loads(tool("page", "py-filelock", "--ref", "develop", "--json", *words).stdout)
    assert list(fields) == ["title", "layout", "categories", "meta", "spec_details"]
    assert fields["categories"] == ["package", "develop"]
    assert len(fields["spec_details"]) == fields["meta"]["num_specs"] == 108
    need_module("jinja2")
    done = tool("site", str(tmp_path / "out"), "--json", *words)
    assert json.loads(done.stdout)["packages"] == len(packages)
    assert (tmp_path / "out" / "index.html").exists()
    done = tool("site", str(tmp_path), *words)
    assert done.returncode == 3
    assert "something else" in done.stderr
    (tmp_path / "bad.json").write_text("no")
    done = tool("page", "x", "--ref", "x", "--source", f"root={tmp_path / 'bad.json'}")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_warnings_and_help_are_told() -> None:
    need_module("click")
    for name in ("page", "list", "json", "site", "diff", "check"):
        text = tool(name, "--help").stdout
        assert "\n    3  " in text
        assert "\n    125  " in text
        assert "\b" not in text


def test_an_archive_that_is_no_tarball_is_one_nevertheless(tmp_path: Path) -> None:
    built = Store(tmp_path / "store", durable=False)
    built.put(document(PNG), b"of a kind that Spack does not write")
    built.index()
    report = check(parse_sources([f"root={tmp_path / 'store'}"]))
    assert [finding for finding in report.findings if finding.kind == "manifest"] == []
