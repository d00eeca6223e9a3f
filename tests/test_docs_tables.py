"""The documented tables are the code's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.testing.conformance import ServerSuite

if TYPE_CHECKING:
    from types import ModuleType

DOCS = Path(__file__).parent.parent / "docs"


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_filesystems_shows_the_tables_of_the_code() -> None:
    found = tables()
    text = found.PAGE.read_text(encoding="utf-8")
    assert found.page(text) == text, "run: python docs/tables.py"
    assert text.count("|---") >= 10


def test_the_page_of_engines_shows_what_their_traits_promise() -> None:
    found = tables()
    text = found.ENGINES.read_text(encoding="utf-8")
    assert found.page(text) == text, "run: python docs/tables.py"
    assert len(found.promises().splitlines()) == 2 + len(found.SERVERS)


def test_every_test_that_the_page_of_engines_names_exists() -> None:
    found = tables()
    for tests in found.SHOWN.values():
        for name in tests:
            assert callable(getattr(ServerSuite, name))
    assert set(found.SHOWN_BY_ITS_OWN) == set(found.SERVERS)
    for own in found.SHOWN_BY_ITS_OWN.values():
        for tests in own.values():
            for name in tests:
                path, _, function = name.partition("::")
                assert f"def {function}(" in (Path(__file__).parent / path).read_text(encoding="utf-8"), name


def test_every_test_that_the_track_record_and_how_we_know_name_exists() -> None:
    root = DOCS.parent
    replayed = 0
    for page in ("track-record.md", "how-we-know.md"):
        for command in re.findall(r"`pytest ([^`]*)`", (DOCS / page).read_text(encoding="utf-8")):
            for word in command.split(" -")[0].split():
                path, _, function = word.partition("::")
                assert (root / path).exists(), word
                if function:
                    assert f"def {function}(" in (root / path).read_text(encoding="utf-8"), word
                    replayed += 1
    assert replayed >= 20
