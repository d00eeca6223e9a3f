"""What a generation of a lease log says: who has it, and whether it still has.

A file is a *head*, which never changes once it is there, and a *tail* of fixed length, which its owner rewrites in
place: `N` (new: made, and not yet known to follow its predecessor), `H` (held) with a number that each renewal raises,
and at the end `R` (released) or `V` (given up while new).

    interlock-lease/1
    token=1795617600000123
    nonce=9f...                        32 hexadecimal digits, of this acquisition
    after=04...                        the nonce of its predecessor
    ttl=30.0
    pid=4711
    start=835072                       when that process began, in its kernel's count; 0: not known
    boot=5d...                         which run of which kernel, 0: not known
    space=4026531836                   its pid namespace, 0: not known
    host=node7                         for people
    since=1795617601.5                 for people
    command=python train.py            for people
    sum=1c291ca3                       CRC-32 of all above
    H 00000000000000000001

Nobody decides by host names or by clocks of others: a process is known by boot, namespace, pid and start together.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["record", "torn", "future", "foreign", "damaged"]

__all__ = ["GIVEN_UP", "HELD", "MAX_SIZE", "NEW", "NOTHING", "RELEASED", "Party", "Record", "encode", "parse", "tail"]

NEW, HELD, RELEASED, GIVEN_UP = "N", "H", "R", "V"
NOTHING = "0" * 32
"""In place of a nonce."""
MAX_SIZE = 4096
_MAGIC = b"interlock-lease/1\n"
_FAMILY = b"interlock-lease/"
_FIELDS = ("token", "nonce", "after", "ttl", "pid", "start", "boot", "space", "host", "since", "command")
_NONCE = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)
_REAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,17})?", re.ASCII)
_TAIL = re.compile(rb"[NHRV] [0-9]{20}\n")
_COMMAND_MAX = 200


class Party(NamedTuple):
    """The process that made a record."""

    pid: int
    start: int
    boot: int
    space: int
    host: str
    command: str = ""


class Record(NamedTuple):
    """The head. `token` is the number of the generation and the fencing token of its hold."""

    token: int
    nonce: str
    after: str
    ttl: float
    party: Party
    since: float


def encode(record: Record) -> bytes:
    """The head; `tail` goes behind it."""
    from zlib import crc32

    party = record.party
    values = (
        record.token, record.nonce, record.after, f"{record.ttl:.6f}", party.pid, party.start, party.boot, party.space,
        _line(party.host), f"{record.since:.3f}", _line(party.command),
    )  # fmt: skip
    lines = "".join(f"{name}={value}\n" for name, value in zip(_FIELDS, values, strict=True))
    head = _MAGIC + lines.encode("utf-8", "replace")
    return head + f"sum={crc32(head):08x}\n".encode("ascii")


def tail(state: str, version: int) -> bytes:
    return f"{state} {version:020d}\n".encode("ascii")


def parse(data: bytes) -> tuple[Kind, Record | None, bytes]:
    """What a file says: the kind, the head if it is one of ours, and the tail."""
    if not data.strip(b"\0") or _MAGIC.startswith(data):
        return "torn", None, b""
    if not data.startswith(_MAGIC):
        return ("future" if re.match(rb"interlock-lease/[0-9]+\n", data) else "foreign"), None, b""
    at = data.rfind(b"\nsum=")
    head, rest = data[: at + 1], data[at + 1 :]
    if at < 0 or len(rest) < 13 + 23:
        return ("torn" if len(data) < MAX_SIZE else "damaged"), None, b""
    record = _head(head, rest[:13])
    its_tail = rest[13:]
    if record is None or not _TAIL.fullmatch(its_tail):
        return "damaged", None, b""
    return "record", record, its_tail


def _head(head: bytes, check: bytes) -> Record | None:
    from zlib import crc32

    if check != f"sum={crc32(head):08x}\n".encode("ascii"):
        return None
    fields: dict[str, str] = {}
    for line in head[len(_MAGIC) : -1].decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition("=")
        fields[name] = value
    numbers = [fields.get(name, "") for name in ("token", "pid", "start", "boot", "space")]
    reals = [fields.get(name, "") for name in ("ttl", "since")]
    right = (
        tuple(fields) == _FIELDS
        and all(map(_NUMBER.fullmatch, numbers))
        and all(map(_REAL.fullmatch, reals))
        and _NONCE.fullmatch(fields["nonce"])
        and _NONCE.fullmatch(fields["after"])
        and float(reals[0]) > 0
    )
    if not right:
        return None
    token, pid, start, boot, space = map(int, numbers)
    ttl, since = map(float, reals)
    party = Party(pid, start, boot, space, fields["host"], fields["command"])
    return Record(token, fields["nonce"], fields["after"], ttl, party, since)


def _line(text: str) -> str:
    """For people: printable, of one line, not long."""
    return "".join(char if char.isprintable() else "?" for char in text[:_COMMAND_MAX])
