"""What the fuzzer and a reading of the parsers found, each as it was found: it failed before the mend."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("the table has the parsers of Linux", allow_module_level=True)

from interlock import LockError, Timeout
from interlock._report import Party
from interlock.store import DamagedError, chain
from interlock.store.rows import Row, parse_row

from . import fuzz
from .parsers import PARSERS

if TYPE_CHECKING:
    from pathlib import Path

FOUND = [
    ("URLs", b"etcd://[\x1a:1]:2379#a"),  # a control character of a host was shown
    ("URLs", b"zookeeper://a:2181,b%2Fc#x"),  # a slash in a host's name: another URL when written again
    ("options of a PostgreSQL URL", b"postgresql://h/d?il_\x1b=1&il_\x1b=2#x"),
    ("owners on Redis", b"[]"),  # AttributeError: the lock could not be inspected, nor a Timeout told
    ("owners on Redis", b"[" * 60_000),  # RecursionError
    ("owners on ZooKeeper", b"[" * 60_000),
    ("owners on ZooKeeper", b'{"since": 1' + b"0" * 400 + b"}"),  # OverflowError
    ("owners on etcd", b'{"permits": "many"}'),  # ValueError in every acquire of that lock
    ("owners on etcd", b'{"permits": {}}'),
    ("owners on etcd", b'{"awaits": 7}'),
    ("owners on etcd", b'{"since": NaN}'),  # no JSON for others
    ("nodes on ZooKeeper", b"w-aa-bb"),  # ValueError in every acquire of that lock
    ("nodes on ZooKeeper", b"-a-1"),  # IndexError
    ("nodes on ZooKeeper", b"slot-x"),
    ("answers of etcd", b'{"kvs": [{}]}'),  # KeyError
    ("answers of etcd", b"[" * 100_000),
    ("answers of etcd", b'{"kvs": [{"key": "L2k=", "create_revision": 1e400}]}'),
    ("etcd's stream of changes", b"-5\r\n{}\r\n"),  # a chunk of less than nothing
    ("etcd's stream of changes", b"3\r\n[]\n\r\n"),
    ("sessions of PostgreSQL", b"interlock \xc2\xb2 h x\n\n"),  # a digit that is no number
    ("generations of the store", chain.seal([]).replace(b"interlock", b"interlock\xff")),
    ("notes of single flight", b"[" * 100_000),
    ("lists of builds", b"[" * 100_000),
    ("recorded events", b'{"pid": "x"}\n'),
    ("recorded events", b'{"pid": 1}\n{"k": "acquired"}\n'),
    ("recorded events", b"[" * 100_000),
    ("recorded events", b'{"pid": 1}\n{"k": "released", "at": 9, "key": "a", "r": "a", "e": "k", "t": ["x"]}\n'),
    ("letters of a probing peer", b"41d912ff[]"),
]


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_broke_a_parser(name: str, data: bytes) -> None:
    (parser,) = (parser for parser in PARSERS if parser.name == name)
    assert fuzz.trial(parser, data)[0] == ""
    if parser.seal is not None:
        assert fuzz.trial(parser, parser.seal(data))[0] == ""


def test_errors_and_holders_say_nothing_that_a_terminal_obeys() -> None:
    """A server's words, a record's command, a file's name: all get into messages."""
    assert str(LockError("it says \x1b[2J\r\nall is well\u202e")) == "it says ?[2J??all is well?"
    holder = Party(17, command="make\x1b]0;x\x07")
    assert "\x1b" not in str(holder)
    error = Timeout("/tmp/\x1b[2J.lock", 1.0, holder, "\x9b31m")
    assert str(error) == "/tmp/?[2J.lock was not acquired within 1 s: held by pid 17 (make?]0;x?) (?31m)"
    assert error.resource == "/tmp/\x1b[2J.lock"


@pytest.mark.parametrize("field", ["name", "version", "hash", "views"])
def test_a_row_of_the_store_leads_nowhere_else(field: str, tmp_path: Path) -> None:
    """Names of rows become paths, also of files that `gc` removes; who may write there can make the checksum."""
    good = Row("+", "a" * 32, "zlib", "1.3", 5, 1, False, ("gcc",), (), "", "{}")
    assert parse_row(good.line(), "d1") == good
    bad: Any = ("../../etc",) if field == "views" else "../../etc"
    changed: dict[str, Any] = {field: bad}
    with pytest.raises(DamagedError, match="d1"):
        parse_row(good._replace(**changed).line(), "d1")


def test_json_for_others_is_json() -> None:
    assert "NaN" not in json.dumps({"since": Party(None).since})
