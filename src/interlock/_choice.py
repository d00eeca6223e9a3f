"""From a choice to an engine, for places that are not plainly local; says once what was chosen and why."""

from __future__ import annotations

import logging
import sys

from ._errors import UnsupportedError
from ._fs import settings
from ._fs.choice import Choice, choose
from ._wait import mounts
from .engines.kernel import chosen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._model import Engine

LOGGER = logging.getLogger("interlock")

_chosen: dict[tuple[str, str], tuple[int, Choice]] = {}
_said: set[str] = set()


def choice_for(directory: str, primitive: str = "auto") -> Choice:
    """The choice for lock files in `directory` (canonical). It is kept while nothing is mounted or unmounted."""
    if primitive not in settings.WORDS:
        raise ValueError(f"primitive {primitive!r} is not one of {', '.join(map(repr, settings.WORDS))}")
    where = directory, primitive
    now = mounts.changes() if sys.platform == "linux" else 0
    found = _chosen.get(where)
    if found is None or found[0] != now:
        found = _chosen[where] = now, choose(directory, primitive)
        say(found[1])
    return found[1]


def say(choice: Choice) -> None:
    """One line per place and choice. What is refused says so itself, in the exception."""
    if choice.refusal:
        return
    text = f"{choice.place or 'an unknown filesystem'} is locked with {choice.primitive}: {choice.why}"
    if text not in _said:
        _said.add(text)
        LOGGER.info("%s", text)


def warn(choice: Choice) -> None:
    """For those who lock in spite of a refusal, because others do: once per place."""
    text = f"locks exclude the processes of this host only: {choice.refusal}"
    if text not in _said:
        _said.add(text)
        LOGGER.warning("%s", text)


def engine_for(directory: str, primitive: str, ttl: float | None = None) -> Engine:
    """The engine that locks as chosen, or that refuses to."""
    choice = choice_for(directory, primitive)
    if choice.primitive == "marker" and not choice.refusal:
        from .engines.marker import lease

        return lease.engine(ttl)
    if ttl is not None and primitive != "marker":  # else a setting wants a lock that lasts as long as it is held
        raise UnsupportedError(
            f"{directory}: a lock file is held until it is released; ttl is for engines that lease (primitive='marker')"
        )
    return chosen.engine_for(choice)
