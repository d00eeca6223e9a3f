"""`interlock catalogue`: what is in a build cache. Options, words and statuses; the library does the work."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager

import click

from .. import catalogue as library
from ..catalogue import NEWEST, PROFILES, CatalogueError, NotFoundError
from ._common import complain
from ._text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Command = Callable[..., None]

NOT_FOUND = 1
UNREADABLE = 3

_STATUS = """

    \b
    Exit status:
      0  done
      1  {one}
      2  the command line is wrong
      3  a source cannot be read, or is damaged
      125  trouble of interlock's own, or the output cannot be written
"""


@click.group()
def catalogue() -> None:
    """What is in a build cache: pages, lists, a web site, differences, checks.

    A source is an index file, a mirror (layout v2 or v3) or a store: --source LABEL=PLACE. The label "root" is the
    unified index; every other label is a stack with an index of its own. DIRECTORY#VIEW is one view of a mirror. A
    PLACE without a label is root, with all views of the mirror as stacks.
    """


def _sourced(one: str) -> Callable[[Command], Command]:
    """The options that all commands have, and the end of their help."""

    def decorate(function: Command) -> Command:
        function.__doc__ = (function.__doc__ or "") + _STATUS.format(one=one)
        for option in (
            click.option("--quiet", is_flag=True, help="No progress and no warnings."),
            click.option("--skip-damaged", is_flag=True, help="Leave damaged records out, with a warning for each."),
            click.option(
                "--source", "sources", metavar="[LABEL=]PLACE", multiple=True, required=True,
                help="An index file, mirror or store. Repeat it for more.",
            ),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


_ref = click.option("--ref", required=True, help="The ref that the page is of, for example develop.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_profile = click.option(
    "--profile", type=click.Choice(PROFILES), default=NEWEST, show_default=True,
    help="The string forms of Spack before or since 1.0.",
)  # fmt: skip


@contextmanager
def _told() -> Iterator[None]:
    """Turns what is wrong with sources into one line and a status."""
    try:
        yield
    except NotFoundError as error:
        complain(str(error))
        sys.exit(NOT_FOUND)
    except CatalogueError as error:
        complain(str(error))
        sys.exit(UNREADABLE)


@contextmanager
def _progress(title: str, length: int, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar on standard error, if a person looks at it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=length, label=title, file=sys.stderr) as bar:
        yield bar.update


def _read(words: tuple[str, ...], skip_damaged: bool, quiet: bool) -> tuple[library.Catalogue, list[library.Source]]:
    sources = library.parse_sources(words)
    length = sum(source.length for source in sources)
    with _progress("reading", length, quiet) as step:
        inform = None if step is None else (lambda _label, count: step(count))
        found = library.read(sources, skip_damaged=skip_damaged, progress=inform)
    if not quiet:
        for warning in found.warnings:
            complain(f"warning: {warning}")
    return found, sources


def _sizes(found: library.Catalogue, sources: list[library.Source], quiet: bool) -> None:
    mirrors = [source for source in sources if source.mirror]
    if not mirrors:
        return
    with _progress("sizes", sum(len(found.indexes[source.label].builds) for source in mirrors), quiet) as step:
        library.add_sizes(found, mirrors, None if step is None else (lambda _label, count: step(count)))


def _write(text: str) -> None:
    """The bytes as they are: no line end is added or translated."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _print_json(value: Any) -> None:
    _write(json.dumps(value, indent=2) + "\n")


@catalogue.command()
@click.argument("name")
@_ref
@_profile
@_json
@_sourced("no build of NAME is in the root index")
def page(
    name: str, ref: str, profile: str, as_json: bool, sources: tuple[str, ...], skip_damaged: bool, quiet: bool
) -> None:
    """Write the page of the package NAME to standard output, as the public catalogue of Spack's build cache has it.

    With --json its fields are one JSON object; the command "json" has more.
    """
    with _told():
        found, _ = _read(sources, skip_damaged, quiet)
        text = library.page(found, name, ref, profile)
    if as_json:
        _print_json(library.parse_page(text).as_dict())
    else:
        _write(text)


@catalogue.command(name="list")
@_json
@_sourced("never")
def list_(as_json: bool, sources: tuple[str, ...], skip_damaged: bool, quiet: bool) -> None:
    """List the packages of the root index: how many builds of each, and their sizes where a source knows them."""
    with _told():
        found, places = _read(sources, skip_damaged, quiet)
        _sizes(found, places, quiet)
        packages = library.packages_list(found)
    if as_json:
        _print_json(packages)
        return
    width = max((len(item["name"]) for item in packages), default=0)
    for item in packages:
        size = "" if item["size"] is None else f"  {library.human(item['size'])}"
        versions = ", ".join(item["versions"][:6]) + (", ..." if len(item["versions"]) > 6 else "")
        click.echo(f"{plain(item['name']):{width}}  {item['builds']:6}  {plain(versions)}{size}")


@catalogue.command(name="json")
@click.argument("names", nargs=-1)
@_profile
@click.option("--json", "_always", is_flag=True, help="Taken, as by the other commands; this one prints nothing else.")
@_sourced("no build of one of NAMES is in the root index")
def json_(
    names: tuple[str, ...], profile: str, _always: bool, sources: tuple[str, ...], skip_damaged: bool, quiet: bool
) -> None:
    """Print all that is known of the packages NAMES (default: of all) as JSON: builds, sizes, dependencies, groups."""
    with _told():
        found, places = _read(sources, skip_damaged, quiet)
        _sizes(found, places, quiet)
        _print_json(library.as_dict(found, list(names or found.packages()), profile))


@catalogue.command()
@click.argument("directory", type=click.Path())
@click.option("--title", default="Build cache", show_default=True, help="What the site is called.")
@_profile
@_json
@_sourced("never")
def site(
    directory: str,
    title: str,
    profile: str,
    as_json: bool,
    sources: tuple[str, ...],
    skip_damaged: bool,
    quiet: bool,
) -> None:
    """Write a web site of the whole catalogue into DIRECTORY. Open its index.html; it needs no server.

    An older site in DIRECTORY is replaced when the new one is complete. A directory with anything else in it is
    refused.
    """
    with _told():
        found, places = _read(sources, skip_damaged, quiet)
        _sizes(found, places, quiet)
        with _progress("writing", len(found.packages()), quiet) as step:
            count = library.write_site(found, directory, title=title, profile=profile, progress=step)
    if as_json:
        _print_json({"directory": directory, "packages": count, "builds": len(found.root.builds)})
    elif not quiet:
        complain(f"{directory}: {count} packages, {len(found.root.builds)} builds; open {directory}/index.html")


@catalogue.command()
@click.argument("left")
@click.argument("right")
@_profile
@_json
@_sourced("LEFT or RIGHT is no record's hash, begins several, or they are of different packages")
def diff(
    left: str,
    right: str,
    profile: str,
    as_json: bool,
    sources: tuple[str, ...],
    skip_damaged: bool,
    quiet: bool,
) -> None:
    """Tell why two builds of one package have different hashes. LEFT and RIGHT are hashes, or how they begin.

    Printed are the causes: dependencies that differ in something of their own. What differs only because of these
    is counted.
    """
    with _told():
        found, _ = _read(sources, skip_damaged, quiet)
        result = library.difference(found, found.find(left), found.find(right), profile)
    if as_json:
        _print_json(result.as_dict())
        return
    for change in result.causes:
        click.echo(plain(" > ".join(change.path)))
        for what, one, other in change.own:
            click.echo(plain(f"  {what}: {one or '-'} -> {other or '-'}" if one or other else f"  {what}"))
        for sign, some in (("-", change.only_left), ("+", change.only_right)):
            for entry in some:
                click.echo(plain(f"  {sign} {entry}"))
    for path, one, other in result.unknown:
        click.echo(plain(f"{' > '.join(path)}\n  not in any index: {one} or {other}"))
    if not result.causes and not result.unknown:
        click.echo("the same build")
    else:
        click.echo(f"{len(result.carried)} more differ only because of these; {result.same} dependencies are the same")


@catalogue.command()
@click.option("--fast", is_flag=True, help="Do not read the blobs: only look whether they are there, and how long.")
@click.option(
    "--ignore", metavar="KIND", multiple=True, type=click.Choice(list(library.KINDS)),
    help="Leave out this kind of findings.",
)  # fmt: skip
@_json
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option(
    "--source", "sources", metavar="[LABEL=]PLACE", multiple=True, required=True,
    help="An index file, mirror or store. Repeat it for more.",
)  # fmt: skip
def check(fast: bool, ignore: tuple[str, ...], as_json: bool, quiet: bool, sources: tuple[str, ...]) -> None:
    """Look for what is inconsistent: root against stacks, indexes against blobs, hashes against content.

    \b
    Kinds of findings:
{kinds}

    \b
    Exit status:
      0  nothing was found
      1  something was found
      2  the command line is wrong
      3  a source is not there at all
      125  trouble of interlock's own, or the output cannot be written
    """
    with _told():
        places = library.parse_sources(sources)
        with _progress("checking", sum(source.length for source in places), quiet) as step:
            inform = None if step is None else (lambda _label, count: step(count))
            report = library.check(places, contents=not fast, ignore=ignore, progress=inform)
    if as_json:
        _print_json(report.as_dict())
    else:
        for finding in report.findings:
            click.echo(plain(str(finding)))
        for note in report.notes:
            complain(f"note: {note}")
        count = len(report.findings)
        complain(
            f"{report.records} records and {report.blobs} blobs looked at: "
            + (f"{count} finding{'s' if count > 1 else ''}" if count else "consistent")
        )
    sys.exit(NOT_FOUND if report.findings else 0)


check.help = (check.help or "").replace(
    "{kinds}", "\n".join(f"      {kind:12}  {text}" for kind, text in library.KINDS.items())
)
