"""Records that anybody may have written: JSON objects, read to a limit, and only with the types that they should have.

What cannot be read is as if it were not there: none of it decides who gets a lock. Whoever lets a field decide says
what an unreadable one means.
"""

from __future__ import annotations

import json
import math

from ._errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["fields", "moment", "number", "word"]

LONGEST = 65536
"""Bytes of a record. Ours have some hundred."""
_LONGEST_WORD = 1000
_LAST = 1e11
"""Seconds of the epoch: five digits of years, which is what the calendar can be asked for."""


def fields(data: bytes | str) -> dict[str, Any]:
    """The object that a record is; empty if it is none."""
    if len(data) > LONGEST:
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # nested too deeply
        return {}
    return found if isinstance(found, dict) else {}


def word(facts: dict[str, Any], key: str) -> str:
    """A text for people, with nothing that a terminal obeys; "" if there is none."""
    found = facts.get(key)
    return printable(found[:_LONGEST_WORD]) if isinstance(found, str) else ""


def number(facts: dict[str, Any], key: str) -> int | None:
    """A whole number of 0 to 63 bits."""
    found = facts.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 63 else None


def moment(facts: dict[str, Any], key: str) -> float | None:
    """Seconds of the epoch."""
    found = facts.get(key)
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    try:
        seconds = float(found)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds < _LAST else None
