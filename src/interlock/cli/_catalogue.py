"""`interlock catalogue`: what is in a build cache. Options, words and statuses; the library does the work."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager

import click

from .. import catalogue as library
from ..catalogue import NEWEST, PROFILES, CatalogueError, NotFoundError
from ._common import complain

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
    length = sum(os.path.getsize(source.path) for source in sources)
    with _progress("reading", length, quiet) as step:
        inform = None if step is None else (lambda _label, count: step(count))
        found = library.read(sources, skip_damaged=skip_damaged, progress=inform)
    if not quiet:
        for warning in found.warnings:
            complain(f"warning: {warning}")
    return found, sources


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
@_sourced("no build of NAME is in the root index")
def page(name: str, ref: str, profile: str, sources: tuple[str, ...], skip_damaged: bool, quiet: bool) -> None:
    """Write the page of the package NAME to standard output, as the public catalogue of Spack's build cache has it."""
    with _told():
        found, _ = _read(sources, skip_damaged, quiet)
        _write(library.page(found, name, ref, profile))
