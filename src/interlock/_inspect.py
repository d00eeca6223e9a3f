"""`inspect`: who holds and who waits, without touching the lock."""

from __future__ import annotations

from ._target import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from ._report import Report


def inspect(target: str | os.PathLike[str]) -> Report:
    """Tell who holds `target` and who waits for it, from the engine's own tables; takes no lock, creates no file.

    It is a picture of one moment, for people and for log lines; do not decide on it whether a lock is free.
    """
    line = resolve(target, kind="")
    return line.engine.inspect(line)
