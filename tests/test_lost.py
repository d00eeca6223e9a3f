"""Lock files that vanish under their holders, and who hears of it when. Linux."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from interlock import AsyncLock, Lock, LostError, NotHeldError, RLock
from interlock._core import lost
from interlock._core.arbiter import turns
from interlock._target import resolve

if sys.platform != "linux":
    pytest.skip("watches inodes by inotify", allow_module_level=True)

from interlock._wait import guard, inotify

from .seam import patched_engine, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    until(lambda: not helpers())
    assert guard._guard.wards == {}


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interlock-guard"]


def unlink(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.touch()
    other.replace(path)


def move_away(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def link_over(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


@pytest.fixture
def long_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what an event told is told from what a nap found out, on a busy machine too."""
    monkeypatch.setattr(guard, "NAP", 60.0)


@pytest.mark.usefixtures("long_naps")
@pytest.mark.parametrize("change", [unlink, replace, move_away, link_over])
def test_a_loss_is_noticed_by_an_event(change: Callable[[Path], None], path: Path) -> None:
    with Lock(path) as hold:
        told: list[tuple[str, float]] = []
        hold.on_lost(lambda reason: told.append((reason, time.monotonic())))
        assert len(helpers()) == 1
        began = time.monotonic()
        change(path)
        assert hold.lost.wait(60)
        until(lambda: told)
        assert told[0][1] - began < guard.NAP / 2, "that was the nap, not the event"
        assert str(path) in told[0][0]
        assert hold.lost.reason == told[0][0]
    assert hold.lost
    assert len(told) == 1


@pytest.mark.usefixtures("long_naps")
def test_wait_blocks_until_the_loss(path: Path) -> None:
    with Lock(path) as hold:
        began = time.monotonic()
        assert not hold.lost.wait(0.05)
        assert time.monotonic() - began >= 0.05
        threading.Timer(0.05, path.unlink).start()
        assert hold.lost.wait()
    assert time.monotonic() - began < guard.NAP / 2


def test_nobody_who_does_not_ask_pays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    ops = patched_engine(monkeypatch)
    with Lock(path) as hold:
        assert "watchers" not in vars(turns[resolve(path)])
    assert [call[0] for call in ops.calls] == ["open", "fcntl", "flock", "fstat", "flock", "close"]
    assert not hold.lost
    assert helpers() == []


@pytest.mark.usefixtures("long_naps")
def test_the_thread_ends_at_the_release_and_nobody_is_told(path: Path) -> None:
    told: list[str] = []
    with Lock(path) as hold:
        hold.on_lost(told.append)
        assert len(helpers()) == 1
    began = time.monotonic()
    until(lambda: not helpers())
    assert time.monotonic() - began < guard.NAP / 2
    path.unlink()
    assert told == []


def test_a_release_ends_a_wait(path: Path) -> None:
    hold = Lock(path).acquire()
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(hold.lost.wait()))
    thread.start()
    until(lambda: "watchers" in vars(turns[resolve(path)]))
    began = time.monotonic()
    hold.release()
    thread.join(60)
    assert answer == [False]
    assert time.monotonic() - began < 30


def test_a_dropped_hold_is_released_though_it_is_watched(path: Path) -> None:
    told: list[str] = []
    hold = Lock(path).acquire()
    hold.on_lost(told.append)
    with pytest.warns(ResourceWarning):
        del hold
    assert turns.get(resolve(path)) is None
    assert told == []


def test_one_thread_for_many(tmp_path: Path) -> None:
    holds = [Lock(tmp_path / f"{number}.lock").acquire() for number in range(50)]
    told: list[int] = []
    for number, hold in enumerate(holds):
        hold.on_lost(lambda _reason, number=number: told.append(number))  # type: ignore[misc]
    assert len(helpers()) == 1
    for number in range(0, 50, 2):
        (tmp_path / f"{number}.lock").unlink()
    until(lambda: len(told) == 25)
    assert sorted(told) == list(range(0, 50, 2))
    for hold in holds:
        hold.release()


def test_one_that_had_to_wait_is_told_too(path: Path) -> None:
    first = Lock(path).acquire()
    told: list[str] = []
    holder = threading.Event()
    done = threading.Event()

    def wait() -> None:
        with Lock(path) as hold:
            hold.on_lost(told.append)
            holder.set()
            assert done.wait(60)

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    first.release()
    assert child.stdout.readline() == "held\n"
    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: path in waiting())
    child.stdin.close()
    assert holder.wait(60)
    path.unlink()
    until(lambda: told)
    done.set()
    thread.join(60)
    child.wait(60)
    child.stdout.close()


CHILD = "import sys; from interlock import Lock\nwith Lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"


def waiting() -> list[Any]:
    from pathlib import Path

    return [Path(line.key) for line, claim in list(turns.items()) if getattr(claim, "parker", None) is not None]


def test_reentrant_holds_are_lost_together(path: Path) -> None:
    told: list[str] = []
    lock = RLock(path)
    with lock as outer, lock as inner:
        inner.on_lost(told.append)
        outer.on_lost(told.append)
        inner.release()
        path.unlink()
        until(lambda: len(told) == 2)
        assert outer.lost


@pytest.mark.parametrize("events", [None, inotify])
def test_without_events_it_naps(path: Path, monkeypatch: pytest.MonkeyPatch, events: Any) -> None:
    if events is not None:  # events, but no watches left
        monkeypatch.setattr(inotify.Instance, "watch", lambda *_: (_ for _ in ()).throw(OSError(28, "no watches")))
    patched_engine(monkeypatch, events)
    monkeypatch.setattr(guard, "BLIND_NAP", 0.02)
    with Lock(path) as hold:
        told: list[str] = []
        hold.on_lost(told.append)
        path.unlink()
        until(lambda: told)
    with Lock(path) as hold:
        hold.on_lost(told.append)
        assert helpers()
    until(lambda: not helpers())


def test_a_directory_that_is_renamed_is_found_by_the_nap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "NAP", 0.05)
    told: list[str] = []
    with Lock(tmp_path / "dir" / "a.lock") as hold:
        hold.on_lost(told.append)
        (tmp_path / "dir").rename(tmp_path / "other")
        until(lambda: told)


def test_an_error_of_the_filesystem_is_no_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = patched_engine(monkeypatch, None)
    monkeypatch.setattr(guard, "BLIND_NAP", 0.01)
    with Lock(path) as hold:
        told: list[str] = []
        hold.on_lost(told.append)
        ops.calls.clear()
        ops.fail("stat", 5)
        until(lambda: ops.count("stat") > 3)
        assert told == []
        ops.heal()
        assert not hold.lost


def test_a_forked_child_has_no_thread_and_no_loss(path: Path) -> None:
    with Lock(path) as hold:
        told: list[str] = []
        hold.on_lost(told.append)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                ok = not hold.lost and guard._guard.wards == {} and guard._guard.thread is None
                with pytest.raises(NotHeldError):
                    hold.on_lost(told.append)
                with Lock(path.with_name("child.lock")) as mine:
                    mine.on_lost(told.append)
                    path.with_name("child.lock").unlink()
                    ok = ok and mine.lost.wait(60)
                status = 0 if ok else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert not hold.lost
        path.unlink()
        until(lambda: told)


def test_a_signal_handler_may_ask_in_the_middle_of_asking(path: Path) -> None:
    told: list[str] = []
    with Lock(path) as hold:
        hold.on_lost(told.append)  # the first use loads a module, in the middle of which nobody can use it
        before = signal.signal(signal.SIGALRM, lambda *_: hold.on_lost(told.append))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for _ in range(2000):
                hold.on_lost(lambda _: None)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(helpers()) == 1


def test_watchers_are_called_once_whoever_races(path: Path) -> None:
    with Lock(path):
        claim = turns[resolve(path)]
        calls: list[int] = []
        gate = threading.Barrier(4)

        def tell(who: int) -> None:
            gate.wait()
            for number in range(who, 400, 4):
                lost.watch(claim, lambda _, number=number: calls.append(number))  # type: ignore[misc]
                lost.tell(claim, str(who))

        threads = [threading.Thread(target=tell, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(calls) == list(range(400))
        with pytest.raises(ValueError, match="reason"):
            lost.tell(claim, "")


@pytest.mark.usefixtures("long_naps")
def test_a_scope_ends_when_the_file_goes(path: Path) -> None:
    async def main() -> None:
        async with AsyncLock(path) as hold:
            asyncio.get_running_loop().call_later(0.02, path.unlink)
            began = time.monotonic()
            with pytest.raises(LostError, match="unlinked"):
                async with hold.scope():
                    await asyncio.sleep(60)
            assert time.monotonic() - began < guard.NAP / 2

    asyncio.run(main())


def test_repr(path: Path) -> None:
    with Lock(path) as hold:
        assert repr(hold.lost) == "<not lost>"
        path.unlink()
        assert "unlinked" in repr(hold.lost)
