"""What a forked child must do: believe nothing, release nothing, and let go of its copies.

A child shares the parent's open file descriptions. Its `close` leaves the parent's lock alone, its `LOCK_UN`
would destroy it (flock(2)). So the child only ever closes, at once, because a copy that stays open would keep the
lock alive after the parent's death. After this, a hold made by the parent is in no line, which is what
"not held" means everywhere.
"""

from __future__ import annotations

from . import arbiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_callbacks: list[Callable[[], None]] = []
_watched = False


def in_child(callback: Callable[[], None]) -> None:
    """Have `callback` called in every forked child, after the claims were disowned."""
    _callbacks.append(callback)


def watch(register: Callable[..., None]) -> None:
    """Arrange for all this, at the first lock of the process. `register` is os.register_at_fork."""
    global _watched
    if not _watched:
        _watched = True
        register(after_in_child=after_fork_in_child)


def after_fork_in_child() -> None:
    for claim in arbiter.forget_all():
        claim.line.engine.disown(claim)
    for callback in _callbacks:
        callback()
