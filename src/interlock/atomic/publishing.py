"""`publish`: a file appears whole, once, and nobody's file is overwritten."""

from __future__ import annotations

import os

from .staging import fsync_directory, make_directory, naming, ops, resolved, stage_alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from .staging import Staged


def publish(path: str | os.PathLike[str], data: bytes | str | Callable[[BinaryIO], object]) -> bool:
    """Make a file at `path` with this content, if nothing is there. Returns whether the file there is this call's.

    The content is bytes, a str (stored as UTF-8), or a function that writes it to the open file it is given. The file
    appears under its name whole and synced, by link(2): of any number of publishers of one path one wins, and the
    others' content is dropped without a trace. No lock is taken, and nobody waits. A crash at any point leaves
    nothing or the whole file; when this returns, what is at `path` survives a power loss, whoever made it.
    Directories on the way are made. What is at `path` is not looked at: a directory or a dangling link there is
    "something" too.

    Raises `TypeError` for what is no content, what the function raises, and the kernel's `OSError`; then nothing was
    published, unless the error is of the last step, the sync of the directory. `UnsupportedError` where the filesystem
    has neither hard links nor a rename that does not replace.
    """
    target = resolved(path, follow=False)
    content = data if callable(data) else _content(data)
    directory = os.path.dirname(target)
    make_directory(directory)
    won = False
    if not os.path.lexists(target):
        staged = stage_alone(target)
        try:
            _fill(staged, content, target)
            with naming(target):
                ops.fsync(staged.fd)
                won = staged.place(target)
        finally:
            staged.discard()
    fsync_directory(directory)
    return won


def _content(data: bytes | str) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bytes | bytearray | memoryview):
        what = "bytes, a str, or a function that writes to the file it is given"
        raise TypeError(f"data is {what}, not {type(data).__name__}; nothing was changed")
    return bytes(data)


def _fill(staged: Staged, data: bytes | Callable[[BinaryIO], object], target: str) -> None:
    if not callable(data):
        with naming(target):
            staged.write(data)
        return
    with open(staged.fd, "wb", closefd=False) as file:
        data(file)
