"""What the tests of files that are replaced whole share: processes that die at a chosen system call."""

from __future__ import annotations

import os
import signal
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from interlock.atomic import staging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def open_files() -> list[str]:
    """The files and directories that this process has open. Connections of engines' threads, which come and go, are
    neither."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the descriptor of the listing itself
            continue
        if where.startswith("/") and not where.startswith("/proc/"):
            found.append(where)
    return sorted(found)


class Table:
    """The effects of `staging.ops`, each through `act(name, real, args, options)`."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act = act

    def __getattr__(self, name: str) -> Any:
        real = getattr(_REAL, name)

        def call(*args: Any, **options: Any) -> Any:
            return self._act(name, real, *args, **options)

        return call


_REAL = staging.ops


def install(monkeypatch: pytest.MonkeyPatch, act: Callable[..., Any]) -> None:
    from interlock.atomic import publishing, single, update

    table = Table(act)
    for module in (staging, publishing, single, update):
        monkeypatch.setattr(module, "ops", table)


def child(work: Callable[[], object]) -> int:
    """Fork, do the work there, and return the wait status: 0, or 9 for one that was killed."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - shown, and told by the status
        traceback.print_exc()
    finally:
        os._exit(status)


def dying_at_each_call(work: Callable[[], object], after_death: Callable[[str], object]) -> list[str]:
    """Do `work` in a child that is killed before its first effect, in the next one before its second, and so on, until
    one comes to its end. After each death `after_death` checks what is there. Returns the names of the effects."""
    names: list[str] = []
    while True:
        reader, writer = os.pipe()
        status = child(lambda: _work_and_die(work, len(names), writer))  # noqa: B023 - called at once
        os.close(writer)
        name = os.read(reader, 100).decode()
        os.close(reader)
        if status == 0:
            return names
        assert status == signal.SIGKILL
        names.append(name)
        after_death(f"killed before call {len(names)}, {name}")


def _work_and_die(work: Callable[[], object], at: int, writer: int) -> None:
    calls = [0]

    def act(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if calls[0] == at:
            os.write(writer, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += 1
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        install(patch, act)
        work()


def names_in(directory: Path) -> list[str]:
    """What is in a directory but lock files."""
    return sorted(name for name in os.listdir(directory) if not name.endswith((".lock", ".token")))
