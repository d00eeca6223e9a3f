"""The seed's page, byte for byte, from nine indexes; and back."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.catalogue import (
    CatalogueError,
    NotFoundError,
    Page,
    Row,
    page,
    parse_page,
    parse_sources,
    read,
    rows,
)

from ..support import need_module
from .indexes import ALIKE, SEED_PAGE, SEED_SHA256, Arch, Dep, Spec, record, seed_databases, seed_indexes, sources

if TYPE_CHECKING:
    from pathlib import Path

SEED = SEED_PAGE.read_text(encoding="ascii")
X86 = Arch("linux", "ubuntu22.04", "x86_64_v3")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return seed_indexes(tmp_path_factory.mktemp("indexes"))


def one(tmp_path: Path, *specs: Spec, version: int = 8, name: str = "x.json") -> str:
    path = tmp_path / name
    installs = {spec.hash: record(spec, version) for spec in specs}
    path.write_text(json.dumps({"database": {"version": str(version), "installs": installs}}))
    return f"root={path}"


@pytest.mark.parametrize("profile", ["pre-1.0", "1.x"])
def test_nine_indexes_give_the_seeds_page_byte_for_byte(indexes: dict[str, Path], profile: str) -> None:
    words = sources(indexes)
    random.Random(profile).shuffle(words)
    found = read(words)
    assert found.warnings == []
    text = page(found, "py-filelock", "develop", profile)
    assert text == SEED
    assert hashlib.sha256(text.encode()).hexdigest() == SEED_SHA256


def test_the_indexes_hold_more_than_the_page(indexes: dict[str, Path]) -> None:
    found = read(sources(indexes))
    assert {"openssl", "py-hatchling", "python", "zlib-ng"} < set(found.packages())
    assert "gcc" not in found.packages()  # only ever a dependency
    assert any(node.name == "gcc" for node in found.nodes.values())
    assert {index.version for index in found.indexes.values()} == {"6", "7", "8", "9"}
    order = list(json.loads(indexes["root"].read_bytes())["database"]["installs"])
    assert order != sorted(order)


def test_the_command_writes_the_bytes(indexes: dict[str, Path]) -> None:
    need_module("click")
    words = [word for source in sources(indexes) for word in ("--source", source)]
    command = [sys.executable, "-m", "interlock", "catalogue", "page", "py-filelock", "--ref", "develop", *words]
    done = subprocess.run(command, capture_output=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).hexdigest() == SEED_SHA256
    assert len(done.stdout) == 29145


def test_parsing_and_rendering_is_the_identity() -> None:
    found = parse_page(SEED)
    assert (found.title, found.ref, len(found.rows)) == ("py-filelock", "develop", 108)
    assert found.render() == SEED


words = st.text(st.characters(codec="utf-8"), max_size=12)
lists = st.lists(words, max_size=3).map(tuple)


@given(
    st.from_regex(r"[a-zäöü0-9.'<&-]+", fullmatch=True),
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1).filter(str.isprintable),
    st.lists(st.builds(Row, words, words, words, words, words, lists, words, lists, lists), max_size=4),
)
@settings(deadline=None)
def test_every_page_comes_back_as_it_was(title: str, ref: str, some: list[Row]) -> None:
    made = Page(title, ref, tuple(some))
    text = made.render()
    assert text.count("\n") == 6
    assert not text.endswith("\n")
    assert parse_page(text) == made
    assert parse_page(text).render() == text


@given(st.integers(0, len(SEED) - 1), st.characters(codec="ascii"))
@settings(deadline=None)
def test_a_page_that_was_changed_is_refused_or_says_so(where: int, char: str) -> None:
    text = SEED[:where] + char + SEED[where + 1 :]
    try:
        found = parse_page(text, "here.md")
    except CatalogueError as error:
        assert str(error).startswith(("here.md: ", "the package name", "the ref"))  # noqa: PT017
    else:
        assert found.render() == text


@pytest.mark.parametrize("bad", ['a"b', "a\nb", "a\rb", "a\\b", "a\x00b", "a\u2028b", ""])
def test_a_name_that_breaks_front_matter_is_refused(bad: str) -> None:
    with pytest.raises(CatalogueError, match="cannot be the title"):
        Page(bad, "develop", ()).render()


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("develop", "develop"),
        ("develop-2024-10-06", "develop-2024-10-06"),
        ("v0.21.2", "v0.21.2"),
        ("1.2.3", "1.2.3"),
        ("releases/v0.22", "releases/v0.22"),
        ("1.0", '"1.0"'),
        ("20241006", '"20241006"'),
        ("1e3", '"1e3"'),
        ("0x1F", '"0x1F"'),
        ("1_000", '"1_000"'),
        ("0o17", '"0o17"'),
        (".5", '".5"'),
        ("12:30", '"12:30"'),
        (".inf", '".inf"'),
        ("2024-10-06", '"2024-10-06"'),
        ("yes", '"yes"'),
        ("null", '"null"'),
        ("a]b", '"a]b"'),
        ("a, b", '"a, b"'),
        ("-x", '"-x"'),
    ],
)
def test_a_ref_that_yaml_would_read_otherwise_is_quoted(ref: str, text: str) -> None:
    made = Page("zlib", ref, ())
    assert made.render().split("\n")[3] == f"categories: [package, {text}]"
    assert parse_page(made.render()).ref == ref


# ---- what a row says


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (True, "+x", "+x"),
        (False, "~x", "~x"),
        ("True", "+x", "+x"),
        ("Release", "x=Release", "x=Release"),
        ("", "x=''", "x=''"),
        ("a b", "x='a b'", "x='a b'"),
        ("it's", 'x="it\'s"', 'x="it\'s"'),
        (("gfx90a",), "x=gfx90a", "x:=gfx90a"),
        (("a", "b"), "x=a,b", "x:=a,b"),
    ],
)
def test_variants(tmp_path: Path, value: object, old: str, new: str) -> None:
    found = read([one(tmp_path, Spec("p", "1", X86, (("x", value), ("build_system", "cmake"))))])
    assert rows(found, "p", "pre-1.0")[0].variants == (old, "build_system=cmake")
    assert rows(found, "p")[0].variants == (new, "build_system=cmake")


def test_patches_are_shortened(tmp_path: Path) -> None:
    found = read([one(tmp_path, Spec("p", "1", X86, (("patches", ("0123456789ab", "fedcba9876")),)))])
    assert rows(found, "p")[0].variants == ("patches:=0123456,fedcba9",)


@pytest.mark.parametrize("version", [6, 7])
def test_the_compiler_of_old_databases_is_a_field(tmp_path: Path, version: int) -> None:
    found = read([one(tmp_path, Spec("p", "1", X86, compiler=("gcc", "11.4.0")), version=version)])
    assert rows(found, "p", "pre-1.0")[0].compiler == "gcc@=11.4.0"
    assert rows(found, "p", "1.x")[0].compiler == "gcc@11.4.0"


@pytest.mark.parametrize("version", [8, 9])
def test_the_compiler_of_new_databases_is_a_dependency(tmp_path: Path, version: int) -> None:
    gcc, clang = Spec("gcc", "13.2.0", X86), Spec("llvm", "17.0.6", X86)
    both = Spec("p", "1", X86, deps=(Dep(gcc, ("build",), ("cxx",)), Dep(clang, ("build",), ("c",))))
    only = Spec("q", "1", X86, deps=(Dep(gcc, ALIKE, ("fortran",)), Dep(clang, ALIKE, ())))
    found = read([one(tmp_path, gcc, clang, both, only, version=version)])
    assert rows(found, "p", "pre-1.0")[0].compiler == "llvm@=17.0.6"
    assert rows(found, "p")[0].compiler == "llvm@17.0.6"
    assert rows(found, "q")[0].compiler == "gcc@13.2.0"
    assert rows(found, "gcc")[0].compiler == "none"


def test_a_compiler_that_no_index_describes_has_no_version(tmp_path: Path) -> None:
    user = Spec("p", "1", X86, deps=(Dep(Spec("gcc", "13.2.0", X86), ("build",), ("c",)),))
    assert rows(read([one(tmp_path, user)]), "p")[0].compiler == "gcc"


def test_a_dependency_only_record_is_no_row_but_its_index_counts(tmp_path: Path) -> None:
    spec, other = Spec("p", "1", X86), Spec("p", "2", X86)
    root = one(tmp_path, spec, name="r")
    path = tmp_path / "e4s"
    installs = {
        spec.hash: record(spec, 7, in_buildcache=False),
        other.hash: record(other, 7, in_buildcache=True),
    }
    path.write_text(json.dumps({"database": {"version": "7", "installs": installs}}))
    [row] = rows(read([root, f"e4s={path}"]), "p")
    assert (row.hash, row.stacks) == (spec.hash, ("e4s", "root"))


def test_what_is_not_there(indexes: dict[str, Path]) -> None:
    with pytest.raises(NotFoundError, match="did you mean py-hatchling"):
        page(read(sources(indexes)), "py-hatching", "develop")
    with pytest.raises(CatalogueError, match="no source is labelled 'root'"):
        page(read([f"e4s={indexes['e4s']}"]), "py-filelock", "develop")
    with pytest.raises(CatalogueError, match="no profile"):
        page(read(sources(indexes)), "py-filelock", "develop", "0.9")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["root={x}", "root={x}"], "label 'root' is taken"),
        (["{x}", "root={x}"], "label 'root' is taken"),
        (["=x"], "write LABEL=PLACE"),
        (["root="], "write LABEL=PLACE"),
        (["root=/no/where"], "no such file"),
        (["ro\not={x}"], "printable"),
        (["root=."], "it is no mirror"),
        (["root=/dev/null"], "neither a file nor a directory"),
        ([], "at least one source"),
    ],
)
def test_sources_that_are_written_wrongly(indexes: dict[str, Path], words: list[str], says: str) -> None:
    with pytest.raises(CatalogueError, match=says):
        parse_sources([word.format(x=indexes["e4s"]) for word in words])


def test_the_databases_are_the_same_each_time() -> None:
    assert seed_databases() == seed_databases()
