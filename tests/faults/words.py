"""The command lines of the programs here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["parser", "positive"]


def parser(
    doc: str | None, metavar: str, names: Collection[str], whole: Collection[str] = ()
) -> argparse.ArgumentParser:
    """One whose arguments are some of the names. `names` of what it parses are all of `whole` (or of the names) where
    none was given."""

    def known(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(names)}")
        return word

    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("names", nargs="*", type=known, metavar=metavar, default=list(whole or names), help="only these")
    return made


def positive(word: str) -> int:
    """A whole number from 1 on."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return number
