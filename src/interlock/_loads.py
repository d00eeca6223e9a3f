"""Loads of modules that a fork has cut off.

CPython holds a lock per module while a thread loads it. A thread that was loading one at the time of a fork is not in
the child to give it back: who imports that module there waits for ever. Much of this package, and what it uses, is
loaded on first use, in a first wait say. So a child forgets the loads that nobody goes on with, of this package and of
the standard library, and its own imports of these begin anew. Those of others are left alone: not all would bear it.
"""

from __future__ import annotations

import sys
from _thread import get_ident


def forget() -> None:
    """In a forked child. This is done by means of CPython's own; where they are not there, nothing happens."""
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    me = get_ident()
    for name, known in list(locks.items()):
        owner = getattr(known(), "owner", None)
        if owner is None or owner == me or name.partition(".")[0] not in {"interlock", *sys.stdlib_module_names}:
            continue
        locks.pop(name, None)
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            del sys.modules[name]
