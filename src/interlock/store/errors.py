"""What the store raises. A miss is `None`, never an exception."""

from __future__ import annotations

from .. import LockError

__all__ = ["BuildFailed", "DamagedError", "HostileError", "StoreError"]


class StoreError(LockError):
    """Base of the store's errors. The text names the file and the way out."""


class HostileError(StoreError):
    """Input that is refused as a whole: a name that leaves its directory, a document that is too large, too deep or
    of wrong types, a device where a file should be. Nothing was changed on disk."""


class DamagedError(StoreError):
    """A file of the store is not what its name or its manifest says. It is named, and not served."""


class BuildFailed(StoreError):
    """The build that this process ran or waited for failed. `kind` is the type of the builder's exception, `builder`
    says who ran it."""

    def __init__(self, key: str, kind: str, message: str, builder: str) -> None:
        super().__init__(f"the build of {key} failed in {builder}: {kind}: {message}")
        self.key, self.kind, self.message, self.builder = key, kind, message, builder

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.key, self.kind, self.message, self.builder)
