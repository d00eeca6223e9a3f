"""The fence for data that is in etcd itself: it is written in the transaction that finds the lock still held."""

from __future__ import annotations

from ..._errors import UnsupportedError
from .client import text
from .entries import EtcdClaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Guard", "guard"]


class Guard:
    """What to compare: the `create_revision` of `key` must be `revision`. Any client can do that.

    `compare` is this comparison as etcd's JSON gateway wants it in a transaction.
    """

    __slots__ = ("key", "revision")

    def __init__(self, key: bytes, revision: int) -> None:
        self.key = key
        self.revision = revision

    @property
    def compare(self) -> dict[str, str]:
        return {
            "key": text(self.key), "target": "CREATE", "result": "EQUAL", "create_revision": str(self.revision),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Guard(key={self.key!r}, revision={self.revision})"


def guard(hold: Any) -> Guard:
    """The comparison that is true as long as this hold is, for a transaction of your own on the same etcd.

    What is written in a transaction with it is written while the lock is held, whatever pauses and clocks do: etcd
    itself knows whether the entry of this hold is still there. Works with every hold of an `etcd://` lock, also with
    one of a read-write lock or a semaphore. Raises `NotHeldError` or `LostError` if it is not held now, and
    `UnsupportedError` for the hold of another engine.
    """
    hold.assert_held()
    claim = hold._claim
    if not isinstance(claim, EtcdClaim):
        raise UnsupportedError(f"{hold.resource} is not a lock on etcd, so etcd cannot tell whether it is held")
    assert claim.token is not None
    return Guard(claim.key, claim.token)
