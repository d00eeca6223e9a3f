"""The locks of the storms, each behind two verbs; and the operator, who frees what only a person may free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock.engines.marker import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Verbs = tuple[Callable[[], Any], Callable[[Any], object]]

TTL = 2.0
"""Of the leases, in seconds."""
PERMITS = 2


def _flock(path: str) -> Verbs:
    import fcntl

    def acquire() -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    return acquire, os.close


def _ours(path: str, **options: Any) -> Verbs:
    from interlock import Lock

    lock = Lock(path, **options)
    return lock.acquire, lambda hold: hold.release()


def _soft(path: str, kind: str = "SoftFileLock", **options: Any) -> Verbs:
    from interlock import filelock

    lock = getattr(filelock, kind)(path + ".soft", **options)
    return lock.acquire, lambda _: lock.release()


def _permit(path: str) -> Verbs:
    from interlock import Semaphore

    semaphore = Semaphore(path, PERMITS)
    return semaphore.acquire, lambda hold: hold.release()


LOCKS: dict[str, Callable[[str], Verbs]] = {
    "none": lambda path: (lambda: None, lambda _: None),
    "lock": _ours,
    "fair": lambda path: _ours(path, fair=True),
    "dual": lambda path: _ours(path, primitive="dual"),
    "lease": lambda path: _ours(path, primitive="marker", ttl=TTL),
    "soft": _soft,
    "soft lease": lambda path: _soft(path, "SoftFileLease", lease_duration=TTL),
    "strict": lambda path: _soft(path, "StrictSoftFileLock", poll_interval=0.002),
    "semaphore": _permit,
    "flock": _flock,
}
KINDS = (*LOCKS, "tokens", "asyncio", "rwlock", "mixed")
"""`tokens` asks each hold for its token; `mixed` is half ours, half flock(2)."""
OF_FILES = ("lease", "soft", "soft lease", "strict")
"""Each hold of these is a record in a file."""


class Dead(NamedTuple):
    """How the records of a worker that was killed name it."""

    pid: int
    host: str


def name(pid: int, apart: bool) -> Dead:
    """Of a worker that runs. Who has a pid namespace of its own calls itself 1, and the namespace its host."""
    if not apart:
        return Dead(pid, os.uname().nodename)
    return Dead(1, f"?pidns-{os.stat(f'/proc/{pid}/ns/pid').st_ino:x}")


def free(kind: str, path: str, dead: Dead, living: Sequence[int], apart: bool) -> None:
    """Be the operator: take away what a dead worker left and nobody may infer to be dead. That is each strict claim;
    and, of one on another host, the plain marker, and the empty one of somebody who was killed before writing."""
    from interlock import filelock

    if kind == "strict":
        lock = filelock.StrictSoftFileLock(path + ".soft")
        for claim in lock.claims:
            if claim.pid == dead.pid and claim.hostname.endswith(dead.host):
                lock.force_break(claim.name)
    elif apart and kind in ("soft", "soft lease"):
        try:
            _free_marker(kind, path + ".soft", dead, living)
        except FileNotFoundError:  # there is none, or it went while one looked: it was somebody's who lives
            pass


def _free_marker(kind: str, path: str, dead: Dead, living: Sequence[int]) -> None:
    with open(path, "rb") as file:
        number = os.fstat(file.fileno()).st_ino
        what, owner = records.parse(file.read())
        its = owner is not None and owner.pid == dead.pid and owner.hostname.endswith(dead.host)
        ownerless = what == "empty" and number not in {each for pid in living for each in _open_inodes(pid)}
        if ownerless or (its and kind == "soft"):  # a lease ends by itself
            os.unlink(path)


def _open_inodes(pid: int) -> Iterator[int]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            yield os.stat(f"/proc/{pid}/fd/{fd}").st_ino
        except OSError:
            pass  # closed meanwhile
