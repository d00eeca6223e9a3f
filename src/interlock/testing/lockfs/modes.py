"""What a mount of the fault filesystem plays: how it locks, what it caches, which requests fail."""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MODES", "Fault", "Mode"]


@dataclass(frozen=True)
class Fault:
    """A request that fails: the `nth` of its kind from now on and the `count - 1` after it (`None`: all); with `every`,
    the same again after every so many.

    `op` is an operation's name in lower case, as in `wire.Op`: `lookup`, `create`, `link`, `write`, `flush` (which is
    close(2)), ... With `after` it is done first, and only its reply is lost. `name`: only where the request names this.

    One stat(2) is up to three lookups: of a name that is known, of one that is not, and once more after ESTALE."""

    op: str
    errno: str
    nth: int = 1
    count: int | None = 1
    every: int = 0
    after: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not hasattr(errno, self.errno):
            raise ValueError(f"{self.errno!r} is no name of an errno")
        if self.nth < 1 or self.every < 0 or (self.count is not None and self.count < 1):
            raise ValueError("nth and count are counted from 1, every from 0")


@dataclass(frozen=True)
class Mode:
    """One kind of filesystem. `flock` and `posix` (which is OFD locks, too) say what those locks are there:

    `coherent`: the server's table, so all hosts exclude each other; `local`: the host's own kernel keeps them, so they
    exclude within one mount only; `always`: granted, whoever holds them; `hang`: never answered; or the name of an
    errno with which they fail.

    The times are seconds for which a host believes what it knows: attributes, names, names that do not exist, the
    entries of directories (`listing`). `close_to_open`: opening a file refreshes its attributes, as NFS does it.
    """

    name: str
    flock: str = "coherent"
    posix: str = "coherent"
    attributes: float = 0.0
    names: float = 0.0
    absence: float = 0.0
    listing: bool = False
    close_to_open: bool = True
    faults: tuple[Fault, ...] = ()
    plays: str = ""

    def __post_init__(self) -> None:
        for how in (self.flock, self.posix):
            if how not in ("coherent", "local", "always", "hang") and not hasattr(errno, how):
                raise ValueError(f"{how!r} is not coherent, local, always, hang or the name of an errno")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Mode:
        return replace(cls(**facts), faults=tuple(Fault(**fault) for fault in facts["faults"]))


def _every_fourth(op: str, error: str) -> Fault:
    return Fault(op, error, nth=4, every=4, after=True)


_ALL = (
    Mode("coherent", plays="a network filesystem that keeps its word"),
    Mode("gpfs", flock="local", plays="GPFS: flock is each host's own, POSIX ranges are everybody's"),
    Mode("ocfs2", posix="local", plays="OCFS2 with o2cb: POSIX ranges are each host's own, flock is everybody's"),
    Mode("local-lock", flock="local", posix="local", plays="NFS with local_lock=all, SMB with nobrl"),
    Mode("lustre-noflock", flock="ENOSYS", posix="ENOSYS", plays="Lustre mounted without flock"),
    Mode("nfs-nolockd", flock="ENOLCK", posix="ENOLCK", plays="NFS 3 whose server has no lockd"),
    Mode("unsupported", flock="EOPNOTSUPP", posix="EOPNOTSUPP", plays="a filesystem that has no locks and says so"),
    Mode("always", flock="always", posix="always", plays="a lock that always succeeds"),
    Mode("hang", flock="hang", posix="hang", plays="a lock server that does not answer"),
    Mode("stale", attributes=3, names=3, absence=3, listing=True, plays="NFS: caches of 3 s in each host"),
    Mode("stale-blind", attributes=3, names=3, absence=3, listing=True, close_to_open=False,
         plays="caches of 3 s that opening a file does not refresh"),
    Mode("eio-close", faults=(Fault("flush", "EIO", nth=3, every=3),), plays="every third close(2) says EIO"),
    Mode("estale", faults=(Fault("lookup", "ESTALE", nth=20, count=3, every=40),),
         plays="a server that now and then forgets a file: ESTALE on three lookups in a row, one stat(2)"),
    Mode("enospc", faults=(Fault("write", "ENOSPC", nth=5, every=5),), plays="a full disk: every fifth write fails"),
    Mode("lost-replies", faults=(_every_fourth("link", "EIO"), _every_fourth("create", "EIO")),
         plays="every fourth link(2) and file creation is done and answered with EIO"),
    Mode("retransmitted", faults=(_every_fourth("link", "EEXIST"), _every_fourth("create", "EEXIST")),
         plays="NFS over a bad line: the repeated request finds what the first one made (EEXIST)"),
)  # fmt: skip

MODES: dict[str, Mode] = {mode.name: mode for mode in _ALL}
"""What comes with the harness, by name. Others are made with `Mode(...)`, or from these with `dataclasses.replace`."""
