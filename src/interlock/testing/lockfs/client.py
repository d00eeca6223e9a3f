"""`LockFS`: the tests' side of the fault filesystem."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from .modes import Fault, Mode

_ANSWER_WITHIN = 20.0


def available() -> str:
    """Why there can be no fault filesystem here; empty if there can."""
    if sys.platform != "linux":
        return "the fault filesystem needs Linux"
    if os.geteuid() != 0:
        return "the fault filesystem needs root, to mount"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"the fault filesystem needs /dev/fuse: {error.strerror}"
    return ""


class Mount:
    """One host: `path` is where it sees the place."""

    def __init__(self, fs: LockFS, path: str, number: int) -> None:
        self.path = path
        self._fs = fs
        self._number = number

    def _ask(self, do: str, **words: object) -> dict[str, Any]:
        return self._fs.ask(do, host=self._number, **words)

    def fail(self, fault: Fault) -> None:
        """From now on, this fails as well."""
        from dataclasses import asdict

        self._ask("fault", fault=asdict(fault))

    def heal(self) -> None:
        """Nothing fails any more (locks and caches stay what the mode says)."""
        self._ask("heal")

    def pause(self) -> None:
        """The host cannot reach the server: whatever needs it waits, and cannot be killed."""
        self._ask("pause")

    def resume(self) -> None:
        """It reaches it again. Its locks were kept."""
        self._ask("resume")

    def crash(self) -> None:
        """The host is gone for the server, which drops its locks; here every call on `path` fails from now on."""
        self._ask("crash")

    def unmount(self) -> None:
        """An end without a crash; also of a host that hangs."""
        self._ask("unmount")

    def requests(self) -> dict[str, int]:
        """How many requests of each kind the server has had from this host."""
        counts: dict[str, int] = self._ask("state")["requests"]
        return counts

    def hits(self) -> int:
        """How many requests have failed by the plan of faults."""
        return sum(self._ask("state")["hits"])

    def locks(self) -> list[dict[str, Any]]:
        """All locks that the server knows of, of all hosts."""
        found: list[dict[str, Any]] = self._ask("state")["locks"]
        return found


class LockFS:
    """The server of one place; `disk` is the directory where its files are. A context manager: at the end all mounts
    are gone, also those that hang."""

    def __init__(self, disk: str | os.PathLike[str]) -> None:
        reason = available()
        if reason:
            raise RuntimeError(reason)
        self.disk = os.path.realpath(disk)
        os.makedirs(self.disk, exist_ok=True)
        self._paths: list[str] = []
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "interlock.testing.lockfs.server", self.disk],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def mount(self, path: str | os.PathLike[str], mode: Mode, *, kind: str = "fuse.lockfs") -> Mount:
        """Mount the place once more, at the directory `path`, which is made. `kind`: the filesystem's type in the mount
        table, `fuse` or `fuse.` and a name."""
        where = os.path.realpath(path)
        os.makedirs(where, exist_ok=True)
        self._paths.append(where)
        return Mount(self, where, self.ask("mount", path=where, mode=mode.as_dict(), kind=kind)["host"])

    def ask(self, do: str, **words: object) -> dict[str, Any]:
        """One order to the server, and its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **words}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "errno" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = monotonic() + _ANSWER_WITHIN
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - monotonic(), 0))
            news = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not news:
                raise RuntimeError("the server of the fault filesystem " + ("is gone" if ready else "does not answer"))
            self._unread += news
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Unmount everything and end the server. May be called twice."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if sys.platform == "linux":
            from .server import unmount

            for path in self._paths:  # the server did; but it may have been killed
                if os.path.ismount(path) or _dead(path):
                    unmount(path)
        self._paths.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _dead(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return True
    return False
