"""Locks that fail with an errno that FUSE lets nobody send: by a filter on this process's system calls (seccomp)."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": (73, 72), "aarch64": (32, 25)}  # flock(2), fcntl(2)
_LOCK_COMMANDS = (5, 6, 7, 36, 37, 38)  # F_GETLK, F_SETLK, F_SETLKW, and those of open file descriptions

ENOTSUPP = 524
"""The kernel's own, without a name for programs: some Lustre clients answer flock(2) with it."""

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse_locks(errno: int = ENOTSUPP) -> None:
    """From now on flock(2) and the lock commands of fcntl(2) fail with `errno` in this process and its children, on
    every file. There is no way back: call it in a process made for that."""
    if sys.platform != "linux" or platform.machine() not in _NUMBERS:
        raise RuntimeError("refuse_locks needs Linux on x86_64 or aarch64")
    flock, fcntl = _NUMBERS[platform.machine()]
    refuse = [(_RETURN, 0, 0, _ERRNO | errno)]
    commands = len(_LOCK_COMMANDS)
    program = [
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_IF_EQUAL, commands + 3, 0, flock),  # to the refusal
        (_IF_EQUAL, 0, commands + 1, fcntl),  # else to the permission
        (_LOAD, 0, 0, 24),  # the lower half of its second argument
        *((_IF_EQUAL, commands - place, 0, command) for place, command in enumerate(_LOCK_COMMANDS)),
        (_RETURN, 0, 0, _ALLOW),
        *refuse,
    ]
    code = b"".join(struct.pack("<HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code)
    filters = ctypes.create_string_buffer(struct.pack("<H6xQ", len(program), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, mode_filter, filters, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot filter system calls: {os.strerror(number)}")
