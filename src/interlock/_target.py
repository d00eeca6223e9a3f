"""From what users write (a path, an URL) to a line of an engine."""

from __future__ import annotations

import os
import sys

from ._core import fork
from ._core.arbiter import Line, line_for
from ._errors import UnsupportedError
from .paths import real

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._model import Engine

_HERE = frozenset(["file", "marker", "memory"])
"""Schemes without a server."""

_NAME_MAX = 200
"""Bytes of a lock file's name that is made from a lock's name; longer ones are cut and get a hash."""

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(port + digit for port in ("com", "lpt") for digit in "123456789")]
)  # Windows opens the device, whatever directory and suffix come with these names


def resolve(
    target: str | os.PathLike[str],
    *,
    fair: bool = False,
    ttl: float | None = None,
    primitive: str = "auto",
    kind: str = "lock",
) -> Line:
    """The line of `target`. Reads the directories' symbolic links and the mount table; opens nothing there.

    `kind`: what it is for, "lock", "rwlock" or "semaphore"; "" to look only.
    """
    if not _begun:
        _begin()
    path = os.fspath(target)
    if not isinstance(path, str):
        raise TypeError(f"a lock's target is a str or a path of str, not {type(path).__name__}")
    if not path or "\0" in path:
        raise ValueError(f"{path!r} is not a path: it is empty or contains NUL")
    if "://" not in path:
        return _path_line(path, path, fair, ttl, primitive)
    scheme = path.partition("://")[0].lower()
    if scheme not in _HERE:
        from . import _remote

        return _remote.line(path, scheme, fair, ttl, primitive)
    from urllib.parse import unquote, urlsplit

    url = urlsplit(path)
    name = unquote(url.fragment)
    if not name:
        raise ValueError(f"{shown(path)!r} names no lock: put its name behind a '#'")
    if url.query:
        raise ValueError(f"{shown(path)!r}: unknown options {url.query!r}")
    if url.scheme in ("file", "marker"):
        if url.netloc not in ("", "localhost"):
            raise ValueError(
                f"{shown(path)!r}: a {url.scheme}:// URL has no host; write {url.scheme}:///directory#name"
            )
        if url.scheme == "marker":
            if primitive not in ("auto", "marker"):
                raise UnsupportedError(f"{path} is a lease on files: primitive={primitive!r} contradicts that")
            primitive = "marker"
        return _path_line(os.path.join(unquote(url.path) or os.sep, file_name(name)), path, fair, ttl, primitive)
    from .engines.memory import engine

    path = shown(path)
    if ttl is not None or primitive != "auto":
        raise UnsupportedError(f"{path}: ttl and primitive mean nothing for a lock in memory")
    key = url.netloc.rpartition("@")[2] + url.path + "#" + name
    engine.refuse_mix(key, kind, path)
    return line_for(engine, key, path) if kind == "lock" else Line(engine, key, path)


def shown(target: str | os.PathLike[str]) -> str:
    """A target as messages show it: without credentials."""
    path = os.fspath(target)
    if "://" not in path:
        return path
    from ._address import public

    return public(path)


def refuse_to_pickle(line: Line) -> None:
    """Of a lock whose URL holds credentials."""
    if line.secret:
        raise TypeError(
            f"{line.resource}: its URL holds credentials, which a pickle would show: name the lock there by its URL"
        )


_begun = False


def _begin() -> None:
    """At the first lock of the process."""
    global _begun
    _begun = True
    if hasattr(os, "register_at_fork"):
        from . import _loads

        fork.in_child(_loads.forget)
        fork.watch(os.register_at_fork)
    if "INTERLOCK_TRACE" in os.environ:
        from . import _record

        _record.begin()


def file_name(name: str) -> str:
    """A lock's name as a file name: injective, also where the filesystem folds case, and nothing but ASCII."""
    from urllib.parse import quote

    # Capitals of ASCII are escaped as well; all others are bytes of UTF-8, which `quote` escapes in any case.
    escaped = "".join(
        f"%{ord(char):02X}" if "A" <= char <= "Z" else quote(char, safe="", errors="surrogatepass")
        for char in name
    )
    escaped = escaped.replace("~", "%7E")
    if escaped.startswith(".") or escaped.partition(".")[0] in _DEVICES:
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    if len(escaped) > _NAME_MAX:
        import hashlib

        # "~" occurs in no short name, so a long one cannot meet a short one
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        escaped = f"{escaped[: _NAME_MAX - 33]}~{digest[:32]}"
    return escaped + ".lock"


def _path_line(path: str, resource: str, fair: bool, ttl: float | None, primitive: str) -> Line:
    directory, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir):
        example = os.path.join(path, "NAME.lock")
        raise ValueError(f"{path!r} is a directory, not the path of a lock file; lock a file in it, say {example!r}")
    # Links in the directories are followed, and before any "..", as the kernel does it for all others who lock
    # this path: so two spellings are one line. The file itself is never a link.
    directory = real(directory or os.curdir)
    engine = path_engine(directory, primitive, ttl)
    key = os.path.join(directory, name)
    if fair:
        engine.require_fair(key)
    return line_for(engine, key, resource)


def path_engine(directory: str, primitive: str = "auto", ttl: float | None = None) -> Engine:
    """The engine for lock files in `directory` (canonical).

    On local filesystems, where nobody has said anything, that costs a look into a dictionary; see `_fs.choice` for
    everything else. Raises `ValueError` for a primitive or a setting that makes no sense. A place where nothing
    excludes gets an engine that says so at the first acquire: then `inspect` can still tell about it.
    """
    if primitive == "auto" and ttl is None and is_plain(directory):
        from .engines import kernel

        return kernel.engine()
    from . import _choice

    return _choice.engine_for(directory, primitive, ttl)


def is_plain(directory: str) -> bool:
    """Is it a local filesystem that no setting can be about?"""
    global _settings
    if _settings is None:
        _settings = _any_settings()
    from ._wait.mounts import is_local

    return not _settings and (sys.platform != "linux" or is_local(directory))


_settings: bool | None = None
"""Are there settings at all? Found out once; the modules that read them are loaded only then."""


def _any_settings() -> bool:
    if "INTERLOCK_PRIMITIVE" in os.environ or "INTERLOCK_CONFIG" in os.environ:
        return True
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.exists("/etc/interlock.conf") or os.path.exists(os.path.join(home, "interlock.conf"))
