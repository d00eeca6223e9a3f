"""What is written in a marker. The forms are those of filelock, so that its processes and ours exclude each
other.

    <pid>\\n<host>\\n[<start>\\n]                                the plain form
    filelock/2\\npid=…\\nhost=…\\nmode=…\\n[token=…\\n][duration=…\\n][start=…\\n]      protocol 2: exclusive
    owners and leases 1\\nfilelock-strict-v1\\0\\n0\\n                              the sentinel: the path
    belongs to strict claims filelock/released\\n                                       its owner let go while
    a breaker had it off the path (nothing)                                                 filelock before
    3.22, or one who has yet to write

A marker that none of these describes is *torn* if it is the remains of one (a crash, a full disk), else
*foreign*.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .identity import Identity

OwnerMode = Literal["lease", "exclusive", "unknown"]
Kind: TypeAlias = Literal["owner", "empty", "sentinel", "released", "torn", "foreign"]

MAX_SIZE = 1024
SENTINEL = b"1\nfilelock-strict-v1\0\n0\n"
RELEASED = b"filelock/released\n"
_BREAKING = b"filelock/break\n"
_MAGIC = "filelock/2"
_PID_MAX = 2**31 - 1
_DURATION = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_REMAINS = re.compile(rb"filelock/[^\0]*|[0-9]{1,10}(\n[^\s\0]*(\n[0-9]*\n?)?)?|\0+", re.ASCII)


class OwnerRecord(NamedTuple):
    """The owner that a marker names. `start` tells processes with the same pid apart."""

    pid: int
    hostname: str
    mode: OwnerMode
    token: str | None = None
    lease_duration: float | None = None
    start: int | None = None


def plain(identity: Identity) -> bytes:
    pid, host, start = identity
    return (f"{pid}\n{host}\n" if start is None else f"{pid}\n{host}\n{start}\n").encode()


def encode(record: OwnerRecord) -> bytes:
    lines = [_MAGIC, f"pid={record.pid}", f"host={record.hostname}", f"mode={record.mode}"]
    if record.token is not None:
        lines.append(f"token={record.token}")
    if record.lease_duration is not None:
        lines.append(f"duration={record.lease_duration!r}")
    if record.start is not None:
        lines.append(f"start={record.start}")
    return ("\n".join(lines) + "\n").encode()


def parse(data: bytes) -> tuple[Kind, OwnerRecord | None]:
    """What a marker's content says."""
    if not data:
        return "empty", None
    if data == SENTINEL:
        return "sentinel", None
    if data == RELEASED:
        return "released", None
    owner = parse_plain(data) or parse_record(data)
    if owner is not None:
        return "owner", owner
    return ("torn" if len(data) <= MAX_SIZE and _REMAINS.fullmatch(data) else "foreign"), None


def parse_plain(data: bytes) -> OwnerRecord | None:
    """The owner of a marker in the plain form. Every writer ends each line: without that the record was
    cut."""
    lines = _lines(data)
    if lines is None or len(lines) not in (2, 3):
        return None
    pid, start = _pid(lines[0]), None
    if len(lines) == 3:
        start = _integer(lines[2])
        if start is None:
            return None
    return None if pid is None else OwnerRecord(pid, lines[1], "exclusive", start=start)


def parse_record(data: bytes) -> OwnerRecord | None:
    """The owner of a protocol 2 marker. Unknown keys are a newer writer's; an unknown mode is a contract that
    we must not break."""
    lines = _lines(data)
    if lines is None or lines[0] != _MAGIC:
        return None
    fields: dict[str, str] = {}
    for line in lines[1:]:
        key, equals, value = line.partition("=")
        if not equals:
            return None
        fields[key] = value
    pid = _pid(fields.get("pid", ""))
    host, mode = fields.get("host"), fields.get("mode")
    if pid is None or not host or mode is None:
        return None
    start = _integer(fields["start"]) if "start" in fields else None
    duration = float(fields["duration"]) if _DURATION.fullmatch(fields.get("duration", "")) else None
    if ("start" in fields and start is None) or ("duration" in fields and duration is None):
        return None
    token = fields.get("token")
    if mode == "lease" and (not token or duration is None or not 0 < duration < math.inf):
        return None
    known: OwnerMode = "lease" if mode == "lease" else "exclusive" if mode == "exclusive" else "unknown"
    return OwnerRecord(pid, host, known, token, duration, start)


def breaker(data: bytes) -> int | None:
    """Whom a placeholder names that stands at the path while its writer breaks a marker."""
    if not data.startswith(_BREAKING) or not data.endswith(b"\n"):
        return None
    return _pid(data[len(_BREAKING) : -1].decode("ascii", "replace"))


def _lines(data: bytes) -> list[str] | None:
    if len(data) > MAX_SIZE or not data.endswith(b"\n"):
        return None
    try:
        return data.decode().strip().split("\n")
    except UnicodeDecodeError:
        return None


def _integer(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _pid(text: str) -> int | None:
    number = _integer(text) if len(text) <= 10 else None
    return number if number is not None and 1 <= number <= _PID_MAX else None
