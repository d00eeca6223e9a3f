"""`transform`: no update is lost, no reader sees half a file, and what the file was it stays."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from interlock import DeadlockError, Lock, LostError, NotHeldError, Timeout, UnsafePathError, transform
from interlock.atomic import staging, update

from .atomic_support import child, dying_at_each_call, install, names_in, open_files
from .support import need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("forks, and extended attributes", allow_module_level=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a"


def more(old: bytes | None) -> str:
    return str(int(old or b"0") + 1)


def test_the_content_goes_through_the_function(path: Path) -> None:
    assert transform(path, more) == b"1"
    assert transform(str(path), lambda old: (old or b"") + b"0") == b"10"
    assert path.read_text() == "10"
    assert names_in(path.parent) == ["a"]


def test_directories_are_made(tmp_path: Path) -> None:
    transform(tmp_path / "b" / "c" / "d", more)
    assert (tmp_path / "b" / "c" / "d").read_text() == "1"


def test_the_same_content_is_not_written(path: Path) -> None:
    path.write_text("x")
    before = path.stat()
    assert transform(path, lambda old: old or b"") == b"x"
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names_in(path.parent) == ["a"]


def bad_type(old: bytes | None) -> Any:
    return 3


def bad_luck(old: bytes | None) -> bytes:
    raise ZeroDivisionError


@pytest.mark.parametrize(("fn", "error"), [(bad_type, TypeError), (bad_luck, ZeroDivisionError)])
def test_a_function_that_fails_changes_nothing(path: Path, fn: Callable[..., Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        transform(path, fn)
    assert names_in(path.parent) == []
    path.write_text("x")
    before = path.stat()
    with pytest.raises(error):
        transform(path, fn)
    assert path.stat() == before
    assert names_in(path.parent) == ["a"]
    assert not Lock(f"{path}.lock").held


@pytest.mark.parametrize(("call", "number"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EIO)])
def test_an_error_of_the_filesystem_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def failing(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == call:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    path.write_text("1")
    files = open_files()
    with monkeypatch.context() as patch:
        install(patch, failing)
        with pytest.raises(OSError, match=os.strerror(number)):
            transform(path, more)
    assert path.read_text() == "1"
    assert names_in(path.parent) == ["a"]
    assert open_files() == files


def test_a_rename_whose_reply_was_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        answer = real(*args, **options)
        if name == "replace":
            raise OSError(errno.EIO, "I/O error")
        return answer

    install(monkeypatch, losing)
    assert transform(path, more) == b"1"
    assert names_in(path.parent) == ["a"]


# ---- what the file was it stays


def test_mode_and_attributes_stay(path: Path) -> None:
    path.write_text("1")
    path.chmod(0o2751)
    try:
        os.setxattr(path, "user.colour", b"blue")
    except OSError:
        pytest.skip("no extended attributes here")
    transform(path, more)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2751
    assert os.getxattr(path, "user.colour") == b"blue"


def test_a_new_file_has_the_mode_of_the_umask(path: Path) -> None:
    before = os.umask(0o027)
    try:
        transform(path, more)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as the kernel stores it: (tag, permissions, id)."""
    return b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, bits, who in entries
    )


ACL = acl((1, 6, -1), (2, 6, 1234), (4, 4, -1), (16, 6, -1), (32, 0, -1))


def test_access_control_lists_stay_and_defaults_do_not_creep_in(path: Path) -> None:
    path.write_text("1")
    plain = path.with_name("plain")
    plain.write_text("1")
    plain.chmod(0o640)
    try:
        os.setxattr(path, "system.posix_acl_access", ACL)
        os.setxattr(path.parent, "system.posix_acl_default", ACL)
    except OSError:
        pytest.skip("no access control lists here")
    mode = path.stat().st_mode
    transform(path, more)
    assert os.getxattr(path, "system.posix_acl_access") == ACL
    assert path.stat().st_mode == mode
    transform(plain, more)
    assert "system.posix_acl_access" not in os.listxattr(plain)
    assert stat.S_IMODE(plain.stat().st_mode) == 0o640


def test_the_owner_stays(path: Path) -> None:
    need_root()
    path.write_text("1")
    os.chown(path, 1234, 2345)
    path.chmod(0o4711)
    transform(path, more)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o4711)


def test_an_owner_that_cannot_stay_is_an_error_or_accepted(path: Path) -> None:
    need_root()
    path.write_text("1")
    path.chmod(0o4666)
    path.parent.chmod(0o777)
    for parent in path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)

    def as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError, match="owner='mine'"):
            transform(path, more)
        assert path.read_text() == "1"
        transform(path, more, owner="mine")
        assert path.stat().st_uid == 65534
        assert stat.S_IMODE(path.stat().st_mode) == 0o666

    assert child(as_nobody) == 0
    assert names_in(path.parent) == ["a"]
    with pytest.raises(ValueError, match="owner"):
        transform(path, more, owner="theirs")  # type: ignore[arg-type]


def test_links_are_followed_and_stay(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to("real/b")
    transform(path, more)  # dangling: its file is made
    transform(path, more)
    assert path.is_symlink()
    assert (tmp_path / "real" / "b").read_text() == "2"
    assert sorted(os.listdir(tmp_path / "real")) == ["b", "b.lock"]
    assert names_in(tmp_path) == ["a", "real"]


def test_a_link_that_is_switched_while_one_waits(path: Path, tmp_path: Path) -> None:
    for name in "bc":
        (tmp_path / name).write_text("10")
    path.symlink_to("b")
    with Lock(tmp_path / "b.lock"):
        thread = threading.Thread(target=transform, args=(path, more))
        thread.start()
        path.unlink()
        path.symlink_to("c")
    thread.join()
    assert ((tmp_path / "b").read_text(), (tmp_path / "c").read_text()) in [("10", "11"), ("11", "10")]
    assert transform(path, more) in (b"11", b"12")


def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(UnsafePathError, match="not a regular file"):
        transform(path, more)
    (tmp_path / "dir").mkdir()
    with pytest.raises(IsADirectoryError):
        transform(tmp_path / "dir", more)
    assert names_in(tmp_path) == ["a", "dir"]
    with pytest.raises(TypeError):
        transform(b"a", more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fn", "options", "error", "says"),
    [
        (5, {}, TypeError, "fn is a function that gets the old content .* not int; nothing was changed"),
        (more, {"hold": 5}, TypeError, "hold is what a lock's acquire returned, not int; nothing was changed"),
        (more, {"timeout": -1}, ValueError, "timeout -1 is negative"),
        (more, {"timeout": float("nan")}, ValueError, "timeout is not a number"),
        (more, {"timeout": "1"}, TypeError, "timeout is a number of seconds or None, not str"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    tmp_path: Path, fn: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        transform(tmp_path / "deep" / "a", fn, **options)
    assert names_in(tmp_path) == []


# ---- taking turns


def test_it_waits_for_its_turn(path: Path) -> None:
    held = Lock(f"{path}.lock").acquire()
    with pytest.raises(Timeout):
        in_thread(lambda: transform(path, more, timeout=0))
    with pytest.raises(DeadlockError):
        transform(path, more)
    held.release()
    with pytest.raises(DeadlockError):
        transform(path, lambda old: transform(path, more))
    assert names_in(path.parent) == []


def in_thread(work: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_under_a_hold_of_the_caller(path: Path, tmp_path: Path) -> None:
    def losing(old: bytes | None) -> bytes:
        os.unlink(tmp_path / "both.lock")
        return b"9"

    with Lock(tmp_path / "both.lock") as hold:
        assert transform(path, more, hold=hold) == b"1"
        assert transform(tmp_path / "b", more, hold=hold) == b"1"
        with pytest.raises(LostError):
            transform(path, losing, hold=hold)
        with pytest.raises(LostError):
            transform(path, more, hold=hold)
    with pytest.raises(NotHeldError):
        transform(path, more, hold=hold)
    assert path.read_text() == "1"
    assert names_in(tmp_path) == ["a", "b"]


def test_a_lock_file_that_is_deleted_costs_a_repetition(path: Path) -> None:
    """The other one comes in the middle, and is overtaken by nobody."""
    path.write_text("1")
    calls: list[bytes | None] = []

    def fn(old: bytes | None) -> str:
        calls.append(old)
        if len(calls) == 1:
            os.unlink(f"{path}.lock")
            assert child(lambda: transform(path, more)) == 0
        return more(old)

    assert transform(path, fn) == b"3"
    assert calls == [b"1", b"2"]
    assert names_in(path.parent) == ["a"]


def test_a_late_writer_finds_its_file_swept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between its last check of the lock and the rename, while the lock is lost and somebody else writes."""
    path.write_text("1")
    done: list[int] = []

    def late(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "replace" and not done:
            done.append(1)
            os.unlink(f"{path}.lock")
            with pytest.MonkeyPatch.context():
                assert child(other) == 0
        return real(*args, **options)

    def other() -> None:
        transform(path, more)

    install(monkeypatch, late)
    assert transform(path, more) == b"3"
    assert names_in(path.parent) == ["a"]


class Lie:
    """A lock that excludes nobody and does not know it."""

    resource = "nothing"

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __enter__(self) -> Lie:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def assert_held(self) -> None:
        pass


def count_together(path: Path, threads: int = 4, each: int = 25) -> int:
    def work() -> None:
        for _ in range(each):
            transform(path, more)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return int(path.read_text())


def test_nothing_is_lost_where_the_lock_lies(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "Lock", Lie)
    assert count_together(path) == 100
    assert names_in(path.parent) == ["a"]


def test_and_it_is_the_sweep_that_sees_to_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "Lock", Lie)
    monkeypatch.setattr(update, "sweep", lambda *args, **options: None)
    counts = []
    for number in range(50):  # whether two meet is luck
        counts.append(count_together(path.with_name(f"{number}")))
        if counts[-1] < 100:
            return
    raise AssertionError(counts)


# ---- crashes


@contextmanager
def watched(path: Path) -> Iterator[list[str]]:
    """Readers that open the file again and again while the block runs; returns what was wrong with what they read."""
    wrong: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                text = path.read_text()
            except OSError as error:
                wrong.append(repr(error))
            else:
                if len(text) != 40_000 or len(set(text)) != 1:
                    wrong.append(f"{len(text)} characters of {len(set(text))} kinds")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


def other_letter(old: bytes | None) -> bytes:
    return (b"a" if (old or b"b")[:1] == b"b" else b"b") * 40_000


def test_killed_at_each_call(path: Path) -> None:
    path.write_bytes(other_letter(None))
    path.chmod(0o600)

    def check(when: str) -> None:
        before = path.read_bytes()
        assert len(before) == 40_000, when
        assert transform(path, other_letter) != before
        assert names_in(path.parent) == ["a"], when
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, when

    with watched(path) as wrong:
        calls = dying_at_each_call(lambda: transform(path, other_letter), check)
    assert wrong == []
    assert {"listdir", "open", "write", "fchmod", "fsync", "replace"} <= set(calls)
    assert calls.count("fsync") == 2


def test_readers_would_see_a_file_that_is_written_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the tests above."""
    path.write_bytes(other_letter(None))

    def in_place(self: staging.Staged, target: str) -> None:
        assert self.name is not None
        fd = staging.ops.open(target, os.O_WRONLY | os.O_TRUNC)
        staging.ops.write(fd, b"b" * 20_000)
        staging.ops.write(fd, b"b" * 20_000)
        staging.ops.close(fd)
        os.unlink(self.name)
        self.name = None

    torn: list[str] = []

    def check(when: str) -> None:
        if len(path.read_bytes()) != 40_000:
            torn.append(when)
        path.write_bytes(other_letter(None))

    monkeypatch.setattr(staging.Staged, "replace", in_place)
    dying_at_each_call(lambda: transform(path, other_letter), check)
    assert len(torn) == 2
