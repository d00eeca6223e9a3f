"""Fork while another thread is anywhere in acquire or release. The work is done by `forks`; here, a part of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ..support import need_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the oracle is /proc/locks")


def run(*words: str) -> list[dict[str, Any]]:
    need_module("filelock")
    command = [sys.executable, "-m", "tests.faults.forks", "--json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=400, check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.mark.timeout(450)
@pytest.mark.parametrize(
    ("kind", "step"),
    [("lock", 29), ("fair", 29), ("rlock", 29), ("rwlock", 29), ("semaphore", 29), ("facade", 97), ("marker", 97)],
)
def test_a_child_has_no_part_in_what_a_thread_of_its_parent_does(kind: str, step: int) -> None:
    (result,) = run(kind, f"--step={step}")
    print(f"{kind}: {result['forks']} forks at {result['points']} opcodes")
    for fault in "believes", "releases", "granted", "stuck", "parent":
        assert result[fault] == 0, result["places"]
    assert result["forks"] > 5


def test_the_sweep_sees_a_lock_that_a_child_releases() -> None:
    (result,) = run("unguarded")
    assert result["believes"] > 0
    assert result["releases"] > 0
    assert result["descriptors"] > 0
