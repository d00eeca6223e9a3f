"""Run every case under the library that the first argument names; print JSON for `test_differential`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import Any

if sys.argv[1] == "interlock":
    from interlock.filelock import install

    install()

from .see import CASES, PUBLIC, See, filelock

for module in ("names", "sync", "options", "subclasses", "process", "tasks", "kinds"):
    importlib.import_module(f".{module}", __package__)


def run(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for function in CASES.get(name, []):
        directory = os.path.realpath(tempfile.mkdtemp())
        see = See(directory)
        try:
            function(see, directory, PUBLIC[name])
        except BaseException as error:  # noqa: BLE001 - seen, too
            see.note("ended by", error)
        found[function.__name__] = see.found
    return found


if __name__ == "__main__":
    print(json.dumps({name: run(name) for name in (sys.argv[2:] or filelock.__all__)}))
