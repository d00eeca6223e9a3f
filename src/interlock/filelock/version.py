"""The version of filelock that this API is compatible with; dependents compare it."""

from __future__ import annotations

from .._filelock import COMPATIBLE

__all__ = ["__version__", "__version_tuple__", "version", "version_tuple"]

__version__ = version = COMPATIBLE
__version_tuple__ = version_tuple = tuple(int(part) for part in COMPATIBLE.split("."))
