"""Publishing builds and reading them: builds per second, by one process and by eight at once.

All subjects keep the same bytes under the same keys. They do not do the same work:

- the plain directory writes a temporary file, syncs it, renames it and syncs the directory, per key; it has no list of
  what is in it, and a second writer of a key overwrites the first;
- the store writes archive, spec and manifest, each synced and never overwritten, and commits to its list (`put`: one by
  one, `put_all`: a generation per 64); a read leases the files and compares two checksums;
- diskcache keeps values in SQLite or in files beside it, and syncs as SQLite's NORMAL does: not at each commit;
- joblib.Memory keeps a function's results, and syncs nothing.

So durable ones compare with durable ones, and the others with the store without fsync.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import Column, Row, Target, find, ratio
from .harness import FAILURES, Crew, Plan, Wire, progress, why
from .subjects import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Publish = Callable[[Sequence[int]], None]
    Read = Callable[[Sequence[int]], None]

TITLE = "Store: builds of 64 KiB published and read, per second"
COLUMNS = (
    Column("subject", "subject"),
    Column("durable", "durable when acknowledged"),
    Column("put_1", "published/s, 1 process", ".0f"),
    Column("put_8", "published/s, 8 processes", ".0f"),
    Column("get_1", "read/s, 1 process", ".0f"),
    Column("to_plain", "x plain, 8 publish", ".2f"),
)
SIZE = 1 << 16
PLAIN, PLAIN_FAST = "plain directory, fsync and rename", "plain directory, rename"


def payload(number: int) -> bytes:
    block = hashlib.sha256(b"%d" % number).digest()
    return b"\x1f\x8b" + block * (SIZE // len(block))


class Entry(NamedTuple):
    name: str
    durable: str
    package: str | None
    open: Callable[[str], tuple[Publish, Read]]  # of a directory


def _plain(durable: bool) -> Callable[[str], tuple[Publish, Read]]:
    def make(place: str) -> tuple[Publish, Read]:
        os.makedirs(place, exist_ok=True)

        def publish(numbers: Sequence[int]) -> None:
            for number in numbers:
                path = os.path.join(place, f"{number}")
                with open(f"{path}.{os.getpid()}", "wb") as file:
                    file.write(payload(number))
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.rename(file.name, path)
                if durable:
                    fd = os.open(place, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)

        def read(numbers: Sequence[int]) -> None:
            for number in numbers:
                with open(os.path.join(place, f"{number}"), "rb") as file:
                    assert file.read() == payload(number)

        return publish, read

    return make


def _store(durable: bool, batches: bool, verify: bool = True) -> Callable[[str], tuple[Publish, Read]]:
    def make(place: str) -> tuple[Publish, Read]:
        from interlock.store import Store, simple_spec

        store = Store(place, durable=durable)

        def spec(number: int) -> dict[str, Any]:
            return simple_spec(f"package{number % 20}", f"{number}.0")

        def publish(numbers: Sequence[int]) -> None:
            items = ((spec(number), payload(number), ["view"]) for number in numbers)
            if batches:
                for _entry in store.put_all(items):
                    pass
            else:
                for document, archive, views in items:
                    store.put(document, archive, views=views)

        def read(numbers: Sequence[int]) -> None:
            for number in numbers:
                build = store.get(spec(number)["spec"]["nodes"][0]["hash"], verify=verify)
                assert build is not None
                with build:
                    assert build.read() == payload(number)

        return publish, read

    return make


def _diskcache(place: str) -> tuple[Publish, Read]:
    import diskcache

    cache = diskcache.Cache(place, timeout=60)

    def publish(numbers: Sequence[int]) -> None:
        for number in numbers:
            cache.set(f"{number}", payload(number))

    def read(numbers: Sequence[int]) -> None:
        for number in numbers:
            assert cache.get(f"{number}") == payload(number)

    return publish, read


def _joblib(place: str) -> tuple[Publish, Read]:
    import joblib

    cached = joblib.Memory(place, verbose=0).cache(payload)

    def call(numbers: Sequence[int]) -> None:
        for number in numbers:
            assert len(cached(number)) > SIZE // 2

    return call, call


ENTRIES = (
    Entry(PLAIN, "yes", None, _plain(True)),
    Entry("interlock store, put", "yes", "interlock", _store(True, False)),
    Entry("interlock store, put_all", "yes", "interlock", _store(True, True)),
    Entry(PLAIN_FAST, "no", None, _plain(False)),
    Entry("interlock store, put, durable=False", "no", "interlock", _store(False, False)),
    Entry("interlock store, put_all, durable=False; get, verify=False", "no", "interlock", _store(False, True, False)),
    Entry("diskcache, set and get", "by SQLite, later", "diskcache", _diskcache),
    Entry("joblib.Memory, call", "no", "joblib", _joblib),
)


def run(plan: Plan) -> list[Row]:
    count = 80 if plan.quick else 400
    rows: list[Row] = []
    for entry in ENTRIES:
        row: Row = {"subject": entry.name, "durable": entry.durable}
        reason = missing(entry.package)
        if reason is not None:
            rows.append(row | {"missing": reason})
            continue
        progress(f"store: {entry.name}")
        try:
            row |= _measure(entry, plan, count)
        except (*FAILURES, AssertionError) as error:
            row["failed"] = why(error)
        rows.append(row)
    for row in rows:
        plain = find(rows, subject=PLAIN if row["durable"] == "yes" else PLAIN_FAST)
        row["to_plain"] = ratio(row.get("put_8"), plain.get("put_8"))
    return rows


def _measure(entry: Entry, plan: Plan, count: int) -> Row:
    # Nothing is deleted before the end: for seconds afterwards ext4 passes over each inode that was freed, and
    # creating a file there costs a millisecond instead of 30 us.
    place = plan.path(f"store{ENTRIES.index(entry)}")
    publish, read = entry.open(os.path.join(place, "one"))
    numbers = range(count)
    alone = _timed(lambda: publish(numbers))
    reading = _timed(lambda: read(numbers))
    eight = _together(entry, os.path.join(place, "eight"), count)
    _publish, read = entry.open(os.path.join(place, "eight"))
    read(numbers)  # nothing is lost, whoever measures
    return {"put_1": count / alone, "put_8": count / eight, "get_1": count / reading}


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _together(entry: Entry, place: str, count: int) -> float:
    def body(numbers: Iterable[int]) -> Callable[[Wire], None]:
        def child(wire: Wire) -> None:
            publish, _read = entry.open(place)
            wire.say("ready")
            wire.hear()
            publish(list(numbers))
            wire.say("done")

        return child

    with Crew() as crew:
        children = [crew.fork(body(range(first, count, 8))) for first in range(8)]
        for child in children:
            child.wire.hear()

        def all_of_them() -> None:
            for child in children:
                child.wire.say("go")
            for child in children:
                child.wire.hear()

        took = _timed(all_of_them)
        for child in children:
            crew.end(child)
    return took


def targets(_rows: list[Row]) -> list[Target]:
    return []  # figures to know, none to keep
