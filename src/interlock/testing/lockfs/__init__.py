"""A filesystem that plays the filesystems on which locks lie, hang and fail. Linux, root; for tests.

    from interlock.testing.lockfs import MODES, LockFS

    with LockFS(tmp_path / "disk") as fs:
        one = fs.mount(tmp_path / "one", MODES["gpfs"])      # two mounts of one place are two hosts
        two = fs.mount(tmp_path / "two", MODES["gpfs"])
        ...                                                  # flock(2) on both is granted at once, fcntl(2) is not
        two.crash()

It is a FUSE server of our own (the protocol over /dev/fuse, no library), in a process of its own. What a mount plays
is a `Mode`: which locks the server knows of, which stay in each host's kernel, which fail or never answer; what is
cached, and which requests fail. Every file is a file in the directory that plays the server's disk.

What it does not play: leases that a paused host loses, servers that forget locks, delayed or reordered writes, and
errnos from 512 on (FUSE lets none through; for the kernel's ENOTSUPP, 524, there is `refuse_locks`).
"""

from __future__ import annotations

from .client import LockFS, Mount, available
from .modes import MODES, Fault, Mode
from .refusal import refuse_locks

__all__ = ["MODES", "Fault", "LockFS", "Mode", "Mount", "available", "refuse_locks"]
