"""Who a marker names, and when such an owner is proven dead.

An owner is (pid, host name, start token). Contenders of other implementations read and write the same three,
so their spelling is fixed:

- The host name is `uname`'s, with every byte that is not printable ASCII (and "?") as "?xx", and, outside of
  the machine's first pid namespace, "?pidns-<inode>" behind it: two containers may share a host name, never a
  pid.
- The start token on Linux is `boot id << 64 | starttime`, starttime being field 22 of /proc/PID/stat.

What counts as proof, and what does not:

- No process of that pid: dead, unless a process in another pid namespace with the same host name has it.
- Another start token: the pid was given to somebody else since; dead. A token without a boot id compares by
  starttime alone.
- A zombie: dead, its descriptors are closed and it never runs again. But a *leader* that ended before its
  threads is a zombie too, while the process lives on: only with a thread count of 1 is it the end.
- Another host, a pid that may not be signalled, a /proc that is unreadable or another pid namespace's (its numbers are
  other processes'), a time namespace with an offset (it shifts starttime): nothing is known, and that means alive.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .lease_records import Party

    Identity: TypeAlias = tuple[int, str, int | None]

_LINUX = sys.platform in ("linux", "android")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PID_NS_INIT_INO, linux/proc_ns.h
_FIRST_TIME_NAMESPACE = 0xEFFFFFFA
_NAME_MAX = 253
_DIGEST = 8

_mine: dict[str, Identity] = {}
_proc: dict[str, bool] = {}
_boot: list[int] = []


def me() -> Identity:
    """This process, as its markers name it."""
    name = _node()
    found = _mine.get(name)
    if found is None:
        found = _mine[name] = (os.getpid(), _spelled(name), own_start())
    return found


def _forget() -> None:
    _mine.clear()
    _party.clear()  # a child may have its parent's pid, 1, in a namespace of its own
    _proc.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def host() -> str:
    return me()[1]


def is_me(pid: int, name: str, start: int | None) -> bool:
    """Is the recorded owner this very process? A token that differs belongs to an earlier one with our
    pid."""
    mine = me()
    return (pid, name) == mine[:2] and (start is None or start == mine[2])


def proven_dead(pid: int, name: str, start: int | None) -> bool:
    """Has the recorded owner certainly ended? False whenever that cannot be shown."""
    if name != host() or sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return _bare(name, pid, start)
    except OSError:  # EPERM: somebody is there. Anything else proves nothing
        if _same_or_unknown(pid, start):
            return False
        return _bare(name, pid, start)
    if not _same_or_unknown(pid, start):
        return _bare(name, pid, start)
    return _LINUX and _ended(pid)


def _bare(name: str, pid: int, start: int | None) -> bool:
    """Only a host name without a namespace can have been written in a container that we cannot tell from this
    host."""
    return "?pidns-" in name or not _lives_in_another_namespace(pid, start)


def _same_or_unknown(pid: int, start: int | None) -> bool:
    if start is None:
        return True
    current = start_token(pid)
    return current is None or same_start(current, start)


def same_start(one: int, other: int) -> bool:
    if one == other:
        return True
    no_boot_id = not one >> 64 or not other >> 64
    return no_boot_id and one % (1 << 64) == other % (1 << 64)


# ---- the parts


def _node() -> str:
    if sys.platform == "win32":
        import socket

        return socket.gethostname()
    return os.uname().nodename


def _spelled(node: str) -> str:
    name = "".join(
        chr(byte) if 0x21 <= byte < 0x7F and byte != 0x3F else f"?{byte:02x}"
        for byte in node.encode("utf-8", "surrogateescape")
    )
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = _FIRST_PID_NAMESPACE
    if namespace != _FIRST_PID_NAMESPACE:
        name += f"?pidns-{namespace:x}"
    if len(name) > _NAME_MAX:
        import hashlib

        kept = _NAME_MAX - _DIGEST - 1
        name = f"{name[:kept]}-{hashlib.sha256(name[kept:].encode()).hexdigest()[:_DIGEST]}"
    return name or "?"


def own_start() -> int | None:
    return start_token(os.getpid())


def start_token(pid: int) -> int | None:
    """When a process began, in a form that no other process on this host ever has with the same pid."""
    if not _LINUX or not _proc_is_ours() or not _unshifted():
        return None
    fields = _stat(pid)
    return None if fields is None else _boot_id() << 64 | int(fields[19])


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third on; the second is a name that may contain anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields if len(fields) > 19 and fields[19].isdigit() else None


def _proc_is_ours() -> bool:
    """Do the numbers in /proc mean to the kernel what pids mean to us?"""
    if "self" not in _proc:
        try:
            _proc["self"] = os.readlink("/proc/self") == str(os.getpid())
        except OSError:
            _proc["self"] = False
    return _proc["self"]


def _ended(pid: int) -> bool:
    fields = _stat(pid) if _proc_is_ours() else None
    return fields is not None and fields[0] in (b"Z", b"X") and fields[17] in (b"0", b"1")


def _boot_id() -> int:
    if not _boot:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                _boot.append(int(file.read().strip().replace("-", ""), 16))
        except (OSError, ValueError):
            _boot.append(0)
    return _boot[0]


def _unshifted() -> bool:
    """Does /proc tell this process the same starttimes as everybody else? Not in a time namespace with an
    offset."""
    try:
        namespace = os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:  # a kernel without them
        return True
    except OSError:
        return False
    if namespace == _FIRST_TIME_NAMESPACE:
        return True
    try:
        if os.stat("/proc/self/ns/time_for_children").st_ino != namespace:
            return False
        with open("/proc/self/timens_offsets", encoding="ascii") as file:
            return any(line.split() in (["boottime", "0", "0"], ["7", "0", "0"]) for line in file)
    except OSError:
        return False


def _lives_in_another_namespace(pid: int, start: int | None) -> bool:
    """Is the recorded pid that of a process in a container, seen from inside, with the recorded start?"""
    if not _LINUX or start is None or (_boot_id() and start >> 64 not in (0, _boot_id())):
        return False
    comparable = _unshifted()
    try:
        tasks = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return False
    for task in tasks:
        if task == pid or _innermost_pid(task) != pid:
            continue
        token = start_token(task) if comparable else None
        if not comparable or (token is not None and same_start(token, start)):
            return True
    return False


def _innermost_pid(task: int) -> int | None:
    try:
        with open(f"/proc/{task}/status", "rb") as file:
            for line in file.read().split(b"\n"):
                if line.startswith(b"NSpid:"):
                    return int(line.split()[-1])
    except (OSError, ValueError, IndexError):
        pass
    return None


# ---- leases: no host names


def party() -> Party:
    """This process, as the records of its leases name it."""
    found = _party.get(os.getpid())
    if found is None:
        from .lease_records import Party

        start = own_start() or 0
        found = Party(os.getpid(), start % (1 << 64), start >> 64, _namespace(), _node(), _command())
        _party.clear()
        _party[os.getpid()] = found
    return found


_party: dict[int, Party] = {}


def party_is_dead(its: Party) -> bool:
    """Has that process certainly ended? Only of one that this kernel runs or ran, in this pid namespace, can that be
    said: the boot id, which no two kernels share, and the namespace must be ours. Names of hosts mean nothing."""
    mine = party()
    if not (its.boot and its.space and its.start) or (its.boot, its.space) != (mine.boot, mine.space):
        return False
    try:
        os.kill(its.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody is there
        pass
    token = start_token(its.pid)
    if token is None:
        return False
    return token % (1 << 64) != its.start or _ended(its.pid)


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino if _LINUX else 0
    except OSError:
        return 0


def _command() -> str:
    """The program's name alone: arguments may be secrets, and the record outlives the process."""
    return os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
