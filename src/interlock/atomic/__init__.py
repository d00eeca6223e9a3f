"""Plain files, changed and published whole: `transform`, `publish`, `once`; and `Fence`, which refuses late writers.

Built on the public locks. The locks decide who works; what is *true* is decided by one rename(2) or link(2), so that a
reader never waits and never sees half a file, and a crash at any point leaves the old state or the new.
"""

from __future__ import annotations

from .fence import Fence, StaleTokenError
from .publishing import publish
from .single import BuildError, once
from .update import transform

__all__ = ["BuildError", "Fence", "StaleTokenError", "once", "publish", "transform"]
