"""When are two contenders at the same place? When their frames, and all that their frames can reach, are alike.

A contender's state is its script of answers; that is exact, but two scripts often lead to the same place: a waiter
that was woken in vain once more is where it was. So each frame between the program and its pending question is
taken down as (code, instruction, local variables), with the objects behind the variables described down to plain
values, and with the exceptions that are being handled. Equal descriptions are taken for equal states.

What a frame does not show is the operand stack. What it holds at a call is made from the local variables just
before, or is the iterator of a `for` loop whose body asks: there the loop variable must tell what is still to come.
`tests/sim` checks all this by counting: a search that merges and one that does not must find exactly the same
number of schedules.
"""

from __future__ import annotations

import sys
from collections import deque
from inspect import getattr_static
from itertools import starmap
from types import (
    BuiltinFunctionType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from .simscript import Script, SimParker

_PLAIN = (type(None), bool, int, float, str, bytes, frozenset, ModuleType, type, BuiltinFunctionType)

_TUPLES = type(iter(()))

OUTERMOST = "_play"
"""The name of the function that runs contenders."""


def place() -> tuple[Any, ...]:
    """Describe the frames of the caller's callers, up to OUTERMOST."""
    shaper = _Shaper()
    frames: list[Any] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != OUTERMOST:
        frames.append(shaper.frame(frame))
        frame = frame.f_back
    error = sys.exception()
    errors = []
    while error is not None:
        errors.append((type(error), str(error)))
        error = error.__context__
    return (*frames, *errors)


def _by_name(item: tuple[Any, Any]) -> str:
    return repr(item[0])


class _Shaper:
    """Turns objects into nested tuples; an object met again is told by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._keep: list[object] = []

    def frame(self, frame: FrameType) -> tuple[Any, ...]:
        return (id(frame.f_code), frame.f_lasti, self.items(frame.f_locals))

    def items(self, mapping: Any) -> tuple[Any, ...]:
        return tuple((self.of(key), self.of(value)) for key, value in sorted(mapping.items(), key=_by_name))

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is object:  # a sentinel
            return id(value)
        number = self._met.get(id(value))
        if number is not None:
            return ("again", number)
        self._met[id(value)] = len(self._met)
        self._keep.append(value)
        if isinstance(value, (tuple, list, deque)):
            return (kind, tuple(map(self.of, value)))
        if isinstance(value, dict):
            return (kind, self.items(value))
        if kind is Script:
            return (kind, value.now)
        if kind is SimParker:
            return (kind, value.token)
        if isinstance(value, BaseException):
            return (kind, str(value))
        return (kind, self._inside(value))

    def _inside(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return (id(value.__code__), tuple(self.of(cell.cell_contents) for cell in value.__closure__ or ()))
        if isinstance(value, MethodType):
            return (id(value.__func__), self.of(value.__self__))
        if isinstance(value, CoroutineType):
            frame = value.cr_frame
            return id(value.cr_code) if frame is None else self.frame(frame)
        if isinstance(value, GeneratorType):
            return id(value.gi_code) if value.gi_frame is None else self.frame(value.gi_frame)
        if isinstance(value, _TUPLES):  # of a generator expression: the whole, and how far it has come
            return self.of(value.__reduce__()[1:])
        if isinstance(value, starmap):  # the endless opener of a line
            return None
        fields = dict(getattr(value, "__dict__", ()))
        for cls in type(value).__mro__:
            fields.update(self._slots(cls, value))
        if not fields and type(value).__module__ == "builtins":
            raise TypeError(f"cannot tell what is in {value!r}")
        fields.pop("_tokens", None)  # a memory's, by address; its `_mine` has the same
        return self.items(fields)

    def _slots(self, cls: type, value: Any) -> dict[str, Any]:
        slots = vars(cls).get("__slots__", ())
        members = {name: vars(cls).get(name) for name in ((slots,) if isinstance(slots, str) else slots)}
        found: dict[str, Any] = {}
        for name, member in members.items():
            overridden = isinstance(getattr_static(type(value), name, None), property)  # it may ask the world
            if isinstance(member, MemberDescriptorType) and not overridden:
                try:
                    found[name] = member.__get__(value)
                except AttributeError:
                    found[name] = "not there"
        return found
