"""`Fence`: the resource's side of a fencing token. A file, or a directory, that refuses a late writer.

Theory of operation
-------------------
What a fence guards has a *mark*: the greatest token that ever wrote, in `.NAME.fence` beside the file (`.fence` in the
directory). A write is admitted if its token is not smaller than the mark; a greater one becomes the mark, on
stable storage, before anything is written. So once anybody with a greater token was admitted, smaller ones never are,
whatever is killed where.

The check and the write cannot be pulled apart: both happen under a kernel lock of the fence's own, which is given
back only by the process that has it, or by its death. A writer that is stopped between the two keeps it. Those with a
greater token then wait for it (or get `Timeout`): the fence gives up progress, never order. It is stopped *after* the
check, so its token was the greatest until then, and its write comes before theirs.

`Fence.write` does not even need that lock to be right. It stages its file, checks and raises the mark, sweeps, renames
(see `staging`). Let A's rename come after B's, with a smaller token. A's file was not swept by B, so A staged it after
B's sweep, so after B raised the mark; then A checked, and was refused. The mark itself is changed as by `transform`,
so it never goes back. Should the fence's lock file be deleted, a late writer's rename fails, and it looks again.

With a hold in place of a bare token, the hold is asserted under the fence's lock as well: a holder whose lease ran
out while it was stopped learns it there, also if nobody else came.

The mark has a checksum: a torn one does not exist, a damaged one is an error.
"""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager

from .. import Lock, LockError, ProtocolError, UnsupportedError
from .staging import make_directory, resolved
from .update import Again, as_bytes, change, content_of, repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .. import AsyncHold, Hold

_MAGIC = b"interlock fence 1 "
_MOST = 100
"""Bytes of a mark that are read. It has fewer."""


class StaleTokenError(LockError):
    """A write was refused: its token is smaller than one that wrote before. Nothing was written.

    `resource` is what the fence guards, `token` the writer's, `newest` the greatest that was admitted.
    """

    def __init__(self, resource: str, token: int, newest: int) -> None:
        super().__init__(resource, token, newest)
        self.resource = resource
        self.token = token
        self.newest = newest

    def __str__(self) -> str:
        return (
            f"{self.resource} was written with token {self.newest}: the holder of token {self.token} has lost its lock"
            " since, and must not write"
        )


class Fence:
    """A file, or a directory of files, that refuses writes with an older fencing token than it has seen.

    All who write must write through a fence of the same path; readers need none, never wait and see whole files.
    A path that is a directory, when the fence is made, guards the files in it together; else it is a file, which
    may be missing. `timeout`: seconds to wait while another process writes; `None` for ever.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        self._path = resolved(path, follow=True)
        self._is_directory = os.path.isdir(self._path)
        directory, name = (self._path, "") if self._is_directory else os.path.split(self._path)
        self._mark = os.path.join(directory, f".{name}.fence" if name else ".fence")
        self._lock = Lock(self._mark + ".lock", timeout=timeout)

    @property
    def newest(self) -> int:
        """The greatest token that was admitted; 0: none. Raises `ProtocolError` for a damaged mark."""
        return _parse(self._mark, content_of(self._mark, _MOST))

    def write(self, hold: Hold | AsyncHold | int, data: bytes | str, name: str | None = None) -> None:
        """Make `data` (bytes, or a str stored as UTF-8) the content of the file; in a directory, of the file `name`.

        `hold`: the writer's hold, which is asserted and whose token counts; or, where the writer is elsewhere and
        only its token came here, that number. The file is replaced whole and synced, mode and owner are kept. A crash
        leaves the old content or the new.

        Raises `StaleTokenError`; `LostError` and `NotHeldError` of the hold; `TypeError` for what is neither a hold nor
        a number; `UnsupportedError` where its engine gives no tokens; `Timeout` if another writer does not come to its
        end; and the kernel's `OSError`. Then nothing was written, unless the error is of the last step, the sync of
        the directory.
        """
        content = as_bytes("data", data)
        token, target = _token(hold), self._target(name)
        make_directory(os.path.dirname(target))

        def attempt() -> None:
            with self._lock as own:
                change(
                    target,
                    lambda _old: content,
                    own,
                    before_read=lambda: self._advance(hold, token, own),
                    before_rename=lambda: _assert(hold),
                )

        repeated(attempt)

    @contextmanager
    def admit(self, hold: Hold | AsyncHold | int) -> Iterator[int]:
        """For writes of any other kind: a block that only the newest holder enters, and nobody else meanwhile.

        Yields the token. Raises as `write` does before the block begins. The order of the blocks is the order of the
        tokens; a crash inside leaves what the block has done until then.
        """
        token = _token(hold)
        make_directory(os.path.dirname(self._mark))
        while True:
            with self._lock as own:
                try:
                    self._advance(hold, token, own)
                except Again:  # the fence's lock was lost before anything was done under it
                    continue
                yield token
                return

    def _advance(self, hold: Hold | AsyncHold | int, token: int, own: Hold) -> None:
        """Admit this token, or raise."""

        def newer(old: bytes | None) -> bytes:
            newest = _parse(self._mark, old)
            if token < newest:
                raise StaleTokenError(self._path, token, newest)
            number = _MAGIC + b"%020d" % token
            return number + b" %08x\n" % zlib.crc32(number)

        _assert(hold)
        change(self._mark, newer, own, owner="mine", most=_MOST)

    def _target(self, name: str | None) -> str:
        if not self._is_directory:
            if name is not None:
                raise ValueError(f"{self._path} is a file: it has no {name!r}")
            return self._path
        if name is None:
            raise ValueError(f"{self._path} is a directory: name the file to write")
        if name in ("", os.curdir, os.pardir) or {"/", os.sep, "\0"} & set(name) or name.startswith(".fence"):
            raise ValueError(f"{name!r} is not the name of a file in {self._path} that may be written")
        return os.path.join(self._path, name)

    def __repr__(self) -> str:
        return f"<Fence {self._path!r}>"


def _token(hold: Hold | AsyncHold | int) -> int:
    if isinstance(hold, int):
        if isinstance(hold, bool) or not 0 < hold < 1 << 64:
            raise ValueError(f"{hold!r} is not a fencing token")
        return hold
    if not hasattr(hold, "token"):
        raise TypeError(f"a hold or its fencing token is what a fence takes, not {type(hold).__name__}")
    token = hold.token
    if token is None:
        raise UnsupportedError(f"{hold.resource}: this hold has no fencing token, so nothing can be fenced with it")
    return token


def _assert(hold: Hold | AsyncHold | int) -> None:
    if not isinstance(hold, int):
        hold.assert_held()


def _parse(mark: str, content: bytes | None) -> int:
    """The token of a mark; 0: there is none."""
    if content is None:
        return 0
    number = content[: len(_MAGIC) + 20]
    digits = number[len(_MAGIC) :]
    if content != number + b" %08x\n" % zlib.crc32(number) or not content.startswith(_MAGIC) or not digits.isdigit():
        raise ProtocolError(
            f"{mark} is not the mark of a fence, or damaged: nothing was written. Find out the newest token, or delete"
            " it if no older writer can be left"
        )
    return int(digits)
