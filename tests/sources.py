"""A source of news that tests can make: a pipe."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


class Pipe:
    """A source: a byte is news, which unparks whoever has subscribed."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        if sys.platform != "win32":
            os.set_blocking(self.reader, False)
        self.parkers: list[Any] = []
        self.drained = 0

    def fileno(self) -> int:
        return self.reader

    def drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.reader, 100)
            self.drained += 1
            for parker in self.parkers:
                parker.unpark()

    def tell(self) -> None:
        os.write(self.writer, b"x")
