"""`interlock store`: publish builds into a shared store, read them, and look after it. The library does the work."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager

import click

from .._deadline import FOREVER
from .._errors import EngineError, Timeout
from ..store import BuildFailed, HostileError, Store, StoreError
from ._child import call
from ._common import SECONDS, TIMEOUT, complain, reason
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..store import Build, Entry, Job, Waiting

    Command = Callable[..., None]

NO = 1
UNREADABLE = 3

_STATUS = """
    \b
    Exit status:
      0  done
      1  {no}
      2  the command line is wrong
      3  the store, or what is to go into it, cannot be read, is damaged or refused; or its lock cannot be used
      125  trouble of interlock's own, or the output cannot be written
"""


@click.group()
def store() -> None:
    """A store of builds in Spack's build-cache layout, which many processes write and read at once.

    ROOT is its directory; it is made by the first command that writes. An existing mirror of Spack's (layout
    version 3) is a store, too: what is in it is taken over by the first command that writes.
    """


def _command(no: str, *more: Callable[[Command], Command], writes: bool = True) -> Callable[[Command], click.Command]:
    """A subcommand with the options that all have, and the end of its help."""

    def decorate(function: Command) -> click.Command:
        function.__doc__ = (function.__doc__ or "") + _STATUS.format(no=no)
        function = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)
        if writes:
            function = click.option(
                "--lock", metavar="URL|PATH", help="Where the locks live: a directory or an engine.  [default: in ROOT]"
            )(function)
        for option in reversed(more):
            function = option(function)
        function = click.argument("root", type=click.Path(file_okay=False))(function)
        name = function.__name__.strip("_").replace("_", "-")
        return store.command(name)(_told(function))

    return decorate


def _told(function: Command) -> Command:
    """The function; what goes wrong becomes one line and a status."""
    from functools import wraps

    @wraps(function)
    def run(**options: Any) -> None:
        status = 0
        try:
            function(**options)
        except _UnwritableError as unwritable:
            raise unwritable.error from None
        except (BuildFailed, Timeout) as error:
            complain(str(error))
            status = NO
        except (StoreError, EngineError, ValueError) as error:
            complain(str(error))
            status = UNREADABLE
        except OSError as error:
            complain(reason(error, options["root"]))
            status = UNREADABLE
        if status:
            sys.exit(status)

    return run


def _open(root: str, lock: str | None) -> Store:
    return Store(root, lock=lock)


class _UnwritableError(Exception):
    """The output cannot be written, which is no fault of the store's."""

    def __init__(self, error: OSError) -> None:
        self.error = error


def _say(text: str) -> None:
    try:
        click.echo(text)
    except OSError as error:
        raise _UnwritableError(error) from None


def _print(value: Any) -> None:
    _say(json.dumps(value, indent=2))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per kind of work on standard error, if a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    bar: Any = None
    label = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal bar, label
        if bar is None or what != label:
            if bar is not None:
                bar.render_finish()
            label = what
            bar = click.progressbar(length=total, label=what, file=sys.stderr)
            bar.render_progress()
        bar.update(done - bar.pos)

    yield show
    if bar is not None:
        bar.render_finish()


_views = click.option("--view", "views", metavar="NAME", multiple=True, help="List it in this view, too; repeatable.")
_job = click.option("--job", metavar="ID", help="The job, for the provenance.  [default: from the environment]")
_index = click.option("--no-index", is_flag=True, help="Leave the index that Spack reads as it is, for later.")


# ---- writing


@_command(
    "not used",
    click.argument("spec", required=False, type=click.Path(dir_okay=False)),
    click.argument("archive", required=False, type=click.Path(dir_okay=False)),
    click.option(
        "--from", "listing", metavar="FILE", type=click.File("r", encoding="utf-8"),
        help='Put many: lines of JSON, {"spec": PATH, "archive": PATH, "views": [...]}. "-" is standard input.',
    ),
    _views, _job, _index,
)  # fmt: skip
def put(
    root: str, spec: str | None, archive: str | None, listing: Any, views: tuple[str, ...], job: str | None,
    no_index: bool, lock: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Publish the build that the concrete SPEC (a .spec.json) describes and ARCHIVE (a .tar.gz) contains.

    When this ends with 0, the build is on the disk, readable and listed. A build that is there already is adopted.
    """
    if (listing is None) == (spec is None or archive is None):
        raise click.UsageError("give SPEC and ARCHIVE, or --from FILE")
    items = [(spec or "", archive or "", list(views))] if listing is None else _items(listing, views)
    target = _open(root, lock)
    done: list[Entry] = []
    with _bars() as bar:
        count = 0

        def step(more: int) -> None:
            nonlocal count
            count += more
            bar("builds", count, len(items))

        for entry in target.put_all(items, job=job, progress=step):
            done.append(entry)
            if not as_json:
                _say(f"{entry.hash}  {entry.name}@{entry.version}")
    if not no_index:
        target.index()
    if as_json:
        _print([entry.as_dict() for entry in done])


def _items(listing: Any, views: tuple[str, ...]) -> list[tuple[str, str, list[str]]]:
    items = []
    for number, line in enumerate(listing, 1):
        try:
            item = json.loads(line)
            more = item.get("views", [])
            if not isinstance(item["spec"], str) or not isinstance(item["archive"], str) or not isinstance(more, list):
                raise TypeError("wrong types")
            items.append((item["spec"], item["archive"], [*views, *more]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HostileError(f"line {number} of {listing.name} is not such an object: {error}") from None
    return items


@_command(
    "the build failed, here or in the process that this one waited for; or --timeout passed",
    click.argument("spec", type=click.Path(dir_okay=False)),
    click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED),
    click.option("--output", metavar="FILE", help="Copy the archive to FILE."),
    click.option("--timeout", metavar="SECONDS", type=TIMEOUT, help="Wait at most so long for another's build."),
    _views, _job, _index,
)  # fmt: skip
def build(
    root: str, spec: str, command: tuple[str, ...], output: str | None, timeout: float | None, views: tuple[str, ...],
    job: str | None, no_index: bool, lock: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Print the path of SPEC's archive; build it with CMD if the store has none and nobody else is building it.

    CMD runs in an empty directory and writes the archive to the path in $INTERLOCK_ARCHIVE. Its standard output goes to
    standard error. If it fails, those who wait are told. SIGTERM and SIGHUP are passed on to it.
    """
    _refuse_empty(command)
    target = _open(root, lock)

    def make(work: Job) -> str:
        archive = os.path.join(work.directory, "archive")
        environment = os.environ | {"INTERLOCK_ARCHIVE": archive, "INTERLOCK_SPEC": os.path.abspath(spec)}
        key = work.spec["spec"]["nodes"][0]["hash"]
        try:
            status = call(command, cwd=work.directory, env=environment, stdout=sys.stderr)
        except OSError as error:
            raise BuildFailed(key, "cannot be run", reason(error, command[0]), "CMD") from None
        if status:
            raise BuildFailed(key, "exit status", str(status), "CMD")
        if not os.path.isfile(archive):
            raise BuildFailed(key, "no archive", "nothing was written to $INTERLOCK_ARCHIVE", "CMD")
        return archive

    with target.get_or_build(spec, make, views=views, timeout=timeout, progress=_waiting, job=job) as found:
        _hand_out(found, output, as_json)
    if not no_index:
        target.index()


def _refuse_empty(command: tuple[str, ...]) -> None:
    if not command[0]:
        raise click.BadParameter("the command is an empty word", param_hint="CMD")


def _waiting(state: Waiting) -> None:
    if int(state.waited) & (int(state.waited) - 1):
        return  # told after 1, 2, 4, 8, ... seconds
    who = f", built by {state.builder}" if state.builder else ""
    news = f": {state.news}" if state.news else ""
    complain(f"waiting for {state.key}{who} for {state.waited:.0f} s{news}; --timeout would limit this")


@_command(
    "not used", click.option("--view", "views", metavar="NAME", multiple=True, help="Only these views, and the root.")
)
def index(root: str, views: tuple[str, ...], lock: str | None, as_json: bool) -> None:
    """Bring the index that Spack reads up to date, of all views; prints the generation that each is of."""
    done = _open(root, lock).index(views or None)
    if as_json:
        _print(done)
    else:
        for view, generation in done.items():
            _say(f"{generation}  {view}")


@_command(
    "some builds were refused; they are named",
    click.argument("source", type=click.Path(exists=True, file_okay=False)),
    _views, _job,
)  # fmt: skip
def _import(
    root: str, source: str, views: tuple[str, ...], job: str | None, lock: str | None, as_json: bool
) -> None:
    """Copy the builds of SOURCE, a file mirror of Spack's in layout version 2 or 3. Signatures are not checked."""
    with _bars() as bar:
        done = _open(root, lock).import_mirror(source, views=views, job=job, progress=bar)
    if as_json:
        _print(done.as_dict())
    else:
        _say(f"imported {done.imported}, had {done.present}, refused {len(done.refused)}")
    for path, why in done.refused:
        complain(why if path in why else f"{path}: {why}")
    if done.refused:
        sys.exit(NO)


# ---- reading


def _find(root: str, key: str) -> tuple[Store, Entry | None]:
    target = Store(root)
    if not os.path.isdir(target.root):
        raise StoreError(f"{target.root} is not there; a store is made by the first put")
    start = key.removeprefix("/")
    found = [entry for entry in target.entries() if entry.hash.startswith(start)]
    if len(found) > 1:
        some = ", ".join(entry.hash for entry in found[:5])
        raise StoreError(f"{key} is the beginning of {len(found)} hashes: {some}")
    return target, found[0] if found else None


@_command(
    "there is no such build (with CMD: or CMD's own status)",
    click.argument("hash_", metavar="HASH"),
    click.argument("command", metavar="[-- CMD...]", nargs=-1, type=click.UNPROCESSED),
    click.option("--output", metavar="FILE", help="Copy the archive to FILE."),
    writes=False,
)
def get(root: str, hash_: str, command: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Check the build of HASH (its first characters will do) and print the path of its archive.

    With CMD: run it with $INTERLOCK_ARCHIVE set; until it ends, gc does not delete the build. Without, nothing keeps
    the file once the path is printed: use --output, or CMD.
    """
    if command:
        _refuse_empty(command)
    if not hash_.removeprefix("/"):
        raise click.BadParameter(f"{hash_!r} is no hash, nor how one begins", param_hint="HASH")
    target, entry = _find(root, hash_)
    found = target.get(entry.hash) if entry is not None else None
    if found is None:
        complain(f"{root} has no build {hash_}")
        sys.exit(NO)
    with found:
        if command:
            # The lease goes to CMD, too: so it lasts until CMD ends, also if this process is killed before.
            leases = () if sys.platform == "win32" else found.filenos()
            environment = os.environ | {"INTERLOCK_ARCHIVE": found.archive}
            status = call(command, env=environment, pass_fds=leases)
            sys.exit(status if status >= 0 else 128 - status)
        _hand_out(found, output, as_json)


def _hand_out(found: Build, output: str | None, as_json: bool) -> None:
    if output is not None:
        part = f"{output}.{os.getpid()}.part"
        try:
            shutil.copyfile(found.archive, part)
            os.replace(part, output)
        finally:
            if os.path.exists(part):
                os.unlink(part)
    if as_json:
        _print(found.entry.as_dict() | {"archive": found.archive, "leased": found.leased})
    else:
        _say(output if output is not None else found.archive)


@_command(
    "no build is listed",
    click.argument("names", metavar="[NAME]...", nargs=-1),
    click.option("--view", metavar="NAME", help="Only what this view lists."),
    writes=False,
)
def _list(root: str, names: tuple[str, ...], view: str | None, as_json: bool) -> None:
    """List the builds, all or those of the packages NAME: hash, bytes, name@version, views, who published it when."""
    target = Store(root)
    if not os.path.isdir(target.root):
        raise StoreError(f"{target.root} is not there; a store is made by the first put")
    snapshot = target.snapshot()
    found = [entry for entry in snapshot.entries(view) if not names or entry.name in names]
    if as_json:
        _print({"generation": snapshot.generation, "builds": [entry.as_dict() for entry in found]})
    else:
        for entry in found:
            note = entry.provenance
            views = ",".join(entry.views) or "-"
            who = f"{note.get('who', '?')}@{note.get('host', '?')} {note.get('when', '?')}"
            _say(plain(f"{entry.hash}  {entry.size:>12}  {entry.name}@{entry.version}  {views}  {who}"))
    if not found:
        sys.exit(NO)


# ---- looking after it


@_command(
    "problems were found (with --repair: and some could not be mended)",
    click.option("--repair", is_flag=True, help="Mend what can be; damaged files go into ROOT/.interlock/quarantine."),
    click.option("--sizes-only", is_flag=True, help="Compare sizes, not checksums."),
    click.option("--grace", metavar="SECONDS", type=SECONDS, default=3600.0, show_default=True,
                 help="With --repair: spare orphans that are younger."),
)  # fmt: skip
def verify(
    root: str, repair: bool, sizes_only: bool, grace: float, lock: str | None, as_json: bool
) -> None:
    """Compare every file with its checksum, and the lists with the files. Without --repair nothing is written."""
    if not os.path.isdir(root):
        raise StoreError(f"{root} is not there; a store is made by the first put")
    with _bars() as bar:
        found = _open(root, lock).verify(repair=repair, checksums=not sizes_only, grace=grace, progress=bar)
    if as_json:
        _print(found.as_dict())
    else:
        for problem in found.problems:
            mended = "  [mended]" if problem.mended else ""
            _say(plain(f"{problem.kind}: {problem.path}: {problem.text}{mended}"))
        for note in found.notes:
            _say(plain(f"note: {note}"))
        _say(f"{found.builds} builds, {found.blobs} blobs, generation {found.generation}: "
                   f"{len(found.problems)} problems, {'clean' if found.clean else 'not clean'}")  # fmt: skip
    if not (found.clean if repair else not found.problems):
        sys.exit(NO)


class _Amount(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click
    """A number with a unit."""

    name = "amount"

    def __init__(self, what: str, units: dict[str, float]) -> None:
        self._what, self._units = what, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = text.lstrip("0123456789.")
        try:
            number = float(text.removesuffix(unit)) * self._units[unit]
        except (KeyError, ValueError):
            number = FOREVER
        if number < FOREVER:
            return number
        units = ", ".join(filter(None, self._units))
        return self.fail(f"{plain(text)!r}: {self._what} is a number from 0 on, with or without {units}", param, ctx)


_AGE = _Amount("an age", {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400})
_SIZE = _Amount("a size", {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40})


def _refuse_to_empty(target: Store, kept: list[str]) -> None:
    """A slip of the pen in a keep-list must not be the end of every build."""
    builds = sum(1 for _ in target.entries())
    if builds and len(target.gc(keep=kept, dry_run=True).builds) >= builds:
        some = ", ".join(kept[:3]) + (", …" if len(kept) > 3 else "")
        raise StoreError(
            f"the store has nothing of the keep-list ({some}), so all {builds} builds would go; nothing was removed."
            " To remove all, say so by age: --max-age 0"
        )


@_command(
    "another gc is at work; nothing was done",
    click.option("--keep", metavar="WHAT", multiple=True, help="A hash, /PREFIX, name or pattern of name@version."),
    click.option("--keep-list", metavar="FILE", type=click.File("r", encoding="utf-8"), help="A WHAT per line."),
    click.option("--max-age", metavar="AGE", type=_AGE, help="Builds older than this go: 30d, 12h."),
    click.option("--max-size", metavar="SIZE", type=_SIZE, help="The oldest go until the archives need less: 500G."),
    click.option("--grace", metavar="AGE", type=_AGE, default="1h", show_default=True,
                 help="Spare younger files that nothing refers to."),
    click.option("--dry-run", "-n", is_flag=True, help="Only tell what would go."),
)  # fmt: skip
def gc(
    root: str, keep: tuple[str, ...], keep_list: Any, max_age: float | None, max_size: float | None, grace: float,
    dry_run: bool, lock: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Delete builds by rules, and files that nothing refers to; never what somebody reads.

    What is kept by name stays with all that it depends on. Without --max-age and --max-size, all other builds go,
    but a keep-list of which nothing is there is refused; without any rule only files that nothing refers to.
    """
    if not os.path.isdir(root):
        raise StoreError(f"{root} is not there; a store is made by the first put")
    kept = [*keep, *(line.strip() for line in keep_list or () if line.strip() and not line.startswith("#"))]
    if keep_list is not None and not kept:
        raise click.UsageError(f"{keep_list.name} names nothing, so all builds would go; for that, say --max-age 0")
    rule = kept or None
    target = _open(root, lock)
    if kept and max_age is None and max_size is None:
        _refuse_to_empty(target, kept)
    with _bars() as bar:
        done = target.gc(
            keep=rule, max_age=max_age, max_size=None if max_size is None else int(max_size), grace=grace,
            dry_run=dry_run, progress=bar,
        )  # fmt: skip
    if as_json:
        _print(done.as_dict())
    elif not done.skipped:
        for hash_ in done.builds:
            _say(f"{'would remove' if dry_run else 'removed'} {hash_}")
        for path in done.held:
            complain(f"spared, somebody holds it: {path}")
        _say(f"{len(done.builds)} builds, {done.blobs} blobs, {done.freed} bytes"
                   f"{' would go' if dry_run else ''}; {done.young} young orphans stay")  # fmt: skip
    if done.skipped:
        complain(f"another gc is at work on {root}; nothing was done")
        sys.exit(NO)
