"""`once`: one builds, the others take what it built, and hear of it when it fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import BuildError, DeadlockError, Lock, LostError, Timeout, once
from interlock._target import resolve
from interlock.atomic import staging

from .atomic_support import child, dying_at_each_call, install, names_in
from .seam import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("forks", allow_module_level=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a"


def file(place: Path) -> None:
    place.write_text("built")


def directory(place: Path) -> None:
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").write_text("built")
    (place / "link").symlink_to("nowhere")


def never(place: Path) -> None:
    raise AssertionError("built again")


@pytest.mark.parametrize("build", [file, directory])
def test_what_is_built_is_there_and_stays(path: Path, build: Callable[[Path], None]) -> None:
    assert once(path, build)
    assert not once(path, never)
    assert not once(str(path), never)
    result = path if build is file else path / "deep" / "file"
    assert result.read_text() == "built"
    assert names_in(path.parent) == ["a"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("build", "timeout", "error", "says"),
    [
        (5, None, TypeError, "build is a function that makes .* not int; nothing was changed"),
        (file, -1, ValueError, "timeout -1 is negative"),
        (file, "1", TypeError, "timeout is a number of seconds or None, not str"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    tmp_path: Path, there: bool, build: Any, timeout: Any, error: type[Exception], says: str
) -> None:
    if there:
        (tmp_path / "a").write_text("")
    with pytest.raises(error, match=says):
        once(tmp_path / "a" if there else tmp_path / "deep" / "a", build, timeout=timeout)
    assert os.listdir(tmp_path) == (["a"] if there else [])


def test_many_files_are_synced_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(staging.ops, "sync", lambda: synced.append(1), raising=False)

    def build(place: Path) -> None:
        place.mkdir()
        for number in range(150):
            (place / str(number)).touch()

    assert once(path, build)
    assert synced == [1]


def test_a_failure_leaves_nothing_but_its_note(path: Path) -> None:
    def fail(place: Path) -> None:
        place.mkdir()
        (place / "half").touch()
        raise ZeroDivisionError("of the builder")

    with pytest.raises(ZeroDivisionError):
        once(path, fail)
    assert names_in(path.parent) == [".a.failed"]
    with pytest.raises(FileNotFoundError, match="made nothing"):
        once(path, lambda place: None)
    assert once(path, file)  # whoever comes later tries again
    assert names_in(path.parent) == ["a"]


def test_an_interrupt_is_no_failure(path: Path) -> None:
    def interrupt(place: Path) -> None:
        place.touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(path, interrupt)
    assert names_in(path.parent) == []


def test_its_own_path(path: Path) -> None:
    with pytest.raises(DeadlockError):
        once(path, lambda place: once(path, file))
    with pytest.raises(ValueError, match="not the path"):
        once("a/", file)


def start(work: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def test_many_processes_build_once(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def build(place: Path) -> None:
        with log.open("a") as lines:
            lines.write("x")
        time.sleep(0.05)
        directory(place)

    def work() -> None:
        once(path, build)
        assert (path / "deep" / "file").read_text() == "built"

    pids = [start(work) for _ in range(32)]
    assert [ended(pid) for pid in pids] == [0] * 32
    assert log.read_text() == "x"
    assert names_in(tmp_path) == ["a", "log"]


def waiters(path: Path, number: int) -> Callable[[], bool]:
    """Do that many processes stand in line?"""
    from interlock import inspect

    return lambda: len(inspect(f"{path}.lock").waiters) >= number


def test_those_who_waited_are_told_of_the_failure(path: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def fail(place: Path) -> None:
        until(go.exists)
        raise RuntimeError("line\nbreak \x1b[31m")

    def be_told() -> None:
        with pytest.raises(BuildError) as caught:
            once(path, never)
        error = caught.value
        assert (error.kind, error.message, error.pid) == ("RuntimeError", "line?break ?[31m", builder)
        assert str(path) in str(error)
        assert "RuntimeError" in str(error)

    def build_and_fail() -> None:
        with pytest.raises(RuntimeError):
            once(path, fail)

    builder = start(build_and_fail)
    until(lambda: resolve(f"{path}.lock") and os.path.exists(f"{path}.lock") and holder(path) == builder)
    pids = [start(be_told) for _ in range(4)]
    until(waiters(path, 4))
    go.touch()
    assert [ended(pid) for pid in (builder, *pids)] == [0] * 5
    assert once(path, file)


def holder(path: Path) -> int | None:
    from interlock import inspect

    holders = inspect(f"{path}.lock").holders
    return holders[0].pid if holders else None


def test_a_builder_that_dies_is_followed_at_once(path: Path, tmp_path: Path) -> None:
    def hang(place: Path) -> None:
        directory(place)
        time.sleep(100)

    builder = start(lambda: once(path, hang))
    until(lambda: os.path.exists(f"{path}.lock") and holder(path) == builder)
    until(lambda: any(name.endswith(".new") for name in os.listdir(tmp_path)))
    follower = start(lambda: once(path, directory))
    until(waiters(path, 1))
    with pytest.raises(Timeout):
        once(path, never, timeout=0.01)
    began = time.monotonic()
    os.kill(builder, signal.SIGKILL)
    assert ended(builder) == signal.SIGKILL
    assert ended(follower) == 0
    assert time.monotonic() - began < 30
    assert (path / "deep" / "file").read_text() == "built"
    assert names_in(tmp_path) == ["a"]


def test_a_lock_that_is_taken_away(path: Path) -> None:
    def lose(place: Path) -> None:
        place.write_text("ours")
        os.unlink(f"{path}.lock")
        assert child(lambda: once(path, file)) == 0

    with pytest.raises(LostError, match="taken away during the build"):
        once(path, lose)
    assert path.read_text() == "built"
    assert names_in(path.parent) == ["a"]


def test_without_a_rename_that_does_not_replace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "rename_noreplace":
            raise OSError(22, "Invalid argument")
        return real(*args, **options)

    install(monkeypatch, without)
    assert once(path, file)
    assert names_in(path.parent) == ["a"]
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("build", [file, directory])
def test_something_that_came_meanwhile_is_the_result(path: Path, build: Callable[[Path], None]) -> None:
    def overtaken(place: Path) -> None:
        build(place)
        build(path)

    assert not once(path, overtaken)
    assert names_in(path.parent) == ["a"]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"id": 3}', b"[" * 4000, b"\xff\xfe", b"{}" * 5000])
def test_a_damaged_note_hurts_nobody(path: Path, note: bytes) -> None:
    path.with_name(".a.failed").write_bytes(note)
    held = Lock(f"{path}.lock").acquire()
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(once(path, file)))
    thread.start()
    until(lambda: resolve(f"{path}.lock").queue)
    held.release()
    thread.join()
    assert answer == [True]
    assert names_in(path.parent) == ["a"]


@pytest.mark.parametrize("build", [file, directory, None])
def test_killed_at_each_call(path: Path, build: Callable[[Path], None] | None) -> None:
    def fail(place: Path) -> None:
        directory(place)
        raise ZeroDivisionError

    def work() -> Any:
        if build is not None:
            return once(path, build)
        with pytest.raises(ZeroDivisionError):
            once(path, fail)
        return None

    def check(when: str) -> None:
        if path.exists():
            assert build is not None, when
            assert not once(path, never), when
        else:
            assert once(path, build or file), when
        result = path / "deep" / "file" if path.is_dir() else path
        assert result.read_text() == "built", when
        assert names_in(path.parent) in (["a"], [".a.failed", "a"]), when
        staging.remove(str(path))
        staging.remove(str(path.with_name(".a.failed")))

    calls = dying_at_each_call(work, check)
    assert len(calls) > 6
    if build is not None:
        assert {"fsync", "rename_noreplace" if build is file else "rename"} <= set(calls)
