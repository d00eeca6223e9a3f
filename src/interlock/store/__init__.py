"""A shared store of builds in the layout of Spack's build cache: many writers, nothing lost.

    from interlock.store import Store

    store = Store("/shared/cache")
    with store.get_or_build(spec, build) as found:
        unpack(found.archive)
"""

from __future__ import annotations

from .check import Problem, Verified
from .entry import Build, Entry, Snapshot
from .errors import BuildFailed, DamagedError, HostileError, StoreError
from .mirror import Imported
from .single import Job, Waiting
from .spec import simple_spec
from .store import Store
from .sweep import Swept

__all__ = [
    "Build",
    "BuildFailed",
    "DamagedError",
    "Entry",
    "HostileError",
    "Imported",
    "Job",
    "Problem",
    "Snapshot",
    "Store",
    "StoreError",
    "Swept",
    "Verified",
    "Waiting",
    "simple_spec",
]
