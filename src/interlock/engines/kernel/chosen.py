"""The kernel engines of places that are not plainly local: one per choice."""

from __future__ import annotations

import sys

from . import KernelEngine, _engines, engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..._fs.choice import Choice

    if sys.platform == "win32":
        from .windows import Ops
    else:
        from .ops import Ops


def engine_for(choice: Choice) -> KernelEngine:
    """The process's engine for paths that are locked as chosen; for those of a refused choice, one that refuses."""
    name = f"{choice.primitive} {choice.place} {choice.refusal} {choice.why}"
    if name not in _engines:
        plain = engine()
        made = KernelEngine(_ops_for(choice, plain.ops), plain._events, plain._tickets, choice)
        _engines.setdefault(name, made)
    return _engines[name]


def _ops_for(choice: Choice, plain: Ops) -> Ops:
    if sys.platform == "win32":
        return plain
    else:  # noqa: RET505 - for the type checker
        from .other_ops import DualOps, RangeOps, RefusingOps

        if choice.refusal:
            return RefusingOps(choice.refusal)
        ops = {"dual": DualOps, "range": RangeOps}.get(choice.primitive, type(plain))()
        ops.place = choice.place
        return ops
