"""`publish`: whole, once, never over somebody's file."""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from interlock import UnsupportedError, publish
from interlock.atomic import staging

from .atomic_support import child, dying_at_each_call, install, names_in, open_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("forks, and O_TMPFILE", allow_module_level=True)

import fcntl


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Filesystems with O_TMPFILE, and others."""
    monkeypatch.setattr(staging, "_swept", set())
    if request.param == "named":
        monkeypatch.setattr(staging, "_TMPFILE", 0)
    return str(request.param)


@pytest.mark.parametrize("data", [b"hello", "hello", lambda file: file.write(b"hello")])
def test_the_first_one_wins(way: str, tmp_path: Path, data: Any) -> None:
    path = tmp_path / "deep" / "er" / "a"
    assert publish(path, data)
    assert not publish(path, b"other")
    assert not publish(str(path), lambda _: pytest.fail("built although it is there"))
    assert path.read_bytes() == b"hello"
    assert names_in(path.parent) == ["a"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert path.stat().st_nlink == 1


def test_a_large_file_through_short_writes(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "write":
            return real(args[0], args[1][:1000])
        return real(*args, **options)

    install(monkeypatch, short)
    data = os.urandom(100_001)
    assert publish(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == data


@pytest.mark.parametrize("there", ["file", "directory", "dangling link"])
def test_whatever_is_there_stays(way: str, tmp_path: Path, there: str) -> None:
    path = tmp_path / "a"
    if there == "file":
        path.write_text("old")
    elif there == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    before = os.lstat(path)
    assert not publish(path, "new")
    assert os.lstat(path) == before
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("bad", ["", ".", "a/", "a\0b", "dir/.."])
def test_bad_paths(tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not the path of a file"):
        publish(bad, b"x")
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_writer_publishes_nothing(way: str, tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("data", [5, None, ["a"]])
def test_what_is_no_content_is_refused_before_anything_is_made(tmp_path: Path, data: Any) -> None:
    with pytest.raises(TypeError, match=f"^data is bytes, a str, or a function .* not {type(data).__name__}; nothing"):
        publish(tmp_path / "deep" / "a", data)
    assert os.listdir(tmp_path) == []


def test_other_bytes_are_content_too(way: str, tmp_path: Path) -> None:
    for number, data in enumerate([bytearray(b"hello"), memoryview(b"hello"), memoryview(b"hxexlxlxo")[::2]]):
        assert publish(tmp_path / f"{number}", data)  # type: ignore[arg-type]
        assert (tmp_path / f"{number}").read_bytes() == b"hello"


@pytest.mark.parametrize(("call", "number"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("link", errno.EIO)])
def test_an_error_of_the_filesystem_publishes_nothing(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def failing(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == call:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    install(monkeypatch, failing)
    gc.collect()  # what other tests have left open
    files = open_files()
    with pytest.raises(OSError, match=os.strerror(number)):
        publish(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []
    assert open_files() == files


@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST, errno.ETIMEDOUT])
def test_a_link_whose_reply_was_lost(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def losing(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        answer = real(*args, **options)
        if name == "link":
            raise OSError(number, os.strerror(number))
        return answer

    install(monkeypatch, losing)
    assert publish(tmp_path / "a", b"x")
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("rename", ["works", "loses", "reply lost", "is not there"])
def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: str) -> None:
    monkeypatch.setattr(staging, "_TMPFILE", 0)

    def without(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "link":
            if rename == "loses":
                (tmp_path / "a").write_text("other")
            raise OSError(errno.EPERM, "Operation not permitted")
        if name == "rename_noreplace":
            if rename == "is not there":
                raise OSError(errno.EINVAL, "Invalid argument")
            real(*args)
            if rename == "reply lost":
                raise OSError(errno.EIO, "I/O error")
            return None
        return real(*args, **options)

    install(monkeypatch, without)
    if rename == "is not there":
        with pytest.raises(UnsupportedError, match="neither hard links"):
            publish(tmp_path / "a", b"x")
        assert os.listdir(tmp_path) == []
    else:
        assert publish(tmp_path / "a", b"x") == (rename != "loses")
        assert (tmp_path / "a").read_text() == ("other" if rename == "loses" else "x")
        assert os.listdir(tmp_path) == ["a"]


def test_many_publishers_have_one_winner(way: str, tmp_path: Path) -> None:
    path, start = tmp_path / "a", tmp_path / "start"
    won = tmp_path / "won"
    won.mkdir()
    children = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            try:
                while not start.exists():
                    pass
                for turn in range(20):
                    if publish(f"{path}{turn}", f"{number} " * 1000):
                        (won / f"{turn} {number}").touch()
            finally:
                os._exit(0)
        children.append(pid)
    start.touch()
    for pid in children:
        os.waitpid(pid, 0)
    winners = sorted(tuple(map(int, name.split())) for name in os.listdir(won))
    assert [turn for turn, _ in winners] == list(range(20))
    for turn, number in winners:
        assert (tmp_path / f"a{turn}").read_text() == f"{number} " * 1000
    assert names_in(tmp_path) == sorted(["start", "won", *(f"a{turn}" for turn in range(20))])


def test_killed_at_each_call(way: str, tmp_path: Path) -> None:
    path = tmp_path / "dir" / "a"
    data = b"data " * 100_000

    def check(when: str) -> None:
        if path.exists():
            assert path.read_bytes() == data, when
            path.unlink()
        staging._swept.clear()
        assert publish(path, data), when
        assert names_in(path.parent) == ["a"], when
        path.unlink()
        path.parent.rmdir()

    calls = dying_at_each_call(lambda: publish(path, data), check)
    assert {"mkdir", "open", "write", "fsync", "link", "close"} <= set(calls)
    assert ("unlink" in calls) == (way == "named")


def test_what_others_left_is_swept_and_what_they_write_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_TMPFILE", 0)
    monkeypatch.setattr(staging, "_swept", set())
    (tmp_path / ".b.0123456789abcdef.pub").write_text("left")
    (tmp_path / ".b.0123456789abcdef.pub.txt").write_text("a user's")
    (tmp_path / ".b.0123456789abcdef.new").write_text("not a publisher's")
    alive = tmp_path / ".b.1123456789abcdef.pub"
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        publish(tmp_path / "a", b"x")
        assert names_in(tmp_path) == sorted(
            [".b.0123456789abcdef.new", ".b.0123456789abcdef.pub.txt", ".b.1123456789abcdef.pub", "a"]
        )


def test_one_that_is_swept_before_it_locked_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_TMPFILE", 0)
    swept: list[str] = []

    def sweeping(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "lock" and not swept:
            swept.extend(os.listdir(tmp_path))
            os.unlink(tmp_path / swept[0])
        return real(*args, **options)

    install(monkeypatch, sweeping)
    assert publish(tmp_path / "a", b"x")
    assert len(swept) == 1
    assert os.listdir(tmp_path) == ["a"]


def test_long_names(way: str, tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    assert publish(path, b"x")
    assert child(lambda: publish(path, b"y")) == 0
    assert path.read_bytes() == b"x"
