"""The web site, in a real browser and from disk: it finds, filters, compares, and nothing in an index breaks it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.catalogue import CatalogueError, difference, groups, read, write_site
from interlock.catalogue.site import file_name, human, visible

from ..support import need_module
from .browser import browser
from .indexes import Arch, Dep, Spec, record, seed_indexes, seed_rows, sources

need_module("jinja2")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from interlock.catalogue import Catalogue

X86 = Arch("linux", "ubuntu22.04", "x86_64_v3")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return read(sources(seed_indexes(tmp_path_factory.mktemp("indexes"))))


@pytest.fixture(scope="module")
def site(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site") / "out"
    assert write_site(catalogue, directory, title="Build cache") == len(catalogue.packages())
    return directory


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def go(driver: Chrome, site: Path) -> Iterator[Callable[[str], None]]:
    """Opens a page of the site; at the end the browser must have complained of nothing."""

    def open_page(path: str) -> None:
        driver.get("about:blank")
        driver.get(f"file://{site}/{path}")

    yield open_page
    complaints: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    assert complaints == []


def wait(driver: Chrome, script: str) -> Any:
    """The value of an expression once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20, poll_frequency=0.02).until(lambda it: it.execute_script(f"return {script}"))


def all_texts(driver: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    found: list[str] = driver.execute_script(script, selector)
    return found


def keys(driver: Chrome, *what: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(driver)
    for text in what:
        chain.send_keys(text)
    chain.perform()


# ---- in the browser


def test_a_hash_is_found_as_it_is_typed(driver: Chrome, go: Callable[[str], None]) -> None:
    from selenium.webdriver.common.keys import Keys

    hashes = [row["hash"] for row in seed_rows()]
    wanted = hashes[41]
    go("index.html")
    keys(driver, "/")
    assert driver.execute_script("return document.activeElement.id") == "search"
    for count in range(1, 6):
        keys(driver, wanted[count - 1])
        begin = json.dumps(wanted[:count])
        wait(driver, f"[...document.querySelectorAll('#found mark')].every(e => e.textContent === {begin})"
                     f" && document.querySelectorAll('#found .hash').length")  # fmt: skip
        found = all_texts(driver, "#found .hash")
        assert all(text.startswith(wanted[:count]) for text in found)
    assert found == [wanted]
    keys(driver, Keys.ENTER)
    wait(driver, "document.querySelector('tr.here') && document.querySelector('tr.here').dataset.hash")
    assert driver.current_url.endswith(f"packages/py-filelock.html#{wanted}")
    assert wait(driver, "document.querySelector('tr.here').dataset.hash") == wanted


def test_a_package_is_found_by_part_of_its_name(driver: Chrome, go: Callable[[str], None]) -> None:
    from selenium.webdriver.common.keys import Keys

    go("packages/zlib-ng.html")
    keys(driver, "/", "FILEL")
    wait(driver, "document.querySelector('#found mark')")
    assert all_texts(driver, "#found [role=option]") == ["py-filelock108 builds"]
    keys(driver, Keys.ENTER)
    wait(driver, "document.title.startsWith('py-filelock')")
    keys(driver, "/", "no such thing")
    wait(driver, "document.querySelector('#found .note')")
    keys(driver, Keys.ESCAPE)
    assert wait(driver, "document.querySelector('#found').hidden")


def test_many_hashes_come_in_pieces(
    driver: Chrome, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 100,000 do: by their first characters, and a piece is loaded when these are typed."""
    import importlib

    monkeypatch.setattr(importlib.import_module("interlock.catalogue.site"), "LARGEST_SHARD", 10)
    write_site(catalogue, tmp_path / "out")
    pieces = list((tmp_path / "out" / "data" / "hashes").iterdir())
    assert len(pieces) > 300
    assert all(len(path.stem) == 2 for path in pieces)
    driver.get(f"file://{tmp_path}/out/index.html")
    wanted = seed_rows()[77]["hash"]
    keys(driver, "/", wanted[0])
    wait(driver, "!document.querySelector('#found').hidden")
    assert all_texts(driver, "#found .hash") == []
    keys(driver, wanted[1:4])
    wait(driver, "document.querySelectorAll('#found .hash').length === 1")
    assert all_texts(driver, "#found .hash") == [wanted]
    assert driver.execute_script("return document.querySelectorAll('script[src*=hashes]').length") == 1
    assert driver.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_the_page_shows_the_groups(driver: Chrome, go: Callable[[str], None], catalogue: Catalogue) -> None:
    go("packages/py-filelock.html")
    counts = [int(text) for text in all_texts(driver, ".group .count b")]
    assert counts == [29, 19, 18, 14, 13, 10, 3, 1, 1]
    assert counts == [len(group.nodes) for group in groups(catalogue, "py-filelock")]
    assert sorted(all_texts(driver, "td.hash")) == sorted(row["hash"] for row in seed_rows())
    assert all_texts(driver, ".common code") == ["build_system=python_pip"]
    assert "/" not in "".join(all_texts(driver, ".group .chip"))
    assert "root" not in all_texts(driver, ".group .chip")


def test_filters(driver: Chrome, go: Callable[[str], None]) -> None:
    go("packages/py-filelock.html")
    script = (
        "for (const label of document.querySelectorAll('[data-facet] label'))"
        " if (arguments[0].includes(label.querySelector('span').textContent)) label.click()"
    )
    driver.execute_script(script, ["ml-linux-x86_64-rocm"])
    assert all_texts(driver, ".group:not([hidden]) .count b") == ["13", "3", "1"]
    assert all_texts(driver, "#status") == ["17 builds in 3 groups of 9"]
    driver.execute_script(script, ["radiuss", "linux"])
    assert all_texts(driver, ".group:not([hidden]) .count b") == ["13", "10", "3", "1"]
    driver.execute_script(script, ["ubuntu18.04"])
    assert all_texts(driver, ".group:not([hidden]) .count b") == ["10"]
    driver.execute_script("document.querySelector('#clear').click()")
    assert len(all_texts(driver, ".group:not([hidden])")) == 9


def test_the_overview_filters_and_sorts(driver: Chrome, go: Callable[[str], None], catalogue: Catalogue) -> None:
    go("index.html")
    names = all_texts(driver, "tbody [data-item] td:first-child")
    assert names == list(catalogue.packages())
    driver.execute_script("document.querySelectorAll('.packages th button')[1].click()")
    counts = [int(text) for text in all_texts(driver, "tbody [data-item] td:nth-child(3)")]
    assert counts == sorted(counts, reverse=True)
    script = "[...document.querySelectorAll('label')].find(e => e.textContent.startsWith('gcc@12.3.0')).click()"
    driver.execute_script(script)
    with_compiler = [
        name
        for name in catalogue.packages()
        if any(catalogue.compiler(node) == ("gcc", "12.3.0") for node in catalogue.builds(name))
    ]
    assert sorted(all_texts(driver, "[data-item]:not([hidden]) td:first-child")) == with_compiler
    assert 0 < len(with_compiler) < len(names)


def by_path(causes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(causes, key=lambda cause: (cause["path"], cause["left"], cause["right"]))


def test_the_difference_in_the_browser_is_the_librarys(
    driver: Chrome, go: Callable[[str], None], catalogue: Catalogue
) -> None:
    go("packages/py-filelock.html")
    nodes = catalogue.builds("py-filelock")
    script = "catalogue.difference('py-filelock', arguments[0], arguments[1]).then(arguments[2])"
    compared = 0
    for left in (nodes[0], nodes[50]):
        for right in nodes[::9]:
            theirs: dict[str, Any] = driver.execute_async_script(script, left.hash, right.hash)
            mine = difference(catalogue, left, right).as_dict()
            assert by_path(theirs["causes"]) == by_path(mine["causes"])
            assert sorted(theirs["carried"]) == sorted(mine["carried"])
            assert theirs["unknown"] == mine["unknown"] == []
            assert theirs["same"] == mine["same"]
            compared += len(mine["causes"])
    assert compared > 20


def test_two_builds_are_compared_by_hand(driver: Chrome, go: Callable[[str], None], catalogue: Catalogue) -> None:
    go("packages/py-filelock.html")
    keys(driver, "j", " ", "j", "j", " ")
    wait(driver, "!document.querySelector('#difference').hidden")
    left, right = wait(driver, "[...document.querySelectorAll('.pair .side')].map(e => e.textContent)")
    group = groups(catalogue, "py-filelock")[0]
    assert [left, right] == [group.nodes[0].hash, group.nodes[2].hash]
    expected = difference(catalogue, group.nodes[0], group.nodes[2])
    shown = all_texts(driver, "#difference .who b")
    assert shown == [change.name for change in expected.causes]
    assert all_texts(driver, "#difference .l") == [one for change in expected.causes for _, one, _ in change.own]
    assert driver.current_url.endswith(f"#{left}..{right}")
    driver.refresh()  # the address is the comparison
    wait(driver, "document.querySelectorAll('#difference .who b').length")
    assert all_texts(driver, "#difference .who b") == shown
    driver.execute_script("document.querySelector('.d-close').click()")
    assert wait(driver, "document.querySelector('#difference').hidden")


def test_light_and_dark(driver: Chrome, go: Callable[[str], None]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    go("index.html")
    was = wait(driver, ground)
    keys(driver, "t")
    assert wait(driver, ground) != was
    go("packages/python.html")
    assert wait(driver, ground) != was  # it is remembered
    keys(driver, "t")
    assert wait(driver, ground) == was


# ---- hostile names

EVIL = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\"'><b id=broken>",
    "line\nbreak\ttab",
    "..",
    "../../escaped",
    "CON",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u0000",
    "Ünï cödé 😀",
    "a" * 300,
    "${7*7}`",
    "py-FileLock",
    "py-filelock",
)


def evil_index(path: Path) -> str:
    installs = {}
    for number, name in enumerate(EVIL):
        base = Spec(f"dep {name}", name, Arch(name, name, name), ((name, name),))
        for build in range(2):
            deps = (Dep(base, (name,), (name,)), *([Dep(Spec(name, "gone", X86), ("link",))] if build else []))
            spec = Spec(name, name, Arch(name, name, name), ((name, name), ("on", bool(build))), deps)
            key = f"{name} {build}" if number % 2 else spec.hash
            installs[key] = record(spec, 8)
        installs[base.hash] = record(base, 8, in_buildcache=False)
    path.write_text(json.dumps({"database": {"version": "8", "installs": installs}}))
    return f"root={path}"


def test_hostile_names_are_escaped_cells(driver: Chrome, tmp_path: Path) -> None:
    found = read([evil_index(tmp_path / "evil.json")])
    out = tmp_path / "<site> & 'co' #1"
    write_site(found, out, title="</title><script>1</script>")
    assert {path.name for path in tmp_path.iterdir()} == {"evil.json", "<site> & 'co' #1"}
    from urllib.request import pathname2url

    driver.get(f"file://{pathname2url(str(out))}/index.html")
    assert driver.title == "</title><script>1</script>"
    assert all_texts(driver, "tbody [data-item] td:first-child") == [visible(name) for name in sorted(EVIL)]
    links = driver.execute_script("return [...document.querySelectorAll('[data-item] a')].map(a => a.href)")
    assert len(set(links)) == len(EVIL)
    for name, link in zip(sorted(EVIL), links, strict=True):
        assert link.startswith("file:///")
        driver.get(link)
        assert driver.title.startswith(visible(name)[:40].strip()[:10])
        assert all_texts(driver, "h1") == [visible(name)]
        assert driver.execute_script("return document.querySelector('#broken, main img, main script')") is None
        hashes = all_texts(driver, "tr[data-hash] .hash")
        assert len(hashes) == 2
        script = "catalogue.difference(document.body.dataset.package, arguments[0], arguments[1]).then(arguments[2])"
        result = driver.execute_async_script(script, *hashes)
        [cause] = result["causes"]
        assert ["variant", "~on", "+on"] in cause["changes"] or ["variant", "+on", "~on"] in cause["changes"]
        assert len(cause["only_left"] + cause["only_right"]) == 1
    complaints = driver.get_log("browser")  # type: ignore[no-untyped-call]
    assert complaints == []


class _Balance(HTMLParser):
    """Fails on an end tag that does not fit, and on scripts that are not the site's."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag == "script":
            assert str(dict(attributes)["src"]).endswith("assets/catalogue.js")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


nasty = st.text(min_size=1, max_size=12) | st.sampled_from(EVIL)


@given(st.lists(st.tuples(nasty, nasty, nasty), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_any_text_gives_whole_pages(some: list[tuple[str, str, str]]) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        installs = {
            f"{key}{number}": record(Spec(name, value, Arch(value, key, name), ((value, key),)), 8)
            for number, (name, value, key) in enumerate(some)
        }
        path = Path(directory, "x.json")
        path.write_text(json.dumps({"database": {"version": "8", "installs": installs}}))
        try:
            found = read([f"root={path}"])
        except CatalogueError:
            return  # surrogates
        write_site(found, Path(directory, "out"))
        for page in Path(directory, "out").rglob("*.html"):
            parser = _Balance()
            parser.feed(page.read_text(encoding="utf-8"))
            assert parser.open == []
        for script in Path(directory, "out", "data").rglob("*.js"):
            text = script.read_text(encoding="utf-8")
            assert text.isascii()
            assert re.fullmatch(r"catalogue\.(names|records|hashes)\([^<]*\);\n", text)


# ---- on disk


def test_a_site_is_replaced_as_a_whole_and_nothing_else_is(catalogue: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_site(catalogue, out)
    (out / "stale").write_text("x")
    write_site(catalogue, out)
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "home"
    other.mkdir()
    (other / "precious").write_text("x")
    with pytest.raises(CatalogueError, match="something else"):
        write_site(catalogue, other)
    assert [path.name for path in other.iterdir()] == ["precious"]
    (tmp_path / "empty").mkdir()
    write_site(catalogue, tmp_path / "empty")
    with pytest.raises(CatalogueError, match="something else"):
        write_site(catalogue, other / "precious")


def test_a_failure_leaves_the_old_site(catalogue: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_site(catalogue, out, title="old")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(catalogue, out, title="new", progress=stop)
    assert "old" in (out / "index.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_site_is_the_same_each_time_and_readable_by_all(catalogue: Catalogue, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_site(catalogue, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file())
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~mask


def test_without_jinja_it_says_how_to_get_it(tmp_path: Path) -> None:
    paths = seed_indexes(tmp_path)
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from interlock.catalogue import CatalogueError, page, read, write_site\n"
        f"found = read(['root={paths['e4s']}'])\n"
        "page(found, 'py-filelock', 'develop')\n"
        f"try: write_site(found, {str(tmp_path / 'out')!r})\n"
        "except CatalogueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "the site needs Jinja2: pip install 'interlock[catalogue]'\n"


def test_names_of_files_are_safe_and_differ() -> None:
    names = [*EVIL, "zlib", "Zlib", "nul", "nul.txt", "con.py", "", ".", "-x", "a/b", "a b", "a" * 99, "a" * 101]
    found = [file_name(name) for name in names]
    assert len({name.lower() for name in found}) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9._~-]{1,120}", name) and not name.startswith(".") for name in found)
    assert file_name("py-filelock") == "py-filelock"


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (10_731_083, "10.7 MB"), (999_600, "1 MB"),
     (123_456_789, "123 MB"), (5_000_000_000_000_000, "5000 TB")],
)  # fmt: skip
def test_sizes(size: int | None, text: str) -> None:
    assert human(size) == text
