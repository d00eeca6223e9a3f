"""Reads a database index record by record, in memory that does not grow with the file.

An index of 100,000 builds has some 200 MB, and as Python objects four times as much. So the file is decoded in
pieces, and the C decoder of the standard library is given one record at a time. Where a piece ends within a
record the decoder fails; then more is read and it tries again, up to the longest record that is believed.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from typing import IO, Any, NoReturn, cast

from .model import CatalogueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LONGEST_RECORD", "LONGEST_SOURCE", "document", "records"]

PIECE = 4 << 20
LONGEST_RECORD = 32 << 20
"""Characters of one record. The longest in Spack's own cache have some ten thousand."""
LONGEST_SOURCE = 16 << 30
"""Bytes of a source after decompression: a few bytes of gzip can pretend to be any amount."""

_SPACE = re.compile(r"[ \t\n\r]*")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class _Text:
    """A window on the decoded text; `at` is where the next token begins."""

    def __init__(self, file: IO[bytes], place: str, progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._place = place
        self._progress = progress
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._window = ""
        self._at = 0
        self._passed = 0
        self._bytes = 0
        self._ended = False

    def fail(self, why: str) -> NoReturn:
        raise CatalogueError(
            f"{self._place}: {why}, at character {self._passed + self._at}: the file is damaged or is no database "
            "index; fetch it again, or have it made again (spack buildcache update-index)"
        )

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            found = _SPACE.match(self._window, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._window):
                return self._window[self._at]
            if self._ended:
                return ""
            self._more(PIECE)

    def take(self, wanted: str) -> None:
        """Pass over a character that must come."""
        seen = self.peek()
        if seen != wanted:
            self.fail(f"{wanted!r} is missing" if not seen else f"{seen!r} stands where {wanted!r} must")
        self._at += 1

    def value(self) -> Any:
        """Decode one whole value."""
        piece = PIECE
        while True:
            if not self.peek():
                self.fail("it ends in the middle")
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    self._at = error.pos
                    self.fail(error.msg)
                if len(self._window) - self._at > LONGEST_RECORD:
                    self.fail(f"{error.msg}, or a value longer than {LONGEST_RECORD} characters")
            except RecursionError:
                self.fail("it is nested too deeply")
            except ValueError as error:  # a number of thousands of digits, NaN
                self.fail(str(error))
            else:
                if end < len(self._window) or self._ended:
                    self._at = end
                    return value
                # A number may go on in the next piece.
            self._more(piece)
            piece *= 2

    def members(self) -> Iterator[str]:
        """The keys of an object; after each one the caller takes its value."""
        self.take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                self.fail("a key is missing")
            key = self.value()
            self.take(":")
            yield key
            if self.peek() != ",":
                break
            self._at += 1
        self.take("}")

    def _more(self, amount: int) -> None:
        try:
            raw = self._file.read(amount)
        except (OSError, EOFError, zlib.error) as error:
            raise CatalogueError(f"{self._place}: {getattr(error, 'strerror', None) or error}") from None
        self._bytes += len(raw)
        if self._bytes > LONGEST_SOURCE:
            self.fail(f"it has more than {LONGEST_SOURCE} bytes")
        if self._progress is not None:
            self._progress(len(raw))
        try:
            text = self._decode(raw, not raw)
        except UnicodeDecodeError as error:
            self.fail(f"it is not UTF-8 ({error.reason})")
        self._ended = not raw
        if not self._passed and not self._window and text.startswith("\ufeff"):
            text = text[1:]
        self._passed += self._at
        self._window = self._window[self._at :] + text
        self._at = 0


def _open(file: IO[bytes]) -> IO[bytes]:
    start = file.read(2)
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if start == b"\x1f\x8b" else file


def records(
    file: IO[bytes], place: str, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[str | None, Any]]:
    """Yield `(hash, record)` for each record, in the file's order, and `(None, version)` where the version stands.

    The file is closed at the end. `place` is how errors name the source. Raises `CatalogueError` for whatever is not
    `{"database": {"version": ..., "installs": {...}}}`.
    """
    with file:
        try:
            text = _Text(_open(file), place, progress)
        except OSError as error:
            raise CatalogueError(f"{place}: {error.strerror}") from None
        if text.peek() != "{":
            text.fail("it does not begin with '{'")
        found = False
        for key in text.members():
            if key != "database" or found:
                text.value()
                continue
            found = True
            if text.peek() != "{":
                text.fail("'database' is not an object")
            yield from _database(text)
        if text.peek():
            text.fail("something comes after the end")
        if not found:
            text.fail("it has no 'database'")


def _database(text: _Text) -> Iterator[tuple[str | None, Any]]:
    seen: set[str] = set()
    for key in text.members():
        if key in seen:
            text.fail(f"{key!r} comes twice")
        seen.add(key)
        if key == "installs":
            if text.peek() != "{":
                text.fail("'installs' is not an object")
            for hash_ in text.members():
                yield hash_, text.value()
        elif key == "version":
            yield None, text.value()
        else:
            text.value()
    for key in ("version", "installs"):
        if key not in seen:
            text.fail(f"the database has no {key!r}")


def document(data: bytes, place: str) -> dict[str, Any]:
    """A small JSON object, as manifests are; also one that PGP signed in clear text (the signature is not checked)."""
    if data.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----"):
        data = data.partition(b"\n\n" if b"\r\n\r\n" not in data[:200] else b"\r\n\r\n")[2]
        data = data.partition(b"-----BEGIN PGP SIGNATURE-----")[0]
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise CatalogueError(f"{place}: it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise CatalogueError(f"{place}: it is damaged: {error}") from None
    if not isinstance(value, dict):
        raise CatalogueError(f"{place}: it is damaged: not a JSON object")
    return value
