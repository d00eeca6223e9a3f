"""Every place where interlock makes sense of bytes that somebody else may have written: one table.

A `Parser` names the functions that it drives, some inputs as their writers make them, words that mutations insert, and
the errors that its documentation allows. `covered()` is all functions that the table drives; `EXEMPT` those that read
what no stranger writes, with the reason. `tests.security.test_parsers` finds functions that are in neither.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import ProtocolError, _address, _report, _strangers
from interlock._fs import settings
from interlock._probe import peer
from interlock._wait import mounts
from interlock.atomic import fence, single
from interlock.catalogue import CatalogueError, records, scan
from interlock.catalogue.page import Page, parse_page
from interlock.catalogue.rows import Row
from interlock.cli import _store as cli_store
from interlock.cli import _text, _timeline
from interlock.engines.etcd import client as etcd_client
from interlock.engines.etcd import entries as etcd_entries
from interlock.engines.etcd import watch as etcd_watch
from interlock.engines.marker import claims, generations, lease_log, lease_records, members
from interlock.engines.marker import records as marker_records
from interlock.engines.zookeeper import entries as zookeeper_entries
from interlock.store import StoreError, chain, entry, layout, rows, spec, sweep
from interlock.store import single as store_single

if TYPE_CHECKING:
    from collections.abc import Callable

assert sys.platform != "win32"
from interlock.engines.kernel import holders, proc, tokens  # noqa: E402
from interlock.engines.postgres import looking  # noqa: E402
from interlock.engines.postgres import settings as postgres_settings  # noqa: E402
from interlock.engines.redis import engine as redis_engine  # noqa: E402

__all__ = ["EXEMPT", "PARSERS", "Parser", "covered"]


class Parser(NamedTuple):
    """`call` may raise `allowed` and nothing else; what it returns may have text for people, which `shown` makes.
    `seal` gives a mutated input the checksum that it needs to get past the first check."""

    name: str
    drives: tuple[str, ...]
    call: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    allowed: tuple[type[Exception], ...] = ()
    words: tuple[bytes, ...] = ()
    seal: Callable[[bytes], bytes] | None = None
    shown: Callable[[Any], str] | None = None


JSON = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"1" * 400,
        b"[" * 200, b'"\\u001b[2J"', b'"\\ud800"', b"{}", b"[]")  # fmt: skip


def text(data: bytes) -> str:
    """As files of text are read here."""
    return data.decode("utf-8", "surrogateescape")


# ---- records of locks on files


def _marker(data: bytes) -> object:
    kind, owner = marker_records.parse(data)
    return kind, owner, marker_records.breaker(data)


def _lease(data: bytes) -> object:
    newest = lease_log.Newest(1795617600000123, data)
    return newest.record


def _seal_lease(data: bytes) -> bytes:
    at = data.rfind(b"\nsum=")
    return data if at < 0 else data[: at + 5] + b"%08x" % zlib.crc32(data[: at + 1]) + data[at + 13 :]


_PARTY = lease_records.Party(4711, 835072, 93 << 64, 4026531836, "node7", "python train.py")
_LEASES = tuple(
    lease_records.encode(lease_records.Record(1795617600000123, "9f" * 16, after, 30.0, _PARTY, 1795617601.5))
    + lease_records.tail(state, 17)
    for after, state in ((lease_records.NOTHING, "H"), ("04" * 16, "N"), ("ab" * 16, "R"))
)


def _number(record: bytes) -> int:
    return tokens._parse(record)


def _seal_number(data: bytes) -> bytes:
    at = data.rfind(b" ")
    return data if at < 0 else data[:at] + b" %08x\n" % zlib.crc32(data[:at])


def _sealed(magic: bytes, number: int) -> bytes:
    head = magic + b"%020d" % number
    return head + b" %08x\n" % zlib.crc32(head)


_CLAIM = "held-v1-" + "5c" * 16 + ".claim"


def _claim(data: bytes) -> object:
    parts = claims._NAME.fullmatch(_CLAIM)
    assert parts is not None
    return claims._parse(_CLAIM, parts, data)


def _generation(data: bytes) -> object:
    class Tree:
        def read(self, path: str) -> bytes:
            return data

    log = object.__new__(generations.Log)
    log.tree, log._epoch_file, log._epoch = Tree(), "epoch", data  # type: ignore[assignment]
    log._whole_epoch()
    members._lease(data)
    found = generations.parse(data)
    assert found is None or generations.parse(found.encode()) is not None
    return found


def _config(data: bytes) -> object:
    return [(each.directory, each.word) for each in settings.parse(text(data), "interlock.conf")]


def _environment(data: bytes) -> object:
    return settings.parse(text(data).replace(";", "\n"), settings.VARIABLE, bare=True)


def _note(data: bytes) -> object:
    fields = _strangers.fields(data[: single._NOTE_MAX])
    return single._Note(fields)


# ---- what the kernel shows; a process chooses its own name and arguments, and a mount its options


def _locks(data: bytes) -> object:
    found = [each for line in text(data).splitlines() if (each := proc.parse(line)) is not None]
    holders.arrival(found[0]) if found else None
    return found


def _mounts(data: bytes) -> object:
    return mounts.mounts(mounts.split(text(data).splitlines(keepends=True)))


def _command(data: bytes) -> str:
    words = [word.decode("utf-8", "replace") for word in data.rstrip(b"\0").split(b"\0")]
    return proc.command(words)


# ---- URLs and names


def _url(data: bytes) -> object:
    found = _address.Address.parse(text(data))
    again = _address.Address.parse(found.url(found.name))
    assert again.without_name() == found.without_name()
    # Of text that no encoding makes, names with the same bytes are the same lock to a server.
    assert again.name.encode("utf-8", "surrogateescape") == found.name.encode("utf-8", "surrogateescape")
    return found


def _postgres_url(data: bytes) -> object:
    return postgres_settings.read(_address.Address.parse(text(data)), None)


# ---- records on servers


def _party_text(party: _report.Party | None) -> str:
    if party is None:
        return ""
    report = _report.Report("a lock", "an engine", (party,), (party,))
    json.dumps(report.as_dict(), allow_nan=False)
    return f"{party}\n{_text.table(report)}"


def _redis(data: bytes) -> _report.Party:
    return redis_engine._party((b"w", data, 0, 1500), 1795617601.5, None)


def _zookeeper(data: bytes) -> _report.Party:
    return zookeeper_entries.party(data, "write", 1, None)


def _children(data: bytes) -> object:
    queue = zookeeper_entries.Queue(text(data).split("\n"))
    for each in queue.entries:
        queue.blocker(each), queue.foreign(each), queue.granted(each), queue.hinders_upgrade(each)
    return queue


def _etcd(data: bytes) -> object:
    found = etcd_entries.queue_of(etcd_client.understood(data))
    return [etcd_entries.party(each, 1, None) for each in found]


def _etcd_value(data: bytes) -> _report.Party:
    kv = {"key": etcd_client.text(b"/il/interlock/1/ab/e/17"), "create_revision": "3", "value": etcd_client.text(data)}
    (found,) = etcd_entries.queue_of({"kvs": [kv]})
    assert found.mode in ("read", "update", "write")
    sorted(found.awaits)
    return etcd_entries.party(found, None, None)


def _etcd_stream(data: bytes) -> object:
    stream = object.__new__(etcd_watch._Stream)
    stream._buffer = stream._text = b""
    found = []
    for at in range(0, len(data), 1000):
        for message in stream._lines(data[at : at + 1000]):
            assert isinstance(message, dict)
            found.append(message)
    return found


def _postgres(data: bytes) -> _report.Party:
    words = [*text(data).split("\n"), "", "", ""][:3]
    row = ["4711", "ExclusiveLock", "t", "", *words, "1795617600.5", "17", "1795617601.5"]
    return looking._party(row, "write")


# ---- the store, the catalogue, the timeline


def _sealed_rows(data: bytes) -> object:
    found = [rows.parse_row(line, "generations/d000000000001") for line in chain.unseal(data, "generations/d1")]
    state = rows.State(1, {}).after(1, found)
    for each in map(entry.Entry, state.builds()):
        try:
            assert isinstance(each.provenance, dict)
            assert isinstance(each.node, dict)
        except StoreError:
            pass
    return list(state.lines())


def _seal_rows(data: bytes) -> bytes:
    end = data.rfind(b"\n", 0, len(data) - 1) + 1
    return data[:end] + b"sha256 " + hashlib.sha256(data[:end]).hexdigest().encode() + b"\n"


def _row(data: bytes) -> object:
    row = rows.parse_row(text(data), "generations/d000000000001")
    when = sweep._when(row, layout.Layout("/nonexistent"))
    assert isinstance(when, int | float)
    return row


def _manifest(data: bytes) -> object:
    found = layout.parse_manifest(data, "manifest.json")
    return found.as_bytes(), found.spec, found.archive


def _spec(data: bytes) -> object:
    return spec.parse_spec(data, "a.spec.json")


def _unpack(data: bytes) -> object:
    return layout.unpack(data, "gzip", "a.spec.json.gz")


def _index(data: bytes) -> object:
    builder = records.Builder()
    found = []
    for key, record in scan.records(io.BytesIO(data), "index.json"):
        if key is not None:
            found.append(builder.node(key, record))
    return found


def _document(data: bytes) -> object:
    return scan.document(data, "manifest.json")


def _page(data: bytes) -> object:
    return parse_page(text(data))


def _list(data: bytes) -> object:
    class Listing(list[str]):
        name = "builds.jsonl"

    return cli_store._items(Listing(text(data).splitlines()), ())


def _traced(data: bytes) -> object:
    builder = _timeline.Builder("make", 1000.0, 1795617600.0)
    lines = [each for line in data.splitlines() if isinstance(each := _timeline._json(line), dict)]
    if lines:
        builder.process(lines, {}, 2000.0)
    done = builder.finish(2000.0)
    done.summary(), _timeline.chrome_trace(done)
    return done


def _letter(data: bytes) -> object:
    class Child:
        def ask(self, *_: object, **__: object) -> str:
            return text(data)

    letters = object.__new__(peer.Letters)
    letters._child, letters._theirs = Child(), "name"  # type: ignore[assignment]
    found = letters._look()
    assert isinstance(found, dict)
    return found


def _store_note(data: bytes) -> object:
    with Replaced(store_single, "read_file", lambda path, limit: data):
        return store_single._read("failed")


class Replaced:
    """monkeypatch, where there is no pytest."""

    def __init__(self, module: Any, name: str, value: object) -> None:
        self.module, self.name, self.value = module, name, value
        self.before = getattr(module, name)

    def __enter__(self) -> None:
        setattr(self.module, self.name, self.value)

    def __exit__(self, *_: object) -> None:
        setattr(self.module, self.name, self.before)


_OWNER = json.dumps(
    {"pid": 4711, "host": "node7", "command": "python train.py", "thread": "MainThread", "task": "",
     "since": 1795617601.5, "mode": "write", "permits": 0, "upgrading": False, "awaits": ["17"]}
).encode()  # fmt: skip
_KV = {"key": etcd_client.text(b"/il/interlock/1/ab/e/17"), "create_revision": "3", "mod_revision": "4",
       "value": etcd_client.text(_OWNER)}  # fmt: skip
_NODE = {
    "name": "zlib", "version": "1.3", "hash": "a" * 32, "arch": {"platform": "linux", "platform_os": "debian12",
    "target": {"name": "x86_64"}}, "parameters": {"shared": True, "cflags": ["-O2"]},
    "dependencies": [{"name": "gmake", "hash": "b" * 32, "parameters": {"deptypes": ["build"], "virtuals": []}}],
}  # fmt: skip
_SPEC = json.dumps({"spec": {"_meta": {"version": 5}, "nodes": [_NODE]}}).encode()
_INDEX = json.dumps(
    {"database": {"version": "8", "installs": {"a" * 32: {"spec": _NODE, "in_buildcache": True}}}}
).encode()
_MANIFEST = layout.Manifest(
    (layout.Blob(17, "application/vnd.spack.spec.v5+json", "gzip", "ab" * 32),
     layout.Blob(4711, "application/vnd.spack.install.v2.tar+gzip", "gzip", "cd" * 32)), generation=3,
).as_bytes()  # fmt: skip
_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n%s\n-----BEGIN PGP SIGNATURE-----\n\nx\n"
_ROW = rows.Row(
    "+", "a" * 32, "zlib", "1.3", 5, 4711, False, ("gcc",), ("b" * 32,),
    json.dumps({"who": "ci", "when": "2026-11-26T10:00:00Z"}), json.dumps(_NODE),
)  # fmt: skip
_PAGE_ROW = Row("gcc@12.2.0", "a" * 32, "debian12", "linux", "4711", ("root",), "x86_64", ("+shared",), ("1.3",))
_TRACE = b"\n".join(
    json.dumps(line).encode()
    for line in (
        {"pid": 17, "ppid": 1, "forked_from": 0, "argv": ["make", "-j8"], "at": 1000.5, "epoch": 1795617600.5},
        {"k": "waiting", "r": "a.lock", "key": "/x/a.lock", "e": "kernel", "m": "write", "t": "MainThread",
         "tid": 17, "task": "", "n": 1, "at": 1001.0, "slot": None},
        {"k": "acquired", "r": "a.lock", "key": "/x/a.lock", "e": "kernel", "m": "write", "t": "MainThread",
         "tid": 17, "task": "", "n": 1, "at": 1002.0, "w": 1.0, "slot": 2},
        {"k": "lost", "n": 1, "at": 1002.5, "why": "replaced"},
        {"k": "released", "r": "a.lock", "key": "/x/a.lock", "e": "kernel", "n": 1, "at": 1003.0, "h": 1.0},
    )
)  # fmt: skip
_LETTER = b'{"number": 3, "do": "hold", "name": "x"}'
_SERVER = ValueError  # a client's loop takes it for an answer that is none, and asks another endpoint

PARSERS = (
    Parser(
        "marker files of filelock",
        ("engines.marker.records:parse", "engines.marker.records:parse_plain", "engines.marker.records:parse_record",
         "engines.marker.records:breaker", "engines.marker.records:_lines"),
        _marker,
        (b"4711\nnode7\n", b"4711\nnode7\n835072\n", marker_records.SENTINEL, marker_records.RELEASED,
         b"filelock/break\n4711\n",
         b"filelock/2\npid=4711\nhost=node7\nmode=lease\ntoken=" + b"ab" * 16 + b"\nduration=30.0\nstart=83\n"),
        words=(b"filelock/", b"pid=", b"host=", b"mode=", b"token=", b"duration=", b"start=", b"1e+999", b"\n"),
    ),
    Parser(
        "lease generations",
        ("engines.marker.lease_records:parse", "engines.marker.lease_records:_head",
         "engines.marker.lease_log:Newest.__init__"),
        _lease, _LEASES,
        words=(b"token=", b"ttl=0.0\n", b"pid=", b"host=", b"sum=", b"interlock-lease/2\n", b"\0" * 64,),
        seal=_seal_lease,
    ),
    Parser("fencing token files", ("engines.kernel.tokens:_parse",), _number,
           (_sealed(tokens._MAGIC, 1795617600000123),), words=(tokens._MAGIC,), seal=_seal_number),
    Parser("marks of a fence", ("atomic.fence:_parse",), lambda data: fence._parse("a.fence", data),
           (_sealed(fence._MAGIC, 1795617600000123),), (ProtocolError,), (fence._MAGIC,), _seal_number),
    Parser("strict claims", ("engines.marker.claims:_parse",), _claim,
           (b"filelock-strict-v1\n" + b"5c" * 16 + b"\n4711\n6e6f646537\n835072\n",
            b"filelock-strict-v1\n" + b"5c" * 16 + b"\n4711\n6e6f646537\n\n"), (ProtocolError,)),
    Parser("generations of readers and writers",
           ("engines.marker.generations:parse", "engines.marker.generations:Log._whole_epoch",
            "engines.marker.members:_lease"), _generation,
           (generations.Snapshot(17, "ab" * 16, frozenset(["cd" * 16, "ef" * 16])).encode(), b"0a" * 16 + b"\n",
            b"token=" + b"ab" * 16 + b"\nlease=30.0\nnonce=17\n"),
           words=(b"generation=", b"writer=", b"reader=", b"lease=nan\n", b"lease=inf\n")),
    Parser("tables of settings", ("_fs.settings:parse",), _config,
           (b"# places\n/lustre = marker\n/gpfs/home = dual   # why\n", b"/mnt/x = local\n"), (ValueError,),
           (b"=", b"marker", b"/", b"..", b"\0")),
    Parser("INTERLOCK_PRIMITIVE", ("_fs.settings:parse",), _environment, (b"flock", b"/lustre=marker;dual"),
           (ValueError,), (b";", b"=", b"/")),
    Parser("notes of a failed build", ("atomic.single:_Note.read", "_strangers:fields"), _note,
           (b'{"id": "ab", "type": "OSError", "message": "disk full", "pid": 17}',), words=JSON,
           shown=lambda note: f"{note.kind} {note.message}"),
    Parser("/proc/locks and fdinfo", ("engines.kernel.proc:parse",), _locks,
           (b"12: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF\n", b"3: -> OFDLCK ADVISORY READ -1 00:2f:77 16 16\n"),
           words=(b"->", b":", b"FLOCK")),
    Parser("/proc/self/mountinfo", ("_wait.mounts:_unescape",), _mounts,
           (b"36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 - nfs4 srv:/x rw,local_lock=none\n",),
           words=(b" - ", b"\\040", b"\\134", b",")),
    Parser("command lines", ("engines.kernel.proc:words",), _command,
           (b"python\0-m\0interlock\0run\0a.lock\0--\0make\0-j8\0",), words=(b"\0", b"--", b"run", b"\x1b[2J"),
           shown=str),
    Parser("URLs", ("_address:Address.parse", "_address:_split_query"), _url,
           (b"redis://user:pass@host:6379,other/0?il_ttl=3&ssl=1#name", b"postgresql:///db?host=/run#x",
            b"etcd://[::1]:2379#a%2Fb", b"zookeeper://a:2181,b:2181/chroot#x"), (ValueError,),
           (b"@", b"#", b"?", b"%1b", b"%3A", b"%00", b"[", b"]", b",", b"9" * 5000, b"\x1b[2J"),
           shown=lambda address: f"{address.public} {address!r}"),
    Parser("options of a PostgreSQL URL", ("engines.postgres.settings:read",), _postgres_url,
           (b"postgresql://h/db?il_scope=xact&il_fence=xid&il_connections=7&connect_timeout=3#x",), (ValueError,),
           (b"il_scope=", b"il_fence=table", b"il_connections=", b"connect_timeout=", b"9" * 5000, b"%1b")),
    Parser("owners on Redis", ("engines.redis.engine:_party", "_strangers:fields"), _redis, (_OWNER,), words=JSON,
           shown=_party_text),
    Parser("owners on ZooKeeper", ("engines.zookeeper.entries:party",), _zookeeper, (_OWNER,), words=JSON,
           shown=_party_text),
    Parser("nodes on ZooKeeper", ("engines.zookeeper.entries:Queue.__init__",), _children,
           (b"w-0123456789abcdef-0000000001\nr-aa-0000000002\np3-bb-0000000003\nslot-2\nx-aa--2147483647\nas-w.aa",),
           (ProtocolError,), (b"-", b"slot-", b"as-", b"\n", b"9" * 5000, b"\xc2\xb2")),
    Parser("answers of etcd", ("engines.etcd.client:understood", "engines.etcd.client:plain",
           "engines.etcd.entries:Entry.__init__"), _etcd,
           (json.dumps({"header": {"revision": "17"}, "kvs": [_KV], "count": "1"}).encode(),), (_SERVER, ProtocolError),
           JSON, shown=lambda found: "\n".join(map(_party_text, found))),
    Parser("owners on etcd", ("engines.etcd.entries:Entry.__init__", "engines.etcd.entries:party"), _etcd_value,
           (_OWNER,), words=JSON, shown=_party_text),
    Parser("etcd's stream of changes", ("engines.etcd.watch:_Stream._lines",), _etcd_stream,
           tuple(b"%x\r\n%s\n\r\n" % (len(one) + 1, one) for one in
                 (b'{"result": {"watch_id": "1", "events": []}}', b'{"error": {"message": "no"}}')),
           (_SERVER, RecursionError), (b"\r\n", b"-5\r\n", b"ffffffff\r\n", b";x", *JSON)),
    Parser("sessions of PostgreSQL", ("engines.postgres.looking:rows",), _postgres,
           (b"interlock 4711 node7 train.py\nci\n10.0.0.7", b"psql\npostgres\n"), words=(b"interlock", b"\xc2\xb2"),
           shown=_party_text),
    Parser("generations of the store", ("store.chain:unseal", "store.rows:parse_row", "store.entry:_object",
           "store.layout:parse_json"), _sealed_rows, (chain.seal([_ROW.line()]),), (StoreError,), (b"\t", b"\n", *JSON),
           _seal_rows),
    Parser("rows of the store", ("store.rows:parse_row", "store.sweep:_when"), _row, (_ROW.line().encode(),),
           (StoreError,), (b"\t", b"9" * 5000, *JSON)),
    Parser("manifests", ("store.layout:parse_manifest", "store.layout:parse_json"), _manifest,
           (_MANIFEST, _SIGNED % _MANIFEST), (StoreError,), JSON),
    Parser("specs", ("store.spec:parse_spec", "store.layout:parse_json"), _spec, (_SPEC, _SIGNED % _SPEC),
           (StoreError,), JSON),
    Parser("compressed specs", ("store.layout:unpack",), _unpack, (gzip.compress(_SPEC, mtime=0),), (StoreError,)),
    Parser("notes of single flight", ("store.single:_read",), _store_note,
           (b'{"id": "ab", "kind": "OSError", "message": "no", "builder": "x"}',), (StoreError,), JSON),
    Parser("lists of builds", ("cli._store:_items",), _list, (b'{"spec": "a", "archive": "b", "views": ["c"]}\n',),
           (StoreError,), JSON),
    Parser("database indexes", ("catalogue.scan:_Text.value",), _index, (_INDEX, gzip.compress(_INDEX, mtime=0)),
           (CatalogueError, records.RecordError), JSON),
    Parser("manifests for the catalogue", ("catalogue.scan:document",), _document, (_MANIFEST, _SIGNED % _MANIFEST),
           (CatalogueError,), JSON),
    Parser("pages of the catalogue", ("catalogue.page:parse_page", "catalogue.page:_load"), _page, (
        Page("zlib", "main", (_PAGE_ROW,)).render().encode(),),
        (CatalogueError,), JSON),
    Parser("recorded events", ("cli._timeline:_json",), _traced, (_TRACE,), words=(b"\n", *JSON)),
    Parser("letters of a probing peer", ("_probe.peer:Letters._look",), _letter,
           (b"%08x%s" % (zlib.crc32(_LETTER), _LETTER),), words=JSON,
           seal=lambda data: b"%08x%s" % (zlib.crc32(text(data[8:]).encode("utf-8", "replace")), data[8:])),
)  # fmt: skip

EXEMPT = {
    "_fs.choice:_type_by_number": "a number of statfs(2)",
    "_fs.settings:of": "calls load, which parses with `parse`",
    "_probe.bounded:Child.answer": "the pipe of our own child process",
    "_probe.worker:Worker.read": "bytes become text; `Letters._look` parses it",
    "_probe.worker:main": "the pipe of our own parent process",
    "_remote:_plugin": "an entry point of an installed package",
    "_target:resolve": "a URL without server, by the caller: test_targets",
    "_wait.inotify:Instance._concerned": "structures of the kernel",
    "_wait.kqueue:trusts": "structures of the kernel",
    "atomic.update:repeated": "a random number",
    "catalogue.check:spec_hash": "a hash that is made here becomes text",
    "catalogue.site:visible": "escapes text",
    "catalogue.sources:parse_sources": "words of the command line",
    "cli._run:_RunCommand.parse_args": "words of the command line",
    "engines.etcd.client:text": "our bytes become text",
    "engines.etcd.core:Base.inspect": "our bytes become text",
    "engines.etcd.lease:Lease.__init__": "a random number",
    "engines.etcd.sharing:Modes._rewrite": "the record that this claim made",
    "engines.etcd.watch:_Stream._begin": "a status of an answer becomes text",
    "engines.kernel.tickets:first_since": "structures of the kernel",
    "engines.kernel.tickets:rank": "structures of the kernel",
    "engines.kernel.tickets:_in_front": "structures of the kernel",
    "engines.postgres.connecting:prepare_fence": "a version of the server becomes text",
    "engines.postgres.keys:key_of": "a hash that is made here",
    "engines.postgres.session:Session._answer": "a channel's name becomes text",
    "engines.postgres.session:_checked": "an error's words become text",
    "engines.redis.engine:RedisEngine.inspect": "our bytes become text",
    "store.chain:Chain.commit": "calls Chain.load, which parses with `unseal`",
    "store.entry:Build.spec": "calls unpack and parse_json",
    "store.index:publish": "calls Chain.load",
    "store.publish:_put_batch": "calls Chain.load",
    "store.publish:_adopted": "calls Chain.load",
    "store.scan:spec_of": "calls unpack and parse_spec",
    "store.spec:simple_spec": "a hash that is made here",
    "store.store:Store.index": "calls Chain.load",
    "store.store:Store._state": "calls Chain.load",
}
"""What looks like a parser and reads nothing that a stranger writes, or leaves it to one in the table."""


def covered() -> set[str]:
    return {name for parser in PARSERS for name in parser.drives}


