"""The mutator makes what it says, and a mutant that must be found is found."""

from __future__ import annotations

import sys

import pytest

from .__main__ import MODULES, ROOT, fate
from .mutate import mutants

SOURCE = '''
"""A docstring is left alone."""
def f(x: "not x" = 1):
    if not x == 2 and x:
        g(True)
'''


def test_each_change_is_one_and_all_are_made() -> None:
    made = mutants(SOURCE)
    assert sorted(what.rpartition("(")[2].rstrip(")") for what, _ in made) == [
        "bare", "omit", "other", "other", "other", "swap", "turn",
    ]  # fmt: skip
    assert len({source for _, source in made}) == len(made)


def test_the_modules_are_there_and_have_mutants() -> None:
    for module, tests in MODULES.items():
        assert mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8")), module
        assert all((ROOT / each).exists() for each in tests)


@pytest.mark.skipif(sys.platform != "linux", reason="the tests of the core run anywhere, and once is enough")
def test_who_sees_no_queue_is_found() -> None:
    source = (ROOT / "src/interlock/_core/arbiter.py").read_text(encoding="utf-8")
    wrong = [text for what, text in mutants(source) if "turns.setdefault(line, claim) is not claim" in what]
    assert fate("_core/arbiter.py", wrong[0], 300.0).startswith("tests/test_a")
