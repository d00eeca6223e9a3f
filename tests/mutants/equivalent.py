"""Mutants that are right as they are: nobody can tell them from the original by what is granted, to whom, or when one
wakes. No test can find them, so they are not counted; each has the reason why.

Only what was reasoned through is here. A change that costs speed alone, but does cost it, is no equal: it counts as not
found until a test sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .mutate import Mutant


class Equal(NamedTuple):
    code: str
    """The line as it stands in the module."""
    change: str
    why: str
    nth: int = 0
    """Where a line, or several like it, can be changed so in several places: which, in their order."""


_AT_ZERO = "SEEK_CUR for SEEK_SET: the offset of these descriptors is 0, since nothing reads, writes or seeks by it"
_HOLDS = "an assertion about constants, which holds either way"
_NOBODY_BEYOND = "says which bytes are permits; nobody has one beyond, since `semaphore` refuses more than so many"
_NONE_BELOW = "what is known counts only if it is more than a number that is listed, which is 1 or more"

EQUALS: dict[str, list[Equal]] = {
    "_core/acquire.py": [
        Equal(
            "granted = False",
            "False  ->  True (other)",
            "never read: each way out of the loop sets it, a return by the try and an exception by its handler",
        ),
    ],
    "_core/arbiter.py": [
        Equal(
            "return True",
            "True  ->  False (other)",
            "not reached: its only caller has seen that the claim has not the turn, and nobody else takes it for it",
        ),
    ],
    "engines/kernel/ranges.py": [
        Equal("return _FLOCK.pack(kind, 0, start, length, 0)", "0  ->  1 (other)", _AT_ZERO),
    ],
    "engines/kernel/slots.py": [
        Equal("MOST = 1 << 20", "1  ->  2 (other)", _NOBODY_BEYOND),
        Equal("MOST = 1 << 20", "20  ->  21 (other)", _NOBODY_BEYOND),
        Equal("READ_WRITE_END = READ_WRITE + 2", "2  ->  3 (other)", "nobody has ever a lock on the byte more"),
    ],
    "engines/kernel/patience.py": [
        Equal("assert SIGNED + (_TIMES + 1) * _PIDS <= 1 << 63", "1  ->  2 (other)", _HOLDS),
        Equal("assert SIGNED + (_TIMES + 1) * _PIDS <= 1 << 63", "1  ->  2 (other)", _HOLDS, 1),
        Equal("assert SIGNED + (_TIMES + 1) * _PIDS <= 1 << 63", "63  ->  64 (other)", _HOLDS),
    ],
    "engines/kernel/readwrite.py": [
        Equal(
            "return claim.arrived > 0 and tickets.anybody_since(self.ops, fd, base, base + claim.arrived)",
            "0  ->  1 (other)",
            "nanoseconds since the machine was booted, noted before it is first asked for",
        ),
    ],
    "engines/marker/lease_log.py": [
        Equal(
            "self._known = 0  # a generation that exists, whatever the listing says", "0  ->  1 (other)", _NONE_BELOW
        ),
        Equal("self._known = 0", "0  ->  1 (other)", _NONE_BELOW),
        Equal("self._known = 0", "0  ->  1 (other)", _NONE_BELOW, 1),
    ],
}


def reasons(module: str, made: Iterable[Mutant]) -> dict[str, str]:
    """Why it changes nothing, of the module's mutants that are listed; by what they are. An entry that fits none any
    more is an error: the module has been changed, and the reason must be thought through again."""
    alike: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in sorted(made, key=lambda mutant: mutant.place):
        alike.setdefault((mutant.code, mutant.change), []).append(mutant)
    found = {}
    for equal in EQUALS.get(module, []):
        candidates = alike.get((equal.code, equal.change), [])
        if equal.nth >= len(candidates):
            raise LookupError(f"tests/mutants/equivalent.py, {module}: no mutant is {equal.code}: {equal.change}")
        found[candidates[equal.nth].what] = equal.why
    return found
