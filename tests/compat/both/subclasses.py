"""Subclasses, and the hooks that they define."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from .see import SYNC, See, case, state


@case(*SYNC)
def subclasses(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")

    class Extra(kind):  # type: ignore[misc]
        def __init__(self, lock_file: str, timeout: float = -1, *, own: int = 0, **others: Any) -> None:
            super().__init__(lock_file, timeout=timeout, **others)
            self.own = own

    lock = see("extra", Extra, path, own=3, timeout=2)
    if lock is not None:
        see.note("extra has", [lock.own, lock.timeout, lock.mode])
    see("extra default", lambda: Extra(path).timeout)

    class Narrow(kind):  # type: ignore[misc]
        def __init__(self, lock_file: str) -> None:
            super().__init__(lock_file)

    see("narrow", lambda: Narrow(path).timeout)
    see("narrow timeout", Narrow, path, timeout=3)
    see("narrow several", Narrow, path, mode=0o600, timeout=3)
    see("narrow default", Narrow, path, timeout=-1)

    class Default(kind):  # type: ignore[misc]
        def __init__(self, lock_file: str, timeout: float = 9) -> None:
            super().__init__(lock_file, timeout=timeout)

    see("own default", lambda: Default(path).timeout)
    log: list[str] = []

    class Blocks(kind):  # type: ignore[misc]
        def __enter__(self) -> Any:
            log.append("enter")
            return super().__enter__()

        def __exit__(self, *error: Any) -> None:
            log.append("exit")
            super().__exit__(*error)

    class Verbs(kind):  # type: ignore[misc]
        def acquire(self, *args: Any, **keywords: Any) -> Any:
            log.append("acquire")
            return super().acquire(*args, **keywords)

        def release(self, force: bool = False) -> None:
            log.append("release")
            super().release(force)

    for other in (Blocks, Verbs):
        made = other(path)
        for _ in range(2):
            with made:
                see.note(f"inside {other.__name__}", state(made))
        see.note(f"outside {other.__name__}", state(made))
        see.note(f"log {other.__name__}", list(log))
        del made, log[:]

    class Around(kind):  # type: ignore[misc]
        def _acquire(self) -> None:
            log.append("attempt")
            super()._acquire()

        def _release(self) -> None:
            log.append("let go")
            super()._release()

    around = Around(path)
    with around:
        see.note("around", [state(around), around._context.lock_file_fd is not None])
        see("around contended", kind(path).acquire, timeout=0)
    see.note("around after", [state(around), log])

@case("BaseFileLock")
def hooks(see: See, directory: str, base: Any) -> None:
    see("abstract", base, "a.lock")
    path = os.path.join(directory, "deep", "a.lock")

    class Marker(base):  # type: ignore[misc]
        attempts = 0

        def _acquire(self) -> None:
            self.attempts += 1
            with contextlib.suppress(FileExistsError):
                self._context.lock_file_fd = os.open(self.lock_file, os.O_CREAT | os.O_EXCL | os.O_RDWR)

        def _release(self) -> None:
            os.close(self._context.lock_file_fd)
            os.unlink(self.lock_file)
            self._context.lock_file_fd = None

    one, other = Marker(path), Marker(path, poll_interval=0.01)
    with one:
        see.note("held", [state(one), os.path.exists(path)])
        see("timeout", other.acquire, timeout=0.05)
        see.note("attempts", other.attempts > 2)
        see("deadlock", other.acquire)
        with one:
            see.note("nested", [state(one), one.attempts])
    see.note("after", [state(one), state(other), os.path.exists(path)])
    other.acquire()
    del other
    see.note("finalized", os.path.exists(path))

    class Broken(Marker):
        def _acquire(self) -> None:
            raise ZeroDivisionError("broken")

    broken = Broken(path)
    see("raises", broken.acquire)
    see.note("raised", state(broken))

    class Stuck(Marker):
        stuck = True

        def _release(self) -> None:
            if self.stuck:
                raise OSError(5, "stuck")
            super()._release()

    stuck = Stuck(path)
    stuck.acquire()
    see("stuck", stuck.release)
    see.note("still held", state(stuck))
    stuck.stuck = False
    see("unstuck", stuck.release)
    see.note("free", state(stuck))
    for policy in ("chain", "group"):
        stuck = Stuck(path, context_error_policy=policy)

        def body(stuck: Any = stuck) -> None:
            with stuck:
                raise KeyError("body")

        see(f"policy {policy}", body)

        def proxied(stuck: Any = stuck) -> None:
            with stuck.acquire():
                raise KeyError("body")

        see(f"policy {policy} by proxy", proxied)
        stuck.stuck = False
        stuck.release(force=True)
