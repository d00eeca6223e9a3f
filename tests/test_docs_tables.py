"""The documented tables are the code's."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.testing import conformance
from interlock.testing.conformance import ServerSuite
from interlock.testing.conformance.listed import LIST

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


def test_the_list_that_engines_are_put_to_is_whole() -> None:
    found = tables()
    text = found.LISTED.read_text(encoding="utf-8")
    assert found.page(text) == text, "run: python docs/tables.py"
    assert list(LIST) == list(range(1, 29))
    for item in LIST.values():
        assert item.tests
        for name in item.tests:
            if "::" in name:
                exists(name)
                continue
            suite, _, test = name.partition(".")
            assert callable(getattr(getattr(conformance, suite), test)), name
    numbered = {name for name in dir(ServerSuite) if name.startswith("test_")}
    named = {test.partition(".")[2] for item in LIST.values() for test in item.tests}
    assert numbered <= named, f"not in the list: {sorted(numbered - named)}"


def test_each_engine_is_put_to_the_list() -> None:
    found = tables()
    assert set(found.CLASSES) == set(found.MORE) == set(found.SERVERS)
    for engine, path in found.CLASSES.items():
        module, _, name = path.partition("::")
        its = getattr(importlib.import_module("tests." + module.removesuffix(".py").replace("/", ".")), name)
        assert issubclass(its, ServerSuite)
        assert its.engine == engine
    for items in found.MORE.values():
        for tests in items.values():
            for name in tests:
                exists(name)


def exists(name: str) -> None:
    path, _, function = name.partition("::")
    kind = "class" if function.startswith("Test") else "def"
    text = (Path(__file__).parent / path).read_text(encoding="utf-8")
    assert re.search(rf"^ *{kind} {function}\(", text, re.MULTILINE), name


def test_every_test_that_the_track_record_and_how_we_know_name_exists() -> None:
    root = DOCS.parent
    replayed = 0
    for page in ("track-record.md", "how-we-know.md", "concepts/security.md"):
        for command in re.findall(r"`pytest ([^`]*)`", (DOCS / page).read_text(encoding="utf-8")):
            for word in command.split(" -")[0].split():
                path, _, function = word.partition("::")
                assert (root / path).exists(), word
                if function:
                    assert f"def {function}(" in (root / path).read_text(encoding="utf-8"), word
                    replayed += 1
    assert replayed >= 20
