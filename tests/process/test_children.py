"""Children that are programs of their own, and exec: none has a part in a lock. The work is done by `children`."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest

import interlock.filelock

from .children import KINDS, PICKLING, WAYS, command, took
from .workers import ROOT

assert sys.platform == "linux"

MARKERS = {"marker", "marker strict"}
"""Files that say who made them. After exec that is still the same process: nobody can tell it from the one before."""
FACADE = {*MARKERS, "filelock"}
EVERY = sorted(set(KINDS) - {"leaky", "short lease"})


def run(*words: str) -> dict[str, Any]:
    done = subprocess.run(command(*words), stdout=subprocess.PIPE, text=True, timeout=200, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("kind", EVERY)
def test_a_child_neither_has_nor_frees_nor_keeps_its_parents_lock(path: str, kind: str) -> None:
    result = run("hold", kind, path)
    refused = result.pop("refused")
    pickled = {f"{way}, pickled" for way in PICKLING}
    if kind in FACADE:
        assert (
            refused == f"the lock object of {path} belongs to one process and cannot be pickled: make another one there"
        )
        assert set(result) == set(WAYS)
    else:
        assert refused == ""
        assert set(result) == set(WAYS) | pickled
    assert {way: wrong for way, wrong in result.items() if wrong} == {}


@pytest.mark.parametrize("kind", sorted({*EVERY, "short lease"} - {*MARKERS, "lease"}))
def test_a_process_that_becomes_another_program_holds_nothing(path: str, kind: str) -> None:
    result = run("exec", kind, path, "60")
    assert result.pop("at once") == (kind != "short lease")  # its time runs out, as nobody renews it
    assert result == {"same process": True, "left": [], "later": True}


@pytest.mark.parametrize("kind", sorted(MARKERS))
def test_a_marker_stays_until_the_process_ends_that_has_become_another(path: str, kind: str) -> None:
    result = run("exec", kind, path, "0.05")
    assert result == {"same process": True, "left": [], "at once": False, "later": False}
    # A strict one is broken by nobody unasked, as if its maker had been killed.
    assert took(kind, path, 0.05 if kind == "marker strict" else 60) == (kind == "marker")


def test_the_children_see_a_descriptor_that_they_inherit(path: str) -> None:
    result = run("hold", "leaky", path)
    assert result["subprocess"] == []
    for way in "subprocess, close_fds=False", "posix_spawn":
        assert f"inherited {path}" in result[way]
    result = run("exec", "leaky", path, "0.001")
    assert result == {"same process": True, "left": [path], "at once": False, "later": False}


@pytest.mark.parametrize("name", ["FileLock", "SoftFileLock", "StrictSoftFileLock"])
@pytest.mark.parametrize("thread_local", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_lock_of_the_facade_cannot_be_pickled(path: str, name: str, thread_local: bool, held: bool) -> None:
    lock = getattr(interlock.filelock, name)(path, thread_local=thread_local)
    with lock if held else nullcontext(), pytest.raises(TypeError, match=f"{path} .* cannot be pickled"):
        pickle.dumps(lock)
    assert copy.copy(lock).lock_file == path  # as of filelock's: another name for the same


@pytest.mark.parametrize("kind", ["ReadWriteLock", "SoftReadWriteLock"])
@pytest.mark.parametrize("singleton", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_read_write_lock_of_the_facade_cannot_be_pickled(path: str, kind: str, singleton: bool, held: bool) -> None:
    lock = getattr(interlock.filelock, kind)(path, is_singleton=singleton)
    with lock.write_lock() if held else nullcontext():
        for thing in lock, getattr(interlock.filelock, "Async" + kind)(path, is_singleton=singleton):
            for refuse in pickle.dumps, copy.deepcopy:
                with pytest.raises(TypeError, match=f"{path} .* cannot be pickled"):
                    refuse(thing)
            other = copy.copy(thing)  # as of filelock's: another name for the same
            assert other is not thing
            assert (other.lock_file, other.timeout) == (path, -1)
    lock.close()
