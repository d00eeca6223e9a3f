"""The lock file is unlinked or replaced, or its directory is, while somebody holds it or waits for it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from interlock import Lock
from interlock.engines.kernel import NAP

from .workers import locked_by_others, lockers, tickets, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .workers import Worker

    Spawn = Callable[[], Worker]

assert sys.platform == "linux"


def unlink(path: str) -> None:
    os.unlink(path)


def rename_over(path: str) -> None:
    with open(path + ".new", "w"):
        pass
    os.rename(path + ".new", path)


def rename_away(path: str) -> None:
    os.rename(path, path + ".old")


def replace_directory(path: str) -> None:
    directory = os.path.dirname(path)
    os.rename(directory, directory + ".old")
    os.makedirs(directory, exist_ok=True)  # a waiter may have been faster


def remove_directory(path: str) -> None:
    os.unlink(path)
    os.rmdir(os.path.dirname(path))


SEEN_AT_ONCE: list[Callable[[str], None]] = [unlink, rename_over, rename_away]
SEEN_BY_A_NAP: list[Callable[[str], None]] = [replace_directory]
CHANGES = [*SEEN_AT_ONCE, *SEEN_BY_A_NAP, remove_directory]


@pytest.fixture
def path(tmp_path: object) -> str:
    directory = os.path.join(os.path.realpath(str(tmp_path)), "locks")
    os.mkdir(directory)
    return os.path.join(directory, "x.lock")


@pytest.mark.parametrize("change", CHANGES)
def test_a_holder_learns_that_its_lock_is_lost(spawn: Spawn, path: str, change: Callable[[str], None]) -> None:
    holder, newcomer, another = spawn(), spawn(), spawn()
    holder.ask("acquire", path)
    assert holder.ask("check")["lost"] is False
    change(path)
    checked = holder.ask("check")
    assert (checked["held"], checked["lost"], checked["error"]) == (True, True, "LostError")
    assert path in checked["text"]

    # Newcomers exclude each other on the file that is there now.
    assert newcomer.ask("acquire", path, 5)["event"] == "acquired"
    assert another.ask("attempt", path)["event"] == "contended"
    assert lockers(path) == [newcomer.pid]

    # The loser's release harms nobody.
    assert holder.ask("release")["event"] == "released"
    assert lockers(path) == [newcomer.pid]
    assert newcomer.ask("check")["error"] is None
    assert newcomer.ask("release")["event"] == "released"
    assert another.ask("attempt", path)["event"] == "acquired"


def test_a_hold_that_was_seen_lost_stays_lost(spawn: Spawn, path: str) -> None:
    """Though the file is put back: somebody else may have held another one at its path meanwhile."""
    holder = spawn()
    holder.ask("acquire", path)
    os.rename(path, path + ".old")
    assert holder.ask("check")["lost"] is True
    os.rename(path + ".old", path)
    assert holder.ask("check")["lost"] is True


@pytest.mark.parametrize("options", [{}, {"fair": True}])
@pytest.mark.parametrize("change", [*SEEN_AT_ONCE, *SEEN_BY_A_NAP])
def test_waiters_move_to_the_new_file(
    spawn: Spawn, path: str, change: Callable[[str], None], options: dict[str, Any]
) -> None:
    """Three wait for the old file. One takes the new one at once; the others wait for that one, not for the old."""
    holder = spawn()
    waiters = [spawn() for _ in range(3)]
    holder.ask("acquire", path)
    for waiter in waiters:
        waiter.tell("acquire", path, 60, options)
        waiter.waits(path)
    with open(path) as old:
        inode = os.fstat(old.fileno()).st_ino
    change(path)

    left = {waiter.pid: waiter for waiter in waiters}
    until(lambda: lockers(path), "somebody has the new file")
    while left:
        until(lambda: lockers(path) and lockers(path)[0] in left, "somebody has the new file")
        (winner,) = lockers(path)
        assert left[winner].answer()["event"] == "acquired"
        assert os.stat(path).st_ino != inode
        assert left[winner].ask("check")["error"] is None
        until(lambda: tickets(path) == len(left) - 1, "the others wait for the new file", 2 * NAP + 10)
        left.pop(winner).ask("release")
    assert holder.ask("check")["lost"] is True
    assert tickets(path) == 0


def test_a_storm_of_unlinks_never_lets_two_hold_one_file(spawn: Spawn, path: str) -> None:
    """Each that acquires is sole locker of the file that is at the path, however often that one changes."""
    workers = [spawn() for _ in range(4)]
    for worker in workers:
        worker.tell("acquire", path, 30)
    free = dict(enumerate(workers))
    for round_ in range(60):
        until(lambda: lockers(path), "somebody holds the file")
        (pid,) = lockers(path)
        (index,) = (index for index, worker in free.items() if worker.pid == pid)
        worker = free[index]
        assert worker.answer()["event"] == "acquired"
        if round_ % 3:
            worker.ask("release")
        else:
            os.unlink(path)  # the others go on, as this one holds nobody's file
            assert worker.ask("check")["lost"] is True
            worker.ask("release")
        worker.tell("acquire", path, 30)


def test_a_lock_file_that_comes_and_goes_ends_in_an_error_not_in_a_spin(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Somebody replaces the file at every look: the attempt ends."""
    from interlock.engines import kernel

    engine = kernel.engine()
    real = type(engine.ops).try_lock

    class Ops(type(engine.ops)):  # type: ignore[misc]
        def try_lock(self, fd: int, name: str) -> bool:
            got = real(self, fd, name)
            os.unlink(name)
            return got

    monkeypatch.setattr(engine, "ops", Ops())
    with pytest.raises(BlockingIOError, match="replaced faster") as caught:
        Lock(path).acquire(5)
    assert caught.value.filename == path
    monkeypatch.undo()
    Lock(path).acquire(5).release()
    assert not locked_by_others(path)
