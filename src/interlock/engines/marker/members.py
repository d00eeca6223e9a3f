"""Who takes part in a log of generations: the steps of one acquisition, and how a dead member is recognized.

See `generations` for the theory.
"""

from __future__ import annotations

import os
import re
import secrets
from math import isfinite
from time import monotonic

from ..._errors import ProtocolError, UnsafePathError
from . import identity
from .generations import MAGIC, TOKEN, Snapshot, TreeReplaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from .generations import Log

    Mode = Literal["read", "write"]

__all__ = ["Participant", "Watcher"]


class Watcher:
    """For how long each record has stood still before this process's eyes."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def still_for(self, key: str, value: bytes | None, asked: float) -> float:
        """`asked`: the time before the value was read, so that a pause in between counts for nobody's death."""
        seen = self._seen.get(key)
        if seen is None or seen[0] != value:
            self._seen[key] = (value, monotonic())
            return 0.0
        return asked - seen[1]

    def forget(self, key: str) -> None:
        self._seen.pop(key, None)

    def keep_only(self, keys: set[str]) -> None:
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}


class Participant:
    """One acquisition, from its record to its leaving. `advance` until it says True, then `heartbeat`, then `leave`."""

    def __init__(self, log: Log, watcher: Watcher, mode: Mode, threshold: float) -> None:
        self.token = secrets.token_hex(16)
        self.mode = mode
        self.generation: int | None = None
        self._log = log
        self._tree = log.tree
        self._watcher = watcher
        self._threshold = threshold
        self._record_of: tuple[int, int] | None = None
        self._entered = False
        self._next_sweep = monotonic()

    def publish(self) -> None:
        self._tree.make()
        self._create_record()

    def _create_record(self) -> None:
        try:
            self._record_of = self._tree.create(self._holder(self.token), self._record(), durable=False)
        except FileNotFoundError:  # the whole log was removed
            self._tree.make()
            self._record_of = self._tree.create(self._holder(self.token), self._record(), durable=False)

    def _holder(self, token: str) -> str:
        return os.path.join(self._tree.holders, token)

    def _record(self) -> bytes:
        pid, host, _ = identity.me()
        return (
            f"{MAGIC}\ntoken={self.token}\npid={pid}\nhost={host}\nlease={self._threshold!r}\n"
            f"nonce={secrets.token_hex(16)}\n"
        ).encode("ascii")

    def _refresh(self) -> bool:
        if self._record_of is None:
            return False
        return self._tree.overwrite(self._holder(self.token), self._record(), self._record_of)

    def advance(self) -> bool:
        """Take what steps can be taken. True: held."""
        self._tree.check()
        for _ in range(4):  # a lost race is no reason to wait
            done = self._step()
            if done is not None:
                return done
        return False

    def _step(self) -> bool | None:
        """True: held. False: others are in the way. None: somebody was faster."""
        now = self._log.newest()
        self._entered = self.token in now.members  # an answer may have been lost, or others put us out
        if not self._refresh():
            try:
                self._create_record()
            except FileExistsError:
                pass
        self._sweep(now)
        dead = frozenset(token for token in now.members - {self.token} if self._stands_still(token))
        writer = None if now.writer in dead else now.writer
        readers = now.readers - dead
        if not self._entered:
            if writer is not None:
                if dead:
                    self._commit(now, writer, readers, dead)
                return False
            if self.mode == "write":
                writer = self.token
            else:
                readers |= {self.token}
        granted = self.mode == "read" or not readers
        if self._entered and not dead and not granted:
            return False
        generation = self._commit(now, writer, readers, dead)
        if generation is None:
            return None
        self._entered = True
        if granted:
            self.generation = generation
        return granted

    def _commit(self, now: Snapshot, writer: str | None, readers: frozenset[str], dead: frozenset[str]) -> int | None:
        generation = now.generation + 1
        if not self._log.commit(Snapshot(generation, writer, readers)):
            return None
        for token in dead:
            self._tree.unlink(self._holder(token))
            self._watcher.forget(token)
        return generation

    def _stands_still(self, token: str) -> bool:
        return self._outlived(token, self._holder(token))

    def _outlived(self, key: str, path: str) -> bool:
        asked = monotonic()
        record = self._tree.read(path)
        return self._watcher.still_for(key, record, asked) >= max(self._threshold, _lease(record))

    def _sweep(self, now: Snapshot) -> None:
        """Collect what a crash left behind: records that no generation names, private files."""
        if monotonic() < self._next_sweep:
            return
        self._next_sweep = monotonic() + self._threshold / 2
        watched = set(now.members)
        leftovers = [
            (f"holder:{name}", self._holder(name))
            for name in self._tree.names(self._tree.holders)
            if TOKEN.fullmatch(name) and name != self.token and name not in now.members
        ] + [
            (f"private:{name}", os.path.join(self._tree.generations, name))
            for name in self._tree.names(self._tree.generations)
            if name.startswith(".commit-")
        ]
        for key, path in leftovers:
            watched.add(key)
            if self._outlived(key, path):
                self._tree.unlink(path)
                self._watcher.forget(key)
        self._watcher.keep_only(watched)

    def heartbeat(self) -> tuple[str, OSError | None]:
        """Refresh, and see whether we are still named: "ok", "lost", or "transient" with the error."""
        try:
            self._tree.check()
            if not self._refresh():
                return "lost", None
        except (TreeReplaced, FileNotFoundError):
            return "lost", None
        except OSError as error:
            return "transient", error
        try:
            now = self._log.newest()
            self._sweep(now)
        except (OSError, ProtocolError, UnsafePathError):  # says nothing about us
            return "ok", None
        return ("ok" if self.token in now.members else "lost"), None

    def leave(self) -> None:
        """Take ourselves out of the newest generation, and our record away."""
        try:
            self._tree.check()
            while self.token in (now := self._log.newest()).members:
                writer = None if now.writer == self.token else now.writer
                if self._log.commit(Snapshot(now.generation + 1, writer, now.readers - {self.token})):
                    break
        except (TreeReplaced, FileNotFoundError):  # there is nothing left to leave
            pass
        finally:
            self._entered = False
            self.generation = None
            self._tree.unlink(self._holder(self.token))


def _lease(record: bytes | None) -> float:
    """How long the writer of a record may be silent by its own account; 0.0 if it does not say."""
    found = re.search(rb"^lease=([^\n]+)$", record or b"", re.MULTILINE)
    try:
        text = found[1].decode("ascii") if found else ""
        lease = float(text)
    except ValueError:
        return 0.0
    return lease if isfinite(lease) and lease > 0 and repr(lease) == text else 0.0
