"""`interlock.filelock.FileLock` on filesystems that lie, and where the user said how to lock."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import filelock
import pytest

if sys.platform != "linux":
    pytest.skip("places are told apart on Linux", allow_module_level=True)

from interlock import Lock
from interlock import filelock as ours

from ..seam import taken
from ..test_dual import ranged

if TYPE_CHECKING:
    from pathlib import Path

    from ..places import Places


def test_a_setting_makes_it_a_marker(tmp_path: Path, places: Places) -> None:
    places.say(f"{tmp_path} = marker")
    path = tmp_path / "a.lock"
    lock = ours.FileLock(path)
    for _ in range(2):
        with lock:
            assert str(os.getpid()) in path.read_text()
            assert not taken(path)
            with pytest.raises(filelock.Timeout):
                filelock.SoftFileLock(path).acquire(timeout=0)
            with pytest.raises(ours.Timeout):
                ours.FileLock(path).acquire(timeout=0)
        assert not path.exists()
    with filelock.SoftFileLock(path), pytest.raises(ours.Timeout):
        lock.acquire(timeout=0)


def test_a_setting_makes_it_dual(tmp_path: Path, places: Places) -> None:
    places.say(f"{tmp_path} = dual")
    path = tmp_path / "a.lock"
    with ours.FileLock(path):
        assert taken(path)
        assert ranged(path)
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(path).acquire(timeout=0)
    assert not ranged(path)


def test_it_takes_what_is_known_to_exclude(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "gpfs")
    with ours.FileLock(tmp_path / "a.lock"):
        assert ranged(tmp_path / "a.lock")
        assert Lock(tmp_path / "a.lock").try_acquire() is None


def test_where_nothing_excludes_it_does_what_filelock_does_and_says_so(
    tmp_path: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    places.mount(tmp_path, "fuse.nobody-knows")
    with caplog.at_level(logging.INFO, "interlock"):
        for _ in range(3):
            with ours.FileLock(tmp_path / "a.lock"):
                assert taken(tmp_path / "a.lock")
    warnings = [record for record in caplog.records if record.name == "interlock"]
    assert [record.levelname for record in warnings] == ["WARNING"]
    assert "this host only" in warnings[0].getMessage()
    assert "INTERLOCK_PRIMITIVE" in warnings[0].getMessage()


@pytest.mark.parametrize("word", ["flock", "local"])
def test_a_setting_is_taken_at_its_word(
    word: str, tmp_path: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    places.mount(tmp_path, "fuse.nobody-knows")
    places.say(f"{tmp_path} = {word}")
    with ours.FileLock(tmp_path / "a.lock"):
        assert taken(tmp_path / "a.lock")
    assert not [record for record in caplog.records if (record.name, record.levelname) == ("interlock", "WARNING")]


def test_a_setting_that_would_not_exclude_is_refused(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "lustre", "rw,localflock")
    places.say("flock")
    with pytest.raises(OSError, match="flock does not exclude other hosts") as caught:
        ours.FileLock(tmp_path / "a.lock").acquire(timeout=0)
    assert caught.value.filename == str(tmp_path / "a.lock")


async def hold(path: Path) -> Any:
    async with ours.AsyncFileLock(path):
        return path.read_text()


def test_tasks_too(tmp_path: Path, places: Places) -> None:
    import asyncio

    places.say("marker")
    assert str(os.getpid()) in asyncio.run(hold(tmp_path / "a.lock"))
