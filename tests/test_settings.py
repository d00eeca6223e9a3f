"""What users say about places: where it is read, which line counts, and what is not understood."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("places are told apart on Linux", allow_module_level=True)

from interlock import Lock, inspect
from interlock._fs import settings

if TYPE_CHECKING:
    from pathlib import Path

    from .places import Places


def used(path: Path) -> str:
    return inspect(path).facts["primitive"]


def test_without_settings_nothing_is_read(tmp_path: Path, places: Places) -> None:
    assert used(tmp_path / "a.lock") == "flock"
    assert settings.load() == []


def test_a_word_alone_is_for_every_path(tmp_path: Path, places: Places) -> None:
    places.say("dual")
    assert used(tmp_path / "a.lock") == "dual"


def test_the_longest_directory_counts(tmp_path: Path, places: Places) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "inner").mkdir()
    places.say(f"{tmp_path}=local; {tmp_path}/in = dual;{tmp_path}/in/deep=flock ; auto")
    assert used(tmp_path / "a") == "local"
    assert used(tmp_path / "in" / "a") == "dual"
    assert used(tmp_path / "in" / "other" / "a") == "dual"
    assert used(tmp_path / "in" / "deep" / "a") == "flock"
    assert used(tmp_path / "inner" / "a") == "local"


def test_a_directory_with_an_equals_sign(tmp_path: Path, places: Places) -> None:
    (tmp_path / "a=b").mkdir()
    places.say(f"{tmp_path}/a=b = dual")
    assert used(tmp_path / "a=b" / "x") == "dual"
    assert used(tmp_path / "x") == "flock"


def test_symbolic_links_are_followed(tmp_path: Path, places: Places) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    places.say(f"{tmp_path}/link = dual")
    assert used(tmp_path / "real" / "a") == "dual"


def test_the_variable_goes_before_the_users_table_and_that_before_the_systems(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    home, system = tmp_path / "home", tmp_path / "interlock.conf"
    home.mkdir()
    system.write_text("".join(f"{tmp_path}/{name} = local\n" for name in "abc"))
    (home / "interlock.conf").write_text(f"# mine\n\n{tmp_path}/b = dual   # why\n{tmp_path}/c=dual\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setattr(settings, "SYSTEM", str(system))
    places.say(f"{tmp_path}/c = flock")
    assert [used(tmp_path / name / "x") for name in "abc"] == ["local", "dual", "flock"]
    assert inspect(tmp_path / "b" / "x").facts["why"] == f"{home}/interlock.conf, line 3 says 'dual'"
    assert inspect(tmp_path / "c" / "x").facts["why"] == "INTERLOCK_PRIMITIVE says 'flock'"


def test_another_table_instead(tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table"
    table.write_text(f"{tmp_path} = dual\n")
    monkeypatch.setenv(settings.CONFIG, str(table))
    assert used(tmp_path / "x") == "dual"


def test_a_setting_overrules_the_program(tmp_path: Path, places: Places) -> None:
    """Users of dependents cannot change code."""
    places.say(f"{tmp_path} = dual")
    assert Lock(tmp_path / "a", primitive="flock").inspect().facts["primitive"] == "dual"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("flok", "'flok' is not one of auto, flock, dual, local, marker"),
        ("/x = flok", "'flok' is not one of"),
        ("/x =", "'' is not one of"),
        ("x = flock", "'x' is not an absolute path"),
        ("= flock", "'' is not an absolute path"),
        ("/x = flock; /x/ = dual", "'/x' was named before"),
        ("flock;dual", "'every path' was named before"),
    ],
)
def test_what_is_not_understood_locks_nothing(
    text: str, match: str, tmp_path: Path, places: Places
) -> None:
    places.say(text)
    with pytest.raises(ValueError, match=match) as caught:
        Lock(tmp_path / "a.lock")
    assert "INTERLOCK_PRIMITIVE" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_table_says_which_line_is_wrong(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table"
    table.write_text("# fine\n/x = dual\nmarker\n")
    monkeypatch.setenv(settings.CONFIG, str(table))
    with pytest.raises(ValueError, match=r"table, line 3: 'marker' is not of the form 'directory = primitive'"):
        Lock(tmp_path / "a.lock")


def test_a_table_that_is_not_there_is_an_error(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.CONFIG, str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="missing"):
        Lock(tmp_path / "a.lock")


def test_who_runs_as_another_user_is_not_told_by_its_caller(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.say("dual")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert settings.load() == []
    assert used(tmp_path / "a") == "flock"


def test_a_mount_point_is_not_touched(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may be gone, and others want to lock elsewhere."""
    places.mount("/hung", "nfs4")
    monkeypatch.setattr(os.path, "realpath", lambda path: pytest.fail(f"looked at {path}"))
    assert [setting.directory for setting in settings.parse("/hung = marker", "x")] == ["/hung"]


def test_an_unknown_primitive_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="primitive 'fcntl' is not one of 'auto', 'flock', 'dual', 'local', 'marker'"):
        Lock(tmp_path / "a.lock", primitive="fcntl")  # type: ignore[arg-type]
