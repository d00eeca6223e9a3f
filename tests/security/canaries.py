"""A secret goes through every way on which a URL is used, and everything that comes out is searched for it.

`Watch` collects what a program could show: errors with their causes as Python prints them, reprs and texts of all our
objects, also of those in the frames of a traceback, logs of every logger at level 1, warnings, what is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import pickle
import socket
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["ACTIONS", "CANARY", "URLS", "Fake", "Watch"]

CANARY = "S3cr3tCanary"
"""Nowhere else in this process; its percent-encoded form is itself, so a second one has characters that are encoded."""
ENCODED = "S3cr3t%2FCan%40ry%23"
PLAIN = "S3cr3t/Can@ry#"
FORMS = (CANARY, ENCODED, PLAIN, "S3cr3t")

URLS = {
    # HOST is a host and port, NONE a path where nothing is
    "redis password": f"redis://:{CANARY}@HOST/0#a",
    "redis user": f"redis://joe:{ENCODED}@HOST/0#a",
    "redis token": f"redis://{CANARY}@HOST/0#a",
    "redis query": f"redis://HOST/0?password={CANARY}#a",
    "rediss": f"rediss://joe:{CANARY}@HOST/0#a",
    "rediss, its key": f"rediss://HOST/0?ssl_keyfile=NONE&ssl_password={CANARY}#a",
    "redis socket": f"redis+unix://joe:{CANARY}@/NONE#a",
    "redis socket, query": f"redis+unix:///NONE?password={CANARY}#a",
    "sentinel": f"redis+sentinel://joe:{CANARY}@HOST/service/0#a",
    "cluster": f"redis+cluster://joe:{CANARY}@HOST#a",
    "valkey": f"valkeys://joe:{ENCODED}@HOST/0#a",
    "postgresql": f"postgresql://joe:{CANARY}@HOST/db#a",
    "postgresql, encoded": f"postgresql://joe:{ENCODED}@HOST/db#a",
    "postgresql, query": f"postgresql://joe@HOST/db?password={CANARY}#a",
    "postgresql, its key": f"postgresql://joe@HOST/db?sslmode=require&sslkey=NONE&sslpassword={CANARY}#a",
    "postgresql, socket": f"postgres://joe:{CANARY}@/db?host=/NONE#a",
    "postgresql, no CA": f"postgresql://joe:{CANARY}@HOST/db?sslmode=verify-full&sslrootcert=/NONE#a",
    "etcd": f"etcd://joe:{CANARY}@HOST/x#a",
    "etcds": f"etcds://joe:{ENCODED}@HOST/x#a",
    "etcds, no CA": f"etcds://joe:{CANARY}@HOST/x?il_ca=/NONE#a",
    "zookeeper": f"zookeeper://joe:{CANARY}@HOST/x#a",
    "zk": f"zk://joe:{ENCODED}@HOST/x#a",
    "zookeepers": f"zookeepers://joe:{CANARY}@HOST/x#a",
    "zookeepers, no CA": f"zks://joe:{CANARY}@HOST/x?il_ca=/NONE#a",
    # what cannot be used
    "wrong option": f"redis://:{CANARY}@HOST/0?il_nonsense=1#a",
    "wrong driver option": f"postgresql://joe:{CANARY}@HOST/db?nonsense=1#a",
    "wrong value": f"postgresql://joe:{CANARY}@HOST/db?il_scope=nonsense#a",
    "wrong ttl": f"redis://:{CANARY}@HOST/0?il_ttl=soon#a",
    "etcd, query": f"etcd://HOST/x?password={CANARY}#a",
    "zookeeper, query": f"zookeeper://HOST/x?password={CANARY}#a",
    "no user": f"etcd://:{CANARY}@HOST/x#a",
    "no name": f"redis://:{CANARY}@HOST/0",
    "no database": f"redis://:{CANARY}@HOST/nonsense#a",
    "no scheme": f"mysql://joe:{CANARY}@HOST/db#a",
    "slash": "redis://joe:S3cr3t/Canary@HOST/0#a",
    "hash": "redis://joe:S3cr3t#Canary@HOST/0#a",
    "hash behind digits": "redis://joe:12#S3cr3tCanary@HOST/0#a",
    "question mark": "redis://joe:S3cr3t?Canary@HOST/0#a",
    "no scheme, slash": "mysql://joe:S3cr3t/Canary@HOST/0#a",
    "memory": f"memory://joe:{CANARY}@x#a",
    "file": f"file://joe:{CANARY}@HOST/x#a",
}


class Watch:
    """See above. `leaks()` is where the canary was seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.raised: list[str] = []

    def note(self, where: str, text: object) -> None:
        self.seen.append((where, str(text)))

    def leaks(self) -> list[str]:
        return [f"{where}: {text[:2000]}" for where, text in self.seen if any(form in text for form in FORMS)]

    # ---- while something is done

    def __enter__(self) -> Watch:
        self._stack = contextlib.ExitStack()
        self._logged = io.StringIO()
        handler = logging.StreamHandler(self._logged)
        handler.setLevel(1)
        names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
        loggers = [logging.getLogger(), *map(logging.getLogger, {*names, *_LOGGERS})]
        for logger in loggers:
            self._stack.callback(logger.setLevel, logger.level)
            logger.setLevel(1)
        logging.getLogger().addHandler(handler)
        self._stack.callback(logging.getLogger().removeHandler, handler)
        self._printed = io.StringIO()
        self._stack.enter_context(contextlib.redirect_stdout(self._printed))
        self._stack.enter_context(contextlib.redirect_stderr(self._printed))
        self._warned = self._stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()
        self.note("logs", self._logged.getvalue())
        self.note("printed", self._printed.getvalue())
        for warning in self._warned:
            self.note("a warning", warning.message)

    def attempt(self, what: str, act: Callable[[], object]) -> None:
        """Do it, and note what it returns or raises."""
        try:
            found = act()
        except Exception as error:  # noqa: BLE001 - all of them are of interest
            self.raised.append(f"{what}: {type(error).__name__}: {error}")
            self.error(what, error)
        else:
            self.note(f"{what} returned", f"{found} {found!r}")

    def error(self, what: str, error: BaseException) -> None:
        self.note(f"{what}, printed", "".join(traceback.format_exception(error)))
        self.note(f"{what}, said", f"{error} {error!r} {error.args!r}")
        with contextlib.suppress(Exception):
            self.note(f"{what}, pickled", pickle.dumps(error).decode("latin-1"))
        frame = error.__traceback__
        while frame is not None:
            for name, value in frame.tb_frame.f_locals.items():
                if _ours(value):
                    with contextlib.suppress(AttributeError):  # not yet made
                        self.note(f"{what}, local {name}", f"{value!r} {value}")
            frame = frame.tb_next

    def objects(self) -> None:
        """All that we have made and that is alive."""
        for found in gc.get_objects():
            if _ours(found) and not isinstance(found, BaseException):  # those of other tests may be alive
                with contextlib.suppress(Exception):
                    self.note(f"repr of {type(found).__name__}", f"{found!r}")


_LOGGERS = ("interlock", "asyncio", "redis", "psycopg", "kazoo", "urllib3", "concurrent")


def _ours(value: object) -> bool:
    home = getattr(type(value), "__module__", "")
    return (isinstance(home, str) and home.partition(".")[0] == "interlock") or isinstance(value, BaseException)


# ---- what is done with a URL


def _acquire(url: str) -> object:
    from interlock import Lock

    with Lock(url, timeout=0.2) as hold:
        return f"{hold!r} {hold.resource}"


def _made(url: str) -> object:
    from interlock import AsyncLock, Lock, RLock, RWLock, Semaphore

    made: list[Any] = [Lock(url), RLock(url), AsyncLock(url), RWLock(url), Semaphore(url, 2)]
    texts = [f"{each!r} {each} {vars(each) if hasattr(each, '__dict__') else ''}" for each in made]
    for each in made:
        with contextlib.suppress(TypeError):
            texts.append(pickle.dumps(each).decode("latin-1"))
    return "\n".join(texts)


def _async(url: str) -> object:
    from interlock import AsyncLock

    async def main() -> object:
        async with AsyncLock(url, timeout=0.2) as hold:
            return repr(hold)

    return asyncio.run(main())


def _read(url: str) -> object:
    from interlock import RWLock

    with RWLock(url).read(timeout=0.2) as hold:
        return repr(hold)


def _permit(url: str) -> object:
    from interlock import Semaphore

    with Semaphore(url, 2).acquire(timeout=0.2) as hold:
        return repr(hold)


def _inspect(url: str) -> object:
    from interlock import inspect

    report = inspect(url)
    return f"{report!r} {report.as_dict()}"


def _connect(url: str) -> object:
    from interlock import connect

    with connect(url.partition("#")[0]) as places:
        return f"{places!r} {places.lock('a')!r} {places.inspect('a')!r}"


def _all(url: str) -> object:
    from interlock import Lock, acquire_all

    with acquire_all([Lock(url), Lock("memory://#other")], timeout=0.2) as holds:
        return repr(holds)


def _fair(url: str) -> object:
    from interlock import Lock

    return repr(Lock(url, fair=True))


def _wrong_ttl(url: str) -> object:
    from interlock import Lock

    return repr(Lock(url, ttl=-3))


def _wrong_primitive(url: str) -> object:
    from interlock import Lock

    return repr(Lock(url, primitive="flock"))


def _told(url: str) -> object:
    """Events and statistics, which name resources."""
    from interlock import Lock, observe, statistics

    events: list[object] = []
    with observe(events.append), statistics() as counted:
        try:
            with Lock(url, timeout=0.2):
                pass
        except Exception as error:  # noqa: BLE001 - an engine's trouble, noted elsewhere
            events.append(error)
    return f"{events} {counted!r} {counted.as_dict()}"


MADE: dict[str, Callable[[str], object]] = {
    "made": _made, "fair": _fair, "ttl": _wrong_ttl, "primitive": _wrong_primitive,
}  # fmt: skip
ACTIONS: dict[str, Callable[[str], object]] = {
    **MADE, "acquire": _acquire, "async": _async, "read": _read, "permit": _permit, "inspect": _inspect,
    "connect": _connect, "all": _all, "told": _told,
}  # fmt: skip


# ---- servers that are none


class Fake:
    """Listens, and does as it is told with what comes: "closes" at once, is "silent", answers "nonsense", or repeats
    what it was sent as an error of Redis, of PostgreSQL, or of HTTP: "echo"."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.heard = b""
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                other, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(other)
            if self.how == "closes":
                other.close()
            elif self.how != "silent":
                threading.Thread(target=self._talk, args=(other,), daemon=True).start()

    def _talk(self, other: socket.socket) -> None:
        with contextlib.suppress(OSError), other:
            while data := other.recv(65536):
                self.heard += data
                for answer in self._answers(data):
                    other.sendall(answer)

    def _answers(self, data: bytes) -> Iterator[bytes]:
        if self.how == "nonsense":
            yield b"\x00\xffnonsense\r\n\r\n\x1b[2J" * 3
        elif data.startswith(b"*"):  # Redis: one error for each command
            said = data.replace(b"\r\n", b" ").decode("latin-1")
            error = f"-ERR unknown command, with args beginning with: {said[:400]}\r\n"
            yield error.encode("latin-1") * data.count(b"*")
        elif data.startswith((b"POST", b"GET")):
            body = data.partition(b"\r\n\r\n")[2].decode("latin-1")
            said = json.dumps({"code": 3, "error": f"cannot be understood: {body}"})
            yield f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode("latin-1")
        elif data[4:] == b"\x04\xd2\x16\x2f":  # PostgreSQL: no TLS here
            yield b"N"
        elif data[4:8] == b"\x00\x03\x00\x00":  # PostgreSQL: asks for the password in clear text
            yield b"R\x00\x00\x00\x08\x00\x00\x00\x03"
        elif data.startswith(b"p"):
            fields = b"SFATAL\0VFATAL\0C28P01\0Mno: " + data[5:].rstrip(b"\0") + b"\0\0"
            yield b"E" + (len(fields) + 4).to_bytes(4, "big") + fields

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # closing alone leaves the accept(2) of the other thread waiting
        self._thread.join(60)
        self.socket.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.close()

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

