"""The mutator makes what it says, and a mutant that must be found is found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ..branches.__main__ import count
from ..support import need_root
from .__main__ import MODULES, ROOT, meet
from .choose import Choice, Run, batches
from .equivalent import EQUALS, Equal, reasons
from .mutate import mutants

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''
"""A docstring is left alone."""
def f(x: "not x" = 1):
    if not x == 2 and x:
        g(True)
'''


def test_each_change_is_one_and_all_are_made() -> None:
    made = mutants(SOURCE)
    assert sorted(mutant.change.rpartition("(")[2].rstrip(")") for mutant in made) == [
        "bare", "omit", "other", "other", "other", "swap", "turn",
    ]  # fmt: skip
    assert len({mutant.source for mutant in made}) == len(made)


def test_the_modules_are_there_and_have_mutants() -> None:
    for module, tests in MODULES.items():
        assert mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8")), module
        assert all((ROOT / each).exists() for each in tests)


def test_what_changes_nothing_is_known_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "a = 1\nb = 1 + 1\nb = 1 + 1\n"
    made = mutants(source)
    monkeypatch.setitem(EQUALS, "m", [Equal("b = 1 + 1", "1  ->  2 (other)", "the third of four", 2)])
    assert reasons("m", made) == {"line 3:5: 1  ->  2 (other)": "the third of four"}
    monkeypatch.setitem(EQUALS, "m", [Equal("b = 1 + 1", "1  ->  2 (other)", "there are four", 4)])
    with pytest.raises(LookupError, match="no mutant is b = 1"):
        reasons("m", made)


def test_each_mutant_that_is_said_to_change_nothing_is_there() -> None:
    assert EQUALS
    for module, equals in EQUALS.items():
        made = mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8"))
        assert len(reasons(module, made)) == len(equals), module
        assert all(equal.why for equal in equals)


def test_a_change_knows_the_lines_of_its_statement() -> None:
    made = mutants("if a == 1 and (\n    b or c\n):\n    f(\n        2\n    )\n")
    assert {(mutant.what.partition("  ->")[0], *sorted(mutant.lines)) for mutant in made} == {
        ("line 1:4: a == 1 and (b or c)", 1, 2, 3), ("line 1:4: a == 1", 1, 2, 3), ("line 1:9: 1", 1, 2, 3),
        ("line 2:5: b or c", 1, 2, 3), ("line 4:5: f(2)", 4, 5, 6), ("line 5:9: 2", 4, 5, 6),
    }  # fmt: skip


def test_a_constant_is_where_it_is_used() -> None:
    (made,) = mutants("A = 1\nB = A\nC = x\n\ndef f():\n    return A\n\ndef g(y=B):\n    z(C)\n    return B\n")[:1]
    assert (made.what.partition("  ->")[0], sorted(made.lines)) == ("line 1:5: 1", [6, 8, 10])
    (made,) = mutants("class A:\n    taken = False\n\n    def f(self):\n        return self.taken\n")
    assert (made.what.partition("  ->")[0], sorted(made.lines)) == ("line 2:13: False", [5])


def test_own_and_fast_tests_come_first_and_batches_end() -> None:
    runs = [Run("a::1", 3.0), Run("b::1", 0.1), Run("b::2", 6.0), Run("a::2", 1.0), Run("a::3", 9.0), Run("b::3", 99.0)]
    named = [[run.name for run in batch] for batch in batches(runs, ["a"], (5.0, 20.0))]
    assert named == [["a::2", "a::1", "b::1"], ["a::3", "b::2"]]


@pytest.mark.skipif(sys.platform != "linux", reason="the tests of the core run anywhere, and once is enough")
def test_who_sees_no_queue_is_found_by_the_tests_that_run_the_line(tmp_path: Path) -> None:
    assert "passed" in count("tests/test_arbiter.py", 300.0, tmp_path)
    module = "_core/arbiter.py"
    source = (ROOT / "src/interlock" / module).read_text(encoding="utf-8")
    (wrong,) = [each for each in mutants(source) if "turns.setdefault(line, claim) is not claim" in each.what]
    runs = Choice(tmp_path).runs(module, wrong.lines)
    assert runs
    assert all(run.name.startswith("tests/test_arbiter.py::") for run in runs)
    assert meet(module, wrong, runs).by.startswith("tests/test_arbiter.py::")
    harmless = wrong._replace(source=source)
    assert meet(module, harmless, runs).by == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the tests of the core run anywhere, and once is enough")
def test_a_test_that_is_another_user_finds_nothing_where_nothing_is_wrong() -> None:
    """It imports the copy of the package too."""
    need_root()
    module = "engines/kernel/readwrite.py"
    harmless = mutants((ROOT / "src/interlock" / module).read_text(encoding="utf-8"))[0]._replace(
        source=(ROOT / "src/interlock" / module).read_text(encoding="utf-8")
    )
    run = Run("tests/test_rwlock.py::test_a_reader_cannot_do_without_a_lock_file", 1.0)
    assert meet(module, harmless, [run]) == ("", 1)
