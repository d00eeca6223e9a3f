"""The one place that reads what users write for a timeout, and turns it into a deadline on the monotonic clock."""

from __future__ import annotations

FOREVER = float("inf")
"""The deadline that never passes."""


def seconds(timeout: object) -> float:
    """Read a public timeout: `None` (for ever) or a number of seconds >= 0; returns seconds, `inf` for ever.

    Raises `TypeError` for strings, bools and everything that is not a real number, `ValueError` for negative
    numbers and NaN: in other libraries they mean "for ever", "one attempt" or "now", so nobody can guess.
    """
    if timeout is None:
        return FOREVER
    if isinstance(timeout, bool) or not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout is a number of seconds or None, not {type(timeout).__name__}")
    try:
        value = float(timeout)  # type: ignore[arg-type] # it has __float__
    except OverflowError:  # an int beyond all floats
        raise ValueError("timeout is too large: use None to wait for ever") from None
    if value != value:
        raise ValueError("timeout is not a number (NaN)")
    if value < 0:
        raise ValueError(f"timeout {value:g} is negative: use None to wait for ever, 0 for one attempt")
    return value
