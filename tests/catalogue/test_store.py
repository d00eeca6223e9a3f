"""The same page through a store that eight jobs fill at once, some of which are killed; and what a store adds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interlock.catalogue import add_sizes, check, page, parse_sources, read
from interlock.store import Store

from ..support import need_module
from .indexes import SEED_PAGE, STACKS, seed_specs
from .putter import archive, document

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SHARES = 8
KILLED = {1: 2, 4: 5, 6: 9}
"""Which jobs are killed, and after how many acknowledged builds."""


def start(store: Path, share: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.catalogue.putter", str(store), str(share), str(SHARES), *more]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def reap(jobs: list[subprocess.Popen[str]]) -> Iterator[tuple[int, list[str]]]:
    for job in jobs:
        out, _ = job.communicate(timeout=100)
        yield job.returncode, out.split()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that eight processes have filled at once; three were killed, and started again."""
    place = tmp_path_factory.mktemp("store") / "cache"
    jobs = [start(place, share, *["stepped"] * (share in KILLED)) for share in range(SHARES)]
    for share, count in KILLED.items():
        lines = jobs[share].stdin
        assert lines is not None
        lines.write("\n" * (count + 1))
        lines.flush()
    acknowledged: list[str] = []
    for share, count in KILLED.items():
        out = jobs[share].stdout
        assert out is not None
        acknowledged += [out.readline().strip() for _ in range(count)]
        os.kill(jobs[share].pid, signal.SIGKILL)  # it is at the next build
    ended = list(reap(jobs))
    assert [code for code, _ in ended] == [-signal.SIGKILL if n in KILLED else 0 for n in range(SHARES)]
    acknowledged += [hash_ for _, hashes in ended for hash_ in hashes]
    have = {entry.hash for entry in Store(place).entries()}
    assert set(filter(None, acknowledged)) <= have
    assert len(have & {spec.hash for spec, _, _ in seed_specs()}) < 108  # the kills hit
    assert all(code == 0 for code, _ in reap([start(place, share) for share in KILLED]))
    return place


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_eight_processes_put_the_seeds_builds_and_the_page_is_the_same(store: Path) -> None:
    need_module("click")
    labelled = ["--source", f"root={store}"]
    for stack in STACKS:
        labelled += ["--source", f"{stack}={store}#{stack}"]
    for words in (["--source", str(store)], labelled):
        command = [sys.executable, "-m", "interlock", "catalogue", "page", "py-filelock", "--ref", "develop", *words]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == SEED_PAGE.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_the_index_that_spack_reads_gives_the_same_page(store: Path, tmp_path: Path) -> None:
    Store(store).index()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in ("v3", "blobs"):
        (mirror / name).symlink_to(store / name)
    sources = parse_sources([str(mirror)])
    assert {source.layout for source in sources} == {"v3"}
    found = read(sources)
    assert page(found, "py-filelock", "develop") == SEED_PAGE.read_text()
    report = check(sources)
    assert report.blobs > 200
    # The 108 hashes are the page's: they cannot be those of the contents that were made up for them. All others are.
    assert {finding.kind for finding in report.findings} == {"content"}
    assert {finding.hash for finding in report.findings} == {spec.hash for spec, _, _ in seed_specs()}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_store_is_read_at_one_generation_and_knows_sizes(store: Path) -> None:
    sources = parse_sources([str(store)])
    assert {source.layout for source in sources} == {"store"}
    assert len({id(source.snapshot) for source in sources}) == 1
    found = read(sources)
    add_sizes(found, sources)
    [generation] = {index.generation for index in found.indexes.values()}
    assert generation is not None
    assert generation > 0
    spec = seed_specs()[5][0]
    assert found.sizes[spec.hash] == len(archive(spec))
    assert found.sizes.keys() == found.root.builds


def test_a_new_store_that_spack_would_still_see_as_old(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    spec, _, labels = seed_specs()[0]
    store.put(document(spec), archive(spec), views=[label for label in labels if label != "root"])
    sources = parse_sources([str(tmp_path / "s")])
    report = check(sources, ignore=["content"])
    assert report.findings == []
    assert any("interlock store index" in note for note in report.notes)
    store.index()
    assert not any("interlock store index" in note for note in check(parse_sources([str(tmp_path / "s")])).notes)
    assert json.loads((tmp_path / "s/v3/manifests/index/index.manifest.json").read_bytes())["generation"] > 0
