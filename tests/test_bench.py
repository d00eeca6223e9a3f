"""`python -m bench`: where its results go, as far as that can be seen without measuring anything."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks are for Linux", allow_module_level=True)

from bench import __main__ as bench
from bench import table

if TYPE_CHECKING:
    from pathlib import Path

RUN: dict[str, Any] = {"environment": {}, "seconds": 0.0, "rows": [], "targets": []}


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmarks that were run; none is."""
    names: list[str] = []

    def run(name: str, *_: object) -> dict[str, Any]:
        names.append(name)
        return RUN

    monkeypatch.setattr(bench, "_run", run)
    monkeypatch.setattr(bench, "_run_apart", lambda _python, name, *_: run(name))
    monkeypatch.setattr(table, "section", lambda name, _runs: name)
    return names


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    return bench.main()


def test_one_result_goes_into_a_directory_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert call(monkeypatch, "import", "--json", tmp_path) == 0
    assert json.loads((tmp_path / "import.json").read_text()) == {"bench": "import", "runs": [RUN]}


def test_one_result_goes_into_a_file_and_several_into_a_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert call(monkeypatch, "import", "--json", tmp_path / "one") == 0
    assert json.loads((tmp_path / "one").read_text())["bench"] == "import"
    assert call(monkeypatch, "import", "handoff", "--json", tmp_path / "new" / "deep") == 0
    assert sorted(os.listdir(tmp_path / "new" / "deep")) == ["handoff.json", "import.json"]


@pytest.mark.parametrize("names", [["import"], ["import", "handoff"]])
def test_what_cannot_be_written_is_told_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ran: list[str], names: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    where = tmp_path / "file" / "x"
    with pytest.raises(SystemExit, match=f"^--json {where}: .* Not a directory; nothing was run"):
        call(monkeypatch, *names, "--json", where)
    assert ran == []
    assert (tmp_path / "file").read_text() == "mine"
