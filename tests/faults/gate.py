"""A gate that each system call of the library passes, whatever table it is in: to list the calls, and to let them fail.

The functions of `os`, `fcntl` and `ctypes` are replaced *before* interlock is imported, so that whatever binds one of
them binds the gate's. Only calls under a frame of the library are seen. A *site* is such a frame's function and line,
and the name of the call; so the list of sites is what has been executed, and nobody's memory. What the gate cannot see
is told by strace: see `escapes`.
"""

from __future__ import annotations

import builtins
import ctypes
import fcntl
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

CALLS = (
    "open", "close", "read", "write", "pread", "pwrite", "lseek", "fstat", "stat", "lstat", "utime", "mkdir", "rmdir",
    "unlink", "link", "symlink", "rename", "replace", "listdir", "scandir", "readlink", "fsync", "fdatasync",
    "ftruncate", "fchmod", "chmod", "fchown", "eventfd", "pipe", "kill", "getxattr", "setxattr", "listxattr",
    "removexattr", "sync", "access", "dup", "fstatvfs", "statvfs",
)  # fmt: skip
C_CALLS = ("inotify_init1", "inotify_add_watch", "inotify_rm_watch", "renameat2")
_MAKES_FD = {"open", "eventfd", "dup"}
_NAMES_NO_FILE = {"eventfd", "pipe", "sync", "kill"}

real_open, real_close = os.open, os.close


class Site(NamedTuple):
    call: str
    where: str
    line: int


class Fault(NamedTuple):
    site: Site
    number: int
    done: bool  # the call is made, and then said to have failed
    nth: int


class Gate:
    """What the wrappers ask. One per process."""

    def __init__(self) -> None:
        self.library = ""
        self.on = False
        self.thread = threading.get_ident()
        self.all_threads = False
        self.trace: list[Site] = []
        self.counts: dict[Site, int] = {}
        self.fault: Fault | None = None
        self.hit = False
        self.number = 0  # what an injected C function left in errno
        self.say: Callable[[str], None] | None = None
        """Told the name of each call before it is made, and "" after it: see `escapes`."""

    def record(self) -> None:
        self.trace, self.counts, self.fault, self.hit, self.on = [], {}, None, False, True

    def inject(self, fault: Fault) -> None:
        self.record()
        self.fault = fault

    def heal(self) -> None:
        self.on = False

    def passing(self, call: str, frame: FrameType | None) -> Fault | None:
        """The fault that is due at this call, if one is."""
        if not self.on or (threading.get_ident() != self.thread and not self.all_threads):
            return None
        while frame is not None and not frame.f_code.co_filename.startswith(self.library):
            frame = frame.f_back
        if frame is None:
            return None
        code = frame.f_code
        site = Site(call, f"{code.co_filename[len(self.library) :]}:{code.co_qualname}", frame.f_lineno)
        self.trace.append(site)
        if self.say is not None:
            self.say(call)
        self.counts[site] = nth = self.counts.get(site, 0) + 1
        fault = self.fault
        if fault is None or self.hit or fault.nth != nth or fault.site != site:
            return None
        self.hit = True
        return fault


gate = Gate()


class Wrapped:
    """What stands for a function. It is none of Python's own: as a class's attribute it must not become a method."""

    def __init__(self, name: str, real: Callable[..., Any]) -> None:
        self.__name__ = self._name = name
        self.real = real

    def __call__(self, *args: Any, **options: Any) -> Any:
        fault = gate.passing(self._name, sys._getframe(1)) if gate.on else None
        if fault is None:
            try:
                result = self.real(*args, **options)
                return WRAPPED_RESULTS.get(self._name, _as_it_is)(result) if gate.on else result
            finally:
                if gate.say is not None:
                    gate.say("")
        on = gate.on
        gate.on = False
        try:
            if fault.done or self._name == "close":  # whatever close(2) says, the descriptor is gone
                self._undo(self.real(*args, **options), args)
        finally:
            gate.on = on
        path = args[0] if args and isinstance(args[0], str | bytes | os.PathLike) else None
        if self._name in ("link", "rename", "replace"):
            raise OSError(fault.number, os.strerror(fault.number), path, None, args[1])
        raise OSError(fault.number, os.strerror(fault.number), path)

    def _undo(self, result: Any, args: tuple[Any, ...]) -> None:
        """A call that failed has given nothing to its caller, whatever it did to the world."""
        if self._name in _MAKES_FD or (self._name == "fcntl" and args[1] == fcntl.F_DUPFD_CLOEXEC):
            real_close(result)
        elif self._name == "pipe":
            for fd in result:
                real_close(fd)
        elif self._name in ("scandir", "open()"):
            result.close()


class Entries:
    """What `scandir` returns: the directory is read as one goes on."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.close = real.close

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *exc: object) -> None:
        self._real.close()

    def __iter__(self) -> Entries:
        return self

    def __next__(self) -> Any:
        fault = gate.passing("readdir", sys._getframe(1)) if gate.on else None
        try:
            if fault is None or fault.done:
                entry = next(self._real)
            if fault is None:
                return entry
        finally:
            if gate.say is not None:
                gate.say("")
        raise OSError(fault.number, os.strerror(fault.number))


class File:
    """What the built-in `open` returns: reads and the close may fail on their own."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> File:
        return self

    def __next__(self) -> Any:
        return _may_fail("read()", self._real.__next__)

    def read(self, *size: int) -> Any:
        return _may_fail("read()", self._real.read, *size)

    def readline(self, *size: int) -> Any:
        return _may_fail("read()", self._real.readline, *size)

    def close(self) -> None:
        _may_fail("close()", self._real.close)


class Poll:
    """What `select.poll` returns."""

    def __init__(self, real: Any) -> None:
        self.register = real.register
        self._real = real

    def poll(self, *timeout: float) -> Any:
        return _may_fail("poll", self._real.poll, *timeout)


def _may_fail(call: str, function: Callable[..., Any], *args: Any) -> Any:
    fault = gate.passing(call, sys._getframe(2)) if gate.on else None
    try:
        if fault is None or fault.done:
            result = function(*args)
            if fault is None:
                return result
    finally:
        if gate.say is not None:
            gate.say("")
    raise OSError(fault.number, os.strerror(fault.number))


def _as_it_is(result: Any) -> Any:
    return result


WRAPPED_RESULTS = {"scandir": Entries, "open()": File}


class WrappedC:
    """A function of the C library, which says by its result and errno that it failed."""

    _name: str
    _real: Any

    def __init__(self, name: str, real: Any) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_real", real)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __call__(self, *args: Any) -> Any:
        fault = gate.passing(self._name, sys._getframe(1)) if gate.on else None
        if fault is None:
            gate.number = 0
            result = self._real(*args)
            if gate.say is not None:
                gate.say("")
            return result
        if fault.done:
            result = self._real(*args)
            if self._name == "inotify_init1":
                real_close(result)
        gate.number = fault.number
        return -1


class Library:
    """The C library, with the wrapped functions."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._real, name)
        if name in C_CALLS:
            function = WrappedC(name, function)
            setattr(self, name, function)
        return function


def install() -> None:
    """Before the first import of the library."""
    assert not [name for name in sys.modules if name.partition(".")[0] == "interlock"], "interlock is imported already"
    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, Wrapped(name, getattr(os, name)))
    for name in ("flock", "fcntl", "lockf", "ioctl"):
        setattr(fcntl, name, Wrapped(name, getattr(fcntl, name)))
    builtins.open = Wrapped("open()", builtins.open)
    poll = select.poll
    select.poll = lambda: Poll(poll())  # type: ignore[assignment,misc,return-value]
    select.select = Wrapped("select", select.select)
    load, last = ctypes.CDLL, ctypes.get_errno
    ctypes.CDLL = lambda *args, **options: Library(load(*args, **options))  # type: ignore[assignment,misc]
    ctypes.get_errno = lambda: gate.number or last()
    import interlock

    gate.library = os.path.dirname(os.path.abspath(interlock.__file__)) + os.sep
