"""The process's inotify instance: who is told what, and what is left when nobody listens."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)
assert sys.platform == "linux"  # for mypy

from interlock._wait import inotify, mounts  # noqa: E402
from interlock._wait.inotify import Instance  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def made() -> Instance:
    """A new instance. There are few per user (fs.inotify.max_user_instances), and others may have them just now."""
    limit = time.monotonic() + 60
    while True:
        try:
            return Instance()
        except OSError as error:
            if error.errno != errno.EMFILE or time.monotonic() > limit:
                raise
            time.sleep(0.05)


@pytest.fixture
def instance() -> Iterator[Instance]:
    instance = made()
    yield instance
    instance.close()


class File:
    """A file that is open, and what its watcher was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.told = 0

    def tell(self) -> None:
        self.told += 1

    def touched(self) -> None:
        """Somebody opens and closes it."""
        os.close(os.open(self.path, os.O_RDWR))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "a.lock")
    yield file
    os.close(file.fd)


def watches(instance: Instance) -> int:
    """How many watches the kernel has."""
    with open(f"/proc/self/fdinfo/{instance.fileno()}") as info:
        return sum(line.startswith("inotify wd") for line in info)


def test_a_close_is_told(instance: Instance, file: File) -> None:
    instance.watch(file.fd, instance.CLOSED, file, file.tell)
    instance.drain()
    assert file.told == 0
    file.touched()
    instance.drain()
    assert file.told == 1
    instance.drain()
    assert file.told == 1


def test_a_death_is_told(instance: Instance, file: File) -> None:
    program = "import sys; f = open(sys.argv[1]); print(); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(file.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    instance.watch(file.fd, instance.CLOSED, file, file.tell)
    holder.kill()
    holder.communicate()
    instance.drain()
    assert file.told == 1


@pytest.mark.parametrize("change", ["unlink", "replace", "rename", "touch", "chmod"])
def test_changes_are_told_to_those_at_the_back(change: str, instance: Instance, file: File) -> None:
    instance.watch(file.fd, instance.REPLACED, file, file.tell)
    file.touched()
    instance.drain()
    assert file.told == 0
    other = file.path.with_name("other")
    if change == "unlink":
        file.path.unlink()
    elif change == "replace":
        other.write_text("")
        other.replace(file.path)
    elif change == "rename":
        file.path.rename(other)
    elif change == "touch":
        os.utime(file.fd)
    else:
        file.path.chmod(0o600)
    instance.drain()
    assert file.told == 1


def test_watching_again_adds(instance: Instance, file: File) -> None:
    one = instance.watch(file.fd, instance.REPLACED, file, file.tell)
    assert instance.watch(file.fd, instance.CLOSED, file, file.tell) == one
    file.touched()
    instance.drain()
    os.utime(file.fd)
    instance.drain()
    assert file.told == 2


def test_each_file_has_its_own(instance: Instance, file: File, tmp_path: Path) -> None:
    other = File(tmp_path / "other")
    try:
        instance.watch(file.fd, instance.CLOSED, file, file.tell)
        instance.watch(other.fd, instance.CLOSED, other, other.tell)
        other.touched()
        instance.drain()
        assert (file.told, other.told) == (0, 1)
        file.touched()
        other.touched()
        instance.drain()
        assert (file.told, other.told) == (1, 2)
    finally:
        os.close(other.fd)


def test_the_watch_follows_the_file_and_not_the_path(instance: Instance, file: File) -> None:
    file.path.unlink()
    file.path.write_text("another")
    instance.watch(file.fd, instance.CLOSED, file, file.tell)
    file.touched()
    instance.drain()
    assert file.told == 0
    os.close(os.open(f"/proc/self/fd/{file.fd}", os.O_RDWR))
    instance.drain()
    assert file.told == 1


def test_several_watchers_of_one_file(instance: Instance, file: File) -> None:
    second = os.dup(file.fd)
    told: list[str] = []
    try:
        one = instance.watch(file.fd, instance.CLOSED, "one", lambda: told.append("one"))
        two = instance.watch(second, instance.CLOSED, "two", lambda: told.append("two"))
        assert one == two
        file.touched()
        instance.drain()
        assert sorted(told) == ["one", "two"]
        instance.unwatch(one, "one")
        file.touched()
        instance.drain()
        assert sorted(told) == ["one", "two", "two"]
    finally:
        os.close(second)


def test_who_has_left_is_told_nothing(instance: Instance, file: File) -> None:
    handle = instance.watch(file.fd, instance.CLOSED, file, file.tell)
    instance.unwatch(handle, file)
    instance.unwatch(handle, file)
    file.touched()
    instance.drain()
    assert file.told == 0


def test_a_lost_handle_can_be_left(instance: Instance, file: File) -> None:
    instance.watch(file.fd, instance.CLOSED, file, file.tell)
    instance.unwatch(0, file)
    file.touched()
    instance.drain()
    assert file.told == 0


def test_a_new_watcher_gets_what_it_asked_for_and_no_more(instance: Instance, file: File) -> None:
    """The kernel keeps a watch that nobody needs until the next one is made."""
    instance.unwatch(instance.watch(file.fd, instance.CLOSED, "old", file.tell), "old")
    instance.watch(file.fd, instance.REPLACED, "new", file.tell)
    file.touched()
    instance.drain()
    assert file.told == 0
    os.utime(file.fd)
    instance.drain()
    assert file.told == 1


def test_watches_do_not_pile_up(instance: Instance, tmp_path: Path) -> None:
    for number in range(50):
        file = File(tmp_path / f"{number}.lock")
        handle = instance.watch(file.fd, instance.CLOSED, file, file.tell)
        instance.unwatch(handle, file)
        os.close(file.fd)
    assert watches(instance) <= 1
    assert instance._watchers == {}


def test_a_file_that_is_gone_can_be_left(instance: Instance, file: File, tmp_path: Path) -> None:
    gone = File(tmp_path / "gone")
    handle = instance.watch(gone.fd, instance.CLOSED, gone, gone.tell)
    gone.path.unlink()
    os.close(gone.fd)  # the kernel removes its watch
    instance.drain()
    instance.unwatch(handle, gone)
    instance.watch(file.fd, instance.CLOSED, file, file.tell)
    file.touched()
    instance.drain()
    assert file.told == 1
    assert watches(instance) == 1


def test_an_overflow_tells_everybody(instance: Instance, file: File, tmp_path: Path) -> None:
    """What was lost may have been anybody's."""
    other = File(tmp_path / "other")
    try:
        instance.watch(file.fd, instance.CLOSED, file, file.tell)
        instance.watch(other.fd, instance.CLOSED, other, other.tell)
        overflow = struct.pack("iIII", -1, inotify._IN_Q_OVERFLOW, 0, 0)
        instance._tell(instance._concerned(overflow))
        assert (file.told, other.told) == (1, 1)
    finally:
        os.close(other.fd)


def test_names_in_events_are_skipped(instance: Instance) -> None:
    named = struct.pack("iIII", 1, 0x8, 0, 16) + b"name" + b"\0" * 12
    assert instance._concerned(named + struct.pack("iIII", 2, 0x8, 0, 0)) == {1, 2}
    assert instance._concerned(struct.pack("iIII", 3, inotify._IN_IGNORED, 0, 0)) == set()


def test_what_cannot_be_watched_is_an_error(instance: Instance) -> None:
    with pytest.raises(OSError, match="inotify_add_watch") as caught:
        instance.watch(10**6, instance.CLOSED, "key", lambda: None)
    assert caught.value.errno == errno.ENOENT
    assert instance._watchers == {}


# ---- the one of the process


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made().close()
    monkeypatch.setattr(inotify, "_instance", None)
    monkeypatch.setattr(inotify, "_unavailable", False)
    yield
    if inotify._instance is not None:
        inotify._instance.close()


@pytest.mark.usefixtures("fresh")
def test_there_is_one_for_all_threads() -> None:
    found: list[Any] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(inotify.shared())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in found
    assert inotify.shared() is inotify.shared()
    assert inotify.shared() in found


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("number", "passes"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOSYS, False)])
def test_without_one_there_is_none(number: int, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """fs.inotify.max_user_instances may pass; a kernel without inotify stays so."""
    asked: list[bool] = []

    def refuse() -> None:
        asked.append(True)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(inotify, "Instance", refuse)
    assert inotify.shared() is None
    assert inotify.shared() is None
    assert len(asked) == (2 if passes else 1)
    monkeypatch.setattr(inotify, "Instance", Instance)
    assert (inotify.shared() is not None) == passes


@pytest.mark.usefixtures("fresh")
def test_a_libc_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    class Libc:
        pass

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    assert inotify.shared() is None


@pytest.mark.usefixtures("fresh")
def test_a_forked_child_lets_go_of_it() -> None:
    mine = inotify.shared()
    assert mine is not None
    fd = mine.fileno()
    inotify._forget()
    assert inotify._instance is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    inotify._forget()
    assert inotify.shared() is not mine


def test_local_filesystems_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, trusted in (("ext4", True), ("tmpfs", True), ("nfs4", False), ("fuse", False), ("", False)):
        monkeypatch.setattr(mounts, "fstype", lambda _, kind=kind: kind)
        mounts._local.clear()
        assert inotify.trusts(str(tmp_path)) == trusted
