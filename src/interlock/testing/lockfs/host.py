"""One mount, which is one host: answers what its kernel asks, from the directory that is the server's disk.

The kernel names files by node numbers that we gave it; a node is an O_PATH descriptor of the file in that directory,
so a file that was renamed or unlinked by another host stays the same file here, as on NFS.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass, field

from . import wire
from .table import Blocked, Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .modes import Fault, Mode
    from .table import File, Kind, Table

assert sys.platform == "linux"

Op = wire.Op
_NOT_FOR_THE_DISK = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | os.O_DIRECT | 0x20  # __FMODE_EXEC

NEVER = object()
"""The answer that does not come (yet)."""


@dataclass
class Node:
    """A file that the kernel knows. `lookups`: how often it was told of it, and has not forgotten it."""

    fd: int
    file: File
    lookups: int = 0


@dataclass
class Rule:
    """A fault of the plan, and how many requests it has seen."""

    fault: Fault
    seen: int = 0
    hits: int = 0

    def strikes(self, op: str, name: bytes) -> bool:
        fault = self.fault
        if fault.op != op or (fault.name and fault.name.encode() != name):
            return False
        self.seen += 1
        late = self.seen - fault.nth
        if late < 0:
            return False
        hit = fault.count is None or (late % fault.every if fault.every else late) < fault.count
        self.hits += hit
        return hit


@dataclass
class Request:
    """What the kernel asks, taken apart."""

    op: Op
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: bytes
    names: list[bytes] = field(default_factory=list)


class Host:
    """The mount numbered `number`, over the open /dev/fuse `fd`."""

    def __init__(self, number: int, fd: int, disk: str, mode: Mode, table: Table) -> None:
        self.number = number
        self.fd = fd
        self.mode = mode
        self.table = table
        self.paused = False
        self.rules = [Rule(fault) for fault in mode.faults]
        self.counts: dict[str, int] = {}
        root = os.open(disk, os.O_PATH | os.O_CLOEXEC)
        status = os.fstat(root)
        self._nodes: dict[int, Node] = {1: Node(root, (status.st_dev, status.st_ino), 1)}
        self._numbers: dict[File, int] = {(status.st_dev, status.st_ino): 1}
        self._last = 1
        self._files: dict[int, int] = {}
        self._listings: dict[int, list[tuple[int, int, bytes]]] = {}
        self._handle = 0
        self._verbs: dict[Op, Callable[[Request], object]] = {op: getattr(self, "_" + op.name.lower()) for op in Op}

    def close(self) -> None:
        """Forget everything. The kernel's side of it ends with the descriptor: ECONNABORTED, then ENOTCONN."""
        self.table.forget(self.number)
        for fd in (self.fd, *self._files.values(), *(node.fd for node in self._nodes.values())):
            os.close(fd)
        self._files.clear()
        self._nodes.clear()
        self.fd = -1

    # ---- the conversation

    def serve(self, data: memoryview) -> None:
        """Answer one request."""
        length, code, unique, node, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(data)
        op = wire.OPS.get(code)
        if op is None:  # the kernel then knows, and does without
            self.answer(unique, -errno.ENOSYS)
            return
        self.counts[op.name.lower()] = self.counts.get(op.name.lower(), 0) + 1
        request = Request(op, unique, node, uid, gid, pid, bytes(data[wire.IN_HEADER.size : length]))
        try:
            result = self._decide(request)
        except OSError as error:
            self.answer(unique, -(error.errno or errno.EIO))
            return
        if op not in wire.NO_ANSWER and result is not NEVER:
            assert isinstance(result, bytes)
            self.answer(unique, 0, result)

    def _decide(self, request: Request) -> object:
        name = _name(request)
        struck = [rule.fault for rule in self.rules if rule.strikes(request.op.name.lower(), name)]
        for fault in struck:
            if not fault.after:
                raise _error(fault.errno)
        result = self._verbs[request.op](request)
        if struck:  # done, and its reply is lost
            self._forget_reply(request.op, result)
            raise _error(struck[0].errno)
        return result

    def _forget_reply(self, op: Op, result: object) -> None:
        """The kernel will never know of the node and of the open file that this reply would have told it of."""
        if not isinstance(result, bytes):
            return
        if op in (Op.LOOKUP, Op.CREATE, Op.LINK, Op.MKDIR, Op.MKNOD, Op.SYMLINK):
            self._drop_node(wire.ENTRY.unpack_from(result)[0], 1)
        if op in (Op.CREATE, Op.OPEN):
            handle = wire.OPEN_OUT.unpack_from(result, len(result) - wire.OPEN_OUT.size)[0]
            os.close(self._files.pop(handle))

    def answer(self, unique: int, error: int, payload: bytes = b"") -> None:
        try:
            os.write(self.fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), error, unique) + payload)
        except FileNotFoundError:  # nobody waits for it any more: the process was killed
            pass
        except OSError as trouble:
            if trouble.errno != errno.ENODEV:  # unmounted meanwhile
                raise

    def _invalidate(self, node: int) -> None:
        """Tell the kernel to believe no longer what it knows of a file's attributes."""
        payload = wire.INVALIDATE.pack(node, -1, 0)
        try:
            size = wire.OUT_HEADER.size + len(payload)
            os.write(self.fd, wire.OUT_HEADER.pack(size, wire.NOTIFY_INVAL_INODE, 0) + payload)
        except OSError:  # it does not know the file, which is as good
            pass

    def _destroy(self, request: Request) -> bytes:
        return b""

    def _init(self, request: Request) -> bytes:
        _, minor, readahead, offered = wire.INIT.unpack_from(request.body)
        # A kind of lock that we do not ask for stays in this mount's kernel.
        wanted = wire.INIT_BIG_WRITES
        wanted |= wire.INIT_POSIX_LOCKS if self.mode.posix != "local" else 0
        wanted |= wire.INIT_FLOCK_LOCKS if self.mode.flock != "local" else 0
        return wire.INIT_OUT.pack(
            7, min(minor, 31), readahead, wanted & offered, 12, 9, wire.MAX_WRITE, 1, 0, 0, 0, *(7 * [0])
        )

    # ---- nodes

    def _at(self, node: int) -> Node:
        try:
            return self._nodes[node]
        except KeyError:
            raise _error("ESTALE") from None

    def _path(self, node: int) -> str:
        """A path that opens the node's file itself."""
        return f"/proc/self/fd/{self._at(node).fd}"

    def _entry(self, directory: int, name: bytes) -> bytes:
        """Tell the kernel of the file that has this name now."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._at(directory).fd)
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        number = self._numbers.get(file)
        if number is None:
            self._last += 1
            number = self._last
            self._numbers[file] = number
            self._nodes[number] = Node(fd, file)
        else:
            os.close(fd)
        self._nodes[number].lookups += 1
        names, names_ns = wire.span(self.mode.names)
        attributes, attributes_ns = wire.span(self.mode.attributes)
        head = wire.ENTRY.pack(number, 0, names, attributes, names_ns, attributes_ns)
        return head + wire.attr(status)

    def _drop_node(self, number: int, times: int) -> None:
        node = self._nodes.get(number)
        if node is None or number == 1:
            return
        node.lookups -= times
        if node.lookups <= 0:
            os.close(node.fd)
            del self._nodes[number]
            del self._numbers[node.file]

    def _forget(self, request: Request) -> None:
        self._drop_node(request.node, wire.FORGET.unpack_from(request.body)[0])

    def _batch_forget(self, request: Request) -> None:
        count, _ = wire.BATCH_FORGET.unpack_from(request.body)
        for place in range(count):
            at = wire.BATCH_FORGET.size + place * wire.FORGET_ONE.size
            self._drop_node(*wire.FORGET_ONE.unpack_from(request.body, at))

    def _lookup(self, request: Request) -> bytes:
        try:
            return self._entry(request.node, wire.names(request.body)[0])
        except FileNotFoundError:
            if not self.mode.absence:
                raise
            absence, nanoseconds = wire.span(self.mode.absence)
            return wire.ENTRY.pack(0, 0, absence, 0, nanoseconds, 0) + bytes(wire.ATTR.size)

    def _attributes(self, status: os.stat_result) -> bytes:
        return wire.ATTR_OUT.pack(*wire.span(self.mode.attributes), 0) + wire.attr(status)

    def _getattr(self, request: Request) -> bytes:
        return self._attributes(os.fstat(self._at(request.node).fd))

    def _setattr(self, request: Request) -> bytes:
        (valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = wire.SETATTR.unpack_from(
            request.body
        )
        path = self._path(request.node)
        if valid & wire.FATTR_MODE:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & (wire.FATTR_UID | wire.FATTR_GID):
            os.chown(path, uid if valid & wire.FATTR_UID else -1, gid if valid & wire.FATTR_GID else -1)
        if valid & wire.FATTR_SIZE:
            os.truncate(path, size)
        if valid & (wire.FATTR_ATIME | wire.FATTR_MTIME):
            now = os.stat(path)
            times = [now.st_atime_ns, now.st_mtime_ns]
            if valid & (wire.FATTR_ATIME_NOW | wire.FATTR_MTIME_NOW) == wire.FATTR_ATIME_NOW | wire.FATTR_MTIME_NOW:
                os.utime(path)
            else:
                if valid & wire.FATTR_ATIME:
                    times[0] = atime * 1_000_000_000 + atime_ns
                if valid & wire.FATTR_MTIME:
                    times[1] = mtime * 1_000_000_000 + mtime_ns
                os.utime(path, ns=(times[0], times[1]))
        return self._attributes(os.fstat(self._at(request.node).fd))

    # ---- names

    def _own(self, request: Request, name: bytes) -> None:
        if request.uid or request.gid:
            os.chown(name, request.uid, request.gid, dir_fd=self._at(request.node).fd, follow_symlinks=False)

    def _readlink(self, request: Request) -> bytes:
        return os.fsencode(os.readlink(b"", dir_fd=self._at(request.node).fd))

    def _symlink(self, request: Request) -> bytes:
        name, target = wire.names(request.body)
        os.symlink(target, name, dir_fd=self._at(request.node).fd)
        self._own(request, name)
        return self._entry(request.node, name)

    def _mknod(self, request: Request) -> bytes:
        mode, device, _, _ = wire.MKNOD.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.MKNOD.size :])
        os.mknod(name, mode, device, dir_fd=self._at(request.node).fd)
        self._own(request, name)
        return self._entry(request.node, name)

    def _mkdir(self, request: Request) -> bytes:
        mode, _ = wire.MKDIR.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.MKDIR.size :])
        os.mkdir(name, mode, dir_fd=self._at(request.node).fd)
        self._own(request, name)
        return self._entry(request.node, name)

    def _unlink(self, request: Request) -> bytes:
        os.unlink(wire.names(request.body)[0], dir_fd=self._at(request.node).fd)
        return b""

    def _rmdir(self, request: Request) -> bytes:
        os.rmdir(wire.names(request.body)[0], dir_fd=self._at(request.node).fd)
        return b""

    def _rename(self, request: Request) -> bytes:
        (where,) = wire.RENAME.unpack_from(request.body)
        old, new = wire.names(request.body[wire.RENAME.size :])
        os.rename(old, new, src_dir_fd=self._at(request.node).fd, dst_dir_fd=self._at(where).fd)
        return b""

    def _rename2(self, request: Request) -> bytes:
        raise _error("EINVAL")  # no exchange and no noreplace, as on NFS and SMB

    def _link(self, request: Request) -> bytes:
        (old,) = wire.LINK.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.LINK.size :])
        os.link(self._path(old), name, dst_dir_fd=self._at(request.node).fd, follow_symlinks=True)
        return self._entry(request.node, name)

    def _opendir(self, request: Request) -> bytes:
        self._handle += 1
        directory = os.open(self._path(request.node), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            entries = [(item.inode(), _type(item), os.fsencode(item.name)) for item in os.scandir(directory)]
        finally:
            os.close(directory)
        here = os.fstat(self._at(request.node).fd).st_ino
        self._listings[self._handle] = [(here, 4, b"."), (here, 4, b".."), *entries]
        flags = wire.FOPEN_CACHE_DIR | wire.FOPEN_KEEP_CACHE if self.mode.listing else 0
        return wire.OPEN_OUT.pack(self._handle, flags, 0)

    def _readdir(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.READ.unpack_from(request.body)
        answer = b""
        for at, (inode, kind, name) in enumerate(self._listings[handle][offset:], offset + 1):
            entry = wire.DIRENT.pack(inode, at, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def _releasedir(self, request: Request) -> bytes:
        self._listings.pop(wire.RELEASE.unpack_from(request.body)[0], None)
        return b""

    # ---- contents

    def _opened(self, node: int, fd: int) -> bytes:
        self._handle += 1
        self._files[self._handle] = fd
        if self.mode.attributes and self.mode.close_to_open:
            self._invalidate(node)
        # Without times of validity nothing is cached at all. Else pages are, until the file is opened again.
        return wire.OPEN_OUT.pack(self._handle, 0 if self.mode.attributes else wire.FOPEN_DIRECT_IO, 0)

    def _open(self, request: Request) -> bytes:
        flags = wire.OPEN.unpack_from(request.body)[0] & ~_NOT_FOR_THE_DISK
        return self._opened(request.node, os.open(self._path(request.node), flags | os.O_CLOEXEC))

    def _create(self, request: Request) -> bytes:
        flags, mode, _, _ = wire.CREATE.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.CREATE.size :])
        flags = flags & ~(os.O_NOCTTY | os.O_DIRECT | 0x20) | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, stat.S_IMODE(mode), dir_fd=self._at(request.node).fd)
        try:
            if request.uid or request.gid:
                os.fchown(fd, request.uid, request.gid)
            entry = self._entry(request.node, name)
        except OSError:
            os.close(fd)
            raise
        return entry + self._opened(wire.ENTRY.unpack_from(entry)[0], fd)

    def _read(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.READ.unpack_from(request.body)
        return os.pread(self._file(handle), size, offset)

    def _write(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.READ.unpack_from(request.body)
        data = request.body[wire.READ.size : wire.READ.size + size]
        return wire.WRITE_OUT.pack(os.pwrite(self._file(handle), data, offset), 0)

    def _file(self, handle: int) -> int:
        try:
            return self._files[handle]
        except KeyError:
            raise _error("EBADF") from None

    def _fsync(self, request: Request) -> bytes:
        os.fsync(self._file(wire.FSYNC.unpack_from(request.body)[0]))
        return b""

    def _fsyncdir(self, request: Request) -> bytes:
        return b""

    def _statfs(self, request: Request) -> bytes:
        found = os.statvfs(self._path(request.node))
        return wire.STATFS_OUT.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0, *(6 * [0]),
        )  # fmt: skip

    def _flush(self, request: Request) -> bytes:
        """A close(2), not the last one perhaps: it ends the process's POSIX locks on the file."""
        owner = wire.FLUSH.unpack_from(request.body)[3]
        file = self._at(request.node).file
        self.table.unlock(file, "posix", Held(self.number, owner, 0, 0, 2**63 - 1, False, 0))
        return b""

    def _release(self, request: Request) -> bytes:
        """The last close of an open file. OFD locks end with it without a word from the kernel: so by handle."""
        handle, _, flags, owner = wire.RELEASE.unpack_from(request.body)
        self.table.forget(self.number, handle=handle)
        if flags & wire.RELEASE_FLOCK_UNLOCK:
            self.table.forget(self.number, owner=owner, kind="flock")
        os.close(self._files.pop(handle))
        return b""

    # ---- locks

    def _wish(self, request: Request) -> tuple[Kind, int, Held]:
        handle, owner, start, end, kind, pid, flags, _ = wire.LOCK.unpack_from(request.body)
        wish = Held(self.number, owner, handle, start, end, kind == wire.F_WRLCK, pid or request.pid)
        return "flock" if flags & wire.LK_FLOCK else "posix", kind, wish

    def _how(self, kind: Kind) -> str:
        how = self.mode.flock if kind == "flock" else self.mode.posix
        if how in ("coherent", "local", "always", "hang"):
            return how
        raise _error(how)

    def _getlk(self, request: Request) -> object:
        kind, _, wish = self._wish(request)
        how = self._how(kind)
        if how == "hang":
            return NEVER
        found = self.table.conflict(self._at(request.node).file, kind, wish) if how == "coherent" else None
        if found is None:
            return wire.LOCK_OUT.pack(wish.start, wish.end, wire.F_UNLCK, 0)
        there = wire.F_WRLCK if found.write else wire.F_RDLCK
        return wire.LOCK_OUT.pack(found.start, found.end, there, found.pid if found.host == self.number else 0)

    def _setlk(self, request: Request) -> object:
        kind, what, wish = self._wish(request)
        how = self._how(kind)
        file = self._at(request.node).file
        if how == "hang":
            return NEVER
        if how == "always":
            return b""
        if what == wire.F_UNLCK:
            self.table.unlock(file, kind, wish)
        elif not self.table.lock(file, kind, wish):
            if request.op is Op.SETLK:
                raise _error("EAGAIN")
            self.table.block(Blocked(self.number, request.unique, file, kind, wish))
            return NEVER
        return b""

    _setlkw = _setlk

    def _interrupt(self, request: Request) -> None:
        (unique,) = wire.INTERRUPT.unpack_from(request.body)
        if self.table.interrupt(self.number, unique):
            self.answer(unique, -errno.EINTR)


def _error(name: str) -> OSError:
    number: int = getattr(errno, name)
    return OSError(number, os.strerror(number))


def _name(request: Request) -> bytes:
    """The name that a request is about, for the plan of faults."""
    skip = {Op.CREATE: wire.CREATE, Op.MKDIR: wire.MKDIR, Op.MKNOD: wire.MKNOD, Op.LINK: wire.LINK}
    if request.op in (Op.LOOKUP, Op.UNLINK, Op.RMDIR, Op.SYMLINK):
        return wire.names(request.body)[0]
    if request.op in skip:
        return wire.names(request.body[skip[request.op].size :])[0]
    if request.op is Op.RENAME:
        return wire.names(request.body[wire.RENAME.size :])[1]
    return b""


def _type(item: os.DirEntry[str]) -> int:
    if item.is_symlink():
        return 10
    if item.is_dir(follow_symlinks=False):
        return 4
    return 8 if item.is_file(follow_symlinks=False) else 0
