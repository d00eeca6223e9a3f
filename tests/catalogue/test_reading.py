"""Readers: what is damaged or hostile gives one clear error, and never anything else."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.catalogue import CatalogueError, page, read, rows, scan
from interlock.catalogue.records import Builder, RecordError
from interlock.catalogue.scan import records

from .indexes import Arch, Dep, Spec, record, seed_databases, seed_indexes, sources

if TYPE_CHECKING:
    from pathlib import Path

X86 = Arch("linux", "ubuntu22.04", "x86_64_v3")
ZLIB = Spec("zlib", "1.3", X86, (("pic", True),))
USER = Spec("user", "2.0", X86, (("targets", ("a", "b")),), (Dep(ZLIB, ("build", "link")),))


def database(*specs: Spec, version: object = "8") -> dict[str, Any]:
    return {"database": {"version": version, "installs": {spec.hash: record(spec, 8) for spec in specs}}}


def scanned(data: bytes) -> list[tuple[str | None, Any]]:
    return list(records(io.BytesIO(data), "x.json"))


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 4096])
def test_pieces_of_any_size_give_the_same_records(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(seed_databases()["radiuss"])[:-1] + ', "é": [12, 1e3, "ü"]}'
    whole = scanned(text.encode())
    if piece == 1:
        text = json.dumps(database(ZLIB), indent=1, ensure_ascii=False)
        whole = scanned(text.encode())
    monkeypatch.setattr(scan, "PIECE", piece)
    assert scanned(text.encode()) == whole
    assert scanned(gzip.compress(text.encode())) == whole


def test_version_may_come_last_and_unknown_keys_are_passed_over() -> None:
    text = '{"a": {"b": []}, "database": {"x": [1], "installs": {"h": {"spec": 1}}, "version": "8"}, "c": 1}'
    assert scanned(text.encode()) == [("h", {"spec": 1}), (None, "8")]
    assert scanned(b"\xef\xbb\xbf" + text.encode()) == scanned(text.encode())


GOOD = json.dumps(database(ZLIB, USER)).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not begin with '{'"),
        (b"   \n", "does not begin with '{'"),
        (b"[]", "does not begin with '{'"),
        (b"<html>", "does not begin with '{'"),
        (b"\x00" * 100, "does not begin with '{'"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{}", "has no 'database'"),
        (b'{"database": []}', "'database' is not an object"),
        (b'{"database": {}}', "no 'version'"),
        (b'{"database": {"version": "8"}}', "no 'installs'"),
        (b'{"database": {"version": "8", "installs": []}}', "'installs' is not an object"),
        (b'{"database": {"version": "8", "installs": {}, "installs": {}}}', "comes twice"),
        (GOOD[:-3], "is missing"),
        (GOOD[: len(GOOD) // 2], "damaged"),
        (GOOD + b"x", "something comes after the end"),
        (GOOD.replace(b"true", b"NaN"), "NaN is not JSON"),
        (GOOD.replace(b"true", b"9" * 5000), "digits"),
        (GOOD.replace(b"true", b"[" * 100_000 + b"]" * 100_000), "nested too deeply"),
        (GOOD.replace(b"true", b'"\x01"'), "[Cc]ontrol character"),
        (b'{"database": {"version": "8", "installs": {"a" {}}}}', "stands where ':' must"),
        (b'{"database": {"version": "8", "installs": {a: {}}}}', "a key is missing"),
        (b"\x1f\x8b" + b"\x00" * 30, "x.json"),
        (gzip.compress(GOOD)[:-20], "x.json"),
    ],
)
def test_what_is_no_index_is_one_clear_error(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match=says) as caught:
        read([f"root={path}"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_record_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONGEST_RECORD", 1000)
    monkeypatch.setattr(scan, "PIECE", 100)
    file = io.BytesIO(b'{"database": {"version": "8", "installs": {"a": "' + b"x" * 1_000_000)
    with pytest.raises(CatalogueError, match="longer than 1000"):
        list(records(file, "x.json"))
    assert file.closed
    monkeypatch.setattr(scan, "LONGEST_SOURCE", 5000)
    with pytest.raises(CatalogueError, match="more than 5000 bytes"):
        scanned(b'{"database": {"version": "8", "installs": {' + b'"a": 1, ' * 10_000)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("5", "too old"),
        (8, "version is 8,"),
        ("eight", "'6' to '9'"),
        ("", "'6' to '9'"),
        (None, "None"),
        ("9" * 20, "'6'"),
    ],
)
def test_a_version_that_is_not_read(tmp_path: Path, version: object, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(database(ZLIB, version=version)))
    with pytest.raises(CatalogueError, match=says):
        read([f"root={path}"])


def test_a_newer_version_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(database(ZLIB, version="12")))
    found = read([f"root={path}"])
    assert len(rows(found, "zlib")) == 1
    [warning] = found.warnings
    assert "has version 12" in warning
    assert str(path) in warning


def changed(**changes: Any) -> dict[str, Any]:
    """A record with one thing changed; a name with a double underscore reaches into the spec."""
    item = record(USER, 8)
    for name, value in changes.items():
        (item["spec"] if name.startswith("spec__") else item)[name.removeprefix("spec__")] = value
    return item


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ([], "the record is a list"),
        (None, "the record is missing"),
        (changed(spec=None), "spec is missing"),
        (changed(spec="x"), "spec is a string"),
        (changed(in_buildcache="yes"), "in_buildcache is a string"),
        (changed(spec__name=7), "spec.name is a number"),
        (changed(spec__name=""), "spec.name is empty"),
        (changed(spec__name="x" * 70_000), "70000 characters"),
        (changed(spec__name="\ud800"), "lone surrogate"),
        (changed(spec__version=3.12), "spec.version is a number"),
        (changed(spec__arch="linux"), "spec.arch is a string"),
        (changed(spec__arch={"platform": "x", "platform_os": "y"}), "spec.arch.target is missing"),
        (changed(spec__arch={"platform": "x", "platform_os": "y", "target": {"name": []}}), "target is a list"),
        (changed(spec__parameters=[]), "spec.parameters is a list"),
        (changed(spec__parameters={"x": None}), "parameter x is missing"),
        (changed(spec__parameters={"x": {}}), "parameter x is an object"),
        (changed(spec__parameters={"x": [["y"]]}), "an item of parameter x is a list"),
        (changed(spec__compiler="gcc"), "spec.compiler is a string"),
        (changed(spec__compiler={"name": "gcc"}), "spec.compiler.version is missing"),
        (changed(spec__dependencies={}), "spec.dependencies is an object"),
        (changed(spec__dependencies=["x"]), "a dependency is a string"),
        (changed(spec__dependencies=[{"name": "x", "hash": 1}]), "a dependency's hash is a number"),
        (changed(spec__dependencies=[{"name": "x", "hash": "y", "parameters": []}]), "parameters are a list"),
        (changed(spec__dependencies=[{"name": "x", "hash": "y", "type": "build"}]), "types is a string"),
        (
            changed(spec__dependencies=[{"name": "x", "hash": "y", "parameters": {"deptypes": [{}], "virtuals": []}}]),
            "types is an object",
        ),
        (changed(spec__package_hash=1), "spec.package_hash is a number"),
    ],
)
def test_a_damaged_record_is_named_or_left_out(tmp_path: Path, item: Any, says: str) -> None:
    path = tmp_path / "x.json"
    installs = {"good": record(ZLIB, 8), "bad\nkey": item}
    path.write_text(json.dumps({"database": {"version": "8", "installs": installs}}))
    with pytest.raises(CatalogueError, match=says) as caught:
        read([f"root={path}"])
    assert "'bad\\nkey'" in str(caught.value)
    assert "--skip-damaged" in str(caught.value)
    found = read([f"root={path}"], skip_damaged=True)
    assert [node.name for node in found.nodes.values()] == ["zlib"]
    assert len(found.warnings) == 1


def test_a_number_is_no_switch() -> None:
    """1 equals True, and what was seen before is looked up."""
    builder = Builder()

    def parameters(value: object) -> object:
        return builder.node("h", changed(spec__parameters={"x": value})).parameters

    assert parameters(True) == (("x", True),)
    assert parameters(1) == (("x", "1"),)
    assert parameters(0) == (("x", "0"),)
    assert parameters(False) == (("x", False),)
    assert parameters([1, True]) == (("x", ("1", "True")),)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["spec", "in_buildcache", "name", "version", "arch", "platform", "platform_os", "target", "parameters", "compiler",
     "dependencies", "hash", "deptypes", "virtuals", "type", "package_hash", "namespace"]
)  # fmt: skip
shaped = st.recursive(
    json_values,
    lambda inner: st.dictionaries(keys, inner, max_size=6) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@given(shaped)
@settings(deadline=None)
def test_any_record_is_a_node_or_an_error(item: Any) -> None:
    try:
        Builder().node("key", item)
    except RecordError as error:
        assert str(error)  # noqa: PT017


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A good record with one value somewhere replaced."""
    item: Any = json.loads(json.dumps(record(USER, draw(st.integers(6, 9)))))
    place: Any = item
    for _ in range(draw(st.integers(0, 4))):
        where = list(place) if isinstance(place, dict) else range(len(place))
        if not len(where):
            break
        key = draw(st.sampled_from(where))
        if not isinstance(place[key], dict | list):
            place[key] = draw(json_values)
            return item
        place = place[key]
    if isinstance(place, dict) and place:
        place[draw(st.sampled_from(list(place)))] = draw(json_values)
    return item


@given(mutated())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_read_can_be_shown(tmp_path: Path, item: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"database": {"version": "8", "installs": {"k": item}}}))
    try:
        found = read([f"root={path}"])
    except CatalogueError:
        return
    for name in found.packages():
        try:
            text = page(found, name, "develop")
        except CatalogueError as error:
            assert "cannot be the title" in str(error)  # noqa: PT017
        else:
            assert text.count("\n") == 6
            assert text.split("\n", 5)[5].split("\n")[0].isascii()


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_index_or_one_error(data: st.DataObject) -> None:
    text = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(text) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "drop", "double"]))
        if kind == "set":
            text[where] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del text[max(where, 1) :]
        elif kind == "drop" and len(text) > 8:
            del text[where : where + 7]
        else:
            text[where:where] = text[where : where + 50]
    try:
        scanned(bytes(text))
    except CatalogueError as error:
        assert str(error).startswith("x.json: ")  # noqa: PT017


def test_a_stack_is_read_lightly_but_its_damage_is_seen(tmp_path: Path) -> None:
    paths = seed_indexes(tmp_path)
    document = json.loads(paths["e4s"].read_bytes())
    key = next(iter(document["database"]["installs"]))
    document["database"]["installs"][key]["in_buildcache"] = 1
    paths["e4s"].write_text(json.dumps(document))
    with pytest.raises(CatalogueError, match=f"e4s=.*{key}.*in_buildcache"):
        read(sources(paths))


def test_progress_adds_up_to_the_files(tmp_path: Path) -> None:
    paths = seed_indexes(tmp_path)
    seen: dict[str, int] = {}
    read(sources(paths), progress=lambda label, count: seen.update({label: seen.get(label, 0) + count}))
    assert seen == {label: path.stat().st_size for label, path in paths.items()}
