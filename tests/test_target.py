"""From a path or an URL to the one line of that resource."""

from __future__ import annotations

import os
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock import Lock, UnsupportedError
from interlock._target import file_name, resolve

if TYPE_CHECKING:
    from pathlib import Path

names = st.text(min_size=1) | st.text(alphabet=st.characters(categories=("Cs", "Lu", "Ll")), min_size=1)
cruel = st.text(alphabet="aA%.~~/\\ 0é\x10Ā4\0:", min_size=1, max_size=12)


@given(names | cruel, names | cruel)
@example("Ā", "\x100")  # once the code point in hexadecimal digits, once an escaped byte and a digit
@example("A", "a")
@example("%41", "A")
@example("é", "e\u0301")
@example("ß", "SS")
@example("\udc80", "\ufffd")
@example("x" * 300, "x" * 301)
@example("x" * 300, "X" * 300)
def test_file_names_differ_as_names_do(one: str, other: str) -> None:
    """Also on filesystems that fold case: then differing in case is not differing."""
    assert (one == other) == (file_name(one).casefold() == file_name(other).casefold())


@given(names | cruel | st.text(min_size=150, max_size=400))
@example(".")
@example("..")
@example("con")
@example("NUL")
@example("lpt1.x")
@example("~")
@example("\udc80")
def test_file_names_are_safe_everywhere(name: str) -> None:
    made = file_name(name)
    assert set(made) <= set(string.ascii_letters + string.digits + "%-._~")
    assert len(os.fsencode(made)) <= 255 - len(".lock")  # others put things behind it
    assert made.endswith(".lock")
    assert not made.startswith(".")
    assert made.partition(".")[0] not in {"con", "prn", "aux", "nul", "com1", "com9", "lpt1", "lpt9"}
    assert file_name(name) == made


def test_ordinary_names_stay_readable() -> None:
    assert file_name("deploy-2024_eu.west") == "deploy-2024_eu.west.lock"


def key(target: Any) -> str:
    return resolve(target).key


def test_two_spellings_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    one = Lock("a.lock")
    line = resolve(str(tmp_path / "real" / "a.lock"))
    for spelling in ("a.lock", "./a.lock", "../real/a.lock", tmp_path / "link" / "a.lock", "../link//a.lock"):
        assert resolve(spelling) is line
    assert one._line is line
    assert line.key == str(tmp_path / "real" / "a.lock")


def test_the_file_itself_is_not_followed(tmp_path: Path) -> None:
    """It is refused when it is opened; here it keeps its name."""
    (tmp_path / "to").symlink_to("a.lock")
    assert key(tmp_path / "to") == str(tmp_path / "to")


def test_links_are_followed_before_dots(tmp_path: Path) -> None:
    """As the kernel does it: else another file than the user's would be locked, and nobody excluded."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    assert key(tmp_path / "link" / ".." / "a.lock") == str(tmp_path / "far" / "a.lock")
    with open(tmp_path / "link" / ".." / "a.lock", "w") as file:
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(key(tmp_path / "link" / ".." / "a.lock")))


def test_a_relative_path_is_of_the_directory_it_was_named_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    lock = Lock("a.lock")
    monkeypatch.chdir(tmp_path / "two")
    with lock:
        assert (tmp_path / "one" / "a.lock").exists()
        assert not (tmp_path / "two" / "a.lock").exists()


@pytest.mark.parametrize("path", ["", "a\0b", "x/", "/", ".", "..", "x/.", "x/.."])
def test_what_is_no_path_of_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"not a path|is a directory"):
        Lock(path)


@pytest.mark.parametrize("target", [b"a.lock", 3, None, 1.5])
def test_a_target_is_text(target: Any) -> None:
    with pytest.raises(TypeError):
        Lock(target)


def test_file_urls_lock_a_file_by_name(tmp_path: Path) -> None:
    line = resolve(f"file://{tmp_path}/some%20where#Deploy/eu")
    assert line.key == str(tmp_path / "some where" / "%44eploy%2Feu.lock")
    assert resolve(f"file://localhost{tmp_path}/some%20where#Deploy/eu") is line
    with Lock(f"file://{tmp_path}/some%20where#Deploy/eu"):
        assert os.listdir(tmp_path / "some where") == ["%44eploy%2Feu.lock"]


def test_memory_urls_are_names() -> None:
    assert resolve("memory://#x") is resolve("memory://#x")
    assert len({key(f"memory://{name}") for name in ("#x", "#y", "a#x", "a/b#x", "/b#x", "#a%23x")}) == 6


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("memory://", "names no lock"),
        ("file:///x", "names no lock"),
        ("file:///x#", "names no lock"),
        ("file://host/x#a", "no host"),
        ("memory://?a=b#x", "options"),
        ("file:///x?mode=1#a", "options"),
    ],
)
def test_urls_that_say_too_little_or_too_much(url: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Lock(url)


def test_engines_that_do_not_exist() -> None:
    with pytest.raises(UnsupportedError, match="gopher"):
        Lock("gopher://somewhere#x")


def test_options_that_mean_nothing_here(tmp_path: Path) -> None:
    for target in (tmp_path / "a.lock", "memory://#x"):
        with pytest.raises(UnsupportedError, match="ttl"):
            Lock(target, ttl=3)
    with pytest.raises(UnsupportedError, match="primitive"):
        Lock("memory://#x", primitive="flock")
    with pytest.raises(ValueError, match="primitive"):
        Lock(tmp_path / "a.lock", primitive="fcntl")  # type: ignore[arg-type]
    assert not (tmp_path / "a.lock").exists()


def test_naming_a_lock_touches_nothing(tmp_path: Path) -> None:
    Lock(tmp_path / "new" / "a.lock", timeout=3)
    assert os.listdir(tmp_path) == []


def test_the_resource_is_what_the_user_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute, relative = Lock(tmp_path / "a.lock"), Lock("a.lock")
    assert absolute.resource == str(tmp_path / "a.lock")
    assert relative.resource == "a.lock"
