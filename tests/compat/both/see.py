"""How the script looks at things: `see(label, function)` writes down what is returned, raised and warned of."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import re
import socket
import warnings
from collections.abc import Callable
from typing import Any

filelock: Any = importlib.import_module("filelock")
PUBLIC = {name: getattr(filelock, name) for name in filelock.__all__}
Case = Callable[["See", str, Any], None]
CASES: dict[str, list[Case]] = {}


def case(*names: str) -> Callable[[Case], Case]:
    """Register a function as one that says something about these names: `function(see, directory, thing)`."""

    def register(function: Case) -> Case:
        for name in names:
            CASES.setdefault(name, []).append(function)
        return function

    return register


class See:
    """Collects what was seen of one name."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.found: dict[str, Any] = {}

    def __call__(self, label: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something, and write down what it returns, raises and warns."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result = asyncio.run(result)
                said = self.plain(result)
            except BaseException as error:  # noqa: BLE001 - seen, too
                result, said = None, self.error(error)
        if caught:
            said = [said, [f"{entry.category.__name__}: {self.text(entry.message)}" for entry in caught]]
        self.found[label] = said
        return result

    def note(self, label: str, value: Any) -> None:
        self.found[label] = self.plain(value)

    def error(self, error: BaseException) -> list[Any]:
        known = [
            kind.__name__
            for kind in type(error).__mro__
            if kind.__module__ == "builtins" or kind in PUBLIC.values()
        ]
        parts = [self.error(part) for part in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
        return ["raises", known, self.text(error), *parts]

    def plain(self, value: Any) -> Any:
        if value == os.getpid():
            return "<pid>"
        if value is None or isinstance(value, (bool, int, float)):
            return "nan" if value != value else value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.plain(entry) for entry in value]
        if isinstance(value, dict):
            return {str(key): self.plain(entry) for key, entry in value.items()}
        if isinstance(value, BaseException):
            return self.error(value)
        return f"<{type(value).__name__}>"

    def text(self, value: Any) -> str:
        text = str(value)
        for precise, general in (
            (self.directory, "<dir>"), (str(os.getpid()), "<pid>"), (socket.gethostname(), "<host>"),
        ):  # fmt: skip
            text = text.replace(precise, general)
        return re.sub(r"\b\d{11,}\b", "<id>", text)


def shape(thing: Any) -> Any:
    """A class or function as its users see it: parameters and public attributes."""
    described: dict[str, Any] = {}
    with contextlib.suppress(ValueError, TypeError):
        described["signature"] = [
            f"{parameter.kind.name} {parameter.name}"
            + ("" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}")
            for parameter in inspect.signature(thing).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
    if isinstance(thing, type):
        described["attributes"] = [name for name in dir(thing) if not name.startswith("_")]
        described["bases"] = [
            kind.__name__ for kind in thing.__mro__ if kind in PUBLIC.values() or kind.__module__ == "builtins"
        ]
        described["abstract"] = inspect.isabstract(thing)
        for name in ("acquire", "release", "__init__"):
            method = getattr(thing, name, None)
            if inspect.isfunction(method):
                described[name] = shape(method)["signature"]
    return described

SYNC = ("FileLock", "UnixFileLock", "SoftFileLock", "MarkerSoftFileLock", "StrictSoftFileLock", "SoftFileLease")
NATIVE = ("FileLock", "UnixFileLock")
ASYNC = ("AsyncFileLock", "AsyncUnixFileLock", "AsyncSoftFileLock", "AsyncStrictSoftFileLock", "AsyncSoftFileLease")

def state(lock: Any) -> list[Any]:
    return [lock.is_locked, lock.lock_counter]
