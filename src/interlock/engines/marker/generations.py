"""Readers and writers on a filesystem that only promises atomic hard links: a log of generations.

Theory of operation
-------------------
The state of the lock is the newest of `<path>.rw/gen/<20 digits>`: an immutable file that names the writer and the
readers. Every change is the publication of the next number: read the newest, write the successor under a private name,
hard-link it to its number. The link fails if somebody else was faster; then read again. So there are no half-made
states, and a hold's generation is a fencing token.

    reader   enters when no writer is named
    writer   enters when no writer is named, which keeps new readers out, and holds when no reader is named any more

Each participant keeps `holders/<token>` and rewrites a nonce in it. Who has watched the same bytes, on its own
monotonic clock, for as long as the record's `lease` (and its own threshold) takes the member out of the next
generation: clocks of different hosts are never compared.

Finding the newest: listings may be served from a cache (NFS), so there is also `HEAD`, a copy of the newest that is
renamed into place after each commit; it may lag but never leads. From the best that is known the numbers are tried
upwards. `epoch` is a random name of the log: one that was removed and begun anew must not be continued from memory.
Only the last WINDOW generations are kept; a commit into a number that was freed before is refused.

Names and records are those of filelock's `SoftReadWriteLock` (since 3.33), whose processes take part.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys

from ..._errors import UnsafePathError
from .claims import ClaimsError

__all__ = ["MAGIC", "TOKEN", "Log", "Snapshot", "Tree", "TreeReplaced"]

WINDOW = 64
MAGIC = "filelock-rw/1"
TOKEN = re.compile(r"[0-9a-f]{32}")
_GENERATION = re.compile(r"[0-9]{20}", re.ASCII)
_MAX_SIZE = 1 << 20
_SAFE = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_GONE = (errno.ENOENT, errno.ESTALE)
_NO_LINKS = {errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}


class TreeReplaced(UnsafePathError):
    """Something else stands where the directories of the log were."""


class Snapshot:
    """Who holds at one generation. A writer that is named with readers waits for them."""

    __slots__ = ("generation", "readers", "writer")

    def __init__(self, generation: int, writer: str | None, readers: frozenset[str]) -> None:
        self.generation = generation
        self.writer = writer
        self.readers = readers

    @property
    def members(self) -> frozenset[str]:
        return self.readers if self.writer is None else self.readers | {self.writer}

    def encode(self) -> bytes:
        lines = [MAGIC, f"generation={self.generation}"]
        if self.writer is not None:
            lines.append(f"writer={self.writer}")
        lines += [f"reader={token}" for token in sorted(self.readers)]
        return ("\n".join(lines) + "\n").encode("ascii")


def parse(data: bytes) -> Snapshot | None:
    if len(data) > _MAX_SIZE or not data.endswith(b"\n"):
        return None
    try:
        magic, *lines = data[:-1].decode("ascii").split("\n")
    except UnicodeDecodeError:
        return None
    generation: int | None = None
    writer: str | None = None
    readers: set[str] = set()
    if magic != MAGIC:
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key == "generation" and generation is None and re.fullmatch(r"0|[1-9][0-9]{0,19}", value, re.ASCII):
            generation = int(value)
        elif key == "writer" and writer is None and TOKEN.fullmatch(value):
            writer = value
        elif key == "reader" and value not in readers and TOKEN.fullmatch(value):
            readers.add(value)
        else:
            return None
    return None if generation is None else Snapshot(generation, writer, frozenset(readers))


class Tree:
    """The files of one log."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.generations = os.path.join(root, "gen")
        self.holders = os.path.join(root, "holders")

    def make(self) -> None:
        os.makedirs(os.path.dirname(self.root) or os.curdir, exist_ok=True)
        for directory in (self.root, self.generations, self.holders):
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                pass
        self.check()

    def check(self) -> None:
        """The directories are real ones, and nobody else's who could swap them (below a sticky directory)."""
        for directory in (self.root, self.generations, self.holders):
            found = os.lstat(directory)
            if not stat.S_ISDIR(found.st_mode):
                raise TreeReplaced(f"{directory} exists but is not a directory; refusing to use it")
            above = os.stat(os.path.dirname(directory) or os.curdir)
            if sys.platform != "win32" and above.st_mode & stat.S_ISVTX:
                if found.st_uid not in (os.geteuid(), above.st_uid):
                    raise TreeReplaced(f"{directory} belongs to uid {found.st_uid}, who could replace it")

    def read(self, path: str) -> bytes | None:
        try:
            fd = os.open(path, os.O_RDONLY | _SAFE)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            parts = []
            while part := os.read(fd, _MAX_SIZE + 1):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def create(self, path: str, data: bytes, durable: bool) -> tuple[int, int]:
        """A new file with this content. `durable`: a crash of this host must not leave an empty one."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.EIO, "written in part only", path)
            if durable:
                os.fsync(fd)
            made = os.fstat(fd)
        except BaseException:
            self.unlink(path)
            raise
        finally:
            os.close(fd)
        return made.st_dev, made.st_ino

    def overwrite(self, path: str, data: bytes, mine: tuple[int, int]) -> bool:
        """Rewrite a file that `create` made; False: another one, or none, is there."""
        try:
            fd = os.open(path, os.O_WRONLY | _SAFE)
        except OSError as error:
            if error.errno in (*_GONE, errno.ENXIO, errno.ELOOP):
                return False
            raise
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != mine or found.st_nlink != 1 or not stat.S_ISREG(found.st_mode):
                return False
            os.write(fd, data)
        finally:
            os.close(fd)
        return True

    def link(self, source: str, target: str) -> bool:
        """Give a file a second name, if that is free. What counts is the result: NFS repeats requests."""
        failed: OSError | None = None
        try:
            os.link(source, target)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno in _NO_LINKS or getattr(error, "winerror", None) in (1, 17, 50):
                raise ClaimsError(
                    None, "filesystem does not support atomic no-replace hard-link publication"
                ) from error
            failed = error
        try:
            one, other = os.lstat(source), os.lstat(target)
            if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
                return True
        except OSError:
            pass
        if failed is not None:
            raise failed
        return False

    def unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno not in _GONE and not isinstance(error, PermissionError):
                raise

    def names(self, directory: str) -> list[str]:
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []


class Log:
    """The generations: finding the newest, adding the next."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._epoch: bytes | None = None
        self._known = 0
        self._epoch_file = os.path.join(tree.generations, "epoch")
        self._head_file = os.path.join(tree.generations, "HEAD")

    def newest(self) -> Snapshot:
        """Once more if nothing that is named can be read: others may have gone on by a whole window meanwhile."""
        found = self._find() or self._find()
        if found is None:
            raise ClaimsError(None, "generation log names no readable snapshot")
        self._known = found.generation
        return found

    def _find(self) -> Snapshot | None:
        epoch = self._read_epoch()
        if epoch != self._epoch:
            self._epoch, self._known = epoch, 0
        listed = self._listed()
        for old in listed[:-WINDOW]:
            self.tree.unlink(self._path(old))
        head = self._head()
        named = {*listed[-WINDOW:], self._known, head} - {0}
        for generation in sorted(named, reverse=True):
            found = self._read(generation)
            if found is not None:
                return self._upwards(found, 1 if generation == head else WINDOW)
        last = max(named, default=0)
        found = self._upwards(Snapshot(last, None, frozenset()), WINDOW)
        return found if found.generation > last or not named else None

    def _upwards(self, found: Snapshot, patience: int) -> Snapshot:
        generation, gap = found.generation, 0
        while gap < patience:
            generation += 1
            above = self._read(generation)
            if above is None:
                gap += 1
            else:
                found, gap = above, 0
        return found

    def _read(self, generation: int) -> Snapshot | None:
        data = self.tree.read(self._path(generation))
        if data is None:
            return None
        found = parse(data)
        if found is None or found.generation != generation:
            raise ClaimsError(f"{generation:020d}", "malformed generation record")
        return found

    def _path(self, generation: int) -> str:
        return os.path.join(self.tree.generations, f"{generation:020d}")

    def _listed(self) -> list[int]:
        return sorted(int(name) for name in self.tree.names(self.tree.generations) if _GENERATION.fullmatch(name))

    def _read_epoch(self) -> bytes | None:
        epoch = self.tree.read(self._epoch_file)
        if epoch is None:
            try:
                self.tree.create(self._epoch_file, f"{secrets.token_hex(16)}\n".encode("ascii"), durable=True)
            except FileExistsError:
                pass
            except FileNotFoundError:
                return None
            epoch = self.tree.read(self._epoch_file)
        return epoch

    def _whole_epoch(self) -> bytes | None:
        epoch = self._epoch
        whole = epoch is not None and epoch.endswith(b"\n") and TOKEN.fullmatch(epoch[:-1].decode("ascii", "replace"))
        return epoch if whole else None

    def _head_record(self) -> bytes | None:
        """What `HEAD` says, if it is of this epoch."""
        data = self.tree.read(self._head_file)
        epoch = self._whole_epoch()
        return data[len(epoch) :] if data is not None and epoch is not None and data.startswith(epoch) else None

    def _head(self) -> int:
        record = self._head_record()
        found = parse(record) if record else None
        return 0 if found is None else found.generation

    def commit(self, next_one: Snapshot) -> bool:
        """Publish the successor of what was read last. False: somebody was faster, or it is another log."""
        generation, data = next_one.generation, next_one.encode()
        if self.tree.read(self._epoch_file) != self._epoch or not self._continues(generation):
            return False
        if not self._place(data, self._path(generation), durable=True):
            return False
        # While we were stopped the others may have gone on by a window and freed this number.
        lead = max([*self._listed(), self._head()]) - generation
        if lead >= WINDOW or not self._continues(generation):
            if not 0 < lead < WINDOW:
                self.tree.unlink(self._path(generation))
            return False
        self._known = generation
        try:
            self._advance_head(generation, data)
        except OSError:  # a HEAD that lags costs readers a look, nothing else
            pass
        self._forget_before(generation - WINDOW - 1)
        return True

    def _continues(self, generation: int) -> bool:
        """Is there a predecessor? The first has none; then there must be no HEAD of this epoch either."""
        if generation > 1:
            return self.tree.read(self._path(generation - 1)) is not None
        return self._head_record() is None

    def _advance_head(self, generation: int, data: bytes) -> None:
        epoch = self._whole_epoch()
        if epoch is not None and self.tree.read(self._epoch_file) == epoch and self._head() < generation:
            self._place(epoch + data, self._head_file, durable=False)

    def _place(self, data: bytes, target: str, durable: bool) -> bool:
        """A generation is linked, if its number is free; HEAD is renamed."""
        private = os.path.join(self.tree.generations, f".commit-{secrets.token_hex(16)}")
        try:
            self.tree.create(private, data, durable)
        except FileNotFoundError:
            return False
        try:
            if durable:
                return self.tree.link(private, target)
            os.replace(private, target)
            return True
        finally:
            self.tree.unlink(private)

    def _forget_before(self, last: int) -> None:
        if last <= 0:
            return
        oldest = last
        while oldest > 1 and self.tree.read(self._path(oldest - 1)) is not None:
            oldest -= 1
        for generation in range(oldest, last + 1):  # upwards: what is left stays without holes
            self.tree.unlink(self._path(generation))
