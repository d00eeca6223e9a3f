"""The requests that the engine makes, as kazoo writes them to the wire."""

from __future__ import annotations

from kazoo.protocol.serialization import Create2, Delete, GetChildren, GetData, SetData, Sync

__all__ = ["Create2", "CreateContainer", "Delete", "GetChildren", "GetData", "SetData", "Sync"]


class CreateContainer(Create2):  # type: ignore[misc]
    """A node that the server removes when it has had children and has none any more. kazoo has no such request."""

    __slots__ = ()
    type = 19
