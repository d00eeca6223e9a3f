"""`get_or_build`: one builder per key, and everybody takes its result.

The builder holds the key's lock. Whoever waits for that lock looks, when it gets it: is the build there? It takes
it. Has the builder noted a failure that was not noted when the waiting began? It tells it. Neither: the builder died,
and its successor builds, at once, since the lock is free at once. If the lock lies there are two builders, and the
second to publish adopts the first one's build.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import Timeout
from . import files, publish
from .errors import BuildFailed, DamagedError
from .layout import MANIFEST_MAX, read_file
from .locks import release
from .spec import read_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .entry import Build
    from .locks import Held
    from .publish import ArchiveSource, SpecSource
    from .spec import Spec
    from .store import Store

    Builder = Callable[["Job"], ArchiveSource]

__all__ = ["Job", "Waiting"]

TOLD_FIRST, TOLD_EVERY = 1.0, 10.0
"""Seconds until the first call of `progress`, and in the end between two: to see who holds a lock costs milliseconds,
and there may be hundreds who wait."""

_TEXT_MAX = 2000


class Waiting(NamedTuple):
    """How it stands, for somebody who waits for a build."""

    key: str
    waited: float
    """Seconds."""
    builder: str
    """Who builds; empty if that cannot be seen."""
    news: str
    """What the builder last told (`Job.tell`)."""


class Job:
    """What a builder gets. `directory` is its own, on the store's filesystem, and is removed afterwards."""

    def __init__(self, store: Store, spec: Spec, directory: str) -> None:
        self.directory = directory
        self.spec: dict[str, Any] = spec.document
        self._store, self._path, self._told = store, _path(store, spec.hash, "news"), 0.0

    def tell(self, news: str) -> None:
        """Say how it goes, to those who wait. They see at most ten a second."""
        now = time.monotonic()
        if now - self._told >= 0.1:
            self._told = now
            _write(self._store, self._path, {"news": news[:_TEXT_MAX]})


def get_or_build(
    store: Store,
    source: SpecSource,
    build: Builder,
    views: Iterable[str],
    timeout: float | None,
    progress: Callable[[Waiting], None] | None,
    job: str | None,
) -> Build:
    spec, checked = read_spec(source), publish.check_views(views)
    found = _whole(store, spec.hash, checked)
    if found is not None:
        return found
    store._prepare()
    before = _failure(store, spec.hash)
    hold = _wait(store, spec, timeout, progress)
    try:
        found = _whole(store, spec.hash, checked)
        if found is not None:
            return found
        failure = _failure(store, spec.hash)
        if failure is not None and failure != before:
            raise BuildFailed(spec.hash, failure["kind"], failure["message"], failure["builder"])
        return _build(store, spec, build, checked, publish.provenance(job))
    finally:
        release(hold)


def _whole(store: Store, hash_: str, views: tuple[str, ...]) -> Build | None:
    """The build, if it is there, listed and undamaged."""
    try:
        found = store.get(hash_)
    except DamagedError:
        return None
    if found is not None and not set(views) <= set(found.entry.views):
        found.close()
        return None
    return found


def _wait(
    store: Store, spec: Spec, timeout: float | None, progress: Callable[[Waiting], None] | None
) -> Held:
    lock = store.locks.named(f"build-{spec.hash}")
    if progress is None:
        return lock.acquire(timeout)
    began = time.monotonic()
    pause = TOLD_FIRST
    while True:
        left = float("inf") if timeout is None else began + timeout - time.monotonic()
        try:
            return lock.acquire(max(0.0, min(pause, left)))
        except Timeout as error:
            waited = time.monotonic() - began
            if left <= pause:
                raise Timeout(spec.hash, waited, error.holder, error.hint) from None
            news = _read(_path(store, spec.hash, "news")) or {}
            holder = str(error.holder) if error.holder is not None else ""
            progress(Waiting(spec.hash, waited, holder, str(news.get("news", ""))))
            pause = min(pause * 1.5, TOLD_EVERY)


def _build(store: Store, spec: Spec, build: Builder, views: tuple[str, ...], note: dict[str, object]) -> Build:
    """With the key's lock."""
    with ExitStack() as stack:
        rows = publish.adopt_one(store, spec, views, note, stack)
        if rows is None:
            archive = _telling(store, spec, build)(Job(store, spec, _scratch(store, spec.hash, stack)))
            rows = publish.publish(store, spec, publish.writer(store, spec, archive), views, note, stack, contents=True)
        if rows:
            publish.commit(store, rows)
        _clear(store, spec.hash)
        found = store.get(spec.hash, verify=False)
    assert found is not None, "leased until here, so nobody has deleted it"
    return found


def _telling(store: Store, spec: Spec, build: Builder) -> Builder:
    """The same builder; a failure is noted for those who wait."""

    def run(job: Job) -> ArchiveSource:
        try:
            archive = build(job)
            if not isinstance(archive, bytes):
                with open(archive, "rb"):
                    return archive
            return archive
        except Exception as error:
            who = publish.provenance("")
            _write(
                store,
                _path(store, spec.hash, "failed"),
                {
                    "id": os.urandom(8).hex(),
                    "kind": type(error).__name__,
                    "message": str(error)[:_TEXT_MAX],
                    "builder": f"process {os.getpid()} of {who['who']} on {who['host']}",
                },
            )
            raise

    return run


def _scratch(store: Store, hash_: str, stack: ExitStack) -> str:
    """A directory for the builder. Those of dead builders of this key are removed."""
    for name in os.listdir(store.layout.building):
        if name.startswith(f"{hash_}-"):
            _remove_scratch(os.path.join(store.layout.building, name))
    path = os.path.join(store.layout.building, f"{hash_}-{os.getpid()}-{os.urandom(4).hex()}")
    os.mkdir(path)
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    alive = os.path.join(path, ".alive")
    with open(alive, "x"):
        pass
    taken = files.lease(alive)
    if taken is not None:
        stack.callback(taken.close)
    return path


def _remove_scratch(path: str) -> None:
    alive = os.path.join(path, ".alive")
    if not os.path.exists(alive) or files.remove_sole(alive):
        shutil.rmtree(path, ignore_errors=True)


# ---- notes beside the lock


def _path(store: Store, hash_: str, kind: str) -> str:
    return os.path.join(store.layout.building, f"{hash_}.{kind}")


def _write(store: Store, path: str, note: dict[str, str]) -> None:
    with files.Draft(store.layout.temporary, False) as draft:
        draft.write(json.dumps(note).encode())
        draft.replace(path)


def _read(path: str) -> dict[str, Any] | None:
    try:
        note = json.loads(read_file(path, MANIFEST_MAX))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def _failure(store: Store, hash_: str) -> dict[str, str] | None:
    note = _read(_path(store, hash_, "failed"))
    if note is None or not all(isinstance(note.get(key), str) for key in ("id", "kind", "message", "builder")):
        return None
    return note


def _clear(store: Store, hash_: str) -> None:
    for kind in ("failed", "news"):
        try:
            files.ops.unlink(_path(store, hash_, kind))
        except FileNotFoundError:
            pass
