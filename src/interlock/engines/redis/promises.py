"""What locks in a Redis server promise."""

from __future__ import annotations

from ..._model import Traits

__all__ = ["traits"]


def traits(*, sibling: bool = False) -> Traits:
    """`sibling`: of read-write locks and semaphores, whose holds are beside each other."""
    return Traits(
        name="redis",
        family="lease",
        excludes="hosts",
        fair="fifo",
        fences=not sibling,
        survives_crash=True,
        wait="events",
        abilities=() if sibling else ("rwlock", "semaphore"),
        frozen="lost after the ttl, and told so when it goes on",
        restart="lost, unless every write is synced to disk (appendfsync always); nobody else gets in for one ttl",
        failover="may be lost while its holder believes to hold, for up to one ttl; il_min_replicas makes that rarer",
        token_back="only if the server's clock is set back while it forgets the last token",  # noqa: S106 - no password
        connections="8 to each server, and one more while anybody waits",
    )
