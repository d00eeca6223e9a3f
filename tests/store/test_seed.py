"""The 108 builds of the seed's page, put by eight processes at once, some of them killed: the page comes out."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from interlock.catalogue import page, read
from interlock.store import Store

from ..catalogue.indexes import SEED_SHA256, STACKS, Spec, seed_specs
from ..support import need_module

if sys.platform == "win32":
    pytest.skip("the publishers are killed by signals", allow_module_level=True)


def document(spec: Spec, around: list[Spec]) -> dict[str, Any]:
    nodes = [{**other.node(8), "hash": other.hash} for other in (spec, *around)]
    return {"spec": {"_meta": {"version": 5}, "nodes": nodes}}


def builds() -> list[tuple[dict[str, Any], bytes, list[str]]]:
    """The seed's, and some of those around them, in scrambled order."""
    found: dict[str, tuple[dict[str, Any], bytes, set[str]]] = {}
    for spec, around, labels in seed_specs():
        for one in (spec, *(other for other in around if other.name in {"zlib-ng", "py-hatchling"})):
            entry = document(one, [other for other in around if other is not one])
            stacks = found.setdefault(one.hash, (entry, b"\x1f\x8b" + one.hash.encode(), set()))[2]
            stacks.update(label for label in labels if label != "root")
    order = sorted(found)
    random.Random(108).shuffle(order)
    return [(found[key][0], found[key][1], sorted(found[key][2])) for key in order]


def publish(root: str, log: str, first: int) -> None:
    store = Store(root, durable=False)
    with open(log, "a", buffering=1, encoding="ascii") as file:
        for spec, archive, views in builds()[first::8]:
            store.put(spec, archive, views=views)
            file.write(f"{first}\n")
    store.index()


@pytest.mark.slow
def test_the_seeds_page_comes_out_of_a_store(tmp_path: Path) -> None:
    root, log = str(tmp_path / "store"), tmp_path / "log"
    log.touch()

    def start(first: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.store.test_seed", root, str(log), str(first)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    running = {first: start(first) for first in range(8)}
    try:
        for victim in (3, 6):  # in the middle, and started again: they put all of theirs once more
            limit = time.monotonic() + 60
            ended = 0
            while ended != -signal.SIGKILL:  # it was done sooner than we came to it
                already = log.read_text().split().count(str(victim))
                if ended == 0 and running[victim].poll() is not None:
                    running[victim] = start(victim)
                while log.read_text().split().count(str(victim)) < already + 2 and running[victim].poll() is None:
                    assert time.monotonic() < limit
                    time.sleep(0.002)
                running[victim].kill()
                ended = running[victim].wait()
            running[victim] = start(victim)
        assert [process.wait(100) for process in running.values()] == [0] * 8
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    store = Store(root)
    assert store.verify().problems == ()
    assert store.snapshot().views() == list(STACKS)
    assert len(list(store.entries())) == len(builds())
    assert sum(entry.name == "py-filelock" for entry in store.entries()) == 108
    text = page(read([root]), "py-filelock", "develop")
    assert hashlib.sha256(text.encode()).hexdigest() == SEED_SHA256
    need_module("click")
    words = [f"--source=root={root}", *(f"--source={view}={root}#{view}" for view in STACKS)]
    command = [sys.executable, "-m", "interlock", "catalogue", "page", "py-filelock", "--ref", "develop", *words]
    assert hashlib.sha256(subprocess.run(command, capture_output=True, check=True).stdout).hexdigest() == SEED_SHA256


if __name__ == "__main__":
    publish(sys.argv[1], sys.argv[2], int(sys.argv[3]))
