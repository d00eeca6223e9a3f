"""Readers on a read-only mount: they read, they lease, and gc on the other side sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from interlock.store import Store

from ..process.conftest import namespaces
from .support import hashes, numbered

if sys.platform != "linux":
    pytest.skip("mounts are Linux's", allow_module_level=True)

__all__ = ["namespaces"]

READER = """
import os, sys
from interlock.store import Store
root, hash_ = sys.argv[1:]
try:
    open(os.path.join(root, "x"), "w")
    raise SystemExit("it is not read-only")
except OSError:
    pass
store = Store(root)
print(len(list(store.entries())), store.verify().clean)
with store.get(hash_) as build:
    print(build.leased, len(build.read()), build.spec()["spec"]["_meta"]["version"], flush=True)
    sys.stdin.read()
    build.read()
try:
    store.put({"spec": {"_meta": {"version": 5}, "nodes": [{"name": "a", "version": "1", "hash": "a" * 32}]}}, b"")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.usefixtures("namespaces")
def test_a_reader_on_a_read_only_mount(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", durable=False)
    for number in range(3):
        store.put(*numbered(number))
    store.index()
    (tmp_path / "ro").mkdir()
    hash_ = hashes(store)[0]
    mount = f"mount --bind {store.root} {tmp_path}/ro && mount -o remount,bind,ro {tmp_path}/ro && exec \"$@\""
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", READER, f"{tmp_path}/ro", hash_]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "3 True\n"
        assert reader.stdout.readline().startswith("True ")
        done = store.gc(keep=[], grace=0)
        assert len(done.builds) == 2
        assert hashes(store) == [hash_], "what the reader on the read-only mount holds, gc spares"
        reader.stdin.close()
        assert reader.stdout.read() == "Read-only file system\n"
    assert reader.returncode == 0
    assert store.gc(keep=[], grace=0).builds == (hash_,)
