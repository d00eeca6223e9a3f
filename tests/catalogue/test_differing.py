"""Why two builds differ: causes, what is carried along, and what cannot be told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interlock.catalogue import NotFoundError, difference, groups, read

from .indexes import Arch, Dep, Spec, record, seed_indexes, sources

if TYPE_CHECKING:
    from interlock.catalogue import Catalogue, Difference

X86 = Arch("linux", "ubuntu22.04", "x86_64_v3")
LINK = ("build", "link")


def make(name: str, version: str = "1", *deps: Spec, types: tuple[str, ...] = LINK, **more: object) -> Spec:
    recipe = str(more.pop("recipe", "1"))
    return Spec(name, version, X86, tuple(more.items()), tuple(Dep(dep, types) for dep in deps), recipe=recipe)


def catalogue(tmp_path: Path, *specs: Spec, version: int = 8) -> Catalogue:
    installs: dict[str, object] = {}
    waiting = list(specs)
    while waiting:
        spec = waiting.pop()
        installs[spec.hash] = record(spec, version)
        waiting += [dep.spec for dep in spec.deps if not dep.spec.name.startswith("unlisted")]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"database": {"version": str(version), "installs": installs}}))
    return read([f"root={path}"])


def between(tmp_path: Path, left: Spec, right: Spec) -> Difference:
    found = catalogue(tmp_path, left, right)
    return difference(found, found.nodes[left.hash], found.nodes[right.hash])


def told(found: Difference) -> list[tuple[str, tuple[tuple[str, str, str], ...]]]:
    return [("/".join(change.path), change.own) for change in found.causes]


def test_the_cause_is_where_it_begins_and_the_rest_is_carried(tmp_path: Path) -> None:
    old, new = make("zlib", "1.2"), make("zlib", "1.3")
    same = make("xz")

    def top(zlib: Spec) -> Spec:
        ssl = make("openssl", "3", zlib)
        return make("app", "1", make("python", "3.11", ssl, zlib, same), ssl, same)

    found = between(tmp_path, top(old), top(new))
    assert told(found) == [("app/openssl/zlib", (("version", "1.2", "1.3"),))] or told(found) == [
        ("app/python/zlib", (("version", "1.2", "1.3"),))
    ]
    assert sorted(found.carried) == [("app", "openssl"), ("app", "python")]
    assert found.same == 1
    assert found.unknown == []


def test_every_kind_of_own_difference(tmp_path: Path) -> None:
    left = Spec("p", "1", X86, (("x", True), ("k", "a"), ("gone", "1"), ("cflags", ("-O2",))), recipe="1")
    right = Spec("p", "2", X86._replace(target="zen4"), (("x", False), ("k", "a"), ("come", ("1",))), recipe="2")
    [change] = between(tmp_path, left, right).causes
    assert [what for what, _, _ in change.own] == ["version", "target", "variant", "variant", "variant", "recipe"]
    assert change.own[2:5] == (("variant", "+x", "~x"), ("variant", "gone=1", ""), ("variant", "", "come:=1"))


def test_dependencies_that_only_one_has_and_other_uses(tmp_path: Path) -> None:
    zlib, xz = make("zlib"), make("xz")
    [change] = between(tmp_path, make("p", "1", zlib), make("p", "1", xz)).causes
    assert (change.only_left, change.only_right) == ((f"zlib/{zlib.hash}",), (f"xz/{xz.hash}",))
    [change] = between(tmp_path, make("p", "1", zlib), make("p", "1", zlib, types=("run",))).causes
    assert change.own == (("use of zlib", "build, link", "run"),)


def test_two_dependencies_of_one_name_are_paired_by_use(tmp_path: Path) -> None:
    one, two, three = make("py-x", "1"), make("py-x", "2"), make("py-x", "3")

    def top(build: Spec, run: Spec) -> Spec:
        return Spec("p", "1", X86, (), (Dep(build, ("build",)), Dep(run, ("run",))))

    found = between(tmp_path, top(one, two), top(one, three))
    assert told(found) == [("p/py-x", (("version", "2", "3"),))]
    found = between(tmp_path, top(one, two), top(three, two))
    assert told(found) == [("p/py-x", (("version", "1", "3"),))]


def test_what_no_index_describes_is_unknown(tmp_path: Path) -> None:
    one, two = make("unlisted", "1"), make("unlisted", "2")
    left, right = make("p", "1", one), make("p", "1", two)
    found = between(tmp_path, left, right)
    assert told(found) == []
    assert found.unknown == [(("p", "unlisted"), one.hash, two.hash)]


def test_nothing_but_the_hash(tmp_path: Path) -> None:
    left, right = (Spec("p", "1", X86, forced=key * 32) for key in "ab")
    assert told(between(tmp_path, left, right)) == [("p", (("something that the index does not record", "", ""),))]
    assert told(between(tmp_path, left, left)) == []


def test_other_packages_are_not_compared(tmp_path: Path) -> None:
    found = catalogue(tmp_path, make("p"), make("q"))
    with pytest.raises(NotFoundError, match="'p'"):
        difference(found, found.find(make("p").hash), found.find(make("q").hash[:8]))


def test_a_circle_ends(tmp_path: Path) -> None:
    def ring(key: str) -> dict[str, object]:
        user = Spec("a", "1", X86, (), (Dep(Spec("b", "1", X86, forced=key * 31 + "b"), LINK),), forced=key * 31 + "a")
        back = Spec("b", "1", X86, (), (Dep(user, LINK),), forced=key * 31 + "b")
        return {user.hash: record(user, 8), back.hash: record(back, 8)}

    path = tmp_path / "x.json"
    path.write_text(json.dumps({"database": {"version": "8", "installs": ring("x") | ring("y")}}))
    found = read([f"root={path}"])
    result = difference(found, found.find("x" * 31 + "a"), found.find("y" * 31 + "a"))
    assert result.carried == [("a", "b")]


def test_groups_name_what_varies(tmp_path: Path) -> None:
    found = read(sources(seed_indexes(tmp_path)))
    shown = groups(found, "py-filelock")
    assert sum(len(group.nodes) for group in shown) == 108
    for group in shown:
        if len(group.nodes) > 1:
            assert all({"python", "python-venv"} <= {edge.name for edge in group.varying[n.hash]} for n in group.nodes)
        else:
            assert group.varying == {group.nodes[0].hash: ()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the benchmark asks the kernel for memory")
def test_a_tenth_of_a_large_cache_stays_in_bounds(tmp_path: Path) -> None:
    """10,000 builds of 200 packages, by the benchmark's own measure, with limits that noise does not reach: a tenth
    of the size may take all the time of the whole. `python -m bench.catalogue --check` is the whole."""
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "bench.catalogue", "--packages", "200", "--entries", "10000", "--json", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=280, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_bytes())
    assert figures["site_s"] < 200
    assert figures["site_mib"] < 400
    assert figures["page_ms_median"] < 250
