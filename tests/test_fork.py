"""What a forked child does first. With real forks in `process`; here, in which order and how often."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from interlock._core import arbiter, fork


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No callbacks and no claims but the test's; returns what happened."""
    monkeypatch.setattr(fork, "_callbacks", [])
    monkeypatch.setattr(fork, "_watched", False)
    monkeypatch.setattr(arbiter, "turns", {})
    happened: list[str] = []
    return happened


class Engine:
    def __init__(self, happened: list[str]) -> None:
        self.happened = happened

    def disown(self, claim: Any) -> None:
        self.happened.append(f"disown {claim.owner}")


def claim(happened: list[str], owner: str) -> Any:
    from interlock._model import Claim

    engine: Any = Engine(happened)
    line = arbiter.line_for(engine, owner, owner)
    made = Claim()
    made.line = line
    made.owner = owner
    arbiter.turns[line] = made
    return made


def test_claims_are_disowned_before_the_callbacks(unwatched: list[str]) -> None:
    claims = [claim(unwatched, "one"), claim(unwatched, "two")]
    fork.in_child(lambda: unwatched.append("callback"))
    fork.after_fork_in_child()
    assert unwatched == ["disown one", "disown two", "callback"]
    assert arbiter.turns == {}
    assert [each.depth for each in claims] == [0, 0]
    fork.after_fork_in_child()
    assert unwatched == ["disown one", "disown two", "callback", "callback"]


def test_forks_are_watched_once(unwatched: list[str]) -> None:
    def register(**what: object) -> None:
        unwatched.extend(what)

    fork.watch(register)
    fork.watch(register)
    assert unwatched == ["after_in_child"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_no_hook_before_a_fork_nor_in_the_parent(tmp_path: Any) -> None:
    """A lock that is held elsewhere must not stop anybody from forking."""
    program = """
import json, os, sys
hooks = []
real = os.register_at_fork
def register(**what):
    if sys._getframe(1).f_globals["__name__"].startswith("interlock"):
        hooks.extend(what)
    real(**what)
os.register_at_fork = register
from interlock import Lock
with Lock("memory://#x"), Lock("a.lock"):
    try:
        Lock("a.lock").acquire(0.01)
    except TimeoutError:
        pass
print(json.dumps(hooks))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == ["after_in_child"]
